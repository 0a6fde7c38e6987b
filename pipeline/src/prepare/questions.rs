//! What is asked beside the plan itself: totals, repetitions and means before it, its outcomes after, and what must not be so.

use std::collections::HashSet;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use datafusion::common::DataFusionError;
use datafusion::dataframe::DataFrame;

use super::{
    Failure,
    plan::{self, Ingredients},
    sink::{Counts, Outcome, SinkSpec},
    sources::Table,
};
use crate::PipelineError;

/// Repeated searches up to so many are left out one by one; more say that the log is not one.
const MOST_REPEATED: usize = 1_000_000;
/// Examples that an error shows.
const EXAMPLES: usize = 5;

/// How many events, and of how many queries.
pub(super) async fn totals(ingredients: &Ingredients<'_>) -> Result<(u64, u64), Failure> {
    let batches = ingredients.totals()?.collect().await?;
    let first = batches.iter().find(|batch| batch.num_rows() > 0);
    let count = |column: usize| {
        first.map_or(0, |batch| batch.column(column).as_primitive::<Int64Type>().value(0).max(0) as u64)
    };
    match count(0) {
        0 if ingredients.log.is_none() => {
            Err(Failure::Other(PipelineError::data("the judgments are empty").with_hint("were all pairs undecided?")))
        }
        0 => Err(Failure::Other(PipelineError::data("the log's files of these dates hold no event"))),
        events => Ok((events, count(1))),
    }
}

/// The identities that several events share, and how many events are repetitions.
pub(super) async fn repeated(ingredients: &Ingredients<'_>) -> Result<(Vec<i64>, u64), Failure> {
    let (mut ids, mut events) = (Vec::new(), 0u64);
    for batch in ingredients.repeated()?.collect().await? {
        let (id, count) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_primitive::<Int64Type>());
        ids.extend_from_slice(id.values());
        events += count.values().iter().map(|count| (*count - 1) as u64).sum::<u64>();
    }
    ids.sort_unstable();
    if ids.len() > MOST_REPEATED {
        return Err(Failure::Other(
            PipelineError::data(format!(
                "{} searches stand in the log more than once ({events} repetitions)",
                ids.len()
            ))
            .with_hint("a search is known by session_id, query_id and query_timestamp: are these filled in?"),
        ));
    }
    if !ids.is_empty() {
        let searches = one_number(ingredients.searches_of(&ids)?).await?.unwrap_or(0.0);
        if searches > ids.len() as f64 {
            return Err(Failure::Other(
                PipelineError::data("two different searches have the same list_id, which is a hash of 64 bits")
                    .with_hint("prepare fewer days at a time"),
            ));
        }
    }
    Ok((ids, events))
}

pub(super) async fn means(ingredients: &Ingredients<'_>, repeated: &[i64]) -> Result<Vec<f32>, Failure> {
    let batches = ingredients.means(repeated)?.collect().await?;
    let batch = batches.iter().find(|batch| batch.num_rows() > 0);
    let mut means = Vec::with_capacity(ingredients.features.len());
    for (at, (name, _)) in ingredients.features.iter().enumerate() {
        let mean =
            batch.map(|batch| datafusion::common::ScalarValue::try_from_array(batch.column(at), 0)).transpose()?;
        match mean.as_ref().and_then(plan::number) {
            Some(mean) if !mean.is_finite() => {
                return Err(Failure::Other(
                    PipelineError::data(format!("feature `{name}` has a mean of {mean}"))
                        .with_hint("its table holds NaN or infinity: clean it first"),
                ));
            }
            Some(mean) => means.push(mean as f32),
            None => {
                return Err(Failure::Other(
                    PipelineError::data(format!("feature `{name}` has no value in any row, so no mean"))
                        .with_hint("leave it out of --features, or see whether its table's keys are the log's"),
                ));
            }
        }
    }
    Ok(means)
}

pub(super) async fn one_number(frame: DataFrame) -> Result<Option<f64>, Failure> {
    let batches = frame.collect().await?;
    match batches.iter().find(|batch| batch.num_rows() > 0) {
        Some(batch) => Ok(plan::number(&datafusion::common::ScalarValue::try_from_array(batch.column(0), 0)?)),
        None => Ok(None),
    }
}

pub(super) async fn outcomes(frame: DataFrame) -> Result<Vec<Outcome>, Failure> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    for batch in frame.collect().await? {
        let column =
            arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8).map_err(DataFusionError::from)?;
        for json in column.as_string::<i32>().iter().flatten() {
            outcomes.push(serde_json::from_str(json).map_err(|error| DataFusionError::External(Box::new(error)))?);
        }
    }
    // Of two of one partition, as a cluster numbers them, the order is that of their beginning.
    outcomes.sort_by(|a, b| a.shard.cmp(&b.shard));
    let shards: HashSet<&str> = outcomes.iter().map(|outcome| outcome.shard.as_str()).collect();
    if shards.len() != outcomes.len() {
        return Err(Failure::Other(PipelineError::data("a shard was handed on twice: the engine is broken")));
    }
    Ok(outcomes)
}

pub(super) async fn refuse_repeated_keys(ingredients: &Ingredients<'_>, table: &Table) -> Result<(), Failure> {
    let batches = ingredients.repeated_keys(table, EXAMPLES)?.collect().await?;
    let mut examples = Vec::new();
    for batch in &batches {
        let columns = batch
            .columns()
            .iter()
            .map(|column| arrow::util::display::ArrayFormatter::try_new(column, &Default::default()));
        let columns = columns.collect::<Result<Vec<_>, _>>().map_err(DataFusionError::from)?;
        for row in 0..batch.num_rows() {
            let (count, keys) = columns
                .split_last()
                .map_or((String::new(), &[][..]), |(count, keys)| (count.value(row).to_string(), keys));
            let key: Vec<String> = keys.iter().map(|key| key.value(row).to_string()).collect();
            examples.push(format!("`{}` in {count} rows", key.join(" / ")));
        }
    }
    if examples.is_empty() {
        return Ok(());
    }
    let keys = table.key.columns().join(" and ");
    let with = if table.as_of { format!("{keys} and valid_from") } else { keys };
    let hint = if table.as_of {
        "keep one row a key and moment"
    } else {
        "keep one row a key, or add a `valid_from` column to join as of the search's time"
    };
    Err(Failure::Other(
        PipelineError::data(format!(
            "{}: the key {with} stands in several rows, for one {}",
            table.name(),
            examples.join(", ")
        ))
        .with_hint(hint),
    ))
}

pub(super) fn refuse_missing(spec: &SinkSpec, counts: &Counts) -> Result<(), Failure> {
    let missing: Vec<String> = spec
        .features
        .iter()
        .zip(&counts.missing)
        .filter(|(_, rows)| **rows > 0)
        .map(|(name, rows)| format!("`{name}` in {rows}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let unmatched: Vec<String> = spec
        .tables
        .iter()
        .zip(&counts.unmatched)
        .filter(|(_, rows)| **rows > 0)
        .map(|(table, rows)| format!("{rows} found no row in the {table} features"))
        .collect();
    let unmatched = if unmatched.is_empty() { String::new() } else { format!(" ({})", unmatched.join(", ")) };
    Err(Failure::Other(
        PipelineError::data(format!("of {} rows some lack features: {}{unmatched}", counts.rows, missing.join(", ")))
            .with_hint("complete the tables, or say --missing zero, mean or drop"),
    ))
}
