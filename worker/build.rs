//! Compiles the TorchScript shim against libtorch's headers, and lets the worker's binaries find libtorch without LD_LIBRARY_PATH.

use std::{env, path::PathBuf};

fn main() {
    const SHIM: &str = "src/torchscript/shim.cpp";
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={SHIM}");
    println!("cargo:rerun-if-env-changed=LIBTORCH_INCLUDE");
    println!("cargo:rerun-if-env-changed=LIBTORCH_CXX11_ABI");
    // Where torch-sys found libtorch: it must be the same.
    let Ok(lib) = env::var("DEP_TCH_LIBTORCH_LIB") else { return };
    println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    let root = env::var_os("LIBTORCH_INCLUDE").map_or_else(|| PathBuf::from(&lib).join(".."), PathBuf::from);
    let include = root.join("include");
    let abi = env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".into());
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .include(include.join("torch/csrc/api/include"))
        .include(include)
        .define("_GLIBCXX_USE_CXX11_ABI", abi.as_str())
        .define("GLOG_USE_GLOG_EXPORT", None)
        // libtorch's headers, not ours, are what would be warned about.
        .warnings(false)
        .file(SHIM)
        .compile("lockstep_script");
}
