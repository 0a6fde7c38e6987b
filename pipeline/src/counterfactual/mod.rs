//! What a new ranker would have earned: reads click logs and the new ranker's scores, or a table of logged actions, and hands them to
//! [`ranking::counterfactual`].
//!
//! The log is read file by file. What stays in memory is the scores and, while copies are looked for, the identities of searches.

mod scores;
mod table;

use std::path::PathBuf;

use chrono::NaiveDate;
use ranking::{
    counterfactual::{
        Action, Actions, BadAction, BadPropensity, ByExamination, ByPlacement, Doubt, Estimates, Gain, Limits, Moved,
        new_positions,
    },
    propensity::{PropensityTable, Window},
};
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

pub use self::scores::ScoredBy;
use self::{scores::Scores, table::Table};
use crate::{
    PipelineError,
    lake::{Conversions, Event, Searches, Shown, Wanted, dates},
};

/// What is earned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reward {
    #[default]
    Click,
    Cart,
    Purchase,
}

/// How rewards of lists are weighed.
#[derive(Clone, Debug, PartialEq)]
pub enum ListWeights {
    /// [`ByExamination`].
    Examination { table: PropensityTable, gain: Gain },
    /// [`ByPlacement`].
    Placement,
}

/// Which log, which new ranker, and how to weigh.
#[derive(Clone, Debug, PartialEq)]
pub struct ClicksOptions {
    /// The lake, as [`Lake::open`] takes it.
    pub logs: String,
    /// Dates to read, both included; open where absent.
    pub from: Option<NaiveDate>,
    pub to: Option<NaiveDate>,
    /// What the new ranker makes of the log's results.
    pub scores: PathBuf,
    pub weights: ListWeights,
    pub reward: Reward,
    /// The largest weight of the clipped estimate.
    pub clip: Option<f64>,
    pub limits: Limits,
}

/// What was read, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClicksReport {
    pub window: Option<Window>,
    pub files: u64,
    /// Searches of the log, each once.
    pub searches: u64,
    pub repeated: u64,
    pub scores: u64,
    pub scored_by: ScoredBy,
    /// Searches that are left out, as no result of them has a score, or only some have.
    pub unscored: u64,
    pub partly_scored: u64,
    /// Searches that are left out, as they showed nothing.
    pub showed_nothing: u64,
    pub estimates: Estimates,
}

enum Sums {
    Examination(ByExamination),
    Placement(ByPlacement),
}

impl Sums {
    fn add(&mut self, unit: u64, results: &[Moved]) -> Result<(), BadPropensity> {
        match self {
            Self::Examination(sums) => sums.add(unit, results),
            Self::Placement(sums) => sums.add(unit, results)?,
        }
        Ok(())
    }

    fn estimates(&self, limits: &Limits) -> Option<Estimates> {
        match self {
            Self::Examination(sums) => sums.estimates(limits),
            Self::Placement(sums) => sums.estimates(limits),
        }
    }
}

/// Reads the scores and the lake; `progress` is told bytes of files done, and of all.
pub async fn clicks(
    options: &ClicksOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<ClicksReport, PipelineError> {
    check(options.clip, &options.limits)?;
    let dates = dates(options.from, options.to)?;
    let scores = Scores::read(&options.scores)?;
    let log = Searches::open(&options.logs, dates).await?;
    let mut sums = match &options.weights {
        ListWeights::Examination { table, gain } => {
            Sums::Examination(ByExamination::new(options.clip, table.clone(), *gain))
        }
        ListWeights::Placement => Sums::Placement(ByPlacement::new(options.clip)),
    };
    let conversions = if options.reward == Reward::Click { Conversions::Unwanted } else { Conversions::Needed };
    let wanted = Wanted { people: true, conversions, arm: None };
    let (mut searches, mut showed_nothing, mut unscored) = (0u64, 0u64, 0u64);
    let (mut partly_scored, mut nameless) = (0u64, 0u64);
    let (mut found, mut results) = (Vec::new(), Vec::new());
    let each = |name: &str, event: Event<'_>| -> Result<(), PipelineError> {
        searches += 1;
        nameless += u64::from(!scores.of(&event, &mut found));
        match found.iter().flatten().count() {
            0 if found.is_empty() => showed_nothing += 1,
            0 => unscored += 1,
            some if some < found.len() => partly_scored += 1,
            _ => {
                moved(&event, &found, options.reward, &mut results)
                    .map_err(|position| twice(name, event.row, position))?;
                sums.add(unit(&event, searches), &results).map_err(|error| improper(name, event.row, error))?;
            }
        }
        Ok(())
    };
    let repeated = log.for_each(&wanted, progress, each).await?;
    let Some(mut estimates) = sums.estimates(&options.limits) else {
        return Err(nothing_scored(options, scores.by, searches, partly_scored, nameless));
    };
    let share = partly_scored as f64 / (searches - unscored - showed_nothing).max(1) as f64;
    if share > options.limits.max_unsupported {
        estimates.doubts.push(Doubt::PartlyScored { share, most: options.limits.max_unsupported });
        estimates.conclusion = None;
    }
    Ok(ClicksReport {
        window: log.window(),
        files: log.files(),
        searches,
        repeated,
        scores: scores.len() as u64,
        scored_by: scores.by,
        unscored,
        partly_scored,
        showed_nothing,
        estimates,
    })
}

/// Where the new ranker puts a search's results; or the position that two of them have.
fn moved(event: &Event<'_>, scores: &[Option<f64>], reward: Reward, moved: &mut Vec<Moved>) -> Result<(), u32> {
    let positions: Vec<u32> = event.results.iter().map(|result| result.position).collect();
    let scores: Vec<f64> = scores.iter().copied().flatten().collect();
    let new = new_positions(&positions, &scores);
    let mut places = new.clone();
    places.sort_unstable();
    if let Some(pair) = places.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(pair[0]);
    }
    let earned = |result: &Shown| match reward {
        Reward::Click => result.clicked,
        Reward::Cart => result.carted,
        Reward::Purchase => result.purchased,
    };
    moved.clear();
    moved.extend(event.results.iter().zip(new).map(|(result, new)| Moved {
        logged: result.position,
        new,
        reward: f64::from(u8::from(earned(result))),
        propensity: result.propensity,
    }));
    Ok(())
}

/// Whose search it was: the user's, else the session's, else nobody's but its own.
fn unit(event: &Event<'_>, number: u64) -> u64 {
    event.user.or(event.session_as_user()).unwrap_or(number)
}

fn twice(file: &str, row: u64, position: u32) -> PipelineError {
    PipelineError::data(format!("`{file}`, row {row}: two results are at position {position}"))
        .with_hint("the new ranker moves results among the positions of their search: is it the position on a page, or in a block, that is logged?")
}

fn improper(file: &str, row: u64, error: BadPropensity) -> PipelineError {
    let hint = match error {
        BadPropensity::Missing { .. } => {
            "log each result's probability of standing where it stood (`ranking::propensity::Exploration` computes it), or weigh by \
             `--weights examination`"
        }
        BadPropensity::Improper { .. } | BadPropensity::Tiny { .. } => {
            "see how it is computed: what was shown had some chance to be"
        }
    };
    PipelineError::data(format!("`{file}`, row {row}: {error}")).with_hint(hint)
}

fn nothing_scored(options: &ClicksOptions, by: ScoredBy, searches: u64, partly: u64, nameless: u64) -> PipelineError {
    let (logs, scores) = (&options.logs, options.scores.display());
    if partly > 0 {
        return PipelineError::data(format!(
            "of {searches} searches in `{logs}`, {partly} have some results with a score in `{scores}` and none has all"
        ))
        .with_hint("score every result that was shown");
    }
    let hint = match by {
        ScoredBy::ListId if nameless > 0 => {
            "a list_id is made of session_id, query_id and query_timestamp, and the log lacks some of these: give scores by query_id"
        }
        ScoredBy::ListId => "are the scores those of data that `lockstep prepare` made of these dates?",
        ScoredBy::QueryId => "are query_id and document_id those of the log?",
    };
    PipelineError::data(format!(
        "none of {searches} searches in `{logs}` is in `{scores}`, by {} and document_id",
        by.column()
    ))
    .with_hint(hint)
}

/// A table of logged actions, and what its columns are called.
#[derive(Clone, Debug, PartialEq)]
pub struct ActionsOptions {
    /// Parquet, a folder of it, or CSV.
    pub table: PathBuf,
    pub reward: String,
    pub propensity: String,
    pub target: String,
    /// Whose action it was; without it rows are independent.
    pub unit: Option<String>,
    /// The largest weight of the clipped estimate.
    pub clip: Option<f64>,
    pub limits: Limits,
}

/// Estimates what the new policy would have earned for each action.
pub fn actions(options: &ActionsOptions) -> Result<Estimates, PipelineError> {
    check(options.clip, &options.limits)?;
    let table = Table::open(&options.table)?;
    let mut names = vec![&*options.reward, &*options.propensity, &*options.target];
    for (name, flag) in names.iter().zip(["--reward", "--propensity", "--target"]) {
        table.check(name, Some(flag))?;
    }
    if let Some(unit) = &options.unit {
        table.check(unit, Some("--unit"))?;
        names.push(unit);
    }
    let mut actions = Actions::new(options.clip);
    let mut number = 0;
    table.for_each(&names, |rows| {
        let (reward, propensity, target) = (rows.numbers(0)?, rows.numbers(1)?, rows.numbers(2)?);
        let units = options.unit.as_ref().map(|_| rows.ids(3)).transpose()?;
        for row in 0..rows.len() {
            let unit = units.as_ref().map_or(number, |units| xxh3_64(units.value(row).as_bytes()));
            let action =
                Action { reward: reward.value(row), propensity: propensity.value(row), target: target.value(row) };
            actions.add(unit, action).map_err(|error| {
                let refused = match error {
                    BadAction::Reward(_) => rows.wrong_in(row, 0, error),
                    BadAction::Propensity(_) => rows.wrong_in(row, 1, error),
                    BadAction::Target(_) => rows.wrong_in(row, 2, error),
                    BadAction::Weight { .. } => rows.wrong(row, error),
                };
                refused.with_hint("rows hold what was done: a reward, the probability with which it was done, and the one with which the \
                    new policy would do the same")
            })?;
            number += 1;
        }
        Ok(())
    })?;
    let nothing = || PipelineError::data(format!("`{}` holds no actions", options.table.display()));
    actions.estimates(&options.limits).ok_or_else(nothing)
}

fn check(clip: Option<f64>, limits: &Limits) -> Result<(), PipelineError> {
    if let Some(clip) = clip.filter(|clip| !(clip.is_finite() && *clip > 0.0)) {
        return Err(PipelineError::options(format!("weights cannot be clipped at {clip}"))
            .with_hint("a clip is a number above 0; 10 is a common one"));
    }
    let share = |share: f64| (0.0..=1.0).contains(&share);
    let Limits { min_effective, max_share, max_unsupported } = *limits;
    if !(min_effective.is_finite() && min_effective >= 0.0 && share(max_share) && share(max_unsupported)) {
        return Err(PipelineError::options(format!(
            "the limits are an effective sample size of {min_effective}, a share of {max_share} and of {max_unsupported}"
        ))
        .with_hint("sizes are 0 or more, shares lie between 0 and 1"));
    }
    Ok(())
}
