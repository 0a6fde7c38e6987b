//! The domain of ranking, pure: what a click log holds, what its clicks are worth, how judgments are agreed on, and the metrics
//! with the conventions they follow. No IO, no tensors.

pub mod chance;
pub mod clusters;
pub mod counterfactual;
pub mod events;
pub mod judgments;
pub mod labels;
pub mod metrics;
pub mod online;
pub mod propensity;
