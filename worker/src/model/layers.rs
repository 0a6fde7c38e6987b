//! The layers, each with its forward and its backward pass. Rows are the first dimension everywhere.

use dataset::seeded::mix;
use proto::spec::Activation;
use tch::{Kind, Tensor};

use super::reserve_dense;
use crate::parameters::{Init, Layout, Parameters};

/// A view of one parameter and one of its gradient, set by `bind`.
type Slot = (Tensor, Tensor);

fn empty() -> Slot {
    (Tensor::new(), Tensor::new())
}

/// x Wᵀ + b.
///
/// Where there are few outputs, the kernels behind it (MKL's) add along a row in an order that follows from the row's alignment in
/// memory. Rows are filled up with zeros there, so that all are aligned alike and what a row gives does not depend on where it lies.
fn affine(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    const FEW: std::ops::Range<i64> = 2..16;
    const ALIGNED: i64 = 16;
    let (outputs, inputs) = (weight.size()[0], weight.size()[1]);
    let fill = (ALIGNED - inputs % ALIGNED) % ALIGNED;
    let product = |x: &Tensor, weight: &Tensor| match bias {
        Some(bias) => bias.addmm(x, &weight.tr()),
        None => x.mm(&weight.tr()),
    };
    if FEW.contains(&outputs) && fill > 0 {
        product(&x.constant_pad_nd([0, fill]), &weight.constant_pad_nd([0, fill]))
    } else {
        product(x, weight)
    }
}

/// y = x Wᵀ + b, W [out, in].
#[derive(Debug)]
pub(super) struct Dense {
    index: (usize, usize),
    weight: Slot,
    bias: Slot,
}

impl Dense {
    pub fn reserve(layout: &mut Layout, name: &str, inputs: i64, outputs: i64) -> Self {
        Self { index: reserve_dense(layout, name, inputs, outputs), weight: empty(), bias: empty() }
    }

    pub fn bind(&mut self, parameters: &Parameters) {
        self.weight = parameters.view(self.index.0);
        self.bias = parameters.view(self.index.1);
    }

    pub fn forward(&self, x: &Tensor) -> Tensor {
        affine(x, &self.weight.0, Some(&self.bias.0))
    }

    /// Adds to the gradients; gives d/dx where it is wanted.
    pub fn backward(&mut self, x: &Tensor, gradient: &Tensor, below: bool) -> Option<Tensor> {
        let _ = self.weight.1.addmm_(&gradient.tr(), x);
        let _ = self.bias.1.g_add_(&gradient.sum_dim_intlist(0, false, Kind::Float));
        below.then(|| gradient.mm(&self.weight.0))
    }
}

/// Layer normalisation over a row (Ba, Kiros & Hinton 2016), eps 1e-5 as in PyTorch.
#[derive(Debug)]
struct LayerNorm {
    index: (usize, usize),
    scale: Slot,
    shift: Slot,
    units: i64,
}

const LAYER_NORM_EPS: f64 = 1e-5;

impl LayerNorm {
    fn forward(&self, x: &Tensor) -> (Tensor, NormTape) {
        let (y, mean, rstd) =
            x.native_layer_norm([self.units], Some(&self.scale.0), Some(&self.shift.0), LAYER_NORM_EPS);
        let standard = (x - mean) * &rstd;
        (y, NormTape { standard, rstd })
    }

    fn backward(&mut self, tape: &NormTape, gradient: &Tensor) -> Tensor {
        let _ = self.scale.1.g_add_(&(gradient * &tape.standard).sum_dim_intlist(0, false, Kind::Float));
        let _ = self.shift.1.g_add_(&gradient.sum_dim_intlist(0, false, Kind::Float));
        let scaled = gradient * &self.scale.0;
        let mean = scaled.mean_dim(1, true, Kind::Float);
        let along = (&scaled * &tape.standard).mean_dim(1, true, Kind::Float);
        (scaled - mean - &tape.standard * along) * &tape.rstd
    }
}

#[derive(Debug)]
struct NormTape {
    standard: Tensor,
    rstd: Tensor,
}

/// Dense, then layer normalisation, activation and dropout as configured.
#[derive(Debug)]
pub(super) struct Hidden {
    dense: Dense,
    norm: Option<LayerNorm>,
    activation: Activation,
    dropout: f64,
    units: i64,
}

#[derive(Debug)]
pub(super) struct HiddenTape {
    input: Tensor,
    norm: Option<NormTape>,
    /// Before and after the activation.
    before: Tensor,
    after: Tensor,
    mask: Option<Tensor>,
}

impl Hidden {
    pub fn reserve(
        layout: &mut Layout,
        index: usize,
        inputs: i64,
        units: i64,
        activation: Activation,
        layer_norm: bool,
        dropout: f64,
    ) -> Self {
        let dense = Dense::reserve(layout, &format!("layers.{index}"), inputs, units);
        let norm = layer_norm.then(|| {
            let scale = layout.add(format!("norms.{index}.weight"), &[units], Init::One);
            let shift = layout.add(format!("norms.{index}.bias"), &[units], Init::Zero);
            LayerNorm { index: (scale, shift), scale: empty(), shift: empty(), units }
        });
        Self { dense, norm, activation, dropout, units }
    }

    pub fn bind(&mut self, parameters: &Parameters) {
        self.dense.bind(parameters);
        if let Some(norm) = &mut self.norm {
            norm.scale = parameters.view(norm.index.0);
            norm.shift = parameters.view(norm.index.1);
        }
    }

    pub fn units(&self) -> usize {
        self.units as usize
    }

    pub fn drops(&self) -> bool {
        self.dropout > 0.0
    }

    pub fn forward(&self, x: &Tensor, layer: usize, dropout: Option<&DropoutKeys>) -> (Tensor, HiddenTape) {
        let mut before = self.dense.forward(x);
        let mut norm_tape = None;
        if let Some(norm) = &self.norm {
            let (y, tape) = norm.forward(&before);
            before = y;
            norm_tape = Some(tape);
        }
        let after = match self.activation {
            Activation::Relu => before.relu(),
            Activation::Gelu => before.gelu("none"),
            Activation::Silu => before.silu(),
            Activation::Tanh => before.tanh(),
        };
        let mask = dropout
            .filter(|_| self.drops())
            .map(|keys| keys.mask(layer, self.units as usize, self.dropout).to_device(x.device()));
        let out = match &mask {
            Some(mask) => &after * mask,
            None => after.shallow_clone(),
        };
        (out, HiddenTape { input: x.shallow_clone(), norm: norm_tape, before, after, mask })
    }

    pub fn backward(&mut self, tape: HiddenTape, gradient: Tensor, below: bool) -> Option<Tensor> {
        let gradient = match &tape.mask {
            Some(mask) => gradient * mask,
            None => gradient,
        };
        let mut gradient = match self.activation {
            Activation::Relu => tape.after.threshold_backward(&gradient, 0),
            Activation::Gelu => tape.before.gelu_backward(&gradient, "none"),
            Activation::Silu => tape.before.silu_backward(&gradient),
            Activation::Tanh => Tensor::tanh_backward(&gradient, &tape.after),
        };
        if let (Some(norm), Some(tape)) = (&mut self.norm, &tape.norm) {
            gradient = norm.backward(tape, &gradient);
        }
        self.dense.backward(&tape.input, &gradient, below)
    }
}

/// A cross layer of DCN v2: x_{l+1} = x_0 * (W x_l + b) + x_l, W whole or of low rank (W = up · down).
#[derive(Debug)]
pub(super) struct Cross {
    full: Option<(usize, Slot)>,
    low: Option<(usize, usize, Slot, Slot)>,
    bias: (usize, Slot),
}

#[derive(Debug)]
pub(super) struct CrossTape {
    x: Tensor,
    /// x · downᵀ where W is of low rank.
    narrow: Option<Tensor>,
}

impl Cross {
    pub fn reserve(layout: &mut Layout, index: usize, features: i64, rank: Option<usize>) -> Self {
        let (mut full, mut low) = (None, None);
        match rank {
            None => {
                let weight = layout.add(format!("cross.{index}.weight"), &[features, features], Init::FanIn(features));
                full = Some((weight, empty()));
            }
            Some(rank) => {
                let rank = rank as i64;
                let down = layout.add(format!("cross.{index}.down"), &[rank, features], Init::FanIn(features));
                let up = layout.add(format!("cross.{index}.up"), &[features, rank], Init::FanIn(rank));
                low = Some((down, up, empty(), empty()));
            }
        }
        let bias = layout.add(format!("cross.{index}.bias"), &[features], Init::Zero);
        Self { full, low, bias: (bias, empty()) }
    }

    pub fn bind(&mut self, parameters: &Parameters) {
        if let Some((index, slot)) = &mut self.full {
            *slot = parameters.view(*index);
        }
        if let Some((down, up, down_slot, up_slot)) = &mut self.low {
            *down_slot = parameters.view(*down);
            *up_slot = parameters.view(*up);
        }
        self.bias.1 = parameters.view(self.bias.0);
    }

    pub fn forward(&self, x0: &Tensor, x: &Tensor) -> (Tensor, CrossTape) {
        let bias = &self.bias.1.0;
        let (u, narrow) = match (&self.full, &self.low) {
            (_, Some((_, _, down, up))) => {
                let narrow = affine(x, &down.0, None);
                (affine(&narrow, &up.0, Some(bias)), Some(narrow))
            }
            (Some((_, weight)), None) => (affine(x, &weight.0, Some(bias)), None),
            (None, None) => (bias.expand_as(x), None),
        };
        (x.addcmul(x0, &u), CrossTape { x: x.shallow_clone(), narrow })
    }

    /// d/dx_l. What reaches x_0 through the product ends at the input, which has no parameters below.
    pub fn backward(&mut self, x0: &Tensor, tape: CrossTape, gradient: Tensor) -> Tensor {
        let du = &gradient * x0;
        let _ = self.bias.1.1.g_add_(&du.sum_dim_intlist(0, false, Kind::Float));
        let through = match (&mut self.full, &mut self.low) {
            (_, Some((_, _, down, up))) => {
                let narrow = tape.narrow.as_ref().unwrap_or(&tape.x);
                let _ = up.1.addmm_(&du.tr(), narrow);
                let dn = du.mm(&up.0);
                let _ = down.1.addmm_(&dn.tr(), &tape.x);
                dn.mm(&down.0)
            }
            (Some((_, weight)), None) => {
                let _ = weight.1.addmm_(&du.tr(), &tape.x);
                du.mm(&weight.0)
            }
            (None, None) => du.zeros_like(),
        };
        gradient + through
    }
}

/// Dropout's randomness: a hash of (seed and step, atom and row, layer, unit), so that a row drops the same units whoever works on it.
#[derive(Debug)]
pub struct DropoutKeys {
    rows: Vec<u64>,
    step: u64,
}

impl DropoutKeys {
    /// `rows`: a key for each row of the batch; `step`: a key of seed and step.
    pub fn new(rows: &[u64], step: u64) -> Self {
        Self { rows: rows.to_vec(), step }
    }

    /// [rows, units]: 0 with probability p, else 1 / (1 - p).
    fn mask(&self, layer: usize, units: usize, p: f64) -> Tensor {
        let threshold = (p * 4_294_967_296.0) as u64;
        let kept = (1.0 / (1.0 - p)) as f32;
        let mut mask = Vec::with_capacity(self.rows.len() * units);
        for row in &self.rows {
            let key = mix(self.step ^ mix(row ^ (layer as u64) << 56));
            mask.extend((0..units as u64).map(|unit| if mix(key ^ unit) >> 32 < threshold { 0.0 } else { kept }));
        }
        Tensor::from_slice(&mask).view([self.rows.len() as i64, units as i64])
    }
}
