//! An event from JSON: read, checked, or refused with the field that is wrong.

use std::{collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};

use super::{LogSchema, ResultImpression, SearchEvent, Timestamp};

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
    /// The text is serde_json's: it names the field, and where in the message.
    #[error("{0}")]
    Json(String),
    #[error("`results` is empty: an event without a result teaches nothing")]
    NoResults,
    #[error("results[{result}].position: positions count from 1, not from 0")]
    PositionZero { result: usize },
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
    let mut reader = serde_json::Deserializer::from_slice(json);
    let wire = Wire::deserialize(&mut reader).and_then(|wire| reader.end().map(|()| wire));
    let wire = wire.map_err(|error| Malformed::Json(error.to_string()))?;
    let mut naive = u32::from(wire.query_timestamp.naive);
    let mut results = Vec::with_capacity(wire.results.len());
    for (at, result) in wire.results.into_iter().enumerate() {
        let WireResult { position, document_id, score, clicked, click_timestamp, dwell_time_seconds, .. } = result;
        naive += u32::from(click_timestamp.is_some_and(|moment| moment.naive));
        let feature = |name: &String| {
            let (_, value) = result.further.iter().find(|(field, _)| field == name)?;
            Some(*value)
        };
        results.push(ResultImpression {
            position,
            document_id,
            score,
            clicked,
            click_timestamp: click_timestamp.map(|moment| moment.at),
            dwell_time_seconds,
            added_to_cart: result.added_to_cart,
            purchased: result.purchased,
            propensity: result.propensity,
            features: schema.features().iter().map(feature).collect(),
        });
        check(&results[at], at, schema)?;
    }
    check_together(&results)?;
    let event = SearchEvent {
        session_id: wire.session_id,
        query_id: wire.query_id,
        user_id: wire.user_id,
        query: wire.query,
        query_timestamp: wire.query_timestamp.at,
        results,
        device: wire.device,
        location: wire.location,
        ranker_version: wire.ranker_version,
        explored: wire.explored,
    };
    Ok(Parsed { event, naive })
}

fn check(result: &ResultImpression, at: usize, schema: &LogSchema) -> Result<(), Malformed> {
    if result.position == 0 {
        return Err(Malformed::PositionZero { result: at });
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
    for (name, value) in schema.features().iter().zip(&result.features) {
        if let Some(value) = value.filter(|value| !value.is_finite()) {
            return Err(Malformed::NotFinite { result: at, field: name.clone(), value: value.to_string() });
        }
    }
    Ok(())
}

/// No position and no document twice.
fn check_together(results: &[ResultImpression]) -> Result<(), Malformed> {
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
        results.iter().position(|result| !documents.insert(result.document_id.as_str()))
    };
    match again {
        Some(result) => Err(Malformed::DocumentAgain { result, document: results[result].document_id.clone() }),
        None => Ok(()),
    }
}

#[derive(Deserialize)]
struct Wire {
    session_id: String,
    query_id: String,
    user_id: Option<String>,
    query: String,
    query_timestamp: WireTime,
    results: Vec<WireResult>,
    device: String,
    location: String,
    ranker_version: Option<String>,
    explored: Option<bool>,
}

/// The fields of a result, and every other number.
struct WireResult {
    position: u32,
    document_id: String,
    score: f64,
    clicked: bool,
    click_timestamp: Option<WireTime>,
    dwell_time_seconds: Option<f64>,
    added_to_cart: bool,
    purchased: bool,
    propensity: Option<f64>,
    further: Vec<(String, f32)>,
}

impl<'de> Deserialize<'de> for WireResult {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = WireResult;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a result")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WireResult, A::Error> {
                let (mut position, mut document_id, mut score, mut clicked) = (None, None, None, None);
                let (mut click_timestamp, mut dwell_time_seconds, mut propensity) = (None, None, None);
                let (mut added_to_cart, mut purchased) = (None, None);
                let mut further = Vec::new();
                while let Some(field) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                    match &*field {
                        "position" => position = Some(map.next_value()?),
                        "document_id" => document_id = Some(map.next_value()?),
                        "score" => score = Some(map.next_value()?),
                        "clicked" => clicked = Some(map.next_value()?),
                        "click_timestamp" => click_timestamp = map.next_value()?,
                        "dwell_time_seconds" => dwell_time_seconds = map.next_value()?,
                        "added_to_cart" => added_to_cart = Some(map.next_value()?),
                        "purchased" => purchased = Some(map.next_value()?),
                        "propensity" => propensity = map.next_value()?,
                        _ => {
                            if let Further::Number(value) = map.next_value()? {
                                further.push((field.into_owned(), value as f32));
                            }
                        }
                    }
                }
                let missing = de::Error::missing_field;
                Ok(WireResult {
                    position: position.ok_or_else(|| missing("position"))?,
                    document_id: document_id.ok_or_else(|| missing("document_id"))?,
                    score: score.ok_or_else(|| missing("score"))?,
                    clicked: clicked.ok_or_else(|| missing("clicked"))?,
                    click_timestamp,
                    dwell_time_seconds,
                    added_to_cart: added_to_cart.ok_or_else(|| missing("added_to_cart"))?,
                    purchased: purchased.ok_or_else(|| missing("purchased"))?,
                    propensity,
                    further,
                })
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// The value of a field that no schema knows.
#[derive(Deserialize)]
#[serde(untagged)]
enum Further {
    Number(f64),
    Other(de::IgnoredAny),
}

#[derive(Clone, Copy)]
struct WireTime {
    at: Timestamp,
    naive: bool,
}

impl<'de> Deserialize<'de> for WireTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Moment;

        impl Visitor<'_> for Moment {
            type Value = WireTime;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a timestamp such as 2026-01-31T23:59:59.250Z, or milliseconds since 1970")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<WireTime, E> {
                let (at, naive) = Timestamp::read(text).map_err(E::custom)?;
                Ok(WireTime { at, naive })
            }

            fn visit_i64<E: de::Error>(self, milliseconds: i64) -> Result<WireTime, E> {
                let at = milliseconds.checked_mul(1000).map(Timestamp);
                let at = at.ok_or_else(|| E::custom(format!("{milliseconds} ms lies beyond all dates")))?;
                Ok(WireTime { at, naive: false })
            }

            fn visit_u64<E: de::Error>(self, milliseconds: u64) -> Result<WireTime, E> {
                self.visit_i64(i64::try_from(milliseconds).unwrap_or(i64::MAX))
            }
        }

        deserializer.deserialize_any(Moment)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn event() -> Value {
        json!({
            "session_id": "s1", "query_id": "q1", "user_id": null, "query": "red shoes",
            "query_timestamp": "2026-01-31T12:00:00Z", "device": "phone", "location": "DE",
            "results": [
                {"position": 1, "document_id": "d1", "score": 2.5, "clicked": true, "click_timestamp": "2026-01-31T12:00:05",
                 "dwell_time_seconds": 31.5, "added_to_cart": false, "purchased": false, "bm25_score": 7.25, "colour": "red"},
                {"position": 2, "document_id": "d2", "score": 1.5, "clicked": false, "added_to_cart": false, "purchased": false},
            ],
        })
    }

    fn read(event: &Value) -> Result<Parsed, Malformed> {
        parse(&serde_json::to_vec(event).unwrap(), &LogSchema::with_features(["bm25_score"]))
    }

    #[test]
    fn an_event_is_read_with_its_logged_features_and_naive_times_are_counted() {
        let Parsed { event, naive } = read(&event()).unwrap();
        assert_eq!(naive, 1);
        assert_eq!(event.results.len(), 2);
        assert_eq!(event.results[0].features, [Some(7.25)]);
        assert_eq!(event.results[1].features, [None]);
        assert_eq!(event.results[0].click_timestamp.unwrap().to_string(), "2026-01-31T12:00:05.000000Z");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut first = read(&event()).unwrap().event;
        first.explored = Some(true);
        first.results[1].propensity = Some(0.25);
        let schema = LogSchema::default();
        let again = parse(&serde_json::to_vec(&first).unwrap(), &schema).unwrap().event;
        first.results.iter_mut().for_each(|result| result.features.clear());
        assert_eq!(again, first);
    }

    /// The message with which an event is refused after one of its values was set; `null` removes it.
    fn refused(pointer: &str, value: Value) -> String {
        let mut event = event();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        let parent = event.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        if value.is_null() {
            parent.remove(field);
        } else {
            parent.insert(field.into(), value);
        }
        read(&event).unwrap_err().to_string()
    }

    #[test]
    fn each_refusal_names_its_field() {
        assert!(refused("/query_id", Value::Null).starts_with("missing field `query_id`"));
        assert!(refused("/results/0/score", Value::Null).starts_with("missing field `score`"));
        assert!(refused("/query_timestamp", json!("noon")).starts_with("`noon` is not a timestamp"));
        assert_eq!(refused("/results", json!([])), "`results` is empty: an event without a result teaches nothing");
        assert_eq!(refused("/results/1/position", json!(0)), "results[1].position: positions count from 1, not from 0");
        assert_eq!(refused("/results/1/position", json!(1)), "results[1].position: 1 appears twice");
        assert_eq!(refused("/results/1/document_id", json!("d1")), "results[1].document_id: `d1` appears twice");
        assert_eq!(
            refused("/results/0/dwell_time_seconds", json!(-1)),
            "results[0].dwell_time_seconds: -1 is not a duration, which is finite and not negative"
        );
        assert_eq!(
            refused("/results/0/propensity", json!(0)),
            "results[0].propensity: 0 is not a probability, which is above 0 and at most 1"
        );
        assert_eq!(refused("/results/0/bm25_score", json!(1e300)), "results[0].bm25_score: inf is not finite");
        assert!(parse(b"{} {}", &LogSchema::default()).is_err());
        assert!(parse(b"hello", &LogSchema::default()).unwrap_err().to_string().contains("line 1 column 1"));
    }
}
