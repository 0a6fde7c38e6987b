//! What can be typed after the verbs that make and look at datasets.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub enum Import {
    /// SVMrank or LibSVM rows: `label qid:1 1:0.5 3:1.2`.
    Svmrank(SvmrankArgs),
    /// Comma- or tab-separated rows under a header.
    Csv(CsvArgs),
}

fn local_folder(text: &str) -> Result<PathBuf, String> {
    match text.split_once("://") {
        Some(_) => Err("datasets are written to folders of this machine; copy them from there".into()),
        None => Ok(text.into()),
    }
}

/// Where a dataset goes and how it is written.
#[derive(Debug, clap::Args)]
pub struct OutputArgs {
    /// The folder to write; appears whole or not at all.
    #[arg(long, short, value_name = "DIR", value_parser = local_folder)]
    pub out: PathBuf,
    /// Replace a dataset that is there.
    #[arg(long)]
    pub overwrite: bool,
    /// One column a feature (`wide`), or one list column (`vector`) [default: the input's, else wide].
    #[arg(long, value_enum)]
    pub layout: Option<Layout>,
    #[arg(long, value_enum, default_value_t = Compression::None)]
    pub compression: Compression,
    /// A new file begins with the first list at or past this many rows.
    #[arg(long, value_name = "N")]
    pub rows_per_file: Option<u64>,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Layout {
    Wide,
    Vector,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compression {
    None,
    Zstd,
}

#[derive(Debug, clap::Args)]
pub struct SvmrankArgs {
    /// Files, read as one in this order.
    #[arg(required = true)]
    pub inputs: Vec<PathBuf>,
    /// One file of document counts a query for each input, for rows without `qid` [default: <input>.query or <input>.group].
    #[arg(long, value_name = "FILE")]
    pub counts: Vec<PathBuf>,
    /// The number of the first feature.
    #[arg(long, value_enum, default_value_t = Base::Auto)]
    pub base: Base,
    /// How many features there are; a larger id is refused [default: the largest id].
    #[arg(long, value_name = "N")]
    pub features: Option<usize>,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Base {
    /// One, unless a feature 0 appears.
    Auto,
    Zero,
    One,
}

#[derive(Debug, clap::Args)]
pub struct CsvArgs {
    /// Files, read as one in this order.
    #[arg(required = true)]
    pub inputs: Vec<PathBuf>,
    /// One character, or `tab` [default: a tab for .tsv and .tab, else a comma].
    #[arg(long, value_name = "CHAR", value_parser = delimiter)]
    pub delimiter: Option<u8>,
    /// The column of labels [default: label].
    #[arg(long, value_name = "COLUMN")]
    pub label: Option<String>,
    /// The column of query ids [default: query_id].
    #[arg(long, value_name = "COLUMN")]
    pub query: Option<String>,
    /// The column of list ids [default: list_id, where there is one].
    #[arg(long, value_name = "COLUMN")]
    pub list: Option<String>,
    /// The column of document ids [default: document_id, where there is one].
    #[arg(long, value_name = "COLUMN")]
    pub document: Option<String>,
    /// The column of row weights [default: sample_weight, where there is one].
    #[arg(long, value_name = "COLUMN")]
    pub weight: Option<String>,
    /// Feature columns [default: every other column of numbers].
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',')]
    pub features: Option<Vec<String>>,
    /// What an empty feature becomes [default: it is refused].
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub fill: Option<f32>,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, clap::Args)]
pub struct GenerateArgs {
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub queries: u64,
    /// Documents of a query: `20`, or `10..30` for at least 10 and at most 30.
    #[arg(long, default_value = "10..30", value_name = "N..M", value_parser = span)]
    pub documents: (u32, u32),
    /// At least 10: the ten that relevance depends on, the others are noise.
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub features: usize,
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// What blurs the labels, in standard deviations of the true score.
    #[arg(long, default_value_t = 0.2)]
    pub noise: f32,
    /// Write uneven row weights.
    #[arg(long)]
    pub weights: bool,
    #[arg(long, value_enum, default_value_t = Labels::Graded)]
    pub labels: Labels,
    /// Write the true score too, as a column that is not a feature.
    #[arg(long)]
    pub truth: bool,
    /// Write a `list_id` column.
    #[arg(long)]
    pub list_id: bool,
    /// How many different documents there are.
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    pub corpus: u64,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Labels {
    /// 0 to 4.
    Graded,
    /// 0 and 1.
    Binary,
}

#[derive(Debug, clap::Args)]
pub struct SplitArgs {
    /// A Parquet file, or a folder of them.
    pub input: PathBuf,
    /// Folders and their shares of the queries.
    #[arg(long, default_value = "train=0.8,validation=0.1,test=0.1", value_name = "NAME=SHARE,…")]
    pub parts: String,
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// The column of query ids [default: query_id].
    #[arg(long, value_name = "COLUMN")]
    pub query: Option<String>,
    /// The column of labels [default: label].
    #[arg(long, value_name = "COLUMN")]
    pub label: Option<String>,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// A Parquet file, or a folder of them.
    pub data: PathBuf,
    /// The column of labels [default: label].
    #[arg(long, value_name = "COLUMN")]
    pub label: Option<String>,
    /// The column of query ids [default: query_id].
    #[arg(long, value_name = "COLUMN")]
    pub query: Option<String>,
    /// The column that tells lists apart [default: list_id where there is one, else the query].
    #[arg(long, value_name = "COLUMN")]
    pub group: Option<String>,
    /// Show every feature, not only the first 20.
    #[arg(long)]
    pub all_features: bool,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

fn delimiter(text: &str) -> Result<u8, String> {
    match (text, text.as_bytes()) {
        ("tab" | "\\t", _) => Ok(b'\t'),
        (_, &[byte]) => Ok(byte),
        _ => Err("write one ASCII character, or `tab`".into()),
    }
}

fn span(text: &str) -> Result<(u32, u32), String> {
    let number = |text: &str| text.trim().parse::<u32>().map_err(|_| "write `20` or `10..30`".to_owned());
    match text.split_once("..") {
        Some((least, most)) => Ok((number(least)?, number(most.trim_start_matches('='))?)),
        None => number(text).map(|count| (count, count)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_delimiters_are_read_as_people_write_them() {
        assert_eq!(span("20"), Ok((20, 20)));
        assert_eq!(span("10..30"), Ok((10, 30)));
        assert!(span("ten").is_err());
        assert_eq!(delimiter("tab"), Ok(b'\t'));
        assert_eq!(delimiter(";"), Ok(b';'));
        assert!(delimiter(";;").is_err());
    }
}
