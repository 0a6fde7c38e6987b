//! All trainable numbers of a model in one flat buffer, and their gradients in another, so that a reduce, a broadcast, a hash and
//! a checkpoint are each one pass over contiguous memory. Layers hold views.

use dataset::seeded;
use tch::{Device, Tensor};

use crate::memory::slice;

/// One named tensor inside the flat buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub shape: Vec<i64>,
    pub offset: usize,
    pub length: usize,
}

/// How a parameter's first values come about.
#[derive(Clone, Copy, Debug)]
pub enum Init {
    /// Uniform in ±1/√fan_in: what PyTorch's `nn.Linear` starts from.
    FanIn(i64),
    One,
    Zero,
}

/// Collects the shapes of a model before its memory is made.
#[derive(Debug, Default)]
pub struct Layout {
    entries: Vec<(Entry, Init)>,
    length: usize,
}

impl Layout {
    /// Reserves a parameter; the number is for [`Parameters::view`].
    pub fn add(&mut self, name: impl Into<String>, shape: &[i64], init: Init) -> usize {
        let length = shape.iter().product::<i64>() as usize;
        let entry = Entry { name: name.into(), shape: shape.to_vec(), offset: self.length, length };
        self.length += length;
        self.entries.push((entry, init));
        self.entries.len() - 1
    }
}

/// A tensor and its name.
pub type Named = (String, Tensor);

/// The flat buffers. `values` and `gradients` are f32, of one length.
#[derive(Debug)]
pub struct Parameters {
    pub values: Tensor,
    pub gradients: Tensor,
    pub entries: Vec<Entry>,
}

impl Parameters {
    /// Memory for a layout, with first values drawn from the seed and each parameter's name alone.
    pub fn new(layout: Layout, seed: u64, device: Device) -> Self {
        let mut values = vec![0f32; layout.length];
        for (entry, init) in &layout.entries {
            let slot = &mut values[entry.offset..entry.offset + entry.length];
            match init {
                Init::Zero => {}
                Init::One => slot.fill(1.0),
                Init::FanIn(fan_in) => {
                    let bound = 1.0 / (*fan_in as f64).sqrt();
                    let name = entry.name.bytes().fold(0, |key, byte| seeded::key(&[key, u64::from(byte)]));
                    let mut stream = seeded::Stream::new(&[seed, name, 0x1417]);
                    slot.iter_mut().for_each(|value| *value = ((2.0 * stream.unit() - 1.0) * bound) as f32);
                }
            }
        }
        let values = Tensor::from_slice(&values).to_device(device);
        let gradients = values.zeros_like();
        let entries = layout.entries.into_iter().map(|(entry, _)| entry).collect();
        Self { values, gradients, entries }
    }

    /// Memory for these tensors, in their order, with copies of their values.
    pub fn of(tensors: &[Named], device: Device) -> Self {
        let mut layout = Layout::default();
        for (name, tensor) in tensors {
            layout.add(name, &tensor.size(), Init::Zero);
        }
        let this = Self::new(layout, 0, device);
        for (index, (_, tensor)) in tensors.iter().enumerate() {
            this.view(index).0.copy_(&tensor.detach());
        }
        this
    }

    /// For another thread: tensors of its own over the same memory.
    pub fn replica(&self) -> Self {
        let (values, gradients) = (self.values.shallow_clone(), self.gradients.shallow_clone());
        Self { values, gradients, entries: self.entries.clone() }
    }

    pub fn len(&self) -> usize {
        self.values.numel()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value and the gradient of parameter `index`, as views in its shape.
    pub fn view(&self, index: usize) -> (Tensor, Tensor) {
        let entry = &self.entries[index];
        let view = |flat: &Tensor| flat.narrow(0, entry.offset as i64, entry.length as i64).view(&entry.shape[..]);
        (view(&self.values), view(&self.gradients))
    }

    /// Both buffers as slices: values, gradients. CPU only.
    pub fn slices(&mut self) -> (&mut [f32], &mut [f32]) {
        (slice(&mut self.values), slice(&mut self.gradients))
    }
}
