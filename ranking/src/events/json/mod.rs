//! An event from JSON: read, checked, or refused with the field that is wrong.
//!
//! Reading allocates two lists an event and nothing else, as long as its texts have no escapes: a collector does little else.

mod object;
#[cfg(test)]
mod tests;
mod value;

use std::collections::HashSet;

use serde::de::DeserializeSeed as _;

use super::{EventView, LogSchema, ResultView, SearchEvent};
use object::Event;

/// An event, and what had to be assumed about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    pub event: SearchEvent,
    /// How many timestamps had no zone and were taken as UTC.
    pub naive: u32,
}

/// Why a message is no search event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The text names the field, as far as the JSON is whole there, and the place in the message.
    #[error("{0}")]
    Json(String),
    #[error("`results` is empty: an event without a result teaches nothing")]
    NoResults,
    #[error("results[{result}].position: positions count from 1, not from 0")]
    PositionZero { result: usize },
    #[error("results[{result}].position: {position} is too large, positions go up to {}", i32::MAX)]
    PositionTooLarge { result: usize, position: u32 },
    #[error("results[{result}].position: {position} appears twice")]
    PositionAgain { result: usize, position: u32 },
    #[error("results[{result}].document_id: `{document}` appears twice")]
    DocumentAgain { result: usize, document: String },
    #[error("results[{result}].dwell_time_seconds: {value} is not a duration, which is finite and not negative")]
    Dwell { result: usize, value: String },
    #[error("results[{result}].propensity: {value} is not a probability, which is above 0 and at most 1")]
    Propensity { result: usize, value: String },
    #[error("results[{result}].{field}: {value} is not finite")]
    NotFinite { result: usize, field: String, value: String },
}

/// Reads one event. Fields that are not known are passed over, but for the features that `schema` names.
pub fn parse(json: &[u8], schema: &LogSchema) -> Result<Parsed, Malformed> {
    let (view, naive) = view(json, schema)?;
    Ok(Parsed { event: view.into_owned(), naive })
}

/// [`parse`] without copying the texts. The second is how many timestamps had no zone and were taken as UTC.
pub fn view<'a>(json: &'a [u8], schema: &LogSchema) -> Result<(EventView<'a>, u32), Malformed> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let read = Event(schema).deserialize(&mut reader).and_then(|read| reader.end().map(|()| read));
    let (event, naive) = read.map_err(|error| Malformed::Json(error.to_string()))?;
    for (at, result) in event.results.iter().enumerate() {
        check(result, at)?;
    }
    check_features(&event, schema)?;
    check_together(&event.results)?;
    Ok((event, naive))
}

fn check(result: &ResultView<'_>, at: usize) -> Result<(), Malformed> {
    if result.position == 0 {
        return Err(Malformed::PositionZero { result: at });
    }
    // The lake's column is as wide as Arrow's and Spark's integers.
    if i32::try_from(result.position).is_err() {
        return Err(Malformed::PositionTooLarge { result: at, position: result.position });
    }
    if let Some(value) = result.dwell_time_seconds.filter(|dwell| !(dwell.is_finite() && *dwell >= 0.0)) {
        return Err(Malformed::Dwell { result: at, value: value.to_string() });
    }
    if let Some(value) = result.propensity.filter(|propensity| !(*propensity > 0.0 && *propensity <= 1.0)) {
        return Err(Malformed::Propensity { result: at, value: value.to_string() });
    }
    // JSON has no infinity, but a number may be too large for its type.
    if !result.score.is_finite() {
        return Err(Malformed::NotFinite { result: at, field: "score".into(), value: result.score.to_string() });
    }
    Ok(())
}

fn check_features(event: &EventView<'_>, schema: &LogSchema) -> Result<(), Malformed> {
    let wrong = event.features.iter().position(|value| value.is_some_and(|value| !value.is_finite()));
    let Some(at) = wrong else { return Ok(()) };
    let (result, field) = (at / schema.features().len(), at % schema.features().len());
    let value = event.features[at].map_or(String::new(), |value| value.to_string());
    Err(Malformed::NotFinite { result, field: schema.features()[field].clone(), value })
}

/// No position and no document twice.
fn check_together(results: &[ResultView<'_>]) -> Result<(), Malformed> {
    if results.is_empty() {
        return Err(Malformed::NoResults);
    }
    // Nearly every log has its results in the order of their positions.
    if !results.windows(2).all(|pair| pair[0].position < pair[1].position) {
        let mut positions = HashSet::with_capacity(results.len());
        if let Some(result) = results.iter().position(|result| !positions.insert(result.position)) {
            return Err(Malformed::PositionAgain { result, position: results[result].position });
        }
    }
    let again = if results.len() <= 16 {
        (1..results.len()).find(|&i| results[..i].iter().any(|other| other.document_id == results[i].document_id))
    } else {
        let mut documents = HashSet::with_capacity(results.len());
        results.iter().position(|result| !documents.insert(&*result.document_id))
    };
    match again {
        Some(result) => Err(Malformed::DocumentAgain { result, document: results[result].document_id.to_string() }),
        None => Ok(()),
    }
}
