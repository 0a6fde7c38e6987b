//! One label a pair from many ratings, written as a set of judgments; what could not be concluded is listed.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::array::{ArrayRef, Float32Array, Float64Array, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::{
    arrow::ArrowWriter,
    file::{metadata::KeyValue, properties::WriterProperties},
};
use ranking::judgments::{
    DawidSkene, Difference, EmOptions, Grade, Kappa, Outcome, Pair, Ratings, Votes, fleiss_kappa, krippendorff_alpha,
    majority,
};
use serde::Serialize;

use super::{queries, ratings};
use crate::{PipelineError, fresh::FreshFile};

/// How a label is concluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The most frequent grade, if its share of the ratings is large enough.
    Majority,
    /// The most probable grade given each rater's errors, if it is probable enough.
    DawidSkene,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AggregateOptions {
    /// Files of [`ratings`], read as one.
    pub ratings: Vec<PathBuf>,
    pub method: Method,
    /// The least share of the ratings, or the least probability, in [0, 1].
    pub min_agreement: f64,
    /// Pairs with fewer raters are not accepted.
    pub min_raters: usize,
    /// A `.parquet`, `.csv` or `.jsonl` file; what is undecided goes to `.undecided.jsonl` beside it.
    pub out: PathBuf,
    pub overwrite: bool,
}

/// Why a pair has no label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WhyUndecided {
    Tie,
    UnderAgreement,
    TooFewRaters,
}

/// A pair without a label.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Undecided {
    #[serde(flatten)]
    pub pair: Pair,
    pub why: WhyUndecided,
    /// The leading grade's share of the ratings, or its probability.
    pub agreement: f64,
    /// Ratings of each grade, from 0 to 4.
    pub counts: [usize; Grade::COUNT],
    pub num_raters: usize,
}

/// How one rater fares beside the labels, over pairs that have one; the rater's own ratings are among those it was made of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RaterReport {
    pub rater: String,
    pub ratings: usize,
    /// The share of their ratings that equal the label.
    pub agreement: Option<f64>,
    /// The mean of their grade less the label: above 0 is lenient.
    pub bias: Option<f64>,
    /// `confusion[label][grade]`: how often.
    pub confusion: [[usize; Grade::COUNT]; Grade::COUNT],
    /// Dawid-Skene: how probably they say what is true.
    pub accuracy: Option<f64>,
    /// Dawid-Skene: `error_rates[true][said]`, null where nothing tells.
    pub error_rates: Option<Vec<Option<Vec<f64>>>>,
}

/// What Dawid-Skene found beside the labels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimates {
    pub iterations: usize,
    pub converged: bool,
    pub log_likelihood: f64,
    /// How frequent the grades 0 to 4 are.
    pub priors: Vec<f64>,
}

/// Krippendorff's alpha by what difference between grades means; `None` where it cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Alphas {
    pub nominal: Option<f64>,
    pub ordinal: Option<f64>,
    pub interval: Option<f64>,
}

/// What an aggregation found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AggregateReport {
    pub ratings: usize,
    /// Lines without a grade.
    pub skipped: usize,
    /// Ratings beyond a rater's first of the same pair; they count.
    pub repeated: usize,
    /// Pairs with a rating, and their queries.
    pub pairs: usize,
    pub queries: u64,
    /// Pairs that one rater alone rated: their agreement is 1 and says nothing.
    pub rated_once: usize,
    pub method: Method,
    pub min_agreement: f64,
    pub min_raters: usize,
    pub accepted: usize,
    /// Accepted pairs of each label, from 0 to 4.
    pub labels: [usize; Grade::COUNT],
    pub ties: usize,
    pub under_agreement: usize,
    pub too_few_raters: usize,
    pub undecided: Vec<Undecided>,
    /// `None` where no pair has two ratings.
    pub fleiss_kappa: Option<Kappa>,
    pub krippendorff_alpha: Alphas,
    pub dawid_skene: Option<Estimates>,
    pub raters: Vec<RaterReport>,
    pub out: PathBuf,
    pub undecided_out: PathBuf,
}

/// One row of the result.
#[derive(Serialize)]
struct Judgment<'a> {
    query_id: &'a str,
    document_id: &'a str,
    label: f32,
    agreement: f64,
    num_raters: usize,
    num_ratings: usize,
    probability: Option<f64>,
}

/// Reads ratings, concludes labels, writes those that are accepted.
///
/// The result has the columns `query_id`, `document_id` (text), `label` (float32, 0 to 4), `agreement` (float64, the share of the
/// ratings that are the label), `num_raters`, `num_ratings` (int32) and `probability` (float64, Dawid-Skene's, else null), in the
/// order of query and document.
pub fn aggregate(options: &AggregateOptions) -> Result<AggregateReport, PipelineError> {
    let AggregateOptions { method, min_agreement, min_raters, .. } = *options;
    if !(0.0..=1.0).contains(&min_agreement) {
        let message = format!("{min_agreement} is no minimum of agreement, which is a share of the ratings");
        return Err(PipelineError::options(message).with_hint("write one from 0 to 1; 0.6 is usual"));
    }
    let format = Format::of(&options.out)?;
    let undecided_out = options.out.with_extension("undecided.jsonl");
    let mut judgments_file = FreshFile::begin(&options.out, options.overwrite)?;
    let mut undecided_file = FreshFile::begin(&undecided_out, options.overwrite)?;

    let (ratings, skipped) = read(&options.ratings)?;
    let votes = ratings.votes();
    let fit = (method == Method::DawidSkene).then(|| DawidSkene::fit(votes, EmOptions::default()));
    let outcomes = match &fit {
        Some(fit) => fit.outcomes(min_agreement),
        None => majority(votes, min_agreement),
    };
    let raters_of: Vec<usize> =
        votes.items().iter().map(|on_item| distinct(on_item.iter().map(|vote| vote.rater))).collect();

    let mut order: Vec<usize> = (0..ratings.pairs().len()).collect();
    order.sort_by_key(|item| &ratings.pairs()[*item]);
    let mut judgments = Vec::new();
    let mut undecided = Vec::new();
    let mut labels = [0; Grade::COUNT];
    let mut accepted = vec![None; order.len()];
    for item in order {
        let pair = &ratings.pairs()[item];
        let counts = counts(votes, item);
        let num_raters = raters_of[item];
        let num_ratings: usize = counts.iter().sum();
        let (why, agreement) = match outcomes[item] {
            Outcome::Accepted { class, .. } if num_raters >= min_raters => {
                labels[class] += 1;
                accepted[item] = Some(class);
                judgments.push(Judgment {
                    query_id: &pair.query_id,
                    document_id: &pair.document_id,
                    label: class as f32,
                    agreement: counts[class] as f64 / num_ratings as f64,
                    num_raters,
                    num_ratings,
                    probability: fit.as_ref().map(|fit| fit.posterior[item][class]),
                });
                continue;
            }
            Outcome::Accepted { agreement, .. } => (WhyUndecided::TooFewRaters, agreement),
            Outcome::Tie { agreement } => (WhyUndecided::Tie, agreement),
            Outcome::UnderAgreement { agreement, .. } => (WhyUndecided::UnderAgreement, agreement),
            // Pairs come from ratings, so each has one.
            Outcome::Unrated => continue,
        };
        undecided.push(Undecided { pair: pair.clone(), why, agreement, counts, num_raters });
    }

    format.write(&mut judgments_file, &judgments, options)?;
    for pair in &undecided {
        json_line(&mut undecided_file, pair)?;
    }
    undecided_file.commit()?;
    judgments_file.commit()?;

    let because = |why: WhyUndecided| undecided.iter().filter(|pair| pair.why == why).count();
    let alpha = |difference| krippendorff_alpha(votes, difference).and_then(|alpha| alpha.alpha);
    Ok(AggregateReport {
        ratings: ratings.len(),
        skipped,
        repeated: votes.repeated(),
        pairs: ratings.pairs().len(),
        queries: queries(ratings.pairs().iter().map(|pair| pair.query_id.as_str())),
        rated_once: raters_of.iter().filter(|raters| **raters == 1).count(),
        method,
        min_agreement,
        min_raters,
        accepted: judgments.len(),
        labels,
        ties: because(WhyUndecided::Tie),
        under_agreement: because(WhyUndecided::UnderAgreement),
        too_few_raters: because(WhyUndecided::TooFewRaters),
        fleiss_kappa: fleiss_kappa(votes),
        krippendorff_alpha: Alphas {
            nominal: alpha(Difference::Nominal),
            ordinal: alpha(Difference::Ordinal),
            interval: alpha(Difference::Interval),
        },
        raters: rater_reports(&ratings, &accepted, fit.as_ref()),
        dawid_skene: fit.map(|fit| Estimates {
            iterations: fit.iterations,
            converged: fit.converged,
            log_likelihood: fit.log_likelihood,
            priors: fit.priors,
        }),
        undecided,
        out: options.out.clone(),
        undecided_out,
    })
}

/// All ratings, and how many lines have no grade.
fn read(paths: &[PathBuf]) -> Result<(Ratings, usize), PipelineError> {
    let mut ratings = Ratings::default();
    let mut skipped = 0;
    for path in paths {
        ratings::read(path, |line| match line.rating {
            Some((rater, grade)) => ratings.push(line.pair, &rater, grade),
            None => skipped += 1,
        })?;
    }
    if !ratings.is_empty() {
        return Ok((ratings, skipped));
    }
    let names: Vec<String> = paths.iter().map(|path| format!("`{}`", path.display())).collect();
    let error = PipelineError::data(format!("there is no rating in {}", names.join(", ")));
    Err(match skipped {
        0 => error,
        skipped => error.with_hint(format!("{skipped} lines have a null for a grade: raters put a number there")),
    })
}

fn counts(votes: &Votes, item: usize) -> [usize; Grade::COUNT] {
    let mut counts = [0; Grade::COUNT];
    votes.items()[item].iter().for_each(|vote| counts[vote.class] += 1);
    counts
}

fn distinct(raters: impl Iterator<Item = usize>) -> usize {
    raters.collect::<std::collections::HashSet<_>>().len()
}

fn rater_reports(ratings: &Ratings, accepted: &[Option<usize>], fit: Option<&DawidSkene>) -> Vec<RaterReport> {
    let votes = ratings.votes();
    let mut said = vec![0; votes.raters()];
    let mut confusions = vec![[[0; Grade::COUNT]; Grade::COUNT]; votes.raters()];
    for (on_item, label) in votes.items().iter().zip(accepted) {
        for vote in on_item {
            said[vote.rater] += 1;
            if let Some(label) = label {
                confusions[vote.rater][*label][vote.class] += 1;
            }
        }
    }
    let report = |(number, rater): (usize, &String)| {
        let confusion = confusions[number];
        let (mut all, mut equal, mut difference) = (0, 0, 0.0);
        for (label, row) in confusion.iter().enumerate() {
            for (grade, count) in row.iter().enumerate() {
                all += count;
                equal += if label == grade { *count } else { 0 };
                difference += *count as f64 * (grade as f64 - label as f64);
            }
        }
        RaterReport {
            rater: rater.clone(),
            ratings: said[number],
            agreement: (all > 0).then(|| equal as f64 / all as f64),
            bias: (all > 0).then(|| difference / all as f64),
            confusion,
            accuracy: fit.and_then(|fit| fit.accuracy(number)),
            error_rates: fit.map(|fit| fit.confusion[number].clone()),
        }
    };
    let mut reports: Vec<RaterReport> = ratings.raters().iter().enumerate().map(report).collect();
    reports.sort_by(|one, other| one.rater.cmp(&other.rater));
    reports
}

/// What the result is written as.
#[derive(Clone, Copy)]
enum Format {
    Parquet,
    Csv,
    Jsonl,
}

impl Format {
    fn of(path: &Path) -> Result<Self, PipelineError> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("parquet") => Ok(Self::Parquet),
            Some("csv") => Ok(Self::Csv),
            Some("jsonl" | "ndjson") => Ok(Self::Jsonl),
            _ => {
                let message = format!("`{}` does not say what judgments are written as", path.display());
                Err(PipelineError::options(message).with_hint("end its name in .parquet, .csv or .jsonl"))
            }
        }
    }

    fn write(
        self,
        file: &mut FreshFile,
        rows: &[Judgment<'_>],
        options: &AggregateOptions,
    ) -> Result<(), PipelineError> {
        match self {
            Self::Parquet => {
                let target = file.target().to_owned();
                write_parquet(file, rows, options).map_err(|error| {
                    PipelineError {
                        kind: crate::ErrorKind::Io,
                        ..PipelineError::data(format!("cannot write `{}`", target.display()))
                    }
                    .because(error)
                })
            }
            Self::Csv => {
                let target = file.target().to_owned();
                let mut writer = csv::Writer::from_writer(file);
                let header =
                    ["query_id", "document_id", "label", "agreement", "num_raters", "num_ratings", "probability"];
                // serde writes a header with the first row, and none without rows.
                let empty = if rows.is_empty() { writer.write_record(header) } else { Ok(()) };
                let written = empty.and_then(|()| rows.iter().try_for_each(|row| writer.serialize(row)));
                let written = written.map_err(std::io::Error::other).and_then(|()| writer.flush());
                written.map_err(|error| PipelineError::io("write", &target, error))
            }
            Self::Jsonl => rows.iter().try_for_each(|row| json_line(file, row)),
        }
    }
}

fn json_line(file: &mut FreshFile, row: &impl Serialize) -> Result<(), PipelineError> {
    let written = serde_json::to_writer(&mut *file, row).map_err(std::io::Error::from);
    let written = written.and_then(|()| file.write_all(b"\n"));
    written.map_err(|error| PipelineError::io("write", file.target(), error))
}

fn write_parquet(
    file: &mut FreshFile,
    rows: &[Judgment<'_>],
    options: &AggregateOptions,
) -> Result<(), parquet::errors::ParquetError> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("query_id", DataType::Utf8, false),
        Field::new("document_id", DataType::Utf8, false),
        Field::new("label", DataType::Float32, false),
        Field::new("agreement", DataType::Float64, false),
        Field::new("num_raters", DataType::Int32, false),
        Field::new("num_ratings", DataType::Int32, false),
        Field::new("probability", DataType::Float64, true),
    ]));
    let text =
        |of: fn(&Judgment<'_>) -> String| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows.iter().map(of))) };
    let count = |of: fn(&Judgment<'_>) -> usize| -> ArrayRef {
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| i32::try_from(of(row)).unwrap_or(i32::MAX))))
    };
    let columns: Vec<ArrayRef> = vec![
        text(|row| row.query_id.to_owned()),
        text(|row| row.document_id.to_owned()),
        Arc::new(Float32Array::from_iter_values(rows.iter().map(|row| row.label))),
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.agreement))),
        count(|row| row.num_raters),
        count(|row| row.num_ratings),
        Arc::new(rows.iter().map(|row| row.probability).collect::<Float64Array>()),
    ];
    // How the labels came about stays with them.
    let how = serde_json::json!({
        "method": options.method, "min_agreement": options.min_agreement, "min_raters": options.min_raters,
    });
    let properties = WriterProperties::builder()
        .set_key_value_metadata(Some(vec![KeyValue::new("lockstep.judgments".into(), how.to_string())]))
        .build();
    let mut writer = ArrowWriter::try_new(file, schema.clone(), Some(properties))?;
    writer.write(&RecordBatch::try_new(schema, columns)?)?;
    writer.close().map(drop)
}
