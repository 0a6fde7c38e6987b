//! Lines of an OpenSearch bulk file as rows of UBI's two indexes, and what is wrong with a line that is none.

use ranking::events::Timestamp;
use serde::{Deserialize, de::IgnoredAny};

/// Beyond reason, and far from what a position in the lake can be.
const MAX_ORDINAL: u32 = 1 << 30;

/// A line.
#[derive(Debug, PartialEq)]
pub enum Line {
    /// What the next line is for: the index's name, where it is named.
    Action(Option<String>),
    Query(QueryRow),
    Event(EventRow),
}

/// A row of `ubi_queries`.
#[derive(Debug, PartialEq)]
pub struct QueryRow {
    pub query_id: String,
    pub user_query: String,
}

/// A row of `ubi_events`.
#[derive(Debug, PartialEq)]
pub struct EventRow {
    pub query_id: Option<String>,
    /// What somebody did, as the application calls it.
    pub action: String,
    pub application: String,
    pub session: String,
    pub user: Option<String>,
    /// The words that were typed, where the event repeats them.
    pub user_query: Option<String>,
    /// None for actions that this import has no use for.
    pub on: Option<OnResult>,
}

/// An action on a result.
#[derive(Debug, PartialEq)]
pub struct OnResult {
    pub what: What,
    pub at: Timestamp,
    /// The timestamp had no zone.
    pub naive: bool,
    pub document: String,
    /// As counted by the application; impressions have one.
    pub ordinal: Option<u32>,
    pub dwell_seconds: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Impression,
    Click,
    Cart,
    Purchase,
}

impl What {
    fn of(action: &str) -> Option<Self> {
        Some(match action {
            "impression" => Self::Impression,
            "click" | "item_click" => Self::Click,
            "add_to_cart" => Self::Cart,
            "purchase" => Self::Purchase,
            _ => return None,
        })
    }
}

#[derive(Deserialize)]
struct Wire {
    index: Option<Action>,
    create: Option<Action>,
    update: Option<IgnoredAny>,
    delete: Option<IgnoredAny>,
    application: Option<String>,
    action_name: Option<String>,
    query_id: Option<String>,
    session_id: Option<String>,
    client_id: Option<String>,
    user_id: Option<String>,
    user_query: Option<String>,
    timestamp: Option<Moment>,
    event_attributes: Option<Attributes>,
}

#[derive(Deserialize)]
struct Action {
    #[serde(rename = "_index")]
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Moment {
    Text(String),
    /// Milliseconds since 1970.
    Number(i64),
}

#[derive(Default, Deserialize)]
struct Attributes {
    object: Option<Object>,
    position: Option<Position>,
    dwell_time: Option<f64>,
    session_id: Option<String>,
}

#[derive(Deserialize)]
struct Object {
    object_id: Option<Id>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Text(String),
    Number(i64),
}

#[derive(Deserialize)]
struct Position {
    ordinal: Option<i64>,
}

/// Reads a line, of which `index` is known where an action line came before it.
pub fn read(line: &[u8], index: Option<&str>) -> Result<Line, String> {
    let mut wire: Wire = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let is_document = wire.query_id.is_some() || wire.action_name.is_some() || wire.user_query.is_some();
    if !is_document {
        if let Some(action) = wire.index.take().or(wire.create.take()) {
            return Ok(Line::Action(action.name));
        }
        if wire.update.is_some() || wire.delete.is_some() {
            return Err("only `index` and `create` are imported, not `update` or `delete`".into());
        }
    }
    let is_event = match index {
        Some(index) if index.contains("events") => true,
        Some(index) if index.contains("queries") => false,
        _ => wire.action_name.is_some(),
    };
    if is_event {
        return event(wire).map(Line::Event);
    }
    let query_id = wire.query_id.filter(|id| !id.is_empty()).ok_or("a query without `query_id`")?;
    Ok(Line::Query(QueryRow { query_id, user_query: wire.user_query.unwrap_or_default() }))
}

fn event(wire: Wire) -> Result<EventRow, String> {
    let some = |text: Option<String>| text.filter(|text| !text.is_empty());
    let action = some(wire.action_name).ok_or("an event without `action_name`")?;
    let attributes = wire.event_attributes.unwrap_or_default();
    let client = some(wire.client_id);
    let session = some(wire.session_id).or(some(attributes.session_id)).or_else(|| client.clone());
    let on = match What::of(&action) {
        None => None,
        Some(what) => {
            let missing = |field: &str| format!("`{action}` without `{field}`");
            let (at, naive) = moment(wire.timestamp.ok_or_else(|| missing("timestamp"))?)?;
            let document = attributes.object.and_then(|object| object.object_id);
            let document = match document.ok_or_else(|| missing("event_attributes.object.object_id"))? {
                Id::Text(id) => id,
                Id::Number(id) => id.to_string(),
            };
            let ordinal = match attributes.position.and_then(|position| position.ordinal) {
                None if what == What::Impression => return Err(missing("event_attributes.position.ordinal")),
                None => None,
                Some(ordinal) => Some(u32::try_from(ordinal).ok().filter(|&ordinal| ordinal <= MAX_ORDINAL)),
            };
            let ordinal = match ordinal {
                Some(None) => {
                    return Err(format!("`{action}` at a position that is none: it is below 0 or beyond reason"));
                }
                ordinal => ordinal.flatten(),
            };
            let dwell_seconds = attributes.dwell_time.filter(|dwell| dwell.is_finite());
            if dwell_seconds.is_some_and(|dwell| dwell < 0.0) {
                return Err(format!("`{action}` with a negative `event_attributes.dwell_time`"));
            }
            Some(OnResult { what, at, naive, document, ordinal, dwell_seconds })
        }
    };
    Ok(EventRow {
        query_id: some(wire.query_id),
        action,
        application: wire.application.unwrap_or_default(),
        session: session.unwrap_or_default(),
        user: some(wire.user_id).or(client),
        user_query: some(wire.user_query),
        on,
    })
}

/// UBI's clients write RFC 3339, OpenSearch's plugin `+0000` without a colon, older clients milliseconds.
fn moment(moment: Moment) -> Result<(Timestamp, bool), String> {
    let text = match moment {
        Moment::Number(millis) => {
            let at = Timestamp::from_millis(millis).map_err(|error| format!("`timestamp`: {error}"))?;
            return Ok((at, false));
        }
        Moment::Text(text) => text,
    };
    match chrono::DateTime::parse_from_str(&text, "%Y-%m-%dT%H:%M:%S%.f%z") {
        Ok(moment) => Ok((Timestamp(moment.timestamp_micros()), false)),
        Err(_) => Timestamp::read(&text).map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_read_in_all_the_ways_that_ubi_is_written() {
        let noon = Timestamp(1_769_860_800_250_000);
        for text in ["2026-01-31T12:00:00.250Z", "2026-01-31T12:00:00.250+0000", "2026-01-31T14:00:00.250+02:00"] {
            assert_eq!(moment(Moment::Text(text.into())), Ok((noon, false)), "{text}");
        }
        assert_eq!(moment(Moment::Text("2026-01-31T12:00:00.250".into())), Ok((noon, true)));
        assert_eq!(moment(Moment::Number(1_769_860_800_250)), Ok((noon, false)));
        assert!(moment(Moment::Text("noon".into())).is_err());
        assert!(moment(Moment::Number(i64::MAX)).is_err());
        assert!(moment(Moment::Number(1_769_860_800)).unwrap_err().contains("looks like seconds"));
    }

    #[test]
    fn a_line_is_an_action_a_query_or_an_event_or_says_what_it_lacks() {
        let read_alone = |line: &str| read(line.as_bytes(), None);
        assert_eq!(read_alone(r#"{"create": {"_index": "ubi_events"}}"#), Ok(Line::Action(Some("ubi_events".into()))));
        assert_eq!(read_alone(r#"{"index": {}}"#), Ok(Line::Action(None)));
        assert!(read_alone(r#"{"delete": {"_id": "1"}}"#).unwrap_err().contains("not `update` or `delete`"));
        let query = QueryRow { query_id: "q".into(), user_query: "shoes".into() };
        assert_eq!(read_alone(r#"{"query_id": "q", "user_query": "shoes"}"#), Ok(Line::Query(query)));
        assert!(read_alone(r#"{"user_query": "shoes"}"#).unwrap_err().contains("without `query_id`"));
        let Ok(Line::Event(event)) = read_alone(r#"{"query_id": null, "action_name": "search", "client_id": "c"}"#)
        else {
            panic!()
        };
        assert_eq!((event.query_id, &*event.session, event.user.as_deref(), event.on), (None, "c", Some("c"), None));
        for (line, lack) in [
            (r#"{"action_name": "click", "query_id": "q"}"#, "without `timestamp`"),
            (r#"{"action_name": "click", "query_id": "q", "timestamp": 1769860800250}"#, "object.object_id"),
            (
                r#"{"action_name": "impression", "query_id": "q", "timestamp": 1769860800250, "event_attributes": {"object": {"object_id": "d"}}}"#,
                "position.ordinal",
            ),
            (
                r#"{"action_name": "click", "timestamp": 1769860800250, "event_attributes": {"object": {"object_id": 7}, "position": {"ordinal": -1}}}"#,
                "at a position that is none",
            ),
        ] {
            assert!(read_alone(line).unwrap_err().contains(lack), "{line}: {:?}", read_alone(line));
        }
        assert!(read(br#"{"query_id": "q"}"#, Some("ubi_events")).unwrap_err().contains("action_name"));
    }
}
