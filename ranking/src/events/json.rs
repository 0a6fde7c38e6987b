//! An event from JSON: read, checked, or refused with the field that is wrong.
//!
//! Reading allocates two lists an event and nothing else, as long as its texts have no escapes: a collector does little else.

use std::{borrow::Cow, collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{EventView, LogSchema, ResultView, SearchEvent, Timestamp};

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

/// The fields of an event that have a name of their own.
#[derive(Clone, Copy)]
enum EventField {
    Session,
    QueryId,
    User,
    Query,
    Timestamp,
    Results,
    Device,
    Location,
    Ranker,
    Explored,
    Other,
}

impl<'de> Deserialize<'de> for EventField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;

        impl Visitor<'_> for Name {
            type Value = EventField;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<EventField, E> {
                Ok(match name {
                    "session_id" => EventField::Session,
                    "query_id" => EventField::QueryId,
                    "user_id" => EventField::User,
                    "query" => EventField::Query,
                    "query_timestamp" => EventField::Timestamp,
                    "results" => EventField::Results,
                    "device" => EventField::Device,
                    "location" => EventField::Location,
                    "ranker_version" => EventField::Ranker,
                    "explored" => EventField::Explored,
                    _ => EventField::Other,
                })
            }
        }

        deserializer.deserialize_identifier(Name)
    }
}

struct Event<'s>(&'s LogSchema);

impl<'de> DeserializeSeed<'de> for Event<'_> {
    type Value = (EventView<'de>, u32);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Event<'_> {
    type Value = (EventView<'de>, u32);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a search event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut session_id, mut query_id, mut user_id, mut query) = (None, None, None::<Option<Text<'de>>>, None);
        let (mut query_timestamp, mut device, mut location) = (None::<Time>, None, None);
        let (mut ranker_version, mut explored) = (None::<Option<Text<'de>>>, None::<Option<bool>>);
        let (mut results, mut features, mut naive) = (None, Vec::new(), 0);
        while let Some(field) = map.next_key()? {
            match field {
                EventField::Session => once(&mut session_id, "session_id", &mut map)?,
                EventField::QueryId => once(&mut query_id, "query_id", &mut map)?,
                EventField::User => once(&mut user_id, "user_id", &mut map)?,
                EventField::Query => once(&mut query, "query", &mut map)?,
                EventField::Timestamp => once(&mut query_timestamp, "query_timestamp", &mut map)?,
                EventField::Device => once(&mut device, "device", &mut map)?,
                EventField::Location => once(&mut location, "location", &mut map)?,
                EventField::Ranker => once(&mut ranker_version, "ranker_version", &mut map)?,
                EventField::Explored => once(&mut explored, "explored", &mut map)?,
                EventField::Results if results.is_some() => return Err(de::Error::duplicate_field("results")),
                EventField::Results => {
                    let seed = Results { schema: self.0, features: &mut features, naive: &mut naive };
                    results = Some(map.next_value_seed(seed)?);
                }
                EventField::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let time = query_timestamp.ok_or_else(|| de::Error::missing_field("query_timestamp"))?;
        naive += u32::from(time.naive);
        let event = EventView {
            session_id: there(session_id, "session_id")?,
            query_id: there(query_id, "query_id")?,
            user_id: user_id.flatten().map(|text| text.0),
            query: there(query, "query")?,
            query_timestamp: time.at,
            results: results.ok_or_else(|| de::Error::missing_field("results"))?,
            features,
            device: there(device, "device")?,
            location: there(location, "location")?,
            ranker_version: ranker_version.flatten().map(|text| text.0),
            explored: explored.flatten(),
        };
        Ok((event, naive))
    }
}

/// Reads a field's value into its slot, which must be empty.
fn once<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    slot: &mut Option<T>,
    name: &'static str,
    map: &mut A,
) -> Result<(), A::Error> {
    if slot.is_some() {
        return Err(de::Error::duplicate_field(name));
    }
    *slot = Some(map.next_value()?);
    Ok(())
}

fn there<'de, E: de::Error>(text: Option<Text<'de>>, name: &'static str) -> Result<Cow<'de, str>, E> {
    text.map(|text| text.0).ok_or_else(|| E::missing_field(name))
}

/// The list of results, and what is gathered of them beside it.
struct Results<'s> {
    schema: &'s LogSchema,
    features: &'s mut Vec<Option<f32>>,
    naive: &'s mut u32,
}

impl<'de> DeserializeSeed<'de> for Results<'_> {
    type Value = Vec<ResultView<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Results<'_> {
    type Value = Vec<ResultView<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of results")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let width = self.schema.features().len();
        let mut results = Vec::with_capacity(10);
        loop {
            let begin = self.features.len();
            self.features.resize(begin + width, None);
            let seed = OneResult { schema: self.schema, features: &mut self.features[begin..], naive: self.naive };
            match seq.next_element_seed(seed)? {
                Some(result) => results.push(result),
                None => {
                    self.features.truncate(begin);
                    return Ok(results);
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
enum ResultField {
    Position,
    Document,
    Score,
    Clicked,
    ClickTimestamp,
    Dwell,
    Cart,
    Purchased,
    Propensity,
    Feature(usize),
    Other,
}

struct ResultName<'s>(&'s LogSchema);

impl<'de> DeserializeSeed<'de> for ResultName<'_> {
    type Value = ResultField;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<ResultField, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for ResultName<'_> {
    type Value = ResultField;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<ResultField, E> {
        Ok(match name {
            "position" => ResultField::Position,
            "document_id" => ResultField::Document,
            "score" => ResultField::Score,
            "clicked" => ResultField::Clicked,
            "click_timestamp" => ResultField::ClickTimestamp,
            "dwell_time_seconds" => ResultField::Dwell,
            "added_to_cart" => ResultField::Cart,
            "purchased" => ResultField::Purchased,
            "propensity" => ResultField::Propensity,
            _ => {
                let feature = self.0.features().iter().position(|feature| feature == name);
                feature.map_or(ResultField::Other, ResultField::Feature)
            }
        })
    }
}

struct OneResult<'s> {
    schema: &'s LogSchema,
    features: &'s mut [Option<f32>],
    naive: &'s mut u32,
}

impl<'de> DeserializeSeed<'de> for OneResult<'_> {
    type Value = ResultView<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OneResult<'_> {
    type Value = ResultView<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a result")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut position, mut document_id, mut score, mut clicked) = (None, None::<Text<'de>>, None, None);
        let (mut click_timestamp, mut dwell_time_seconds, mut propensity) = (None::<Time>, None, None);
        let (mut added_to_cart, mut purchased) = (None, None);
        while let Some(field) = map.next_key_seed(ResultName(self.schema))? {
            match field {
                ResultField::Position => position = Some(map.next_value()?),
                ResultField::Document => document_id = Some(map.next_value()?),
                ResultField::Score => score = Some(map.next_value()?),
                ResultField::Clicked => clicked = Some(map.next_value()?),
                ResultField::ClickTimestamp => click_timestamp = map.next_value()?,
                ResultField::Dwell => dwell_time_seconds = map.next_value()?,
                ResultField::Cart => added_to_cart = Some(map.next_value()?),
                ResultField::Purchased => purchased = Some(map.next_value()?),
                ResultField::Propensity => propensity = map.next_value()?,
                ResultField::Feature(at) => self.features[at] = map.next_value::<Number>()?.0,
                ResultField::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let missing = de::Error::missing_field;
        *self.naive += u32::from(click_timestamp.is_some_and(|time| time.naive));
        Ok(ResultView {
            position: position.ok_or_else(|| missing("position"))?,
            document_id: there(document_id, "document_id")?,
            score: score.ok_or_else(|| missing("score"))?,
            clicked: clicked.ok_or_else(|| missing("clicked"))?,
            click_timestamp: click_timestamp.map(|time| time.at),
            dwell_time_seconds,
            added_to_cart: added_to_cart.ok_or_else(|| missing("added_to_cart"))?,
            purchased: purchased.ok_or_else(|| missing("purchased"))?,
            propensity,
        })
    }
}

/// A text, borrowed unless it has escapes. (serde's own `Cow` is always owned.)
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Any)
    }
}

/// The number that a feature is; what is no number is nothing.
struct Number(Option<f32>);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_f64<E>(self, value: f64) -> Result<Number, E> {
                Ok(Number(Some(value as f32)))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Number, E> {
                Ok(Number(Some(value as f32)))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Number, E> {
                Ok(Number(Some(value as f32)))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Number, E> {
                Ok(Number(None))
            }

            fn visit_str<E>(self, _: &str) -> Result<Number, E> {
                Ok(Number(None))
            }

            fn visit_unit<E>(self) -> Result<Number, E> {
                Ok(Number(None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Number, A::Error> {
                IgnoredAny.visit_seq(seq).map(|_| Number(None))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Number, A::Error> {
                IgnoredAny.visit_map(map).map(|_| Number(None))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

#[derive(Clone, Copy)]
struct Time {
    at: Timestamp,
    naive: bool,
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Moment;

        impl Visitor<'_> for Moment {
            type Value = Time;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a timestamp such as 2026-01-31T23:59:59.250Z, or milliseconds since 1970")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Time, E> {
                let (at, naive) = Timestamp::read(text).map_err(E::custom)?;
                Ok(Time { at, naive })
            }

            fn visit_i64<E: de::Error>(self, milliseconds: i64) -> Result<Time, E> {
                let at = milliseconds.checked_mul(1000).map(Timestamp);
                let at = at.ok_or_else(|| E::custom(format!("{milliseconds} ms lies beyond all dates")))?;
                Ok(Time { at, naive: false })
            }

            fn visit_u64<E: de::Error>(self, milliseconds: u64) -> Result<Time, E> {
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
    fn texts_are_borrowed_unless_they_are_escaped_and_features_need_not_be_numbers() {
        let mut event = event();
        event["query"] = json!("a \"red\" shoe");
        event["results"][1]["bm25_score"] = json!({"not": ["a number"]});
        let json = serde_json::to_vec(&event).unwrap();
        let (view, naive) = view(&json, &LogSchema::with_features(["colour", "bm25_score"])).unwrap();
        assert!(matches!(view.session_id, Cow::Borrowed("s1")));
        assert!(matches!(view.results[0].document_id, Cow::Borrowed("d1")));
        assert_eq!((view.query.as_ref(), naive), ("a \"red\" shoe", 1));
        assert_eq!(view.features, [None, Some(7.25), None, None]);
    }

    #[test]
    fn a_field_that_comes_twice_is_refused() {
        let json = serde_json::to_string(&event()).unwrap().replacen('{', "{\"device\": \"tv\", ", 1);
        let error = parse(json.as_bytes(), &LogSchema::default()).unwrap_err();
        assert!(error.to_string().starts_with("duplicate field `device`"), "{error}");
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
