//! What can be typed after `collect`.

use std::{path::PathBuf, time::Duration};

use bytesize::ByteSize;
use chrono::NaiveDate;

/// Where reading resumes is decided by what is in the lake: killed at any moment and started again, it neither loses nor repeats an event.
#[derive(Debug, clap::Args)]
pub struct CollectArgs {
    /// Brokers to begin with, separated by commas.
    #[arg(long, env = "LOCKSTEP_BROKERS", value_name = "HOST:PORT,…")]
    pub brokers: String,
    #[arg(long, value_name = "NAME", default_value = "search_events")]
    pub topic: String,
    /// A folder, or `s3://bucket/prefix` with AWS_* variables; events go to `click_logs/date=…/` in it.
    #[arg(long, value_name = "PATH")]
    pub lake: String,
    /// Only events of this date (UTC). The others are counted, and left to the runs of their dates; a topic is gathered into a lake either so, or
    /// for all dates at once.
    #[arg(long, value_name = "YYYY-MM-DD", conflicts_with = "follow")]
    pub date: Option<NaiveDate>,
    /// Go on until interrupted [default: up to what the topic held at the start].
    #[arg(long)]
    pub follow: bool,
    /// Further numbers of a result to keep, as columns.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub log_features: Vec<String>,
    /// Set the Kafka client up for TLS, SASL or anything else: `--kafka security.protocol=SASL_SSL`. May be repeated. The settings are
    /// librdkafka's.
    #[arg(long, value_name = "KEY=VALUE")]
    pub kafka: Vec<String>,
    /// A file of such settings, one a line; --kafka goes over it.
    #[arg(long, value_name = "FILE")]
    pub kafka_config: Option<PathBuf>,
    /// A partition's events become files and count once they are this large together,
    #[arg(long, value_name = "BYTES", default_value = "128MiB")]
    pub roll_size: ByteSize,
    /// or the first of them was read this long ago.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    pub roll_every: Duration,
    /// About how much may be held in memory.
    #[arg(long, value_name = "BYTES", default_value = "512MiB")]
    pub memory: ByteSize,
    /// Threads that read, parse and encode [default: one a core].
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// How long a broker may be out of reach; with --follow only at the start.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub patience: Duration,
    /// Print what happens as lines of JSON on stdout, the report last.
    #[arg(long)]
    pub json: bool,
}
