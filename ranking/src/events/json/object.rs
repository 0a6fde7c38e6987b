//! An event and its results as JSON objects: each field once, those that must be there, and words that name the field and the result.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{
    super::{EventView, LogSchema, ResultView},
    value::{Name, Number, Text, Time},
};

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

pub(super) struct Event<'s>(pub &'s LogSchema);

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
