//! How much positions are looked at, estimated from the click logs of a lake: reads what the estimators of
//! [`ranking::propensity::estimate`] count, and writes a [`PropensityTable`] as a file.
//!
//! Of the files only the few columns that are needed are read. Counts by position take no memory to speak of; those by query, document and
//! position are bounded by a sample of queries.

mod file;

use std::{ops::RangeInclusive, path::PathBuf};

use chrono::NaiveDate;
use ranking::propensity::{
    Method, PropensityTable, Window,
    estimate::{self, DEFAULT_LIMIT, Exposures, Insufficient, MAX_POSITIONS, Randomized},
};
use serde::Serialize;

pub use self::file::read_table;
use crate::{
    PipelineError,
    lake::{self, Event, Searches, Wanted},
};

/// Fewer replicates than this leave the width of an interval to chance.
const MIN_REPLICATES: usize = 50;

/// Which estimator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Estimator {
    /// From lists that were explored: [`Randomized`].
    Randomized,
    /// From documents that moved, positions two by two: [`estimate::pairs()`].
    Pairs,
    /// From documents that moved, all positions at once: [`estimate::em()`].
    Em,
}

/// What to estimate, from what, to where.
#[derive(Clone, Debug, PartialEq)]
pub struct EstimateOptions {
    /// The lake, as [`Lake::open`] takes it.
    pub logs: String,
    /// Dates to read, both included; open where absent.
    pub from: Option<NaiveDate>,
    pub to: Option<NaiveDate>,
    pub estimator: Estimator,
    /// The first so many positions; for [`Estimator::Randomized`] those that exploration shuffles.
    pub positions: usize,
    /// Of the bootstrap.
    pub seed: u64,
    /// Replicates of the bootstrap; [`Estimator::Randomized`] needs none.
    pub replicates: usize,
    /// Counts by query, document and position that are kept, about 28 bytes each; past it queries are sampled.
    pub cells: usize,
    /// The file to write; appears whole or not at all.
    pub out: PathBuf,
    pub overwrite: bool,
}

impl Default for EstimateOptions {
    fn default() -> Self {
        Self {
            logs: String::new(),
            from: None,
            to: None,
            estimator: Estimator::Pairs,
            positions: 10,
            seed: 0,
            replicates: 200,
            cells: DEFAULT_LIMIT,
            out: PathBuf::new(),
            overwrite: false,
        }
    }
}

/// What was read, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EstimateReport {
    pub out: PathBuf,
    pub files: u64,
    pub events: u64,
    pub impressions: u64,
    pub clicks: u64,
    /// Events whose list was explored.
    pub explored: u64,
    /// The share of queries that was counted; below 1 where memory was short.
    pub query_share: f64,
    /// Lists (`randomized`) or queries (the others) that the estimate rests on.
    pub units: u64,
    pub warnings: Vec<String>,
    pub table: PropensityTable,
}

enum Counts {
    Randomized(Randomized),
    Moved(Exposures),
}

/// Reads the lake and writes the table; `progress` is told bytes of files done, and of all.
pub async fn estimate(
    options: &EstimateOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<EstimateReport, PipelineError> {
    let dates = check(options)?;
    let searches = Searches::open(&options.logs, dates).await?;
    let window = searches.window();
    let mut counts = match options.estimator {
        Estimator::Randomized => Counts::Randomized(Randomized::new(options.positions)),
        Estimator::Pairs | Estimator::Em => Counts::Moved(Exposures::new(options.positions, options.cells)),
    };
    let (mut events, mut impressions, mut clicks, mut explored) = (0, 0, 0, 0);
    let each = |name: &str, event: Event<'_>| {
        events += 1;
        impressions += event.results.len() as u64;
        clicks += event.results.iter().filter(|result| result.clicked).count() as u64;
        explored += u64::from(event.explored);
        count(&mut counts, &event, options.positions).map_err(|error| error.of(name))
    };
    let repeated = searches.for_each(&Wanted::default(), progress, each).await?;
    let found = match &counts {
        Counts::Randomized(counts) => counts.estimate(),
        Counts::Moved(counts) if options.estimator == Estimator::Pairs => {
            estimate::pairs(counts, options.replicates, options.seed)
        }
        Counts::Moved(counts) => estimate::em(counts, options.replicates, options.seed),
    };
    let found = found.map_err(|error| insufficient(&error, options, window))?;
    let query_share = match &counts {
        Counts::Randomized(_) => 1.0,
        Counts::Moved(counts) => counts.share(),
    };
    let mut warnings = found.warnings();
    if repeated > 0 {
        warnings.push(format!("{repeated} events stand in the log again, and counted once"));
    }
    if query_share < 1.0 {
        warnings.push(format!(
            "only {:.3} % of the queries were counted, to keep within {} cells",
            100.0 * query_share,
            options.cells
        ));
    }
    let table =
        found.table(window).map_err(|error| PipelineError::data("the estimate makes no table").because(error))?;
    file::write_table(&table, &options.out, options.overwrite)?;
    let (files, out, units) = (searches.files(), options.out.clone(), found.units);
    Ok(EstimateReport { out, files, events, impressions, clicks, explored, query_share, units, warnings, table })
}

fn check(options: &EstimateOptions) -> Result<RangeInclusive<NaiveDate>, PipelineError> {
    if !(2..=MAX_POSITIONS).contains(&options.positions) {
        return Err(PipelineError::options(format!(
            "propensities of {} positions cannot be estimated: from 2 to {MAX_POSITIONS} can",
            options.positions
        )));
    }
    if options.estimator != Estimator::Randomized && options.replicates < MIN_REPLICATES {
        return Err(PipelineError::options(format!(
            "{} replicates are too few for an interval: take at least {MIN_REPLICATES}",
            options.replicates
        )));
    }
    let dates = lake::dates(options.from, options.to)?;
    file::check_out(&options.out, options.overwrite)?;
    Ok(dates)
}

/// An explored list whose own propensities say that not all of the first positions were shuffled.
struct NotShuffled {
    row: u64,
    position: u32,
}

impl NotShuffled {
    fn of(&self, file: &str) -> PipelineError {
        let Self { row, position } = self;
        PipelineError::data(format!(
            "`{file}`, row {row}: an explored list logs propensity 1 at position {position}, so exploration stopped above it"
        ))
        .with_hint(format!("`randomized` compares positions that were shuffled together: `--positions {}`", (position - 1).max(2)))
    }
}

fn count(counts: &mut Counts, event: &Event<'_>, positions: usize) -> Result<(), NotShuffled> {
    match counts {
        Counts::Randomized(counts) => {
            let certain = |propensity: f64| propensity > 1.0 - 1e-9;
            let fixed = event
                .results
                .iter()
                .find(|result| result.position as usize <= positions && result.propensity.is_some_and(certain));
            if let Some(result) = fixed.filter(|_| event.explored && event.results.len() > 1) {
                return Err(NotShuffled { row: event.row, position: result.position });
            }
            counts.add(event.explored, event.results.iter().map(|result| (result.position, result.clicked)));
        }
        Counts::Moved(counts) => {
            for result in event.results {
                counts.add(event.query, result.document, result.position, result.clicked);
            }
        }
    }
    Ok(())
}

fn insufficient(error: &Insufficient, options: &EstimateOptions, window: Option<Window>) -> PipelineError {
    let dates = window.map_or_else(String::new, |Window { from, to }| match from == to {
        true => format!(" of {from}"),
        false => format!(" of {from} to {to}"),
    });
    PipelineError::data(format!("the click logs{dates} in `{}` give no estimate", options.logs))
        .with_hint(error.hint())
        .because(error.clone())
}

/// How sure the intervals are, and of what kind, in words; none where a table has none.
pub fn interval_words(table: &PropensityTable) -> Option<String> {
    let level = table.level()?;
    let how = match table.method() {
        Method::Randomized => ", by the delta method over lists",
        Method::Pairs | Method::Em => ", by a bootstrap over queries",
        Method::Reference | Method::ReferenceRounded | Method::Given => "",
    };
    Some(format!("{:.0} % intervals{how}", 100.0 * level))
}
