//! The models: a network from raw features to one score a row, with its backward pass written out.
//!
//! Gradients are formed by hand from libtorch's kernels rather than by autograd: each lands in its place in the flat buffer, no
//! graph is built, and the order in which they become ready is known. Parameters are named as PyTorch would name them
//! (`layers.0.weight`, out x in), so that checkpoints open there.

mod layers;
pub mod load;
mod normalize;

use proto::spec::{self, ModelKind};
use tch::{Device, Tensor};

pub use layers::DropoutKeys;
use layers::{Cross, Dense, Hidden};
pub use normalize::{Normalization, Statistics};

use crate::parameters::{Init, Layout, Parameters};

/// Scores rows: x [n, features] -> [n].
#[derive(Debug)]
pub struct Network {
    pub parameters: Parameters,
    pub normalization: Normalization,
    layers: Layers,
    model: spec::Model,
}

/// The layers of a model, views of parameters that live elsewhere.
#[derive(Debug)]
struct Layers {
    cross: Vec<Cross>,
    tower: Vec<Hidden>,
    head: Dense,
}

/// What the backward pass needs of a forward pass.
#[derive(Debug)]
pub struct Tape {
    input: Tensor,
    cross: Vec<layers::CrossTape>,
    tower: Vec<layers::HiddenTape>,
    head_input: Tensor,
}

impl Layers {
    /// The layers that a model has, and the memory that they need; [`Self::bind`] joins the two.
    fn reserve(model: &spec::Model, features: i64) -> (Self, Layout) {
        let activation = model.activation.unwrap_or_default();
        let layer_norm = model.layer_norm.unwrap_or(false);
        let dropout = model.dropout.unwrap_or(0.0);
        let mut layout = Layout::default();
        let mut cross = Vec::new();
        if model.kind == ModelKind::DcnV2 {
            for index in 0..model.cross_layers.unwrap_or(2) {
                cross.push(Cross::reserve(&mut layout, index, features, model.cross_rank));
            }
        }
        let (mut tower, mut width) = (Vec::new(), features);
        let hidden: &[usize] = if model.kind == ModelKind::Linear { &[] } else { &model.hidden };
        for (index, units) in hidden.iter().enumerate() {
            let units = *units as i64;
            tower.push(Hidden::reserve(&mut layout, index, width, units, activation, layer_norm, dropout));
            width = units;
        }
        let head = match model.kind {
            ModelKind::DcnV2 if hidden.is_empty() => Dense::reserve(&mut layout, "head", features, 1),
            ModelKind::DcnV2 => Dense::reserve(&mut layout, "head", features + width, 1),
            ModelKind::Linear | ModelKind::Mlp => {
                Dense::reserve(&mut layout, &format!("layers.{}", hidden.len()), width, 1)
            }
        };
        (Self { cross, tower, head }, layout)
    }

    fn bind(&mut self, parameters: &Parameters) {
        self.cross.iter_mut().for_each(|layer| layer.bind(parameters));
        self.tower.iter_mut().for_each(|layer| layer.bind(parameters));
        self.head.bind(parameters);
    }
}

impl Network {
    pub fn new(model: &spec::Model, features: usize, seed: u64, device: Device) -> Self {
        let (mut layers, layout) = Layers::reserve(model, features as i64);
        let parameters = Parameters::new(layout, seed, device);
        layers.bind(&parameters);
        let normalization = Normalization::new(model.normalize, features, device);
        Self { parameters, normalization, layers, model: model.clone() }
    }

    /// The same network for another thread: tensors of its own over the same memory, so that it follows what this one learns.
    pub fn replica(&self) -> Self {
        let (mut layers, _) = Layers::reserve(&self.model, self.features() as i64);
        let parameters = self.parameters.replica();
        layers.bind(&parameters);
        Self { parameters, normalization: self.normalization.replica(), layers, model: self.model.clone() }
    }

    /// Raw features of a row.
    pub fn features(&self) -> usize {
        self.normalization.mean.numel()
    }

    /// Numbers that a forward pass makes of a row, its features included.
    pub fn units(&self) -> usize {
        let hidden: usize = self.layers.tower.iter().map(Hidden::units).sum();
        self.features() * (1 + self.layers.cross.len()) + hidden
    }

    /// Whether [`Self::forward`] needs keys for dropout.
    pub fn drops(&self) -> bool {
        self.layers.tower.iter().any(Hidden::drops)
    }

    /// Scores for `x` [n, features] -> [n], nothing dropped.
    pub fn score(&self, x: &Tensor) -> Tensor {
        self.forward(x, None).0
    }

    /// Scores, and what [`Self::backward`] needs. `dropout`: the rows' keys; without them nothing is dropped.
    pub fn forward(&self, x: &Tensor, dropout: Option<&DropoutKeys>) -> (Tensor, Tape) {
        let input = self.normalization.apply(x);
        let (mut tape_cross, mut tape_tower) = (Vec::new(), Vec::new());
        let mut crossed = input.shallow_clone();
        for layer in &self.layers.cross {
            let (out, tape) = layer.forward(&input, &crossed);
            tape_cross.push(tape);
            crossed = out;
        }
        let mut deep = input.shallow_clone();
        for (index, layer) in self.layers.tower.iter().enumerate() {
            let (out, tape) = layer.forward(&deep, index, dropout);
            tape_tower.push(tape);
            deep = out;
        }
        let head_input = match self.model.kind {
            ModelKind::DcnV2 if self.layers.tower.is_empty() => crossed,
            ModelKind::DcnV2 => Tensor::cat(&[crossed, deep], 1),
            ModelKind::Linear | ModelKind::Mlp => deep,
        };
        let scores = self.layers.head.forward(&head_input).squeeze_dim(1);
        (scores, Tape { input, cross: tape_cross, tower: tape_tower, head_input })
    }

    /// Adds to the gradients, from d(sum of terms)/d(scores) [n].
    pub fn backward(&mut self, tape: Tape, scores: &Tensor) {
        let has_layers = !self.layers.tower.is_empty() || !self.layers.cross.is_empty();
        let Some(below) = self.layers.head.backward(&tape.head_input, &scores.unsqueeze(1), has_layers) else { return };
        let (crossed, deep) = match self.model.kind {
            ModelKind::DcnV2 => {
                let features = tape.input.size()[1];
                let deep =
                    (!self.layers.tower.is_empty()).then(|| below.narrow(1, features, below.size()[1] - features));
                (Some(below.narrow(1, 0, features)), deep)
            }
            ModelKind::Linear | ModelKind::Mlp => (None, Some(below)),
        };
        let mut deep = deep;
        for (index, (layer, tape)) in self.layers.tower.iter_mut().zip(tape.tower).enumerate().rev() {
            let Some(gradient) = deep.take() else { break };
            deep = layer.backward(tape, gradient, index > 0);
        }
        let mut crossed = crossed;
        for (layer, crossing) in self.layers.cross.iter_mut().zip(tape.cross).rev() {
            let Some(gradient) = crossed.take() else { break };
            crossed = Some(layer.backward(&tape.input, crossing, gradient));
        }
    }
}

/// A dense layer's first values, as PyTorch's.
fn reserve_dense(layout: &mut Layout, name: &str, inputs: i64, outputs: i64) -> (usize, usize) {
    let weight = layout.add(format!("{name}.weight"), &[outputs, inputs], Init::FanIn(inputs));
    let bias = layout.add(format!("{name}.bias"), &[outputs], Init::FanIn(inputs));
    (weight, bias)
}

#[cfg(test)]
mod tests {
    use proto::spec::{Activation, Model, Normalize};
    use tch::Kind;

    use super::*;

    fn models() -> Vec<Model> {
        let mut models = vec![
            Model { kind: ModelKind::Linear, ..Default::default() },
            Model { kind: ModelKind::DcnV2, cross_layers: Some(2), ..Default::default() },
            Model { kind: ModelKind::DcnV2, hidden: vec![6, 5], cross_rank: Some(2), ..Default::default() },
            Model {
                hidden: vec![7, 5],
                layer_norm: Some(true),
                dropout: Some(0.3),
                activation: Some(Activation::Silu),
                ..Default::default()
            },
        ];
        for activation in [Activation::Relu, Activation::Gelu, Activation::Silu, Activation::Tanh] {
            models.push(Model { hidden: vec![8, 4], activation: Some(activation), ..Default::default() });
        }
        models
    }

    /// Gradients by hand against finite differences in f64-summed scores.
    #[test]
    fn the_backward_pass_agrees_with_finite_differences() {
        let _guard = tch::no_grad_guard();
        for model in models() {
            let mut network = Network::new(&model, 5, 3, Device::Cpu);
            tch::manual_seed(7);
            let x = Tensor::randn([9, 5], (Kind::Float, Device::Cpu));
            let weights = Tensor::randn([9], (Kind::Float, Device::Cpu));
            let keys = DropoutKeys::new(&(0..9u64).collect::<Vec<_>>(), 11);
            let value = |network: &Network| {
                let scores = network.forward(&x, Some(&keys)).0;
                (scores.to_kind(Kind::Double) * weights.to_kind(Kind::Double)).sum(Kind::Double).double_value(&[])
            };
            let (_, tape) = network.forward(&x, Some(&keys));
            network.backward(tape, &weights);
            let gradients = network.parameters.slices().1.to_vec();
            let step = 1e-2f32;
            for (index, found) in gradients.into_iter().map(f64::from).enumerate() {
                let before = network.parameters.slices().0[index];
                network.parameters.slices().0[index] = before + step;
                let up = value(&network);
                network.parameters.slices().0[index] = before - step;
                let down = value(&network);
                network.parameters.slices().0[index] = before;
                let expected = (up - down) / (2.0 * f64::from(step));
                // A kink of relu within the step is the one excuse for a larger difference.
                let tolerance = if model.activation.unwrap_or_default() == Activation::Relu { 0.15 } else { 0.01 };
                assert!(
                    (found - expected).abs() <= tolerance * expected.abs().max(1.0),
                    "{model:?}: parameter {index}: {found} by hand, {expected} by differences"
                );
            }
        }
    }

    #[test]
    fn first_values_follow_from_the_seed_alone() {
        let model = Model { hidden: vec![8], ..Default::default() };
        let values = |seed| Network::new(&model, 5, seed, Device::Cpu).parameters.slices().0.to_vec();
        assert_eq!(values(3), values(3));
        assert_ne!(values(3), values(4));
        assert!(values(3).iter().take(40).all(|value| value.abs() <= 1.0 / 5f32.sqrt()));
    }

    #[test]
    fn a_constant_feature_is_known_for_what_it_is_whatever_its_value_and_the_number_of_rows() {
        for (kind, value, rows) in
            [(Normalize::Log1p, 0.1, 39), (Normalize::Log1p, 7.7, 20_000), (Normalize::Standard, 0.3, 7)]
        {
            let block = Statistics::of(kind, &vec![value; rows], 1);
            let merged = block.clone().merge(block.clone()).merge(Statistics::of(kind, &[value], 1));
            for statistics in [block, merged] {
                let normalization = Normalization::from_statistics(kind, statistics, Device::Cpu);
                assert_eq!(normalization.scale.double_value(&[0]), 0.0, "{kind:?} {value} {rows}");
            }
        }
    }

    #[test]
    fn normalisation_gives_mean_zero_and_deviation_one_and_ignores_constants() {
        let rows = [1.0f32, 5.0, 2.0, 5.0, 3.0, 5.0, 10.0, 5.0];
        for kind in [Normalize::Standard, Normalize::Log1p] {
            let merged = [&rows[..4], &rows[4..]].map(|part| Statistics::of(kind, part, 2));
            let normalization = Normalization::from_statistics(
                kind,
                merged.into_iter().reduce(Statistics::merge).unwrap(),
                Device::Cpu,
            );
            let x = normalization.apply(&Tensor::from_slice(&rows).view([4, 2]));
            let mean: Vec<f64> = Vec::try_from(x.mean_dim(0, false, Kind::Double)).unwrap();
            let deviation: Vec<f64> = Vec::try_from(x.std_dim(0, false, false).to_kind(Kind::Double)).unwrap();
            assert!(mean.iter().all(|value| value.abs() < 1e-6), "{mean:?}");
            assert!((deviation[0] - 1.0).abs() < 1e-6 && deviation[1] == 0.0, "{deviation:?}");
        }
    }
}
