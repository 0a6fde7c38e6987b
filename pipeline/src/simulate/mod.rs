//! A click world whose truth is known: queries, documents, true grades and the features that tell of them imperfectly, two logging
//! rankers that trust popularity too much, sessions of searches, and clicks from a position-based or a cascade model.
//!
//! Everything is a function of the options and the seed, drawn event by event in bounded memory. What is worth knowing about it:
//!
//! - The rankers put popular documents on top, where they are looked at and so clicked; relevance hardly depends on popularity. A
//!   model of raw clicks therefore learns to like popular documents, one of clicks weighted by inverse propensity does not.
//! - In the position-based model P(click) = examination of the position · attractiveness of the true grade, exactly.
//! - A share of the lists is shuffled uniformly within the top k. `propensity` is the probability, over that chance alone, that the
//!   document stands where it stands: (1 - e)·[the ranker put it there] + e/k within the top k, and 1 below it.
//! - What a search's grades are does not depend on who asks; `user_preference_match` tells users apart, not documents.

mod clicks;
mod kafka;
mod log;
mod options;
mod report;
mod tables;
mod world;

use std::time::Instant;

use chrono::NaiveDate;
use ranking::events::Timestamp;
use serde_json::json;

pub use self::{
    clicks::{ATTRACTIVENESS, ClickModel, EXAMINATION},
    log::{Log, document_id, query_id, user_id},
    options::{Destination, SimulateOptions, SimulatedArm},
    report::{EventsTo, Position, SimulateReport},
    tables::TableWritten,
    world::{Candidate, Document, FEATURES, Owner, Query, World},
};
use self::{kafka::Topic, report::Tally};
use crate::{
    PipelineError,
    lake::{Lake, LakeWriter, RollOptions},
};

/// Events between two words about progress.
const TELL_EVERY: u64 = 1 << 13;

/// Draws a world's log, writes it to its destination, and its feature tables and truth beside; `progress` is told events done and in total.
///
/// The folders of features and truth appear one by one, each whole or not at all; then the events are drawn. In a lake they become
/// visible together, at the end.
pub async fn simulate(
    options: &SimulateOptions,
    mut progress: impl FnMut(u64, u64) + Send + 'static,
) -> Result<SimulateReport, PipelineError> {
    options.check()?;
    let options = options.clone();
    let mut log = Log::new(&options);
    // Everything that can be refused is, before there is any work.
    let mut sink = match &options.destination {
        Destination::Lake(location) => Sink::Lake(Box::new(lake(location, &options, &log).await?)),
        Destination::Kafka { brokers, topic, settings } => {
            let (brokers, topic, settings) = (brokers.clone(), topic.clone(), settings.clone());
            let schema = log.schema().clone();
            Sink::Topic(blocking(move || Topic::open(&brokers, &topic, &settings, &schema)).await?)
        }
    };
    let total = options.events;
    let seed = options.seed;
    let name = commit_name(&options);
    let destination = options.destination.clone();
    let (tally, tables, truth, begun, sink) = blocking(move || {
        let (mut tables, mut truth) = (Vec::new(), None);
        if let Some(folder) = &options.features {
            std::fs::create_dir_all(folder).map_err(|error| PipelineError::io("create", folder, error))?;
            tables::check(folder, options.overwrite)?;
            tables = tables::write_tables(log.world(), &options, folder)?;
            truth = Some(tables::write_truth(log.world(), &options, folder)?);
        }
        let begun = Instant::now();
        let mut tally = Tally::default();
        let mut event = Log::blank();
        while log.fill(&mut event) {
            tally.add(&event);
            match &mut sink {
                Sink::Lake(writer) => writer.push(&event)?,
                Sink::Topic(topic) => topic.push(&event)?,
            }
            if tally.events.is_multiple_of(TELL_EVERY) {
                progress(tally.events, total);
            }
        }
        progress(tally.events, total);
        Ok((tally, tables, truth, begun, sink))
    })
    .await?;
    let events_to = match (sink, destination) {
        (Sink::Lake(mut writer), Destination::Lake(location)) => {
            let files = writer.commit(&name, json!({ "seed": seed, "events": tally.events })).await?;
            EventsTo::Lake { location, files: files.len(), bytes: files.iter().map(|file| file.bytes).sum() }
        }
        (Sink::Topic(sent), Destination::Kafka { brokers, topic, .. }) => {
            let (messages, bytes) = blocking(move || sent.finish()).await?;
            EventsTo::Topic { brokers, topic, messages, bytes }
        }
        _ => return Err(PipelineError::options("the events have no destination")),
    };
    let Tally { events, impressions, clicks, carts, purchases, explored, days, positions, .. } = tally;
    let dates = days.into_iter().map(|day| Timestamp(day * 86_400_000_000).date()).collect();
    let seconds = begun.elapsed().as_secs_f64();
    Ok(SimulateReport {
        events,
        impressions,
        clicks,
        carts,
        purchases,
        explored,
        dates,
        positions,
        events_to,
        tables,
        truth,
        seconds,
    })
}

enum Sink {
    Lake(Box<LakeWriter>),
    Topic(Topic),
}

/// A writer to the lake, unless it holds a log of this seed on some of these days: the same searches would count twice.
async fn lake(location: &str, options: &SimulateOptions, log: &Log) -> Result<LakeWriter, PipelineError> {
    let lake = Lake::open(location)?;
    let source = format!("simulate/seed-{}", options.seed);
    for name in lake.commit_names(&source).await? {
        let dates = name
            .split_once("..")
            .and_then(|(from, to)| Some((from.parse::<NaiveDate>().ok()?, to.parse::<NaiveDate>().ok()?)));
        if dates.is_some_and(|(from, to)| from <= options.last_day() && options.from <= to) {
            let message = format!("`{location}` holds a simulated log of seed {} from {name}", options.seed);
            return Err(PipelineError::options(message).with_hint("take another seed, other days or another lake"));
        }
    }
    // What a killed writer left.
    lake.sweep().await?;
    Ok(LakeWriter::new(&lake, log.schema().clone(), RollOptions::default(), &source))
}

fn commit_name(options: &SimulateOptions) -> String {
    format!("{}..{}", options.from, options.last_day())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PipelineError> + Send + 'static,
) -> Result<T, PipelineError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| PipelineError::data("the simulation broke off").because(error))?
}
