//! The log: sessions of searches, each with a list, as an endless supply cut at the number of events asked for.
//!
//! An event is a function of the seed, of its day and of its number within the day; sessions are dealt within blocks of a day's
//! events. So a log of more days at the same rate begins with the events of the shorter one, and one of more events a day has
//! the same searches and clicks at other times of the day.

use std::f64::consts::TAU;
use std::fmt::Write as _;

use dataset::seeded::{Stream, mix};
use ranking::{
    events::{LogSchema, ResultImpression, SearchEvent, Timestamp},
    propensity::Exploration,
};

use super::{
    SimulateOptions, SimulatedArm,
    clicks::Users,
    world::{FEATURES, PREFERENCE, World},
};
use crate::generate::random::draw;

/// Streams below the seed.
const BLOCKS: u64 = 101;
const EVENTS: u64 = 102;
const ARMS: u64 = 103;
/// Events among which sessions are dealt; no session is longer than a block.
const BLOCK: u64 = 64;
/// Searches of a session, all equally often.
const SEARCHES: [u64; 8] = [1, 1, 1, 2, 2, 3, 4, 5];
/// The day's traffic ends so long before midnight that its last sessions end before it.
const DAY_SECONDS: f64 = 85_500.0;
const DAY_MICROS: i64 = 86_400_000_000;
/// Nights are quieter than days by up to this.
const NIGHT: f64 = 0.6;
const DEVICES: [&str; 8] = ["phone", "phone", "phone", "phone", "desktop", "desktop", "desktop", "tablet"];
const LOCATIONS: [&str; 12] = ["DE", "DE", "DE", "FR", "FR", "GB", "GB", "US", "ES", "IT", "NL", "PL"];
/// Rankings that are kept, by query, ranker and version of the features.
const KEPT: usize = 1 << 14;

/// What a ranker makes of a query, before anything is shuffled.
struct Ranking {
    key: u64,
    text: String,
    query_id: String,
    results: Vec<Ranked>,
}

struct Ranked {
    document_id: String,
    score: f64,
    grade: u8,
    features: [f32; 10],
}

/// The session that searches are being drawn for.
#[derive(Default)]
struct Session {
    id: String,
    user: u64,
    known: bool,
    ranker: u8,
    /// Among the arms, where there are any.
    arm: usize,
    device: &'static str,
    location: &'static str,
    started: i64,
    /// Searches that are still to come.
    left: u64,
}

/// Draws events one after the other.
pub struct Log {
    world: World,
    users: Users,
    schema: LogSchema,
    seed: u64,
    events: u64,
    a_day: u64,
    first_day: i64,
    results: usize,
    top_k: usize,
    rate: f64,
    exploration: Exploration,
    anonymous: f64,
    rankers: u8,
    arms: Vec<SimulatedArm>,
    second_version: Option<u64>,
    /// Where the features that are logged stand in [`FEATURES`].
    logged: Vec<usize>,
    /// Events drawn.
    drawn: u64,
    session: Session,
    rankings: Vec<Option<Ranking>>,
    order: Vec<usize>,
}

impl Log {
    /// Of options that were [checked](SimulateOptions::check).
    pub fn new(options: &SimulateOptions) -> Self {
        let logged = FEATURES
            .iter()
            .enumerate()
            .filter(|(_, (name, _))| options.log_features.iter().any(|logged| logged == name));
        let logged: Vec<usize> = logged.map(|(at, _)| at).collect();
        Self {
            world: World::new(options),
            users: Users::new(options.click_model, &options.examination, &options.attractiveness),
            schema: LogSchema::with_features(logged.iter().map(|&at| FEATURES[at].0)),
            seed: options.seed,
            events: options.events,
            a_day: options.events.div_ceil(u64::from(options.days)),
            first_day: options.first_day().0,
            results: options.results as usize,
            top_k: options.top_k.min(options.results) as usize,
            rate: options.exploration,
            exploration: Exploration::new(options.exploration, options.top_k as usize).unwrap_or_default(),
            anonymous: options.anonymous,
            rankers: options.rankers,
            arms: options.arms.clone(),
            second_version: options.second_version.map(u64::from),
            logged,
            drawn: 0,
            session: Session::default(),
            rankings: (0..KEPT).map(|_| None).collect(),
            order: Vec::new(),
        }
    }

    pub fn world(&self) -> &World {
        &self.world
    }

    /// What its events hold beside the fields that all have.
    pub fn schema(&self) -> &LogSchema {
        &self.schema
    }

    /// An event to be [filled](Self::fill).
    pub fn blank() -> SearchEvent {
        SearchEvent {
            session_id: String::new(),
            query_id: String::new(),
            user_id: None,
            query: String::new(),
            query_timestamp: Timestamp(0),
            results: Vec::new(),
            device: String::new(),
            location: String::new(),
            ranker_version: None,
            explored: None,
            arm: None,
        }
    }

    /// Makes `event` the next one, in its own memory; false, and nothing done, after the last.
    pub fn fill(&mut self, event: &mut SearchEvent) -> bool {
        if self.drawn == self.events {
            return false;
        }
        let (day, of_day) = (self.drawn / self.a_day, self.drawn % self.a_day);
        self.drawn += 1;
        if self.session.left == 0 || of_day.is_multiple_of(BLOCK) {
            self.begin_session(day, of_day);
        }
        self.session.left -= 1;

        let key = draw(draw(draw(self.seed, EVENTS), day), of_day);
        let mut random = Stream::new(&[key]);
        self.session.started += 15_000_000 + random.below(135_000_000) as i64;
        let query = self.world.asked(random.unit());
        let version = u8::from(self.second_version.is_some_and(|since| day >= since));
        let explored = random.unit() < self.rate;

        self.order.clear();
        self.order.extend(0..self.results);
        if explored {
            for i in (1..self.top_k).rev() {
                self.order.swap(i, random.below(i as u64 + 1) as usize);
            }
        }
        let preference = self.world.preference(self.session.user);
        let shown_at = Timestamp(self.session.started);
        let slot = self.ranking(query, self.session.ranker, version);
        let Some(ranking) = &self.rankings[slot] else { return false };

        event.results.resize_with(self.results, blank_result);
        for (at, result) in event.results.iter_mut().enumerate() {
            let ranked = &ranking.results[self.order[at]];
            result.position = at as u32 + 1;
            result.document_id.clone_from(&ranked.document_id);
            result.score = ranked.score;
            result.propensity = Some(self.exploration.propensity(self.order[at], at, self.results));
            result.features.clear();
            let value = |&at: &usize| match at {
                PREFERENCE => self.session.known.then_some(preference),
                _ => Some(ranked.features[at]),
            };
            result.features.extend(self.logged.iter().map(value));
        }
        let grade = |at: usize| ranking.results[self.order[at]].grade;
        self.users.browse(&mut event.results, grade, shown_at, random.draw());

        event.session_id.clone_from(&self.session.id);
        event.query_id.clone_from(&ranking.query_id);
        event.query.clone_from(&ranking.text);
        event.query_timestamp = shown_at;
        event.explored = Some(explored);
        set(&mut event.device, self.session.device);
        set(&mut event.location, self.session.location);
        let version = event.ranker_version.get_or_insert_default();
        version.clear();
        // Writing into a string does not fail.
        let _ = write!(version, "r{}", self.session.ranker + 1);
        match self.arms.get(self.session.arm) {
            Some(arm) => set(event.arm.get_or_insert_default(), &arm.name),
            None => event.arm = None,
        }
        if self.session.known {
            let user = event.user_id.get_or_insert_default();
            user.clear();
            let _ = write!(user, "u{}", self.session.user + 1);
        } else {
            event.user_id = None;
        }
        true
    }

    fn begin_session(&mut self, day: u64, of_day: u64) {
        let (block, in_block) = (of_day / BLOCK, of_day % BLOCK);
        let mut random = Stream::new(&[draw(self.seed, BLOCKS), day, block, in_block]);
        let searches = SEARCHES[random.below(SEARCHES.len() as u64) as usize].min(BLOCK - in_block);
        let user = self.world.asker(random.unit());
        let within = (of_day as f64 + searches as f64 * random.unit()) / self.a_day as f64;
        let within = within.min(1.0);
        let second = DAY_SECONDS * (within + NIGHT * (TAU * within).sin() / TAU);
        let micros = (second * 1e6) as i64 + random.below(1_000_000) as i64;
        let session = &mut self.session;
        session.id.clear();
        let _ = write!(session.id, "s{day}-{block}-{in_block}");
        session.user = user;
        session.known = random.unit() >= self.anonymous;
        session.ranker = random.below(u64::from(self.rankers)) as u8;
        session.device = DEVICES[random.below(DEVICES.len() as u64) as usize];
        session.location = LOCATIONS[(self.world.place(user) % LOCATIONS.len() as u64) as usize];
        session.started = self.first_day + day as i64 * DAY_MICROS + micros;
        session.left = searches;
        if !self.arms.is_empty() {
            // A user stays in an arm, drawn once and for all; who is not known is drawn anew each time.
            let drawn = if session.known { draw(draw(self.seed, ARMS), user) } else { random.draw() };
            session.arm = (drawn % self.arms.len() as u64) as usize;
            session.ranker = self.arms[session.arm].ranker - 1;
        }
    }

    /// Where the ranking of a query is kept; made where another one was.
    fn ranking(&mut self, query: u64, ranker: u8, version: u8) -> usize {
        let key = (query << 9) | (u64::from(ranker) << 1) | u64::from(version);
        let slot = (mix(key) % KEPT as u64) as usize;
        if self.rankings[slot].as_ref().is_none_or(|kept| kept.key != key) {
            self.rankings[slot] = Some(self.rank(query, ranker, version, key));
        }
        slot
    }

    fn rank(&self, number: u64, ranker: u8, version: u8, key: u64) -> Ranking {
        let query = self.world.query(number);
        let scored = self.world.candidates(&query, version).map(|candidate| (candidate.score(ranker), candidate));
        let mut scored: Vec<_> = scored.collect();
        // Stable: of equals the first candidate wins.
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        let ranked = |(score, candidate): &(f32, super::world::Candidate)| Ranked {
            document_id: document_id(candidate.document),
            score: f64::from(*score),
            grade: candidate.grade,
            features: candidate.features,
        };
        let results = scored[..self.results].iter().map(ranked).collect();
        Ranking { key, text: self.world.text(&query), query_id: query_id(number), results }
    }
}

/// As the log and the feature tables name a query.
pub fn query_id(number: u64) -> String {
    format!("q{}", number + 1)
}

/// As the log and the feature tables name a document.
pub fn document_id(number: u64) -> String {
    format!("d{}", number + 1)
}

/// As the log and the feature tables name a user.
pub fn user_id(number: u64) -> String {
    format!("u{}", number + 1)
}

fn blank_result() -> ResultImpression {
    ResultImpression {
        position: 0,
        document_id: String::new(),
        score: 0.0,
        clicked: false,
        click_timestamp: None,
        dwell_time_seconds: None,
        added_to_cart: false,
        purchased: false,
        propensity: None,
        features: Vec::new(),
    }
}

fn set(text: &mut String, to: &str) {
    text.clear();
    text.push_str(to);
}
