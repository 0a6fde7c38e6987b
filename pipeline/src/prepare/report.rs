//! What was prepared, in words and as JSON.

use std::{fmt::Write as _, path::PathBuf};

use bytesize::ByteSize;
use chrono::NaiveDate;
use ranking::{
    labels::{LabelKind, LabelOptions},
    propensity::{PropensityTable, WeightHealth, WeightKind, Weighting},
};
use serde::Serialize;

use super::{
    plan::Source,
    sink::{Counts, Fill},
    sources::Table,
};
use crate::{LabelCount, inspect::thousands, tally::spell_labels};

/// The whole of it; stands beside the data as `_prepare.json`.
#[derive(Clone, Debug, Serialize)]
pub struct PrepareReport {
    pub out: PathBuf,
    pub log: Option<LogReport>,
    /// Where the labels come from, if not from clicks.
    pub judgments: Option<String>,
    /// Results of the log that were left out because nobody judged them.
    pub unjudged_rows: u64,
    /// Parquet files of these dates that no commit of the lake lists, left out.
    pub unlisted_files: u64,
    /// Of the log; without one, judgments.
    pub events: u64,
    /// Events left out because the same search stands in the log already.
    pub repeated_events: u64,
    pub queries: u64,
    pub rows: u64,
    pub lists: u64,
    pub bytes: u64,
    /// Rows left out for a missing feature.
    pub dropped_rows: u64,
    /// Lists of several rows with one label: ranking losses learn nothing from them.
    pub single_label_lists: u64,
    pub labels: Vec<LabelCount>,
    pub label_options: LabelOptions,
    pub features: Vec<FeatureReport>,
    pub tables: Vec<TableReport>,
    /// Tables that give none of the features.
    pub unused_tables: Vec<String>,
    pub weighting: Weighting,
    pub propensities: PropensityTable,
    /// What self-normalisation divided weights by.
    pub divisor: f64,
    pub weights: WeightHealth,
    pub joins: &'static str,
    pub seconds: f64,
    pub parts: Vec<PartReport>,
}

/// What was read of the log.
#[derive(Clone, Debug, Serialize)]
pub struct LogReport {
    pub from: NaiveDate,
    /// Included.
    pub to: NaiveDate,
    /// How many of these dates have files.
    pub dates: usize,
    pub files: usize,
    pub bytes: u64,
}

/// One feature.
#[derive(Clone, Debug, Serialize)]
pub struct FeatureReport {
    pub name: String,
    /// `query`, `user`, `document`, `pair`, or `log`.
    pub source: &'static str,
    pub missing_rows: u64,
    /// What missing values became.
    pub filled_with: Option<f32>,
}

/// One table.
#[derive(Clone, Debug, Serialize)]
pub struct TableReport {
    pub key: &'static str,
    pub location: String,
    /// Joined as of the time of the search.
    pub as_of: bool,
    /// Rows of the dataset whose key it does not have.
    pub unmatched_rows: u64,
}

/// One part as written; its name is empty where the dataset is not split.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PartReport {
    pub name: String,
    pub files: usize,
    pub rows: u64,
    pub lists: u64,
    pub bytes: u64,
}

pub(super) fn features(features: &[(String, Source)], counts: &Counts, fill: &Fill) -> Vec<FeatureReport> {
    let report = |(at, (name, source)): (usize, &(String, Source))| {
        let missing_rows = counts.missing.get(at).copied().unwrap_or(0);
        FeatureReport {
            name: name.clone(),
            source: match source {
                Source::Table(key) => key.word(),
                Source::Event | Source::Result => "log",
            },
            missing_rows,
            filled_with: match fill {
                Fill::With(values) if missing_rows > 0 => values.get(at).copied(),
                _ => None,
            },
        }
    };
    features.iter().enumerate().map(report).collect()
}

pub(super) fn tables(tables: &[Table], counts: &Counts) -> Vec<TableReport> {
    let report = |(at, table): (usize, &Table)| TableReport {
        key: table.key.word(),
        location: table.location.clone(),
        as_of: table.as_of,
        unmatched_rows: counts.unmatched.get(at).copied().unwrap_or(0),
    };
    tables.iter().enumerate().map(report).collect()
}

/// For a person.
pub fn render(report: &PrepareReport) -> String {
    let mut text = String::new();
    let mut line = |head: &str, body: String| {
        let _ = writeln!(text, "{head:<12}{body}");
    };
    let (events, queries) = (thousands(report.events), thousands(report.queries));
    if let Some(LogReport { from, to, dates, files, bytes }) = &report.log {
        let files = counted(*files, "file");
        let what = format!("{events} events of {queries} queries, {from} to {to}, in {files} of {}", ByteSize(*bytes));
        line("log", what);
        let days = (*to - *from).num_days() + 1;
        if *dates as i64 != days {
            line("", format!("only {dates} of these {days} dates have logs"));
        }
    }
    if report.unlisted_files > 0 {
        let files = counted(report.unlisted_files as usize, "file");
        line("", format!("{files} left out that no commit of the lake lists"));
    }
    if let Some(judgments) = &report.judgments {
        let what = match &report.log {
            Some(_) => format!("{} results left out that nobody judged", thousands(report.unjudged_rows)),
            None => format!("{events} of {queries} queries, each a list"),
        };
        line("judgments", format!("{judgments}: {what}"));
    }
    if report.repeated_events > 0 {
        line("", format!("{} repeated events left out", thousands(report.repeated_events)));
    }
    line("rows", format!("{} in {} lists", thousands(report.rows), thousands(report.lists)));
    if report.dropped_rows > 0 {
        line("", format!("{} rows left out for a missing feature", thousands(report.dropped_rows)));
    }
    let kind = match report.label_options.kind {
        _ if report.judgments.is_some() => "judged",
        LabelKind::Binary => "binary",
        LabelKind::Graded => "graded",
        LabelKind::Weighted => "weighted",
    };
    line("labels", format!("{kind}: {}", spell_labels(&report.labels)));
    if report.single_label_lists > 0 {
        let share = 100.0 * report.single_label_lists as f64 / report.lists.max(1) as f64;
        let lists = thousands(report.single_label_lists);
        line("", format!("{lists} lists ({share:.1} %) have a single label: ranking losses learn nothing from them"));
    }
    line("weights", weights(report));
    for table in &report.tables {
        let unmatched = match table.unmatched_rows {
            0 => "every row found".to_owned(),
            rows => {
                format!("{} rows ({:.2} %) not found", thousands(rows), 100.0 * rows as f64 / report.rows.max(1) as f64)
            }
        };
        let as_of = if table.as_of { ", as of the search's time" } else { "" };
        line(table.key, format!("{}: {unmatched}{as_of}", table.location));
    }
    for table in &report.unused_tables {
        line("", format!("{table}: gives none of the features, not read"));
    }
    for feature in report.features.iter().filter(|feature| feature.missing_rows > 0) {
        let filled = feature.filled_with.map_or_else(String::new, |value| format!(", filled with {value}"));
        line("missing", format!("{} in {} rows{filled}", feature.name, thousands(feature.missing_rows)));
    }
    for part in &report.parts {
        let path = report.out.join(&part.name);
        let what = format!("{} rows, {} lists", thousands(part.rows), thousands(part.lists));
        let files = counted(part.files, "file");
        line("wrote", format!("{}: {what}, {files}, {}", path.display(), ByteSize(part.bytes)));
    }
    let rate = report.rows as f64 / report.seconds.max(1e-9) / 1e6;
    line("took", format!("{:.1} s ({rate:.2} M rows/s), joins {}", report.seconds, report.joins));
    text
}

fn weights(report: &PrepareReport) -> String {
    let which = match report.weighting.kind {
        WeightKind::None => return "none: every row weighs 1".to_owned(),
        WeightKind::Ipw => "ipw, every row",
        WeightKind::IpwClicks => "ipw-clicks, clicked rows",
    };
    let health = &report.weights;
    let mut text = format!(
        "{which} ({}), propensities `{}`: largest {:.2}, effective sample size {} ({:.1} %)",
        thousands(health.rows),
        report.propensities.method().name(),
        health.largest,
        thousands(health.effective_rows().round() as u64),
        100.0 * health.effective_rows() / health.rows.max(1) as f64
    );
    if let Some(clip) = report.weighting.clip {
        let _ = write!(text, ", {:.2} % clipped at {clip}", 100.0 * health.clipped_share());
    }
    if report.divisor != 1.0 {
        let _ = write!(text, ", divided by their mean {:.4}", report.divisor);
    }
    text
}

fn counted(number: usize, what: &str) -> String {
    format!("{} {what}{}", thousands(number as u64), if number == 1 { "" } else { "s" })
}
