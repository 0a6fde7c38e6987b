//! The domain of ranking, pure: metrics and the conventions they follow. No IO, no tensors.

pub mod metrics;
