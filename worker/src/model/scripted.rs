//! A model that its user scripted in PyTorch. Its parameters live in the flat buffer like any model's; its backward pass is autograd's.
//!
//! What would break a promise is found before the first step, on a few made-up rows, and refused by name: scores that depend on other
//! rows (a batch is dealt among workers and cut in pieces), chance, and state that changes beside the parameters.

use std::sync::Arc;

use dataset::seeded;
use proto::spec::Normalize;
use serde::Deserialize as _;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::{
    parameters::{Named, Parameters},
    torchscript::{self, Script, ScriptError, Signature},
};

/// Why a module cannot be trained: reads on after "the module `model.pt` ".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Unfit {
    pub message: String,
    pub hint: &'static str,
}

fn unfit(message: impl Into<String>, hint: &'static str) -> Unfit {
    Unfit { message: message.into(), hint }
}

/// How a failure of the module on real rows begins; it ends the thread that computes, as libtorch's own failures do.
pub const RAISED: &str = "the scripted module failed: ";

/// Rows that a module is tried on.
const PROBE_ROWS: usize = 6;
/// Kernels round differently for different numbers of rows; dependence on another row shows far above this.
const PROBE_TOLERANCE: f64 = 1e-4;

/// So many times the made-up rows, in one batch.
const CROWD: i64 = 43;
const STATELESS: &str =
    "state that changes in training beside the parameters is not kept in step among workers: leave it out";
const REPEATABLE: &str =
    "chance inside a module cannot be repeated by another number of workers: script it without dropout";

/// Key of the text beside an exported module's code: how it normalises inside.
pub const NORMALIZE: &str = "normalize";

const WANTED_FORWARD: &str =
    "write `def forward(self, x: Tensor) -> Tensor`: raw features [rows, features] in, scores [rows] or [rows, 1] out";
const WANTED_GRADIENT: &str =
    "leave out what the scores do not depend on, or register it as a buffer: `self.register_buffer(name, tensor)`";

/// A scripted module, in evaluation mode.
#[derive(Clone, Debug)]
pub(super) struct Scripted {
    script: Arc<Script>,
    file: Arc<[u8]>,
    units: usize,
}

/// What a module says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct About {
    /// The names in its attribute `features`.
    pub features: Option<Vec<String>>,
    /// How it normalises them inside; `None` is also that nothing is said, as of all that Lockstep did not export.
    pub normalize: Normalize,
}

impl Scripted {
    /// From the bytes of a TorchScript file, for rows of `features`; its parameters as the file has them.
    pub fn load(file: Arc<[u8]>, features: usize, device: Device) -> Result<(Self, Parameters), Unfit> {
        let (mut script, signature, _) = load(&file)?;
        let mut parameters = sound_parameters(&script)?;
        try_out(&mut script, &signature, &parameters, features)?;
        let flat = Parameters::of(&parameters, device);
        for (index, (_, parameter)) in parameters.iter_mut().enumerate() {
            let (value, gradient) = flat.view(index);
            torchscript::rehouse(parameter, &value, &gradient).map_err(failed)?;
        }
        let units = units(&parameters, features);
        Ok((Self { script: Arc::new(script), file, units }, flat))
    }

    /// One that is not to be trained, so that how it would train is no matter.
    pub fn finished(file: Arc<[u8]>, features: usize) -> Result<Self, Unfit> {
        let (mut script, ..) = load(&file)?;
        script.train(false).map_err(failed)?;
        let x = made_up_rows(features);
        let scores = probe(&script, &x, false)?;
        refuse_company(&script, &x, &scores)?;
        let units = units(&script.parameters().map_err(failed)?, features);
        Ok(Self { script: Arc::new(script), file, units })
    }

    pub fn about(file: &[u8]) -> Result<About, Unfit> {
        let (script, _, about) = load(file)?;
        let about: Value = serde_json::from_slice(&about).unwrap_or_default();
        // What is inside a module that was made of another's may not be its own model's.
        let normalize = [&about[NORMALIZE], &about["model"][NORMALIZE]].into_iter().find(|word| word.is_string());
        let normalize = normalize.and_then(|word| Normalize::deserialize(word).ok()).unwrap_or_default();
        Ok(About { features: script.strings("features"), normalize })
    }

    /// The file that it came from.
    pub fn file(&self) -> &Arc<[u8]> {
        &self.file
    }

    /// Numbers that a forward pass makes of a row, as far as the shapes of its matrices tell.
    pub fn units(&self) -> usize {
        self.units
    }

    /// Scores [n] of normalised rows; with `with_gradient` for [`backward`](Self::backward).
    pub fn forward(&self, x: &Tensor, with_gradient: bool) -> Tensor {
        let scores = self.script.forward(x, with_gradient).unwrap_or_else(|error| raise(&error.to_string()));
        match flat(&scores, x.size()[0], with_gradient) {
            Some(scores) => scores,
            None => raise(&format!("it gave scores of shape {:?} for {} rows", scores.size(), x.size()[0])),
        }
    }

    pub fn backward(&self, scores: &Tensor, gradient: &Tensor) {
        torchscript::backward(scores, gradient).unwrap_or_else(|error| raise(&error.to_string()));
    }
}

fn units(parameters: &[Named], features: usize) -> usize {
    let wide = parameters.iter().filter(|(_, tensor)| tensor.dim() > 1);
    features + wide.map(|(_, tensor)| tensor.size()[0] as usize).sum::<usize>()
}

fn failed(error: ScriptError) -> Unfit {
    unfit(format!("failed: {error}"), "does it work in PyTorch 2.11, which it is run by here?")
}

fn raise(error: &str) -> ! {
    panic!("{RAISED}{error}")
}

/// As [n], where that is what they are.
fn flat(scores: &Tensor, rows: i64, with_gradient: bool) -> Option<Tensor> {
    let reshape = || match scores.size()[..] {
        [n] if n == rows => Some(scores.shallow_clone()),
        [n, 1] if n == rows => Some(scores.squeeze_dim(1)),
        _ => None,
    };
    if with_gradient { tch::with_grad(reshape) } else { reshape() }
}

/// The module, what its forward does, where that can be trained or scored at all, and what its file says of itself.
fn load(file: &[u8]) -> Result<(Script, Signature, Vec<u8>), Unfit> {
    let (script, about) = Script::load(file).map_err(|error| {
        unfit(
            format!("is not a TorchScript module: {error}"),
            "save it with `torch.jit.script(model).save(\"model.pt\")`; `torch.save` writes something else",
        )
    })?;
    let signature = script.signature().map_err(|error| unfit(format!("has no forward: {error}"), WANTED_FORWARD))?;
    let [takes] = &signature.required[..] else {
        return Err(unfit(
            format!("has a forward that takes ({}), not one Tensor", signature.required.join(", ")),
            WANTED_FORWARD,
        ));
    };
    if !takes.ends_with(": Tensor") {
        return Err(unfit(format!("has a forward that takes `{takes}`, not a Tensor"), WANTED_FORWARD));
    }
    if signature.returns != ["Tensor"] {
        return Err(unfit(
            format!("has a forward that returns {}, not a Tensor", signature.returns.join(", ")),
            WANTED_FORWARD,
        ));
    }
    if let Some(attribute) = signature.assigned.first() {
        return Err(unfit(format!("assigns to its attribute `{attribute}` in forward"), STATELESS));
    }
    if !signature.always_random.is_empty() {
        return Err(unfit(format!("draws random numbers ({})", signature.always_random.join(", ")), REPEATABLE));
    }
    Ok((script, signature, about))
}

/// The parameters, each f32, finite, and memory of its own.
fn sound_parameters(script: &Script) -> Result<Vec<Named>, Unfit> {
    let parameters = script.parameters().map_err(failed)?;
    if parameters.is_empty() {
        return Err(unfit("has no parameters to train", "were they replaced by constants? do not freeze it"));
    }
    let buffers = script.buffers().map_err(failed)?;
    for (index, (name, tensor)) in parameters.iter().enumerate() {
        if tensor.kind() != Kind::Float {
            return Err(unfit(
                format!("has a parameter `{name}` of {:?}, not of float32", tensor.kind()),
                "call `model.float()` before scripting it",
            ));
        }
        if tensor.isfinite().all().int64_value(&[]) == 0 {
            return Err(unfit(
                format!("has a parameter `{name}` that holds NaN or an infinity"),
                "give it finite first values",
            ));
        }
        if !tensor.requires_grad() {
            return Err(unfit(format!("has a parameter `{name}` that requires no gradient"), WANTED_GRADIENT));
        }
        if name.starts_with("normalize.") {
            return Err(unfit(
                format!("has a parameter `{name}`, whose name is the normalisation's"),
                "call it otherwise",
            ));
        }
        let extent = extent(tensor);
        let overlaps = |(_, other): &&Named| {
            let other = self::extent(other);
            extent.start.max(other.start) < extent.end.min(other.end)
        };
        if let Some((other, _)) = buffers.iter().find(overlaps) {
            return Err(unfit(
                format!("has a buffer `{other}` in the memory of its parameter `{name}`"),
                "compute it from the parameter in forward, or register a copy of its own: `….clone()`",
            ));
        }
        if let Some((other, _)) = parameters[..index].iter().find(overlaps) {
            return Err(unfit(
                format!("has parameters `{other}` and `{name}` in the same memory"),
                "register it once: give the parameter, or its layer, one name and use that in forward",
            ));
        }
    }
    Ok(parameters)
}

/// The memory from a tensor's first element to its last; nothing where it is not laid out so.
fn extent(tensor: &Tensor) -> std::ops::Range<usize> {
    if tensor.is_sparse() || tensor.is_mkldnn() || tensor.numel() == 0 {
        return 0..0;
    }
    let start = tensor.data_ptr() as usize;
    let furthest: i64 = tensor.size().iter().zip(tensor.stride()).map(|(length, stride)| (length - 1) * stride).sum();
    start..start + (furthest as usize + 1) * tensor.kind().elt_size_in_bytes()
}

/// Scores made-up rows in every way that matters, and looks at what comes of it. Leaves the module in evaluation mode.
fn try_out(script: &mut Script, signature: &Signature, parameters: &[Named], features: usize) -> Result<(), Unfit> {
    let x = made_up_rows(features);
    let before: Vec<Named> = copies(script.buffers().map_err(failed)?);
    script.train(true).map_err(failed)?;
    let scores = probe(script, &x, true)?;
    let after = script.buffers().map_err(failed)?;
    if let Some(((name, _), _)) = before.iter().zip(&after).find(|((_, before), (_, after))| !same(before, after, 0.0))
    {
        return Err(unfit(
            format!("changes its buffer `{name}` in training, as BatchNorm does its running statistics"),
            "such state is not kept in step among workers: take LayerNorm, or model.normalize for the features",
        ));
    }
    // A module that is only scored may hold such a write where its mode does not reach, as BatchNorm does.
    if let Some(operator) = signature.written.first() {
        return Err(unfit(format!("changes what is its own in forward, by `{operator}`"), STATELESS));
    }
    if !same(&scores, &probe(script, &x, false)?, 0.0) {
        return Err(unfit(
            format!("scores the same rows differently from call to call ({})", signature.random.join(", ")),
            REPEATABLE,
        ));
    }
    script.train(false).map_err(failed)?;
    if !same(&scores, &probe(script, &x, false)?, PROBE_TOLERANCE) {
        return Err(unfit(
            "scores differently in training and in evaluation mode",
            "it is trained in evaluation mode: what depends on `self.training` has no place in it",
        ));
    }
    refuse_company(script, &x, &scores)?;
    if !scores.requires_grad() {
        return Err(unfit("gives scores that do not depend on its parameters", "was it detached, or under no_grad?"));
    }
    torchscript::backward(&scores, &scores.detach().ones_like()).map_err(failed)?;
    let without: Vec<_> = parameters.iter().filter(|(_, tensor)| !tensor.grad().defined()).collect();
    if !without.is_empty() {
        let names: Vec<_> = without.iter().map(|(name, _)| format!("`{name}`")).collect();
        let plural = if names.len() == 1 { "a parameter" } else { "parameters" };
        return Err(unfit(format!("has {plural} that no gradient reaches: {}", names.join(", ")), WANTED_GRADIENT));
    }
    Ok(())
}

fn made_up_rows(features: usize) -> Tensor {
    let mut stream = seeded::Stream::new(&[features as u64, 0x9706]);
    let rows: Vec<f32> = (0..PROBE_ROWS * features).map(|_| stream.unit() as f32).collect();
    Tensor::from_slice(&rows).view([PROBE_ROWS as i64, features as i64])
}

/// A row's score must not depend on the rows beside it, few or many; a batch may end with a single one.
fn refuse_company(script: &Script, x: &Tensor, scores: &Tensor) -> Result<(), Unfit> {
    let rows = scores.size()[0];
    let many = probe(script, &x.repeat([CROWD, 1]), false)?.narrow(0, 0, rows);
    let two = probe(script, &x.narrow(0, 0, 2), false)?;
    let one = probe(script, &x.narrow(0, 0, 1), false)?;
    if [(many, rows), (two, 2), (one, 1)]
        .iter()
        .all(|(alone, count)| same(&scores.narrow(0, 0, *count), alone, PROBE_TOLERANCE))
    {
        return Ok(());
    }
    Err(unfit(
        "gives a row another score when other rows come with it",
        "a row's score must follow from its features alone: work along dimension 1, not 0",
    ))
}

/// Scores of rows, in the shape and of the kind that they must have.
fn probe(script: &Script, x: &Tensor, with_gradient: bool) -> Result<Tensor, Unfit> {
    let size = x.size();
    // It may write to what it is given.
    let scores = script.forward(&x.copy(), with_gradient).map_err(|error| {
        unfit(
            format!("fails on {} rows of the data's {} features: {error}", size[0], size[1]),
            "does its first layer take as many features as the data has?",
        )
    })?;
    if scores.kind() != Kind::Float {
        return Err(unfit(format!("gives scores of {:?}, not of float32", scores.kind()), WANTED_FORWARD));
    }
    flat(&scores, size[0], with_gradient).ok_or_else(|| {
        let (rows, shape) = (size[0], scores.size());
        unfit(format!("gives scores of shape {shape:?} for {rows} rows, not [{rows}] or [{rows}, 1]"), WANTED_FORWARD)
    })
}

fn copies(named: Vec<Named>) -> Vec<Named> {
    named.into_iter().map(|(name, tensor)| (name, tensor.detach().copy())).collect()
}

/// Equal within `tolerance` of their size, or not finite in the same places.
fn same(one: &Tensor, other: &Tensor, tolerance: f64) -> bool {
    one.size() == other.size()
        && one.detach().to_kind(Kind::Double).allclose(
            &other.detach().to_kind(Kind::Double),
            tolerance,
            tolerance,
            true,
        )
}

#[cfg(test)]
mod tests;
