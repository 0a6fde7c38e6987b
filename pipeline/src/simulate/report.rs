//! What a simulation made.

use std::{collections::BTreeSet, fmt};

use chrono::NaiveDate;
use ranking::events::SearchEvent;
use serde::Serialize;

use super::tables::TableWritten;
use crate::Written;

/// What was drawn, and where it went.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SimulateReport {
    pub events: u64,
    pub impressions: u64,
    pub clicks: u64,
    pub carts: u64,
    pub purchases: u64,
    /// Events whose list was shuffled.
    pub explored: u64,
    pub dates: Vec<NaiveDate>,
    /// By position from 1.
    pub positions: Vec<Position>,
    pub events_to: EventsTo,
    pub tables: Vec<TableWritten>,
    pub truth: Option<Written>,
    /// Seconds that the events took, from the first one drawn to the last one safe.
    pub seconds: f64,
}

/// Where the events are.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EventsTo {
    Lake { location: String, files: usize, bytes: u64 },
    Topic { brokers: String, topic: String, messages: u64, bytes: u64 },
}

/// What was shown at a position, and clicked; over all lists, and over those that were shuffled, where what stood there is chance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Position {
    pub position: u32,
    pub shown: u64,
    pub clicked: u64,
    pub explored_shown: u64,
    pub explored_clicked: u64,
}

/// Counts while events go by.
#[derive(Default)]
pub(super) struct Tally {
    pub events: u64,
    pub impressions: u64,
    pub clicks: u64,
    pub carts: u64,
    pub purchases: u64,
    pub explored: u64,
    /// Days since 1970.
    pub days: BTreeSet<i64>,
    last_day: Option<i64>,
    pub positions: Vec<Position>,
}

impl Tally {
    pub fn add(&mut self, event: &SearchEvent) {
        let explored = u64::from(event.explored == Some(true));
        self.events += 1;
        self.explored += explored;
        self.impressions += event.results.len() as u64;
        let day = event.query_timestamp.0.div_euclid(86_400_000_000);
        if self.last_day.replace(day) != Some(day) {
            self.days.insert(day);
        }
        if self.positions.len() < event.results.len() {
            self.positions.resize(event.results.len(), Position::default());
        }
        for (result, at) in event.results.iter().zip(&mut self.positions) {
            let clicked = u64::from(result.clicked);
            at.position = result.position;
            at.shown += 1;
            at.clicked += clicked;
            at.explored_shown += explored;
            at.explored_clicked += explored * clicked;
            self.clicks += clicked;
            self.carts += u64::from(result.added_to_cart);
            self.purchases += u64::from(result.purchased);
        }
    }
}

impl fmt::Display for SimulateReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
        let Self { events, impressions, clicks, carts, purchases, explored, .. } = self;
        writeln!(
            f,
            "events  {events} with {impressions} impressions, {clicks} clicks, {carts} in carts, {purchases} purchases"
        )?;
        if let (Some(first), Some(last)) = (self.dates.first(), self.dates.last()) {
            writeln!(f, "dates   {first} to {last}, {} of them", self.dates.len())?;
        }
        writeln!(f, "shuffled {explored} lists, {:.2} %", share(*explored, *events))?;
        writeln!(f, "position      shown  clicked %  of shuffled lists %")?;
        for at in &self.positions {
            let (all, shuffled) = (share(at.clicked, at.shown), share(at.explored_clicked, at.explored_shown));
            writeln!(f, "{:>8} {:>10} {all:>10.2} {shuffled:>20.2}", at.position, at.shown)?;
        }
        for table in &self.tables {
            let versioned = if table.versioned { ", by valid_from" } else { "" };
            writeln!(
                f,
                "wrote   {} ({} rows{versioned}: {})",
                table.path.display(),
                table.rows,
                table.features.join(", ")
            )?;
        }
        if let Some(truth) = &self.truth {
            writeln!(
                f,
                "wrote   {} ({} rows, {} queries) and truth.json beside it",
                truth.path.display(),
                truth.rows,
                truth.lists
            )?;
        }
        match &self.events_to {
            EventsTo::Lake { location, files, bytes } => {
                write!(f, "wrote   {location} ({files} files, {:.1} MiB)", *bytes as f64 / f64::from(1 << 20))?;
            }
            EventsTo::Topic { brokers, topic, messages, bytes } => {
                let mib = *bytes as f64 / f64::from(1 << 20);
                write!(f, "sent    {messages} messages ({mib:.1} MiB) to `{topic}` on {brokers}")?;
            }
        }
        write!(f, ", {:.0} events/s", self.events as f64 / self.seconds.max(1e-9))
    }
}
