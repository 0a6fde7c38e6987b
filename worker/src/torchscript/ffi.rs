//! What shim.cpp exports. Its types in Rust, its functions as they are; [`super::Script`] is what the house uses.

#![allow(unsafe_code, reason = "declares functions of C++, and gives them memory of Rust's")]

use std::{ffi::c_void, marker::PhantomData};

use tch::Tensor;
use torch_sys::C_tensor;

/// A `torch::jit::Module`.
#[repr(C)]
pub struct RawModule {
    _private: [u8; 0],
}

/// Borrowed bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Text<'a> {
    start: *const u8,
    length: usize,
    borrowed: PhantomData<&'a [u8]>,
}

impl<'a> Text<'a> {
    pub fn of(bytes: &'a [u8]) -> Self {
        Self { start: bytes.as_ptr(), length: bytes.len(), borrowed: PhantomData }
    }

    fn bytes(&self) -> &'a [u8] {
        if self.length == 0 {
            return &[];
        }
        // SAFETY: made by `of`, or by shim.cpp for the time of a callback, over `length` bytes that live as long.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }

    fn string(&self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }
}

/// Where C++ puts bytes: `into` is handed back to `take`, at most for the duration of the call that it is given to.
#[repr(C)]
pub struct Sink<'a> {
    into: *mut c_void,
    take: unsafe extern "C" fn(*mut c_void, Text<'_>),
    borrowed: PhantomData<&'a mut ()>,
}

impl<'a> Sink<'a> {
    /// Sets `into` to the bytes, replacing earlier ones.
    pub fn bytes(into: &'a mut Vec<u8>) -> Self {
        unsafe extern "C" fn take(into: *mut c_void, text: Text<'_>) {
            // SAFETY: `into` is the vector below, borrowed for as long as the sink.
            let into = unsafe { &mut *into.cast::<Vec<u8>>() };
            into.clear();
            into.extend_from_slice(text.bytes());
        }
        Self { into: std::ptr::from_mut(into).cast(), take, borrowed: PhantomData }
    }

    /// Appends each text.
    pub fn strings(into: &'a mut Vec<String>) -> Self {
        unsafe extern "C" fn take(into: *mut c_void, text: Text<'_>) {
            // SAFETY: as above.
            unsafe { &mut *into.cast::<Vec<String>>() }.push(text.string());
        }
        Self { into: std::ptr::from_mut(into).cast(), take, borrowed: PhantomData }
    }
}

/// Where C++ puts named tensors.
#[repr(C)]
pub struct TensorSink<'a> {
    into: *mut c_void,
    take: unsafe extern "C" fn(*mut c_void, Text<'_>, *mut C_tensor),
    borrowed: PhantomData<&'a mut ()>,
}

impl<'a> TensorSink<'a> {
    pub fn of(into: &'a mut Vec<(String, Tensor)>) -> Self {
        unsafe extern "C" fn take(into: *mut c_void, name: Text<'_>, tensor: *mut C_tensor) {
            // SAFETY: `into` as above; the tensor was made by `new` for us to own.
            unsafe { &mut *into.cast::<Vec<(String, Tensor)>>() }
                .push((name.string(), unsafe { Tensor::from_ptr(tensor) }));
        }
        Self { into: std::ptr::from_mut(into).cast(), take, borrowed: PhantomData }
    }
}

/// Where C++ puts what it finds in a module: shim.cpp's `Finding`, and words.
#[repr(C)]
pub struct FindingSink<'a> {
    into: *mut c_void,
    take: unsafe extern "C" fn(*mut c_void, u8, Text<'_>),
    borrowed: PhantomData<&'a mut ()>,
}

impl<'a> FindingSink<'a> {
    pub fn of(into: &'a mut Vec<(u8, String)>) -> Self {
        unsafe extern "C" fn take(into: *mut c_void, finding: u8, words: Text<'_>) {
            // SAFETY: as above.
            unsafe { &mut *into.cast::<Vec<(u8, String)>>() }.push((finding, words.string()));
        }
        Self { into: std::ptr::from_mut(into).cast(), take, borrowed: PhantomData }
    }
}

/// One tensor of a module to be built.
#[repr(C)]
pub struct RawPart<'a> {
    pub path: Text<'a>,
    pub tensor: *const C_tensor,
    pub is_parameter: bool,
}

unsafe extern "C" {
    pub fn lockstep_script_load(
        bytes: Text<'_>,
        beside_name: Text<'_>,
        beside: Sink<'_>,
        fail: Sink<'_>,
    ) -> *mut RawModule;
    pub fn lockstep_script_build(
        parts: *const RawPart<'_>,
        part_count: usize,
        features: *const Text<'_>,
        feature_count: usize,
        inner: *const RawModule,
        forward: Text<'_>,
        fail: Sink<'_>,
    ) -> *mut RawModule;
    pub fn lockstep_script_free(module: *mut RawModule);
    pub fn lockstep_script_look_into(module: *const RawModule, found: FindingSink<'_>, fail: Sink<'_>) -> bool;
    pub fn lockstep_script_tensors(
        module: *const RawModule,
        parameters: bool,
        each: TensorSink<'_>,
        fail: Sink<'_>,
    ) -> bool;
    pub fn lockstep_script_strings(
        module: *const RawModule,
        attribute: Text<'_>,
        each: Sink<'_>,
        fail: Sink<'_>,
    ) -> bool;
    pub fn lockstep_script_train(module: *mut RawModule, on: bool, fail: Sink<'_>) -> bool;
    pub fn lockstep_script_forward(
        module: *const RawModule,
        x: *const C_tensor,
        with_gradient: bool,
        fail: Sink<'_>,
    ) -> *mut C_tensor;
    pub fn lockstep_script_backward(scores: *const C_tensor, gradient: *const C_tensor, fail: Sink<'_>) -> bool;
    pub fn lockstep_script_rehouse(
        parameter: *const C_tensor,
        value: *const C_tensor,
        gradient: *const C_tensor,
        fail: Sink<'_>,
    ) -> bool;
    pub fn lockstep_script_save(
        module: *const RawModule,
        extra_names: *const Text<'_>,
        extra_texts: *const Text<'_>,
        extra_count: usize,
        bytes: Sink<'_>,
        fail: Sink<'_>,
    ) -> bool;
}
