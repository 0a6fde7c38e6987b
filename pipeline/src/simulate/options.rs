//! What a simulated world and its log can be asked to be, and which wishes contradict each other.

use std::path::PathBuf;

use chrono::NaiveDate;
use ranking::events::Timestamp;
use serde::Serialize;

use super::{
    clicks::{ATTRACTIVENESS, ClickModel, EXAMINATION},
    world::FEATURES,
};
use crate::{PipelineError, collect::KafkaSettings};

/// Where the events go.
#[derive(Clone, Debug, PartialEq)]
pub enum Destination {
    /// The root of a lake, on disk or on S3; all events become visible by one commit.
    Lake(String),
    /// A topic, one JSON message an event, keyed by session.
    Kafka { brokers: String, topic: String, settings: KafkaSettings },
}

/// One arm of a simulated A/B test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SimulatedArm {
    pub name: String,
    /// Which ranker answers, from 1: the one that events call `r1`.
    pub ranker: u8,
}

/// Options of [`simulate`](super::simulate).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SimulateOptions {
    pub seed: u64,
    pub queries: u64,
    pub documents: u64,
    pub users: u64,
    /// Documents that could be shown for a query, of which its best [`results`](Self::results) are.
    pub candidates: u32,
    /// Searches.
    pub events: u64,
    /// Results of a list.
    pub results: u32,
    /// The first day, in UTC.
    pub from: NaiveDate,
    /// The events are spread over so many days, equally many a day.
    pub days: u32,
    pub click_model: ClickModel,
    /// The position-based model's probability that a result is looked at, by position from 1; the last one goes on for ever.
    #[serde(skip)]
    pub examination: Vec<f64>,
    /// The probability that a result that is looked at is clicked, by its grade.
    pub attractiveness: [f64; 5],
    /// Share of the lists of which the top k are shuffled, uniformly.
    pub exploration: f64,
    pub top_k: u32,
    /// The exponent of Zipf's law for how often queries are asked.
    pub zipf: f64,
    /// Rankers between which the sessions are divided, 1 to 200.
    pub rankers: u8,
    /// Arms of an A/B test that users are divided between, equally; each has its ranker, in place of [`rankers`](Self::rankers).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub arms: Vec<SimulatedArm>,
    /// Share of the sessions whose user is not known.
    pub anonymous: f64,
    /// Features that are logged with the results instead of standing in a table.
    pub log_features: Vec<String>,
    /// The features of documents get a second version, which rankers see from this day on (0 is the first); the table then says from
    /// when each version is valid.
    pub second_version: Option<u32>,
    #[serde(skip)]
    pub destination: Destination,
    /// The folder for feature tables and truth.
    #[serde(skip)]
    pub features: Option<PathBuf>,
    /// Replace feature tables and truth that are there.
    #[serde(skip)]
    pub overwrite: bool,
}

impl Default for SimulateOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            queries: 10_000,
            documents: 100_000,
            users: 20_000,
            candidates: 30,
            events: 100_000,
            results: 10,
            from: NaiveDate::from_ymd_opt(2026, 1, 1).unwrap_or_default(),
            days: 7,
            click_model: ClickModel::Pbm,
            examination: EXAMINATION.to_vec(),
            attractiveness: ATTRACTIVENESS,
            exploration: 0.1,
            top_k: 10,
            zipf: 0.8,
            rankers: 2,
            arms: Vec::new(),
            anonymous: 0.0,
            log_features: Vec::new(),
            second_version: None,
            destination: Destination::Lake(String::new()),
            features: None,
            overwrite: false,
        }
    }
}

impl SimulateOptions {
    /// Midnight before the first event.
    pub fn first_day(&self) -> Timestamp {
        Timestamp(self.from.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_micros())
    }

    /// The last day there can be events on.
    pub fn last_day(&self) -> NaiveDate {
        self.from + chrono::Days::new(u64::from(self.days.saturating_sub(1)))
    }

    /// Or which option is wrong, and what it may be.
    pub fn check(&self) -> Result<(), PipelineError> {
        let refuse = |message: String, hint: String| Err(PipelineError::options(message).with_hint(hint));
        for (count, what, most) in [
            (self.queries, "queries", 1 << 40),
            (self.documents, "documents", 1 << 40),
            (self.users, "users", 1 << 40),
            (self.events, "events", 1 << 40),
            (u64::from(self.days), "days", 36_500),
            (u64::from(self.results), "results", 1000),
            (u64::from(self.rankers), "rankers", 200),
        ] {
            if count == 0 || count > most {
                return refuse(format!("{count} {what} were asked for"), format!("at least 1 and at most {most}"));
            }
        }
        if self.from.checked_add_days(chrono::Days::new(u64::from(self.days))).is_none() {
            let message = format!("no calendar reaches {} days from {}", self.days, self.from);
            return refuse(message, "choose an earlier date".into());
        }
        if self.results > self.candidates {
            return refuse(
                format!("{} results cannot be shown of {} candidates", self.results, self.candidates),
                "ask for as many candidates as results, or more".into(),
            );
        }
        if u64::from(self.candidates) > self.documents || self.candidates > 10_000 {
            return refuse(
                format!("{} documents cannot give {} candidates to a query", self.documents, self.candidates),
                "there are at least as many documents as candidates, and at most 10000 candidates".into(),
            );
        }
        if self.top_k == 0 {
            return refuse(
                "the top 0 results cannot be shuffled".into(),
                "take a top k of 1 or more, or an exploration of 0".into(),
            );
        }
        for (at, arm) in self.arms.iter().enumerate() {
            if arm.name.is_empty() || self.arms[..at].iter().any(|other| other.name == arm.name) {
                return refuse(
                    format!("two arms are called `{}`, or one has no name", arm.name),
                    "give each arm a name of its own: control=1,treatment=2".into(),
                );
            }
            if !(1..=200).contains(&arm.ranker) {
                return refuse(
                    format!("arm `{}` has ranker {}", arm.name, arm.ranker),
                    "rankers count from 1 to 200: the odd ones trust popularity most, the even ones the text a little more".into(),
                );
            }
        }
        let is_share = |share: f64| (0.0..=1.0).contains(&share);
        for (share, what) in [(self.exploration, "exploration"), (self.anonymous, "anonymous")] {
            if !is_share(share) {
                return refuse(format!("{what} is {share}"), "a share lies between 0 and 1".into());
            }
        }
        if !(0.0..=3.0).contains(&self.zipf) {
            return refuse(
                format!("Zipf's exponent is {}", self.zipf),
                "from 0, where all queries are asked equally often, to 3".into(),
            );
        }
        if self.examination.is_empty() || !self.examination.iter().all(|&p| p > 0.0 && p <= 1.0) {
            return refuse(
                format!("the examination probabilities are {:?}", self.examination),
                "give one a position, each above 0 and at most 1".into(),
            );
        }
        if !self.attractiveness.iter().all(|&p| is_share(p)) {
            return refuse(
                format!("the attractiveness of the grades is {:?}", self.attractiveness),
                "give five probabilities, for the grades 0 to 4".into(),
            );
        }
        if let Some(name) = self.log_features.iter().find(|name| !FEATURES.iter().any(|(known, _)| known == name)) {
            let known = FEATURES.map(|(name, _)| name).join(", ");
            return refuse(format!("`{name}` is no feature of this world"), format!("there are {known}"));
        }
        if let Some(day) = self.second_version
            && (day == 0 || day >= self.days)
        {
            return refuse(
                format!("a second version from day {day} on, of {} days", self.days),
                "days count from 0; the second version begins after the first day and before the end".into(),
            );
        }
        Ok(())
    }
}
