//! What can be typed after `lockstep evaluate` and `lockstep compare`.

use std::{num::NonZeroUsize, path::PathBuf, str::FromStr};

use clap::ValueEnum;
use ranking::metrics::{Metric, Profile};

use super::score::Which;

#[derive(Debug, clap::Args)]
pub struct EvaluateArgs {
    /// Predictions: a Parquet or CSV file with columns for query, label and score, or a folder of such files. The rows of a query
    /// stand together.
    #[arg(value_name = "PREDICTIONS", required_unless_present_any = ["qrels", "model"], conflicts_with_all = ["qrels", "run", "complete", "model", "checkpoint", "features", "data"])]
    pub predictions: Option<PathBuf>,
    /// Judgments of TREC's form, `query iteration document relevance`; with --run.
    #[arg(long, value_name = "FILE", requires = "run", conflicts_with_all = ["model", "checkpoint", "features", "data"])]
    pub qrels: Option<PathBuf>,
    /// A ranking of TREC's form, `query Q0 document rank score tag`; the scores decide the order.
    #[arg(long, value_name = "FILE", requires = "qrels")]
    pub run: Option<PathBuf>,
    /// Count judged queries without rows in the run as empty rankings [default: leave them out, as trec_eval does].
    #[arg(long, requires = "qrels")]
    pub complete: bool,
    /// A model instead: the folder of a checkpoint, of a run or of an MLflow model; or a file of TorchScript. It scores --data as a run
    /// scores its validation data.
    #[arg(long, value_name = "MODEL", requires = "data", conflicts_with_all = ["run", "complete", "score"])]
    pub model: Option<PathBuf>,
    /// Which checkpoint of a run's folder.
    #[arg(long, value_enum, default_value_t = Which::Best, requires = "model")]
    pub checkpoint: Which,
    /// The features of a module that does not know them itself, in its order: `price,rating`.
    #[arg(long, value_name = "NAMES", requires = "model")]
    pub features: Option<String>,
    /// Training data for --model to score: a Parquet file or a folder of them. Lists are those of the run's validation.
    #[arg(long, value_name = "PATH", requires = "model")]
    pub data: Option<PathBuf>,
    #[command(flatten)]
    pub columns: ColumnArgs,
    #[command(flatten)]
    pub convention: ConventionArgs,
    /// Show 95 % intervals, by a bootstrap over queries.
    #[arg(long)]
    pub intervals: bool,
    /// Resamples of the bootstrap.
    #[arg(long, value_name = "N", default_value = "1000", value_parser = resamples, requires = "intervals")]
    pub resamples: NonZeroUsize,
    /// Of the bootstrap.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "intervals")]
    pub seed: u64,
    /// Write the values of each query to this .csv or .parquet file.
    #[arg(long, value_name = "FILE")]
    pub per_query: Option<PathBuf>,
    /// Replace the file of --per-query where it exists.
    #[arg(long, requires = "per_query")]
    pub overwrite: bool,
    /// Print JSON on stdout.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct CompareArgs {
    /// The ranking to start from: predictions, or a run where --qrels is given.
    pub a: PathBuf,
    /// The ranking that may be better.
    pub b: PathBuf,
    /// Judgments of TREC's form: A and B are runs.
    #[arg(long, value_name = "FILE")]
    pub qrels: Option<PathBuf>,
    /// Count judged queries without rows in a run as empty rankings.
    #[arg(long, requires = "qrels")]
    pub complete: bool,
    /// Compare the queries that both have, where each has queries of its own [default: refuse].
    #[arg(long)]
    pub common: bool,
    #[command(flatten)]
    pub columns: ColumnArgs,
    #[command(flatten)]
    pub convention: ConventionArgs,
    /// How many of the queries that changed most to show, each way.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub top: usize,
    /// Rounds of the randomisation test.
    #[arg(long, value_name = "N", default_value = "10000")]
    pub rounds: NonZeroUsize,
    /// Resamples of the bootstrap.
    #[arg(long, value_name = "N", default_value = "1000", value_parser = resamples)]
    pub resamples: NonZeroUsize,
    /// Of the test and the bootstrap.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Print JSON on stdout.
    #[arg(long)]
    pub json: bool,
}

/// Which columns of predictions are what.
#[derive(Debug, clap::Args)]
pub struct ColumnArgs {
    /// The column of queries [default: `query`, `list_id`, `query_id` or `qid`].
    #[arg(long, value_name = "COLUMN", conflicts_with = "qrels")]
    pub query: Option<String>,
    /// The column of labels [default: `label`].
    #[arg(long, value_name = "COLUMN", conflicts_with = "qrels")]
    pub label: Option<String>,
    /// The column of scores [default: `score`].
    #[arg(long, value_name = "COLUMN", conflicts_with = "qrels")]
    pub score: Option<String>,
    /// The column of documents, where ties go by it [default: `document`, `document_id`, `doc_id` or `docid`].
    #[arg(long, value_name = "COLUMN", conflicts_with = "qrels")]
    pub document: Option<String>,
}

/// What is measured, and how.
#[derive(Debug, clap::Args)]
pub struct ConventionArgs {
    /// ndcg, dcg, map, mrr, precision, recall and err, each also as ndcg@k.
    #[arg(long, value_name = "METRICS", value_delimiter = ',', value_parser = metric, default_value = "ndcg@1,ndcg@5,ndcg@10,map,mrr")]
    pub metrics: Vec<Metric>,
    /// Whose conventions: reference, trec_eval, lightgbm, xgboost, sklearn or ranx.
    #[arg(long = "as", value_name = "PROFILE", default_value = "reference")]
    pub profile: Profile,
    /// What a label is worth to ndcg and dcg; over the profile's.
    #[arg(long, value_enum, value_name = "GAIN")]
    pub gain: Option<GainWord>,
    /// The order of documents with equal scores; over the profile's.
    #[arg(long, value_enum, value_name = "ORDER")]
    pub ties: Option<TiesWord>,
    /// What a query without relevant documents counts; over the profile's.
    #[arg(long, value_enum, value_name = "WHAT")]
    pub empty: Option<EmptyWord>,
    /// The smallest label that is relevant to map, mrr, precision and recall; over the profile's 1.
    #[arg(long, value_name = "LABEL", value_parser = above_zero)]
    pub relevant_at: Option<f32>,
    /// What average precision divides by; over the profile's.
    #[arg(long, value_enum, value_name = "WHAT")]
    pub map_denominator: Option<MapDenominatorWord>,
    /// What precision@k divides by; over the profile's.
    #[arg(long, value_enum, value_name = "WHAT")]
    pub precision_denominator: Option<PrecisionDenominatorWord>,
    /// What a label below 0 is; over the profile's.
    #[arg(long, value_enum, value_name = "WHAT")]
    pub negative: Option<NegativeWord>,
    /// The grade of a perfect document, for err; over the profile's 4.
    #[arg(long, value_name = "GRADE", value_parser = clap::value_parser!(u8).range(1..=31))]
    pub largest_grade: Option<u8>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum GainWord {
    /// 2^label - 1.
    Exponential,
    /// The label itself.
    Linear,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum TiesWord {
    /// As their rows stand.
    RowOrder,
    /// The mean over all orders.
    Averaged,
    /// By document id, the greater first.
    DocumentDescending,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum EmptyWord {
    #[value(name = "0")]
    Zero,
    #[value(name = "1")]
    One,
    /// It is left out of the mean.
    Skip,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum MapDenominatorWord {
    /// All relevant documents.
    Relevant,
    /// All relevant documents, but at most k.
    RelevantWithinCut,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum PrecisionDenominatorWord {
    /// k, also where the list is shorter.
    Cut,
    /// k, or the list's length where that is less.
    CutOrLength,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum NegativeWord {
    /// A fault of the data.
    Refused,
    /// Not relevant, as 0 is.
    Zero,
}

fn above_zero(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(label) if label.is_finite() && label > 0.0 => Ok(label),
        _ => Err("a relevant label is a number above 0".into()),
    }
}

/// Each holds a sum a metric, and each query goes into all of them.
const MOST_RESAMPLES: usize = 100_000;

fn resamples(text: &str) -> Result<NonZeroUsize, String> {
    match text.parse::<NonZeroUsize>() {
        Ok(resamples) if resamples.get() <= MOST_RESAMPLES => Ok(resamples),
        _ => Err(format!("a bootstrap has 1 to {MOST_RESAMPLES} resamples")),
    }
}

fn metric(text: &str) -> Result<Metric, <Metric as FromStr>::Err> {
    text.trim().parse()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::args::{Args, Verb};

    #[test]
    fn a_flag_that_would_do_nothing_is_refused() {
        let refused = |words: &str| Args::try_parse_from(words.split(' ')).is_err();
        for words in [
            "p --complete",
            "p --data d",
            "p --checkpoint latest",
            "p --features a",
            "p --seed 1",
            "p --resamples 9",
            "p --overwrite",
            "--qrels q --run r --query a",
            "--qrels q --run r --label a",
            "--qrels q --run r --score a",
            "--qrels q --run r --data d",
            "--model m --data d --complete",
            "--model m --data d --score a",
            "p --intervals --resamples 100001",
        ] {
            assert!(refused(&format!("lockstep evaluate {words}")), "{words}");
        }
        for words in [
            "p --query a --label b --score c --document d",
            "p --intervals --resamples 100000 --seed 1",
            "p --per-query o.csv --overwrite",
            "--qrels q --run r --complete",
            "--model m --data d --checkpoint latest --features a,b --query q --label l",
        ] {
            assert!(!refused(&format!("lockstep evaluate {words}")), "{words}");
        }
        assert!(refused("lockstep compare a b --qrels q --score c"));
        assert!(!refused("lockstep compare a b --score c --seed 3"));
    }

    #[test]
    fn blanks_around_metrics_do_not_matter() {
        let args = Args::try_parse_from(["lockstep", "evaluate", "p", "--metrics", "ndcg@5, map"]).unwrap();
        let Verb::Evaluate(args) = args.verb else { panic!("another verb") };
        assert_eq!(args.convention.metrics.iter().map(ToString::to_string).collect::<Vec<_>>(), ["ndcg@5", "map"]);
    }
}
