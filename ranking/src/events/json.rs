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
    Arm,
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
                    "arm" => EventField::Arm,
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
        let mut arm = None::<Option<Name<'de>>>;
        let (mut results, mut features, mut naive) = (None, Vec::new(), 0);
        while let Some(field) = map.next_key()? {
            match field {
                EventField::Session => Place(None, "session_id").once(&mut session_id, &mut map)?,
                EventField::QueryId => Place(None, "query_id").once(&mut query_id, &mut map)?,
                EventField::User => Place(None, "user_id").once(&mut user_id, &mut map)?,
                EventField::Query => Place(None, "query").once(&mut query, &mut map)?,
                EventField::Timestamp => Place(None, "query_timestamp").once(&mut query_timestamp, &mut map)?,
                EventField::Device => Place(None, "device").once(&mut device, &mut map)?,
                EventField::Location => Place(None, "location").once(&mut location, &mut map)?,
                EventField::Ranker => Place(None, "ranker_version").once(&mut ranker_version, &mut map)?,
                EventField::Explored => Place(None, "explored").once(&mut explored, &mut map)?,
                EventField::Arm => Place(None, "arm").once(&mut arm, &mut map)?,
                EventField::Results if results.is_some() => return Err(Place(None, "results").twice()),
                EventField::Results => {
                    let seed = Results { schema: self.0, features: &mut features, naive: &mut naive };
                    results = Some(map.next_value_seed(seed)?);
                }
                EventField::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let text = |field, text: Option<Text<'de>>| Place(None, field).there(text).map(|text| text.0);
        let time = Place(None, "query_timestamp").there(query_timestamp)?;
        naive += u32::from(time.naive);
        let event = EventView {
            session_id: text("session_id", session_id)?,
            query_id: text("query_id", query_id)?,
            user_id: user_id.flatten().map(|text| text.0),
            query: text("query", query)?,
            query_timestamp: time.at,
            results: Place(None, "results").there(results)?,
            features,
            device: text("device", device)?,
            location: text("location", location)?,
            ranker_version: ranker_version.flatten().map(|text| text.0),
            explored: explored.flatten(),
            arm: arm.flatten().map(|name| name.0),
        };
        Ok((event, naive))
    }
}

/// A field of the event or of one of its results, for errors.
#[derive(Clone, Copy)]
struct Place<'a>(Option<usize>, &'a str);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self(None, field) => f.write_str(field),
            Self(Some(result), field) => write!(f, "results[{result}].{field}"),
        }
    }
}

impl Place<'_> {
    #[cold]
    fn twice<E: de::Error>(self) -> E {
        E::custom(format_args!("{self}: given twice"))
    }

    #[cold]
    fn missing<E: de::Error>(self) -> E {
        E::custom(format_args!("{self}: missing"))
    }

    /// serde_json finds line and column again at the end of a text that it wrote.
    #[cold]
    fn wrong<E: de::Error>(self, error: &E) -> E {
        E::custom(format_args!("{self}: {error}"))
    }

    /// Reads the field's value into its slot, which must be empty.
    fn once<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
        self,
        slot: &mut Option<T>,
        map: &mut A,
    ) -> Result<(), A::Error> {
        if slot.is_some() {
            return Err(self.twice());
        }
        *slot = Some(map.next_value().map_err(|error| self.wrong(&error))?);
        Ok(())
    }

    /// A value that must have been given.
    fn there<T, E: de::Error>(self, value: Option<T>) -> Result<T, E> {
        value.ok_or_else(|| self.missing())
    }
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
        f.write_str("a list in `results`")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let width = self.schema.features().len();
        let mut results = Vec::with_capacity(10);
        loop {
            let begin = self.features.len();
            self.features.resize(begin + width, None);
            let features = &mut self.features[begin..];
            let seed = OneResult { at: results.len(), schema: self.schema, features, naive: self.naive };
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
    at: usize,
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
        write!(f, "an object in `results[{}]`", self.at)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let place = |field| Place(Some(self.at), field);
        let (mut position, mut document_id, mut score, mut clicked) = (None, None::<Text<'de>>, None, None);
        let (mut click_timestamp, mut dwell_time_seconds) = (None::<Option<Time>>, None::<Option<f64>>);
        let (mut added_to_cart, mut purchased, mut propensity) = (None, None, None::<Option<f64>>);
        while let Some(field) = map.next_key_seed(ResultName(self.schema))? {
            match field {
                ResultField::Position => place("position").once(&mut position, &mut map)?,
                ResultField::Document => place("document_id").once(&mut document_id, &mut map)?,
                ResultField::Score => place("score").once(&mut score, &mut map)?,
                ResultField::Clicked => place("clicked").once(&mut clicked, &mut map)?,
                ResultField::ClickTimestamp => place("click_timestamp").once(&mut click_timestamp, &mut map)?,
                ResultField::Dwell => place("dwell_time_seconds").once(&mut dwell_time_seconds, &mut map)?,
                ResultField::Cart => place("added_to_cart").once(&mut added_to_cart, &mut map)?,
                ResultField::Purchased => place("purchased").once(&mut purchased, &mut map)?,
                ResultField::Propensity => place("propensity").once(&mut propensity, &mut map)?,
                ResultField::Feature(at) => {
                    let mut number = self.features[at].map(|value| Number(Some(value)));
                    Place(Some(self.at), &self.schema.features()[at]).once(&mut number, &mut map)?;
                    // JSON has no NaN: it stands for what was given and is no number, until the result ends.
                    self.features[at] = number.and_then(|number| number.0).or(Some(f32::NAN));
                }
                ResultField::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        for value in self.features {
            *value = value.filter(|value| !value.is_nan());
        }
        let click_timestamp = click_timestamp.flatten();
        *self.naive += u32::from(click_timestamp.is_some_and(|time| time.naive));
        Ok(ResultView {
            position: place("position").there(position)?,
            document_id: place("document_id").there(document_id)?.0,
            score: place("score").there(score)?,
            clicked: place("clicked").there(clicked)?,
            click_timestamp: click_timestamp.map(|time| time.at),
            dwell_time_seconds: dwell_time_seconds.flatten(),
            added_to_cart: place("added_to_cart").there(added_to_cart)?,
            purchased: place("purchased").there(purchased)?,
            propensity: propensity.flatten(),
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

/// A name that may be written as a text, a whole number, or true and false.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a whole number or a boolean")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(number.to_string())))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(number.to_string())))
            }

            fn visit_bool<E>(self, yes: bool) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(if yes { "true" } else { "false" })))
            }
        }

        deserializer.deserialize_any(Any)
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
                let at = Timestamp::from_millis(milliseconds).map_err(E::custom)?;
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
        first.arm = Some("treatment".into());
        first.results[1].propensity = Some(0.25);
        let schema = LogSchema::default();
        let again = parse(&serde_json::to_vec(&first).unwrap(), &schema).unwrap().event;
        first.results.iter_mut().for_each(|result| result.features.clear());
        assert_eq!(again, first);
    }

    #[test]
    fn an_arm_may_be_written_as_a_number_or_a_boolean() {
        let arm = |written: Value| {
            let mut event = event();
            event["arm"] = written;
            read(&event).map(|parsed| parsed.event.arm)
        };
        let named = |name: &str| Some(name.to_owned());
        assert_eq!(arm(json!(1)).unwrap(), named("1"));
        assert_eq!(arm(json!(-1)).unwrap(), named("-1"));
        assert_eq!(arm(json!(true)).unwrap(), named("true"));
        assert_eq!(arm(json!("b")).unwrap(), named("b"));
        assert_eq!(arm(Value::Null).unwrap(), None);
        assert!(arm(json!(1.5)).unwrap_err().to_string().contains("a whole number or a boolean"));
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
        let refused = |after: &str, field: &str| {
            let json = serde_json::to_string(&event()).unwrap().replacen(after, &format!("{after}{field}"), 1);
            parse(json.as_bytes(), &LogSchema::with_features(["bm25_score"])).unwrap_err().to_string()
        };
        let of_event = refused("{", r#""device": "tv", "#);
        assert!(of_event.starts_with("device: given twice at line 1"), "{of_event}");
        for field in [r#""clicked": true"#, r#""click_timestamp": null"#, r#""bm25_score": "none""#, r#""score": 1"#] {
            let error = refused(r#""results":[{"#, &format!("{field}, "));
            let name = field.split('"').nth(1).unwrap();
            assert!(error.starts_with(&format!("results[0].{name}: given twice at line 1")), "{error}");
        }
    }

    #[test]
    fn a_value_of_a_wrong_type_is_refused_with_its_field_and_its_place_in_the_message() {
        let refused = |pointer: &str, value: Value| {
            let mut event = event();
            *event.pointer_mut(pointer).unwrap() = value;
            read(&event).unwrap_err().to_string()
        };
        for (pointer, value, expected) in [
            ("/results/1/clicked", Value::Null, "results[1].clicked: invalid type: null, expected a boolean at line 1"),
            (
                "/results/0/position",
                json!(-1),
                "results[0].position: invalid value: integer `-1`, expected u32 at line 1",
            ),
            ("/results/0/click_timestamp", json!("noon"), "results[0].click_timestamp: `noon` is not a timestamp"),
            ("/results/1", json!(5), "invalid type: integer `5`, expected an object in `results[1]` at line 1"),
            ("/results", json!("none"), "invalid type: string \"none\", expected a list in `results` at line 1"),
            ("/device", json!(7), "device: invalid type: integer `7`, expected a string at line 1"),
        ] {
            let error = refused(pointer, value);
            assert!(error.starts_with(expected), "{error}");
            assert_eq!(error.matches(" at line ").count(), 1, "{error}");
        }
    }

    #[test]
    fn a_number_is_a_time_in_milliseconds_and_what_looks_like_seconds_is_refused() {
        let mut event = event();
        event["query_timestamp"] = json!(1_769_860_800_250_i64);
        assert_eq!(read(&event).unwrap().event.query_timestamp, Timestamp(1_769_860_800_250_000));
        let error = refused("/query_timestamp", json!(1_769_860_800));
        assert!(
            error.starts_with("query_timestamp: 1769860800 looks like seconds: write milliseconds since 1970"),
            "{error}"
        );
    }

    #[test]
    fn each_refusal_names_its_field() {
        assert!(refused("/query_id", Value::Null).starts_with("query_id: missing at line 1"));
        assert!(refused("/results/0/score", Value::Null).starts_with("results[0].score: missing at line 1"));
        assert!(refused("/query_timestamp", json!("noon")).starts_with("query_timestamp: `noon` is not a timestamp"));
        assert_eq!(refused("/results", json!([])), "`results` is empty: an event without a result teaches nothing");
        assert_eq!(refused("/results/1/position", json!(0)), "results[1].position: positions count from 1, not from 0");
        assert_eq!(refused("/results/1/position", json!(1)), "results[1].position: 1 appears twice");
        assert_eq!(
            refused("/results/1/position", json!(2_147_483_648_u32)),
            "results[1].position: 2147483648 is too large, positions go up to 2147483647"
        );
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
