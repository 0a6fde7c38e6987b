//! Memory that libtorch and Rust both see: a tensor's own as a slice, a slice as a tensor, without a copy.

#![allow(unsafe_code, reason = "collectives, optimizers and batches share memory with tensors")]

use std::{marker::PhantomData, ops::Deref};

use tch::{Device, Kind, Tensor};

/// The memory of a contiguous f32 tensor on the CPU.
///
/// # Panics
/// If the tensor is anything else.
pub fn slice(tensor: &mut Tensor) -> &mut [f32] {
    assert!(tensor.device() == Device::Cpu && tensor.kind() == Kind::Float && tensor.is_contiguous());
    let length = tensor.numel();
    // SAFETY: checked above to be `length` f32 side by side in this process's memory, which live as long as the tensor that is
    // borrowed. Views of it exist, but libtorch only works on them inside calls that this thread makes.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), length) }
}

/// A tensor over borrowed numbers. What is computed from it owns its memory; a shallow clone of it must not outlive the numbers,
/// nor may it be written to.
#[derive(Debug)]
pub struct Borrowed<'a> {
    tensor: Tensor,
    numbers: PhantomData<&'a [f32]>,
}

impl Deref for Borrowed<'_> {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        &self.tensor
    }
}

/// Row-major numbers as a tensor of `rows` rows on the CPU.
pub fn rows(numbers: &[f32], rows: usize) -> Borrowed<'_> {
    let width = numbers.len() / rows.max(1);
    assert_eq!(rows * width, numbers.len(), "rows of one width");
    let (size, stride) = ([rows as i64, width as i64], [width as i64, 1]);
    // SAFETY: `rows * width` f32 lie side by side behind the pointer, for as long as the borrow that `Borrowed` holds; libtorch
    // only reads from a tensor that no one hands to an in-place operation, and `Borrowed` gives out shared references alone.
    let tensor = unsafe { Tensor::from_blob(numbers.as_ptr().cast::<u8>(), &size, &stride, Kind::Float, Device::Cpu) };
    Borrowed { tensor, numbers: PhantomData }
}
