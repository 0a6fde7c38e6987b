//! Parquet as training data: the training [`layout`] and its [`writer`], the [`manifest`] of a dataset, the [`lanes`] that say who
//! reads what and when, and the [`reader`]s that hand out ready batches.

pub mod checkpoint;
pub mod files;
pub mod lanes;
pub mod layout;
pub mod lists;
pub mod manifest;
pub mod reader;
pub mod scorable;
pub mod seeded;
pub mod source;
pub mod whole_file;
pub mod write_behind;
pub mod writer;
