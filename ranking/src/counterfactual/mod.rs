//! What a new ranker would have earned, from the logs of the one that was live: counterfactual (off-policy) estimates with known
//! propensities, and the refusal to conclude anything from them where they cannot carry it.
//!
//! | log | weight of a reward | assumes | source |
//! | --- | --- | --- | --- |
//! | lists, [`ByExamination`] | looks at the new position / looks at the logged one | the position-based model and its propensities | Joachims, Swaminathan & Schnabel, WSDM 2017 |
//! | lists, [`ByPlacement`] | \[it stood where the new ranker puts it\] / P(it was shown there) | that what a document earns depends on where it stands, not on its neighbours; logged exploration | Li et al., KDD 2018 (item-position) |
//! | [`Actions`] | P(new policy does it) / P(logging policy did it) | nothing beyond the logged probabilities | Horvitz & Thompson 1952; Strehl et al., NIPS 2010 |
//!
//! From the weights follow, in [`Estimator`]: IPS, the mean weighted reward; clipped IPS (Ionides 2008); SNIPS, the self-normalised one
//! (Swaminathan & Joachims, NIPS 2015). Intervals are by the delta method over groups of [users](crate::clusters): SNIPS is a ratio,
//! the differences are between numbers of the same searches, and a bootstrap would draw the same few large weights again and again and
//! know no more about those that were not logged.

mod actions;
mod doubts;
mod estimator;
mod lists;
#[cfg(test)]
mod tests;

pub use self::{
    actions::{Action, Actions, BadAction},
    doubts::{Conclusion, Doubt, Limits},
    estimator::{Estimates, Estimator, LEVEL, SelfNormalized, Value, Weights},
    lists::{BadPropensity, ByExamination, ByPlacement, Gain, Moved, new_positions},
};
