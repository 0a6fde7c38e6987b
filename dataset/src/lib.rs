//! Parquet as training data: the training [`layout`] and its [`writer`], the [`manifest`] of a dataset, the [`lanes`] that say who
//! reads what and when, and the [`reader`]s that hand out ready batches.

pub mod layout;
pub mod manifest;
pub mod lanes;
pub mod lists;
pub mod reader;
pub mod seeded;
pub mod source;
pub mod writer;
