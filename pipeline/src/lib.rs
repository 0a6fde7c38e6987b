//! What comes before training: [`import`] text data, [`generate`] synthetic data, [`split`] a dataset by query, [`inspect`] one.
//!
//! Everything is streamed in bounded memory and every output folder appears whole or not at all
//! ([`dataset::writer::Staging`]). Nothing here trains, and nothing here talks to a network.

mod error;
mod output;
mod reader;
mod tally;

pub mod collect;
pub mod engine;
pub mod generate;
pub mod import;
pub mod inspect;
pub mod judge;
pub mod lake;
pub mod prepare;
pub mod propensity;
pub mod simulate;
pub mod split;
pub mod store;
pub mod ubi;

pub use dataset::writer::{Compression, Layout};
pub use error::{ErrorKind, PipelineError};
pub use output::{Output, Written};
pub use reader::{Chunk, ReadOptions, TrainingReader};
pub use tally::LabelCount;
