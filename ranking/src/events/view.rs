//! An event whose texts lie elsewhere: in the JSON that it was read from, or in a [`SearchEvent`].

use std::borrow::Cow;

use super::{LogSchema, ResultImpression, SearchEvent, Timestamp};

/// A [`SearchEvent`], borrowed; what is said there holds here.
#[derive(Clone, Debug, PartialEq)]
pub struct EventView<'a> {
    pub session_id: Cow<'a, str>,
    pub query_id: Cow<'a, str>,
    pub user_id: Option<Cow<'a, str>>,
    pub query: Cow<'a, str>,
    pub query_timestamp: Timestamp,
    pub results: Vec<ResultView<'a>>,
    /// Of all results, one after the other: those of [`LogSchema::features`] for each.
    pub features: Vec<Option<f32>>,
    pub device: Cow<'a, str>,
    pub location: Cow<'a, str>,
    pub ranker_version: Option<Cow<'a, str>>,
    pub explored: Option<bool>,
    pub arm: Option<Cow<'a, str>>,
}

/// A [`ResultImpression`], borrowed, without its features.
#[derive(Clone, Debug, PartialEq)]
pub struct ResultView<'a> {
    pub position: u32,
    pub document_id: Cow<'a, str>,
    pub score: f64,
    pub clicked: bool,
    pub click_timestamp: Option<Timestamp>,
    pub dwell_time_seconds: Option<f64>,
    pub added_to_cart: bool,
    pub purchased: bool,
    pub propensity: Option<f64>,
}

impl<'a> EventView<'a> {
    /// Features that the event lacks are none.
    pub fn of(event: &'a SearchEvent, schema: &LogSchema) -> Self {
        let width = schema.features().len();
        let features = event
            .results
            .iter()
            .flat_map(|result| (0..width).map(move |at| result.features.get(at).copied().flatten()));
        let result = |result: &'a ResultImpression| ResultView {
            position: result.position,
            document_id: Cow::Borrowed(&result.document_id),
            score: result.score,
            clicked: result.clicked,
            click_timestamp: result.click_timestamp,
            dwell_time_seconds: result.dwell_time_seconds,
            added_to_cart: result.added_to_cart,
            purchased: result.purchased,
            propensity: result.propensity,
        };
        Self {
            session_id: Cow::Borrowed(&event.session_id),
            query_id: Cow::Borrowed(&event.query_id),
            user_id: event.user_id.as_deref().map(Cow::Borrowed),
            query: Cow::Borrowed(&event.query),
            query_timestamp: event.query_timestamp,
            features: features.collect(),
            results: event.results.iter().map(result).collect(),
            device: Cow::Borrowed(&event.device),
            location: Cow::Borrowed(&event.location),
            ranker_version: event.ranker_version.as_deref().map(Cow::Borrowed),
            explored: event.explored,
            arm: event.arm.as_deref().map(Cow::Borrowed),
        }
    }

    pub fn into_owned(self) -> SearchEvent {
        let width = self.features.len() / self.results.len().max(1);
        let results = self.results.into_iter().enumerate();
        let result = |(at, result): (usize, ResultView<'_>)| ResultImpression {
            position: result.position,
            document_id: result.document_id.into_owned(),
            score: result.score,
            clicked: result.clicked,
            click_timestamp: result.click_timestamp,
            dwell_time_seconds: result.dwell_time_seconds,
            added_to_cart: result.added_to_cart,
            purchased: result.purchased,
            propensity: result.propensity,
            features: self.features[at * width..(at + 1) * width].to_vec(),
        };
        SearchEvent {
            session_id: self.session_id.into_owned(),
            query_id: self.query_id.into_owned(),
            user_id: self.user_id.map(Cow::into_owned),
            query: self.query.into_owned(),
            query_timestamp: self.query_timestamp,
            results: results.map(result).collect(),
            device: self.device.into_owned(),
            location: self.location.into_owned(),
            ranker_version: self.ranker_version.map(Cow::into_owned),
            explored: self.explored,
            arm: self.arm.map(Cow::into_owned),
        }
    }
}
