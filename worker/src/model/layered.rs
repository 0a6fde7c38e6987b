//! The built-in models: layers from normalised features to one score a row, with their backward pass written out.
//!
//! Gradients are formed by hand from libtorch's kernels rather than by autograd: each lands in its place in the flat buffer, no
//! graph is built, and the order in which they become ready is known. Parameters are named as PyTorch would name them
//! (`layers.0.weight`, out x in), so that checkpoints open there.

use proto::spec::{self, ModelKind};
use tch::Tensor;

use super::layers::{Cross, CrossTape, Dense, DropoutKeys, Hidden, HiddenTape};
use crate::parameters::{Layout, Parameters};

/// The layers of a model, views of parameters that live elsewhere.
#[derive(Debug)]
pub(super) struct Layered {
    model: spec::Model,
    features: usize,
    cross: Vec<Cross>,
    tower: Vec<Hidden>,
    head: Dense,
}

/// What the backward pass needs of a forward pass.
#[derive(Debug)]
pub(super) struct Tape {
    input: Tensor,
    cross: Vec<CrossTape>,
    tower: Vec<HiddenTape>,
    head_input: Tensor,
}

impl Layered {
    /// The layers that a model has, and the memory that they need; [`Self::bind`] joins the two.
    pub fn reserve(model: &spec::Model, features: usize) -> (Self, Layout) {
        let inputs = features as i64;
        let activation = model.activation.unwrap_or_default();
        let layer_norm = model.layer_norm.unwrap_or(false);
        let dropout = model.dropout.unwrap_or(0.0);
        let mut layout = Layout::default();
        let mut cross = Vec::new();
        if model.kind == ModelKind::DcnV2 {
            for index in 0..model.cross_layers.unwrap_or(2) {
                cross.push(Cross::reserve(&mut layout, index, inputs, model.cross_rank));
            }
        }
        let (mut tower, mut width) = (Vec::new(), inputs);
        let hidden: &[usize] = if model.kind == ModelKind::Linear { &[] } else { &model.hidden };
        for (index, units) in hidden.iter().enumerate() {
            let units = *units as i64;
            tower.push(Hidden::reserve(&mut layout, index, width, units, activation, layer_norm, dropout));
            width = units;
        }
        let head = match model.kind {
            ModelKind::DcnV2 if hidden.is_empty() => Dense::reserve(&mut layout, "head", inputs, 1),
            ModelKind::DcnV2 => Dense::reserve(&mut layout, "head", inputs + width, 1),
            _ => Dense::reserve(&mut layout, &format!("layers.{}", hidden.len()), width, 1),
        };
        (Self { model: model.clone(), features, cross, tower, head }, layout)
    }

    pub fn bind(&mut self, parameters: &Parameters) {
        self.cross.iter_mut().for_each(|layer| layer.bind(parameters));
        self.tower.iter_mut().for_each(|layer| layer.bind(parameters));
        self.head.bind(parameters);
    }

    /// The same layers over the same memory, in tensors of their own.
    pub fn replica(&self, parameters: &Parameters) -> Self {
        let (mut layers, _) = Self::reserve(&self.model, self.features);
        layers.bind(parameters);
        layers
    }

    pub fn units(&self) -> usize {
        let hidden: usize = self.tower.iter().map(Hidden::units).sum();
        self.features * (1 + self.cross.len()) + hidden
    }

    pub fn drops(&self) -> bool {
        self.tower.iter().any(Hidden::drops)
    }

    /// Scores [n] of normalised rows.
    pub fn forward(&self, input: Tensor, dropout: Option<&DropoutKeys>) -> (Tensor, Tape) {
        let (mut tape_cross, mut tape_tower) = (Vec::new(), Vec::new());
        let mut crossed = input.shallow_clone();
        for layer in &self.cross {
            let (out, tape) = layer.forward(&input, &crossed);
            tape_cross.push(tape);
            crossed = out;
        }
        let mut deep = input.shallow_clone();
        for (index, layer) in self.tower.iter().enumerate() {
            let (out, tape) = layer.forward(&deep, index, dropout);
            tape_tower.push(tape);
            deep = out;
        }
        let head_input = match self.model.kind {
            ModelKind::DcnV2 if self.tower.is_empty() => crossed,
            ModelKind::DcnV2 => Tensor::cat(&[crossed, deep], 1),
            _ => deep,
        };
        let scores = self.head.forward(&head_input).squeeze_dim(1);
        (scores, Tape { input, cross: tape_cross, tower: tape_tower, head_input })
    }

    /// Adds to the gradients, from d(sum of terms)/d(scores) [n].
    pub fn backward(&mut self, tape: Tape, scores: &Tensor) {
        let has_layers = !self.tower.is_empty() || !self.cross.is_empty();
        let Some(below) = self.head.backward(&tape.head_input, &scores.unsqueeze(1), has_layers) else { return };
        let (crossed, deep) = match self.model.kind {
            ModelKind::DcnV2 => {
                let features = tape.input.size()[1];
                let deep = (!self.tower.is_empty()).then(|| below.narrow(1, features, below.size()[1] - features));
                (Some(below.narrow(1, 0, features)), deep)
            }
            _ => (None, Some(below)),
        };
        let mut deep = deep;
        for (index, (layer, tape)) in self.tower.iter_mut().zip(tape.tower).enumerate().rev() {
            let Some(gradient) = deep.take() else { break };
            deep = layer.backward(tape, gradient, index > 0);
        }
        let mut crossed = crossed;
        for (layer, crossing) in self.cross.iter_mut().zip(tape.cross).rev() {
            let Some(gradient) = crossed.take() else { break };
            crossed = Some(layer.backward(&tape.input, crossing, gradient));
        }
    }
}
