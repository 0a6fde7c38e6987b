//! Reading an online A/B test: what the users of each arm did, how far the arms are apart, and whether the test was carried out as it was
//! planned.
//!
//! *Users* are divided between the arms, so users are what is resampled: the searches of one user depend on each other, and intervals
//! that took them for independent would be too narrow. Every metric is a ratio of sums over users ([`Metric`]); its interval is the
//! percentile interval of a Poisson bootstrap over groups of [users](crate::clusters). There are intervals and no p-values: an interval
//! that leaves out 0 says what p < 0.05 would, and how large the effect may be besides.

mod outcome;
mod ratio_check;
mod reading;
#[cfg(test)]
mod tests;
mod users;

pub use self::{
    outcome::{Metric, Outcome},
    ratio_check::{MISMATCH_BELOW, RatioCheck},
    reading::{
        Against, ArmReading, Effect, Insufficient, Interval, LEVEL, MAX_IN_SEVERAL, MIN_USERS, MIN_USERS_OF_EVENT,
        Reading, ReadingOptions, Verdict,
    },
    users::{MAX_ARMS, Users},
};
