//! What comes before training: [`collect`] click logs from a broker into a [`lake`], [`simulate`] some, import those of others ([`ubi`]),
//! estimate [`propensity`] from them, have pairs judged ([`judge`]), tell what a new ranker would have earned ([`counterfactual`]), read an
//! online test ([`abtest`]), and [`prepare`] training data from all of it, here or on a cluster
//! ([`engine`]); or [`import`] text data, [`generate`] synthetic data, [`split`] a dataset by query, [`inspect`] one.
//!
//! Everything is streamed in bounded memory and every output appears whole or not at all ([`dataset::writer::Staging`], the lake's
//! commits). Nothing here trains.

mod error;
mod fresh;
mod output;
mod reader;
mod tally;

pub mod abtest;
pub mod collect;
pub mod counterfactual;
pub mod engine;
pub mod evaluate;
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
