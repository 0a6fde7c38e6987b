use std::borrow::Cow;

use serde_json::{Value, json};

use super::*;
use crate::events::Timestamp;

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
        ("/results/0/position", json!(-1), "results[0].position: invalid value: integer `-1`, expected u32 at line 1"),
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
