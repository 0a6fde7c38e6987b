//! The models: a network from raw features to one score a row, and back from the scores to its parameters' gradients.

mod layered;
mod layers;
pub mod load;
mod normalize;
mod scripted;

use std::sync::Arc;

use proto::spec;
use tch::{Device, Tensor};

use layered::Layered;
pub use layers::DropoutKeys;
pub use normalize::{Normalization, Statistics};
use scripted::Scripted;
pub use scripted::{About, NORMALIZE, RAISED, Unfit};

use crate::parameters::{Init, Layout, Parameters};

/// Scores rows: x [n, features] -> [n].
#[derive(Debug)]
pub struct Network {
    pub parameters: Parameters,
    pub normalization: Normalization,
    body: Body,
}

/// From normalised features to scores.
#[derive(Debug)]
enum Body {
    Layered(Layered),
    Scripted(Scripted),
}

/// What the backward pass needs of a forward pass.
#[derive(Debug)]
pub struct Tape(BodyTape);

#[derive(Debug)]
enum BodyTape {
    Layered(layered::Tape),
    /// The scores, with autograd's graph behind them.
    Scripted(Tensor),
}

impl Network {
    /// A built-in model, its first values drawn from the seed.
    pub fn new(model: &spec::Model, features: usize, seed: u64, device: Device) -> Self {
        let (mut layers, layout) = Layered::reserve(model, features);
        let parameters = Parameters::new(layout, seed, device);
        layers.bind(&parameters);
        let normalization = Normalization::new(model.normalize, features, device);
        Self { parameters, normalization, body: Body::Layered(layers) }
    }

    /// A model of kind `torchscript`, from its file's bytes; its first values are the file's.
    pub fn scripted(file: Arc<[u8]>, model: &spec::Model, features: usize, device: Device) -> Result<Self, Unfit> {
        let (scripted, parameters) = Scripted::load(file, features, device)?;
        let normalization = Normalization::new(model.normalize, features, device);
        Ok(Self { parameters, normalization, body: Body::Scripted(scripted) })
    }

    /// A module of TorchScript that is to score and no more, from raw features: what it holds stays its own, and `parameters` is empty.
    pub fn finished(file: Arc<[u8]>, features: usize, device: Device) -> Result<Self, Unfit> {
        let scripted = Scripted::finished(file, features)?;
        let parameters = Parameters::of(&[], device);
        let normalization = Normalization::new(spec::Normalize::None, features, device);
        Ok(Self { parameters, normalization, body: Body::Scripted(scripted) })
    }

    /// What a module says of itself.
    pub fn about(file: &[u8]) -> Result<About, Unfit> {
        Scripted::about(file)
    }

    /// The TorchScript file that the network came from, where it came from one.
    pub fn module_file(&self) -> Option<&Arc<[u8]>> {
        match &self.body {
            Body::Layered(_) => None,
            Body::Scripted(scripted) => Some(scripted.file()),
        }
    }

    /// The same network for another thread: tensors of its own over the same memory, so that it follows what this one learns.
    pub fn replica(&self) -> Self {
        let parameters = self.parameters.replica();
        let body = match &self.body {
            Body::Layered(layers) => Body::Layered(layers.replica(&parameters)),
            Body::Scripted(scripted) => Body::Scripted(scripted.clone()),
        };
        Self { parameters, normalization: self.normalization.replica(), body }
    }

    /// Raw features of a row.
    pub fn features(&self) -> usize {
        self.normalization.mean.numel()
    }

    /// Numbers that a forward pass makes of a row, its features included.
    pub fn units(&self) -> usize {
        match &self.body {
            Body::Layered(layers) => layers.units(),
            Body::Scripted(scripted) => scripted.units(),
        }
    }

    /// Whether [`Self::forward`] needs keys for dropout.
    pub fn drops(&self) -> bool {
        matches!(&self.body, Body::Layered(layers) if layers.drops())
    }

    /// Scores for `x` [n, features] -> [n], nothing dropped.
    ///
    /// # Panics
    /// As libtorch fails, or with [`RAISED`] where a scripted module does.
    pub fn score(&self, x: &Tensor) -> Tensor {
        match &self.body {
            Body::Layered(layers) => layers.forward(self.normalization.apply(x), None).0,
            Body::Scripted(scripted) => scripted.forward(&self.normalization.apply_to_new(x), false),
        }
    }

    /// Scores, and what [`Self::backward`] needs. `dropout`: the rows' keys; without them nothing is dropped.
    ///
    /// # Panics
    /// As [`Self::score`].
    pub fn forward(&self, x: &Tensor, dropout: Option<&DropoutKeys>) -> (Tensor, Tape) {
        match &self.body {
            Body::Layered(layers) => {
                let (scores, tape) = layers.forward(self.normalization.apply(x), dropout);
                (scores, Tape(BodyTape::Layered(tape)))
            }
            Body::Scripted(scripted) => {
                let scores = scripted.forward(&self.normalization.apply_to_new(x), true);
                (scores.detach(), Tape(BodyTape::Scripted(scores)))
            }
        }
    }

    /// Adds to the gradients, from d(sum of terms)/d(scores) [n].
    pub fn backward(&mut self, tape: Tape, scores: &Tensor) {
        match (&mut self.body, tape.0) {
            (Body::Layered(layers), BodyTape::Layered(tape)) => layers.backward(tape, scores),
            (Body::Scripted(scripted), BodyTape::Scripted(tape)) => scripted.backward(&tape, scores),
            _ => unreachable!("a tape is used by the network that made it"),
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
    use proto::spec::{Activation, Model, ModelKind, Normalize};
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
