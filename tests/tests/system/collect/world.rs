//! Events whose every value follows from their number, and messages that are none.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate};
use serde_json::json;
use tests::servers::Broker;

/// One message in so many is malformed.
const MALFORMED: u64 = 499;
/// Microseconds.
const DAY: i64 = 86_400_000_000;
const BEGIN: i64 = 1_769_817_600_000_000; // 2026-01-31T00:00:00Z

/// What a search event says, in one text that two readers can compare.
pub type Content = String;

/// All that was made, and where it went.
pub struct World {
    partitions: u32,
    made: u64,
    events: Vec<Content>,
    dates: BTreeMap<NaiveDate, u64>,
    /// Payloads by partition and offset, as long as nothing is sent twice.
    malformed: BTreeMap<(i32, i64), Vec<u8>>,
    offsets: Vec<i64>,
}

impl World {
    pub fn new(partitions: u32) -> Self {
        Self {
            partitions,
            made: 0,
            events: Vec::new(),
            dates: BTreeMap::new(),
            malformed: BTreeMap::new(),
            offsets: vec![0; partitions as usize],
        }
    }

    /// So many messages more, with their partitions.
    pub fn make(&mut self, messages: u64) -> Vec<(i32, Vec<u8>)> {
        (0..messages).map(|_| self.one()).collect()
    }

    pub fn send(&mut self, broker: &Broker, topic: &str, messages: u64) {
        let messages = self.make(messages);
        broker.send(topic, messages.iter().map(|(partition, message)| (*partition, message.as_slice())));
    }

    fn one(&mut self) -> (i32, Vec<u8>) {
        let n = self.made;
        self.made += 1;
        let partition = (n % u64::from(self.partitions)) as i32;
        let offset = self.offsets[partition as usize];
        self.offsets[partition as usize] += 1;
        if n % MALFORMED == MALFORMED / 2 {
            let payload = match n % 4 {
                0 => format!("not JSON, number {n}").into_bytes(),
                1 => format!("{{\"session_id\": \"{n}\"}}").into_bytes(),
                2 => [&[0xFF, 0x00, 0xFE], n.to_string().as_bytes()].concat(),
                _ => Vec::new(),
            };
            self.malformed.insert((partition, offset), payload.clone());
            return (partition, payload);
        }
        (partition, self.event(n))
    }

    fn event(&mut self, n: u64) -> Vec<u8> {
        // Nearly all within two days; now and then one that is late.
        let late = if n % 97 == 3 { 3 } else { 0 };
        let at = BEGIN + (n as i64 * 7_919_000_001) % (2 * DAY) - late * DAY;
        let time = |at: i64| DateTime::from_timestamp_micros(at).unwrap().to_rfc3339();
        let (mut results, mut content) = (Vec::new(), format!("s{n} q{} {at}", n % 1009));
        for position in 1..=1 + n % 4 {
            let clicked = (n + position).is_multiple_of(3);
            let dwell = clicked.then_some(f64::from((n % 600) as u32) / 4.0);
            let document = format!("d{}", n * 31 % 5003 + position);
            content += &format!("|{position} {document} {clicked} {dwell:?}");
            results.push(json!({
                "position": position, "document_id": document, "score": 10.5 - position as f64, "clicked": clicked,
                "click_timestamp": clicked.then(|| time(at + 2_000_000)), "dwell_time_seconds": dwell,
                "added_to_cart": false, "purchased": false,
            }));
        }
        let event = json!({
            "session_id": format!("s{n}"), "query_id": format!("q{}", n % 1009), "user_id": n.is_multiple_of(2).then(|| format!("u{}", n % 50)),
            "query": format!("red shoes {n}"), "query_timestamp": time(at), "results": results, "device": "phone", "location": "DE",
        });
        self.events.push(content);
        *self.dates.entry(DateTime::from_timestamp_micros(at).unwrap().date_naive()).or_default() += 1;
        serde_json::to_vec(&event).unwrap()
    }

    /// The contents of all events.
    pub fn events(&self) -> &[Content] {
        &self.events
    }

    pub fn messages(&self) -> u64 {
        self.made
    }

    pub fn dates(&self) -> BTreeMap<NaiveDate, u64> {
        self.dates.clone()
    }

    pub fn malformed(&self) -> &BTreeMap<(i32, i64), Vec<u8>> {
        &self.malformed
    }
}

/// Moments drawn by chance, the same for the same seed.
pub struct Chance(u64);

impl Chance {
    /// From `LOCKSTEP_TEST_SEED`, else from the clock; says which.
    pub fn seeded() -> Self {
        let given = std::env::var("LOCKSTEP_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let clock = || std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64);
        let seed = given.unwrap_or_else(clock);
        println!("LOCKSTEP_TEST_SEED={seed}");
        Self(seed)
    }

    pub fn below(&mut self, bound: u32) -> u32 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % u64::from(bound)) as u32
    }
}
