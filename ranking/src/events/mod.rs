//! Click logs: a search event and the results that it showed, as JSON on the wire and as Arrow columns in the lake.
//!
//! The fields are those of the reference pipeline (`SearchEvent`, `ResultImpression`), and five optional ones: `ranker_version`,
//! `explored` and `arm` of an event, `propensity` of a result, and any number of features that were logged with a result. What is
//! read here was checked: a [`SearchEvent`] that exists can go into the lake.

mod columns;
mod json;
mod timestamp;
mod view;

use serde::Serialize;

pub use self::{
    columns::{BadFeature, EventColumns, LogSchema},
    json::{Malformed, Parsed, parse, view},
    timestamp::{NotATimestamp, NotMilliseconds, Timestamp},
    view::{EventView, ResultView},
};

/// One search: who asked what, when, and which results were shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SearchEvent {
    pub session_id: String,
    /// Which query it was: searches for the same thing share it, and feature tables of queries are keyed by it.
    pub query_id: String,
    pub user_id: Option<String>,
    /// The words that were typed.
    pub query: String,
    /// When the results were shown; the event's date in the lake is this one's, in UTC.
    pub query_timestamp: Timestamp,
    /// In the order of the log, which need not be that of the positions. Not empty.
    pub results: Vec<ResultImpression>,
    pub device: String,
    pub location: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranker_version: Option<String>,
    /// The list was shuffled to learn from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explored: Option<bool>,
    /// Which arm of an A/B test answered, by the arm's name; none outside of tests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arm: Option<String>,
}

/// One result as it was shown, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ResultImpression {
    /// From 1 to what an `i32` holds; no two results of an event share one.
    pub position: u32,
    pub document_id: String,
    /// The ranker's; finite.
    pub score: f64,
    pub clicked: bool,
    pub click_timestamp: Option<Timestamp>,
    /// Finite, not negative.
    pub dwell_time_seconds: Option<f64>,
    pub added_to_cart: bool,
    pub purchased: bool,
    /// The exact probability, in (0, 1], with which this document was shown at this position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propensity: Option<f64>,
    /// What was logged beside it, in the order of [`LogSchema::features`]; the JSON has them under their names.
    #[serde(skip)]
    pub features: Vec<Option<f32>>,
}
