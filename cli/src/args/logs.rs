//! What can be typed after `lockstep logs`.

use std::path::PathBuf;

use chrono::NaiveDate;
use clap::{Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub enum Logs {
    /// Draw click logs from a world whose truth is known, with its feature tables.
    Simulate(Box<SimulateArgs>),
    /// Bring the logs of another system into a lake.
    #[command(subcommand)]
    Import(ImportLogs),
}

#[derive(Debug, Subcommand)]
pub enum ImportLogs {
    /// OpenSearch User Behavior Insights: bulk files of `ubi_queries` and `ubi_events`.
    Ubi(UbiArgs),
}

#[derive(Debug, clap::Args)]
pub struct SimulateArgs {
    /// The lake to write to: a folder, or `s3://bucket/prefix`.
    #[arg(long, value_name = "LAKE", required_unless_present = "brokers", conflicts_with = "brokers")]
    pub out_lake: Option<String>,
    /// Send the events to Kafka instead: `host:port`, several with commas between them.
    #[arg(long, value_name = "HOST:PORT,…")]
    pub brokers: Option<String>,
    /// The topic, which must be there.
    #[arg(long, value_name = "NAME", default_value = "search_events")]
    pub topic: String,
    /// Set the Kafka client up for TLS, SASL or anything else: `--kafka security.protocol=SASL_SSL`. May be repeated. The settings are
    /// librdkafka's.
    #[arg(long, value_name = "KEY=VALUE", requires = "brokers", conflicts_with = "out_lake")]
    pub kafka: Vec<String>,
    /// A file of such settings, one a line; --kafka goes over it.
    #[arg(long, value_name = "FILE", requires = "brokers", conflicts_with = "out_lake")]
    pub kafka_config: Option<PathBuf>,
    /// Where feature tables and truth go: `query_features/`, `document_features/`, `pair_features/`, `user_features/`, `truth/`
    /// (training data with the true grades) and `truth.json` [default: they are not written].
    #[arg(long, value_name = "DIR")]
    pub features: Option<PathBuf>,
    /// Replace feature tables and truth that are there.
    #[arg(long)]
    pub overwrite: bool,
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// How many searches.
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    pub events: u64,
    /// The first day, in UTC.
    #[arg(long, value_name = "DATE", default_value = "2026-01-01")]
    pub from: NaiveDate,
    /// Days that the events are spread over, equally many a day.
    #[arg(long, default_value_t = 7, value_name = "N")]
    pub days: u32,
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub queries: u64,
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    pub documents: u64,
    #[arg(long, default_value_t = 20_000, value_name = "N")]
    pub users: u64,
    /// Documents that could be shown for a query.
    #[arg(long, default_value_t = 30, value_name = "N")]
    pub candidates: u32,
    /// Results of a list.
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub results: u32,
    /// How users come to click.
    #[arg(long, value_enum, default_value_t = ClickModel::Pbm)]
    pub click_model: ClickModel,
    /// The probability that a result is looked at, by position from 1; the last one goes on for ever.
    #[arg(long, value_name = "P,P,…", value_delimiter = ',', default_values_t = pipeline::simulate::EXAMINATION)]
    pub examination: Vec<f64>,
    /// The probability that a result that is looked at is clicked, by its true grade from 0 to 4.
    #[arg(long, value_name = "P,P,P,P,P", value_delimiter = ',', default_values_t = pipeline::simulate::ATTRACTIVENESS)]
    pub attractiveness: Vec<f64>,
    /// Share of the lists whose top k are shuffled.
    #[arg(long, default_value_t = 0.1, value_name = "RATE")]
    pub exploration: f64,
    #[arg(long, default_value_t = 10, value_name = "K")]
    pub top_k: u32,
    /// The exponent of Zipf's law for how often queries are asked.
    #[arg(long, default_value_t = 0.8, value_name = "S")]
    pub zipf: f64,
    /// Rankers that the sessions are divided between.
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub rankers: u8,
    /// Divide the users between the arms of an A/B test, each answered by a ranker: `control=1,treatment=2`. The same ranker twice
    /// makes an A/A test.
    #[arg(long, value_name = "NAME=RANKER,…", value_delimiter = ',', value_parser = arm, conflicts_with = "rankers")]
    pub arms: Vec<(String, u8)>,
    /// Share of the sessions whose user is not known.
    #[arg(long, default_value_t = 0.0, value_name = "RATE")]
    pub anonymous: f64,
    /// Features that are logged with the results instead of standing in a table.
    #[arg(long, value_name = "FEATURE,…", value_delimiter = ',')]
    pub log_features: Vec<String>,
    /// The features of documents get a second version from this day on (0 is the first); their table then has `valid_from`.
    #[arg(long, value_name = "DAY")]
    pub second_version: Option<u32>,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

fn arm(text: &str) -> Result<(String, u8), String> {
    let wrong = || format!("`{text}` is no arm: write a name and a ranker from 1 to 200, as in `treatment=2`");
    let (name, ranker) = text.split_once('=').ok_or_else(wrong)?;
    Ok((name.trim().to_owned(), ranker.trim().parse().map_err(|_| wrong())?))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClickModel {
    /// Clicked where looked at, which depends on the position, and attractive, which depends on the grade.
    Pbm,
    /// Read from the top until the first click.
    Cascade,
}

#[derive(Debug, clap::Args)]
pub struct UbiArgs {
    /// Bulk files (NDJSON), read as one.
    #[arg(required = true)]
    pub inputs: Vec<PathBuf>,
    /// The lake to write to: a folder, or `s3://bucket/prefix`.
    #[arg(long, value_name = "LAKE")]
    pub lake: String,
    /// What becomes of lists whose query has no row.
    #[arg(long, value_enum, default_value_t = Unknown::Skip)]
    pub unknown: Unknown,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Unknown {
    /// They are counted.
    Skip,
    /// They are imported, with the words that their impressions repeat, if any.
    Keep,
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Verb};

    fn parse(line: &str) -> Result<Logs, clap::Error> {
        Args::try_parse_from(line.split(' ')).map(|args| match args.verb {
            Verb::Logs(logs) => logs,
            verb => panic!("{verb:?}"),
        })
    }

    #[test]
    fn a_simulation_goes_to_a_lake_or_to_a_topic_and_not_to_both() {
        let Ok(Logs::Simulate(args)) = parse("lockstep logs simulate --out-lake lake --examination 1,0.5 --days 2")
        else {
            panic!("not simulate")
        };
        assert_eq!((args.out_lake.as_deref(), &*args.examination, args.days), (Some("lake"), &[1.0, 0.5][..], 2));
        let Ok(Logs::Simulate(args)) = parse("lockstep logs simulate --brokers b:1 --topic t --kafka linger.ms=5")
        else {
            panic!("not simulate")
        };
        assert_eq!(
            (args.brokers.as_deref(), &*args.topic, &*args.kafka),
            (Some("b:1"), "t", &["linger.ms=5".to_owned()][..])
        );
        assert!(parse("lockstep logs simulate").is_err());
        assert!(parse("lockstep logs simulate --out-lake lake --brokers b:1").is_err());
        assert!(parse("lockstep logs simulate --out-lake lake --kafka linger.ms=5").is_err());
    }

    #[test]
    fn unknown_queries_of_ubi_are_left_out_unless_asked_for() {
        let Ok(Logs::Import(ImportLogs::Ubi(args))) = parse("lockstep logs import ubi a.ndjson b.ndjson --lake lake")
        else {
            panic!("not ubi")
        };
        assert_eq!((args.inputs.len(), args.unknown), (2, Unknown::Skip));
        assert!(parse("lockstep logs import ubi a.ndjson --lake lake --unknown keep").is_ok());
        assert!(parse("lockstep logs import ubi --lake lake").is_err());
    }
}
