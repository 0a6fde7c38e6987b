//! TorchScript modules, as far as `tch` does not bind them: built with named parts, looked into, run so that they repeat to the bit,
//! written to memory. The C++ is in shim.cpp.

#![allow(unsafe_code, reason = "calls the C++ shim")]

mod ffi;

use std::{fmt, ptr::NonNull};

use ffi::{FindingSink, RawModule, RawPart, Sink, TensorSink, Text};
use tch::Tensor;

/// Name of the archive's entry that says where an exported model comes from: `torch.jit.load(path, _extra_files={"lockstep.json": ""})` reads it.
pub const ABOUT: &str = "lockstep.json";

/// What libtorch said, in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ScriptError(String);

impl ScriptError {
    /// libtorch's messages end in a traceback of the module's source, whose last line is the error itself.
    fn of(said: &[u8]) -> Self {
        let said = String::from_utf8_lossy(said);
        let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
        let first = lines.next().unwrap_or("libtorch gave no reason");
        let is_traceback = first.contains("TorchScript interpreter") || first.contains("Traceback of TorchScript");
        let line = if is_traceback { lines.next_back().unwrap_or(first) } else { first };
        let kind = ["RuntimeError: ", "builtins."].into_iter().find_map(|kind| line.strip_prefix(kind));
        Self(kind.unwrap_or(line).to_owned())
    }
}

/// A tensor of a module that is built, named by its path.
#[derive(Debug)]
pub struct Part<'a> {
    pub path: &'a str,
    pub tensor: &'a Tensor,
    pub is_parameter: bool,
}

/// What `forward` takes, gives and does besides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signature {
    /// `x: Tensor`, without the module itself; those that must be given.
    pub required: Vec<String>,
    /// Those with a default.
    pub optional: Vec<String>,
    pub returns: Vec<String>,
    /// Operators that draw random numbers, unless an argument switches them off.
    pub random: Vec<String>,
    /// Those of them that draw in evaluation mode too.
    pub always_random: Vec<String>,
    /// Attributes that it assigns to.
    pub assigned: Vec<String>,
    /// Operators that write to what is its own: a parameter, a buffer, a list.
    pub written: Vec<String>,
}

/// A scripted module.
pub struct Script {
    raw: NonNull<RawModule>,
}

// SAFETY: a `torch::jit::Module` is a counted reference that any thread may hold, and its methods may run on several threads at once
// (libtorch guards the making of their executors). What changes a module (`train`, `rehouse`) is libtorch's own memory, written by
// `train(&mut self)` alone; parameters change as other tensors do, between the calls of the thread that owns the training.
unsafe impl Send for Script {}
// SAFETY: see above.
unsafe impl Sync for Script {}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").finish_non_exhaustive()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // SAFETY: made by `new` in shim.cpp, and ours alone.
        unsafe { ffi::lockstep_script_free(self.raw.as_ptr()) };
    }
}

impl Script {
    /// From the bytes of a file that `torch.jit.save` or [`Self::save`] wrote; and the text [`ABOUT`] that lies beside the code, empty where there
    /// is none.
    pub fn load(bytes: &[u8]) -> Result<(Self, Vec<u8>), ScriptError> {
        let mut about = Vec::new();
        // SAFETY: shim.cpp reads the bytes before it returns, and the sinks outlive the call.
        let made = called(|fail| unsafe {
            ffi::lockstep_script_load(Text::of(bytes), Text::of(ABOUT.as_bytes()), Sink::bytes(&mut about), fail)
        })?;
        Ok((Self::own(made)?, about))
    }

    /// A module of these parts, its submodules as their paths say, in evaluation mode, with an attribute `features` and a method
    /// `forward`. `inner` becomes its submodule `module`. Its tensors are the parts' own, not copies.
    pub fn build(
        parts: &[Part<'_>],
        features: &[String],
        inner: Option<&Self>,
        forward: &str,
    ) -> Result<Self, ScriptError> {
        let raw: Vec<_> = parts
            .iter()
            .map(|part| RawPart {
                path: Text::of(part.path.as_bytes()),
                tensor: part.tensor.as_ptr(),
                is_parameter: part.is_parameter,
            })
            .collect();
        let features: Vec<_> = features.iter().map(|name| Text::of(name.as_bytes())).collect();
        let inner = inner.map_or(std::ptr::null(), |inner| inner.raw.as_ptr().cast_const());
        // SAFETY: pointers and counts belong together, and shim.cpp copies what it keeps before it returns.
        let made = called(|fail| unsafe {
            ffi::lockstep_script_build(
                raw.as_ptr(),
                raw.len(),
                features.as_ptr(),
                features.len(),
                inner,
                Text::of(forward.as_bytes()),
                fail,
            )
        })?;
        Self::own(made)
    }

    fn own(made: *mut RawModule) -> Result<Self, ScriptError> {
        NonNull::new(made).map(|raw| Self { raw }).ok_or_else(|| ScriptError::of(&[]))
    }

    pub fn signature(&self) -> Result<Signature, ScriptError> {
        let mut findings: Vec<(u8, String)> = Vec::new();
        // SAFETY: the sinks outlive the call.
        called(|fail| unsafe {
            ffi::lockstep_script_look_into(self.raw.as_ptr(), FindingSink::of(&mut findings), fail)
        })?;
        let mut signature = Signature::default();
        for (finding, words) in findings {
            let list = match finding {
                0 => &mut signature.required,
                1 => &mut signature.optional,
                2 => &mut signature.returns,
                3 => &mut signature.random,
                4 => &mut signature.assigned,
                5 => &mut signature.always_random,
                _ => &mut signature.written,
            };
            if !list.contains(&words) || finding < 3 {
                list.push(words);
            }
        }
        Ok(signature)
    }

    /// The module's own parameters, not copies, in its order.
    pub fn parameters(&self) -> Result<Vec<(String, Tensor)>, ScriptError> {
        self.tensors(true)
    }

    /// Its other tensors.
    pub fn buffers(&self) -> Result<Vec<(String, Tensor)>, ScriptError> {
        self.tensors(false)
    }

    fn tensors(&self, parameters: bool) -> Result<Vec<(String, Tensor)>, ScriptError> {
        let mut tensors = Vec::new();
        // SAFETY: the sinks outlive the call.
        called(|fail| unsafe {
            ffi::lockstep_script_tensors(self.raw.as_ptr(), parameters, TensorSink::of(&mut tensors), fail)
        })?;
        Ok(tensors)
    }

    /// A `List[str]` attribute, where the module has it.
    pub fn strings(&self, attribute: &str) -> Option<Vec<String>> {
        let mut strings = Vec::new();
        let mut reason = Vec::new();
        let attribute = Text::of(attribute.as_bytes());
        // SAFETY: the sinks outlive the call.
        let found = unsafe {
            let fail = Sink::bytes(&mut reason);
            ffi::lockstep_script_strings(self.raw.as_ptr(), attribute, Sink::strings(&mut strings), fail)
        };
        found.then_some(strings)
    }

    /// Training mode, or evaluation mode.
    pub fn train(&mut self, on: bool) -> Result<(), ScriptError> {
        // SAFETY: the module is ours alone while it is borrowed mutably.
        called(|fail| unsafe { ffi::lockstep_script_train(self.raw.as_ptr(), on, fail) }).map(drop)
    }

    /// What `forward(x)` gives; with `with_gradient` it can be propagated back. The same operations at every call.
    pub fn forward(&self, x: &Tensor, with_gradient: bool) -> Result<Tensor, ScriptError> {
        // SAFETY: shim.cpp keeps neither pointer.
        let made =
            called(|fail| unsafe { ffi::lockstep_script_forward(self.raw.as_ptr(), x.as_ptr(), with_gradient, fail) })?;
        // SAFETY: made by `new` for us to own.
        Ok(unsafe { Tensor::from_ptr(made) })
    }

    /// As a file's bytes; `extra` are texts kept beside the code.
    pub fn save(&self, extra: &[(&str, &str)]) -> Result<Vec<u8>, ScriptError> {
        let (names, texts): (Vec<_>, Vec<_>) =
            extra.iter().map(|(name, text)| (Text::of(name.as_bytes()), Text::of(text.as_bytes()))).unzip();
        let mut bytes = Vec::new();
        let into = Sink::bytes(&mut bytes);
        // SAFETY: pointers and count belong together; shim.cpp copies the texts.
        called(|fail| unsafe {
            ffi::lockstep_script_save(self.raw.as_ptr(), names.as_ptr(), texts.as_ptr(), extra.len(), into, fail)
        })?;
        Ok(bytes)
    }
}

/// Adds to the gradients of what `scores` [n] was computed from, from d(what is minimised)/d(scores) [n].
pub fn backward(scores: &Tensor, gradient: &Tensor) -> Result<(), ScriptError> {
    // SAFETY: shim.cpp keeps neither pointer.
    called(|fail| unsafe { ffi::lockstep_script_backward(scores.as_ptr(), gradient.as_ptr(), fail) }).map(drop)
}

/// From here on `parameter` lives in the memory of `value`, and its gradient in that of `gradient`; both have its shape.
pub fn rehouse(parameter: &mut Tensor, value: &Tensor, gradient: &Tensor) -> Result<(), ScriptError> {
    // SAFETY: shim.cpp keeps counted references to the memory, not the pointers.
    called(|fail| unsafe { ffi::lockstep_script_rehouse(parameter.as_ptr(), value.as_ptr(), gradient.as_ptr(), fail) })
        .map(drop)
}

/// How a function of the shim says that it went well.
trait Verdict {
    fn is_well(&self) -> bool;
}

impl Verdict for bool {
    fn is_well(&self) -> bool {
        *self
    }
}

impl<T> Verdict for *mut T {
    fn is_well(&self) -> bool {
        !self.is_null()
    }
}

fn called<R: Verdict>(call: impl FnOnce(Sink<'_>) -> R) -> Result<R, ScriptError> {
    let mut reason = Vec::new();
    let result = call(Sink::bytes(&mut reason));
    if result.is_well() { Ok(result) } else { Err(ScriptError::of(&reason)) }
}
