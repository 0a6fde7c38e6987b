//! One process per device: the model, its losses, the collectives, THE training loop, validation and checkpoints. The only crate
//! that links libtorch.

pub mod collective;
pub mod export;
pub mod fault;
pub mod gauge;
pub mod job;
pub mod loss;
pub mod memory;
pub mod model;
pub mod optimizer;
pub mod parameters;
pub mod score;
pub mod session;
pub mod torchscript;
