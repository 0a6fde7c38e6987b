//! The arms beside each other: values, differences, intervals.

use serde::Serialize;

use super::{
    Metric, RatioCheck, Users,
    users::{ArmUsers, Sums},
};
use crate::chance::mix;

/// How often the intervals should hold the truth, each by itself.
pub const LEVEL: f64 = 0.95;

/// Fewer users than this in an arm say nothing about how users differ.
pub const MIN_USERS: u64 = 100;

/// Of an arm in which fewer users than this did what a metric counts, the bootstrap's distribution is a few steps.
pub const MIN_USERS_OF_EVENT: u64 = 10;

/// A larger share of users who saw several arms says that users were not what was divided; the heaviest searchers are left out first.
pub const MAX_IN_SEVERAL: f64 = 0.05;

/// How to read a test.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadingOptions {
    /// The arms' names, in the order of their numbers; two or more.
    pub arms: Vec<String>,
    /// Which of them the others are compared with.
    pub control: usize,
    /// The planned share of users of each arm, above 0, together 1.
    pub split: Vec<f64>,
    /// What is compared.
    pub metrics: Vec<Metric>,
    /// Resamples of the bootstrap.
    pub resamples: usize,
    /// The same seed gives the same intervals.
    pub seed: u64,
}

/// Why a test cannot be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Insufficient {
    #[error("arm `{arm}` has {users} users, and intervals over users take {MIN_USERS}")]
    FewUsers { arm: String, users: u64 },
    /// Time does not mend it: users were not what was divided.
    #[error(
        "arm `{arm}` has {users} users who saw no other, and intervals over users take {MIN_USERS}; {:.1} % of the users saw several arms",
        100.0 * share
    )]
    Mixed { arm: String, users: u64, share: f64 },
    /// Nor this: users of one arm are lost.
    #[error(
        "arm `{arm}` has {users} users, and intervals over users take {MIN_USERS}; the arms do not have the users that they were to have \
         (p = {p_value:.1e})"
    )]
    Mismatch { arm: String, users: u64, p_value: f64 },
}

/// A test that was read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reading {
    /// What is compared.
    pub metrics: Vec<Metric>,
    pub arms: Vec<ArmReading>,
    pub control: String,
    pub ratio_check: RatioCheck,
    /// Users who were seen in several arms, who count in none, and their searches.
    pub users_in_several: u64,
    pub searches_in_several: u64,
    /// Users who were also seen in an arm that is not read, who count in none either, and their searches in those that are.
    pub users_also_elsewhere: u64,
    pub searches_also_elsewhere: u64,
    /// Each other arm against the control.
    pub against_control: Vec<Against>,
}

/// What an arm's users did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ArmReading {
    pub arm: String,
    pub users: u64,
    pub planned_share: f64,
    pub searches: u64,
    /// Of each of the reading's metrics.
    pub values: Vec<f64>,
}

/// An arm against the control.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Against {
    pub arm: String,
    pub effects: Vec<Effect>,
}

/// How far an arm is from the control in one metric.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Effect {
    pub metric: Metric,
    /// What it is: [`Metric::definition`].
    pub definition: &'static str,
    pub control: f64,
    pub value: f64,
    /// Arm less control; no interval where what is counted was too rare.
    pub difference: Interval,
    /// Arm / control - 1; none where the control's value is 0, no interval where it is 0 in a resample.
    pub lift: Option<Interval>,
    pub verdict: Verdict,
}

/// A number, and where it lies at [`LEVEL`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    pub value: f64,
    pub low: Option<f64>,
    pub high: Option<f64>,
}

/// What follows from an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Higher,
    Lower,
    /// The interval of the difference holds 0.
    NotApart,
    /// What is counted was done by fewer than [`MIN_USERS_OF_EVENT`] users of one of the two.
    TooRare,
    /// The arms do not have the users that they were meant to have, so nothing follows.
    RatioMismatch,
    /// More than [`MAX_IN_SEVERAL`] of the users saw several arms, so nothing follows.
    UsersMixed,
}

impl Reading {
    /// The share of users who were seen in several arms.
    pub fn share_in_several(&self) -> f64 {
        let in_one: u64 = self.arms.iter().map(|arm| arm.users).sum();
        share_in_several(in_one, self.users_in_several + self.users_also_elsewhere)
    }

    pub fn users_are_mixed(&self) -> bool {
        self.share_in_several() > MAX_IN_SEVERAL
    }
}

fn share_in_several(in_one: u64, in_several: u64) -> f64 {
    in_several as f64 / (in_one + in_several).max(1) as f64
}

impl Users {
    /// Reads the test.
    pub fn read(&self, options: &ReadingOptions) -> Result<Reading, Insufficient> {
        let arms = self.by_arm(options.arms.len());
        let counts: Vec<u64> = arms.iter().map(|arm| arm.users).collect();
        let ratio_check = RatioCheck::of(&counts, &options.split);
        let (users_in_several, searches_in_several) = self.in_several();
        let (users_also_elsewhere, searches_also_elsewhere) = self.also_elsewhere();
        if let Some((arm, name)) = arms.iter().zip(&options.arms).find(|(arm, _)| arm.users < MIN_USERS) {
            let (arm, users) = (name.clone(), arm.users);
            let share = share_in_several(counts.iter().sum(), users_in_several + users_also_elsewhere);
            return Err(match (share > MAX_IN_SEVERAL, ratio_check) {
                (true, _) => Insufficient::Mixed { arm, users, share },
                (false, RatioCheck { mismatch: true, p_value, .. }) => Insufficient::Mismatch { arm, users, p_value },
                (false, _) => Insufficient::FewUsers { arm, users },
            });
        }
        let totals: Vec<Sums> = arms.iter().map(|arm| arm.groups.totals()).collect();
        let control = options.control;
        let baseline = resamples(&arms[control], &options.arms[control], options);
        let others = (0..arms.len()).filter(|arm| *arm != control);
        let against = |arm: usize| {
            let resampled = resamples(&arms[arm], &options.arms[arm], options);
            let effect = |metric: &Metric| {
                let pairs = || baseline.iter().zip(&resampled).map(|(old, new)| (metric.of(old), metric.of(new)));
                effect(*metric, [&totals[control], &totals[arm]], pairs)
            };
            Against { arm: options.arms[arm].clone(), effects: options.metrics.iter().map(effect).collect() }
        };
        let readings = arms.iter().zip(&totals).zip(options.arms.iter().zip(&options.split));
        let mut reading = Reading {
            metrics: options.metrics.clone(),
            control: options.arms[control].clone(),
            ratio_check,
            users_in_several,
            searches_in_several,
            users_also_elsewhere,
            searches_also_elsewhere,
            against_control: others.map(against).collect(),
            arms: readings
                .map(|((arm, totals), (name, share))| ArmReading {
                    arm: name.clone(),
                    users: arm.users,
                    planned_share: *share,
                    searches: arm.searches,
                    values: options.metrics.iter().map(|metric| metric.of(totals)).collect(),
                })
                .collect(),
        };
        let unfair = match (reading.users_are_mixed(), ratio_check.mismatch) {
            (true, _) => Some(Verdict::UsersMixed),
            (false, true) => Some(Verdict::RatioMismatch),
            (false, false) => None,
        };
        if let Some(unfair) = unfair {
            let effects = reading.against_control.iter_mut().flat_map(|against| &mut against.effects);
            effects.for_each(|effect| effect.verdict = unfair);
        }
        Ok(reading)
    }
}

/// The totals of an arm in each resample; arms are resampled apart, as their users are apart. By the arm's name: its number is chance.
fn resamples(users: &ArmUsers, arm: &str, options: &ReadingOptions) -> Vec<Sums> {
    let key = arm.bytes().fold(mix(options.seed), |key, byte| mix(key ^ u64::from(byte)));
    (0..options.resamples).map(|resample| users.groups.resampled(mix(key.wrapping_add(resample as u64)))).collect()
}

fn effect<P: Iterator<Item = (f64, f64)>>(
    metric: Metric,
    [control, arm]: [&Sums; 2],
    resampled: impl Fn() -> P,
) -> Effect {
    let (old, new) = (metric.of(control), metric.of(arm));
    let enough = metric.users_of_event(control).min(metric.users_of_event(arm)) >= MIN_USERS_OF_EVENT;
    let interval = |value: f64, of: fn((f64, f64)) -> f64| {
        let bounds = enough.then(|| percentiles(resampled().map(of).collect()));
        let bounds = bounds.filter(|(low, high)| low.is_finite() && high.is_finite());
        Interval { value, low: bounds.map(|bounds| bounds.0), high: bounds.map(|bounds| bounds.1) }
    };
    let difference = interval(new - old, |(old, new)| new - old);
    let lift = (old > 0.0).then(|| interval(new / old - 1.0, |(old, new)| new / old - 1.0));
    let verdict = match (difference.low, difference.high) {
        (Some(low), _) if low > 0.0 => Verdict::Higher,
        (_, Some(high)) if high < 0.0 => Verdict::Lower,
        (Some(_), Some(_)) => Verdict::NotApart,
        _ => Verdict::TooRare,
    };
    Effect { metric, definition: metric.definition(), control: old, value: new, difference, lift, verdict }
}

/// The percentile interval at [`LEVEL`], interpolated between order statistics.
fn percentiles(mut values: Vec<f64>) -> (f64, f64) {
    // A resample that holds no search of an arm has no value.
    values.retain(|value| !value.is_nan());
    values.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| {
        let place = share * (values.len().max(1) - 1) as f64;
        let (below, above) = (place.floor() as usize, place.ceil() as usize);
        match (values.get(below), values.get(above)) {
            (Some(below), Some(above)) => below + (above - below) * place.fract(),
            _ => f64::NAN,
        }
    };
    (at((1.0 - LEVEL) / 2.0), at((1.0 + LEVEL) / 2.0))
}
