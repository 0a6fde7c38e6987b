//! The wire of Lockstep: protobuf messages and services ([`v1`]), typed ids ([`ids`]) and the [`RunSpec`] (what to train).
//!
//! No IO lives here, and no decisions: parsing, checking and naming only.

pub mod addresses;
pub mod checkpoint;
pub mod deadlines;
pub mod ids;
pub mod spec;

pub use deadlines::Deadlines;
pub use ids::{Generation, RunId, WorkerId};
pub use spec::RunSpec;

/// Generated from `proto/lockstep/v1/lockstep.proto`.
#[allow(clippy::all, clippy::large_futures, clippy::allow_attributes_without_reason, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("lockstep.v1");

    /// The descriptors behind gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}

/// What a worker and a coordinator must have in common to talk.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that this build is of, where whoever built it set `LOCKSTEP_COMMIT`.
pub const COMMIT: Option<&str> = option_env!("LOCKSTEP_COMMIT");

/// Where a coordinator listens, and where clients look for one, unless told otherwise.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:7070";
