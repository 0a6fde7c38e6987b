//! Queries and events joined: which lists were shown, and what came of their results.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use ranking::events::{ResultImpression, SearchEvent, Timestamp};

use super::rows::{EventRow, QueryRow, What};

/// Microseconds. Impressions that follow each other no later than this are logged as one list, or as one more part of it.
const BURST: i64 = 100_000;

/// Rows as they come.
#[derive(Default)]
pub struct Joined {
    pub query_rows: u64,
    pub event_rows: u64,
    /// Events whose timestamp had no zone.
    pub naive: u64,
    /// Actions that no list can use.
    pub others: BTreeMap<String, u64>,
    /// Events that name no query.
    pub without_query_id: u64,
    /// What was typed, by query id.
    queries: HashMap<String, String>,
    /// By query id and session.
    searches: HashMap<(String, String), Search>,
    events_by_query: HashMap<String, u64>,
    /// Applications whose first result has the ordinal 0.
    from_zero: BTreeSet<String>,
}

/// All that happened to a query id in a session.
#[derive(Default)]
struct Search {
    impressions: Vec<Impression>,
    actions: Vec<Act>,
}

struct Impression {
    at: Timestamp,
    ordinal: u32,
    document: String,
    application: String,
    user: Option<String>,
    user_query: Option<String>,
}

struct Act {
    what: What,
    at: Timestamp,
    document: String,
    dwell_seconds: Option<f64>,
}

/// A list that is being put together. Two lists of a query id and session begin in different bursts, so at different times.
struct List {
    event: SearchEvent,
    /// Where each result is said to stand.
    ordinals: Vec<u32>,
}

/// What a join gives beside the events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Different query ids of the query rows.
    pub queries: u64,
    /// Of these, how many showed nothing.
    pub queries_without_impressions: u64,
    /// Different query ids of the events; their absence counts as one.
    pub event_query_ids: u64,
    /// Of these, how many have no query row, and how many events they have.
    pub unknown_query_ids: u64,
    pub unknown_events: u64,
    /// Lists of unknown queries.
    pub unknown_lists: u64,
    /// Lists that replaced another one under the same query id.
    pub further_lists: u64,
    pub repeated_impressions: u64,
    /// Impressions at a position that another document of their burst has; they stand behind it.
    pub shared_positions: u64,
    /// Impressions of a document that stands elsewhere in the same list; where it was shown first counts.
    pub documents_again: u64,
    /// Clicks, carts and purchases of documents that were not shown.
    pub clicks_not_shown: u64,
    pub carts_not_shown: u64,
    pub purchases_not_shown: u64,
    /// Applications that count positions from 0; theirs were raised by one.
    pub from_zero: Vec<String>,
}

impl Joined {
    pub fn query(&mut self, row: QueryRow) {
        self.query_rows += 1;
        let text = self.queries.entry(row.query_id).or_default();
        // The rows of a query id are one a request; some of these were made without words.
        if text.is_empty() {
            *text = row.user_query;
        }
    }

    pub fn event(&mut self, row: EventRow) {
        self.event_rows += 1;
        let Some(query_id) = row.query_id else {
            self.without_query_id += 1;
            return;
        };
        *self.events_by_query.entry(query_id.clone()).or_default() += 1;
        let Some(on) = row.on else {
            *self.others.entry(row.action).or_default() += 1;
            return;
        };
        self.naive += u64::from(on.naive);
        let search = self.searches.entry((query_id, row.session)).or_default();
        match (on.what, on.ordinal) {
            (What::Impression, Some(ordinal)) => {
                if ordinal == 0 {
                    self.from_zero.insert(row.application.clone());
                }
                let (application, user, user_query) = (row.application, row.user, row.user_query);
                search.impressions.push(Impression {
                    at: on.at,
                    ordinal,
                    document: on.document,
                    application,
                    user,
                    user_query,
                });
            }
            (what, _) => {
                search.actions.push(Act { what, at: on.at, document: on.document, dwell_seconds: on.dwell_seconds });
            }
        }
    }

    /// One event a list, in the order of their times; lists of unknown queries only if `keep_unknown`.
    pub fn finish(self, keep_unknown: bool) -> (Vec<SearchEvent>, Counts) {
        let unknown = self.events_by_query.iter().filter(|(id, _)| !self.queries.contains_key(*id));
        let (unknown_ids, unknown_events) = unknown.fold((0, 0), |(ids, events), (_, count)| (ids + 1, events + count));
        let nameless = u64::from(self.without_query_id > 0);
        let mut counts = Counts {
            queries: self.queries.len() as u64,
            event_query_ids: self.events_by_query.len() as u64 + nameless,
            unknown_query_ids: unknown_ids + nameless,
            unknown_events: unknown_events + self.without_query_id,
            from_zero: self.from_zero.iter().cloned().collect(),
            ..Counts::default()
        };
        let mut shown = HashSet::new();
        let mut events = Vec::new();
        for ((query_id, session), mut search) in self.searches {
            let text = self.queries.get(&query_id);
            search.impressions.sort_by(|a, b| (a.at, a.ordinal, &a.document).cmp(&(b.at, b.ordinal, &b.document)));
            let mut lists: Vec<List> = Vec::new();
            for burst in search.impressions.chunk_by(|a, b| b.at.0 - a.at.0 <= BURST) {
                let ordinal = |one: &Impression| one.ordinal + u32::from(self.from_zero.contains(&one.application));
                let fits = lists.last().is_some_and(|list| burst.iter().all(|one| list.fits(ordinal(one), one)));
                if !fits {
                    let first = &burst[0];
                    let words = first.user_query.as_ref().or(text);
                    lists.push(List::begin(&query_id, &session, first, words.cloned().unwrap_or_default()));
                }
                let Some(list) = lists.last_mut() else { continue };
                burst.iter().for_each(|one| list.show(ordinal(one), one, &mut counts));
            }
            let mut lists: Vec<SearchEvent> = lists.into_iter().map(List::finish).collect();
            if text.is_none() {
                counts.unknown_lists += lists.len() as u64;
                if !keep_unknown {
                    continue;
                }
            }
            counts.further_lists += (lists.len() as u64).saturating_sub(1);
            search.actions.sort_by(|a, b| (a.at, &a.document).cmp(&(b.at, &b.document)));
            for act in search.actions {
                act.take_place(&mut lists, &mut counts);
            }
            if !lists.is_empty() {
                shown.insert(query_id);
            }
            events.extend(lists);
        }
        counts.queries_without_impressions = self.queries.keys().filter(|id| !shown.contains(*id)).count() as u64;
        let key = |event: &SearchEvent| (event.query_timestamp, event.query_id.clone(), event.session_id.clone());
        events.sort_by_cached_key(key);
        (events, counts)
    }
}

impl List {
    fn begin(query_id: &str, session: &str, first: &Impression, query: String) -> Self {
        let event = SearchEvent {
            session_id: session.to_owned(),
            query_id: query_id.to_owned(),
            user_id: first.user.clone(),
            query,
            query_timestamp: first.at,
            results: Vec::new(),
            device: "unknown".into(),
            location: "unknown".into(),
            ranker_version: None,
            explored: None,
            arm: None,
        };
        Self { event, ordinals: Vec::new() }
    }

    fn ordinal_of(&self, document: &str) -> Option<u32> {
        let at = self.event.results.iter().position(|result| result.document_id == document);
        at.map(|at| self.ordinals[at])
    }

    /// Whether a later burst can show this in the same list.
    fn fits(&self, ordinal: u32, one: &Impression) -> bool {
        match self.ordinal_of(&one.document) {
            Some(there) => there == ordinal,
            None => !self.ordinals.contains(&ordinal),
        }
    }

    fn show(&mut self, ordinal: u32, one: &Impression, counts: &mut Counts) {
        match self.ordinal_of(&one.document) {
            Some(there) if there == ordinal => counts.repeated_impressions += 1,
            Some(_) => counts.documents_again += 1,
            None => {
                counts.shared_positions += u64::from(self.ordinals.contains(&ordinal));
                self.ordinals.push(ordinal);
                self.event.results.push(result(ordinal, one.document.clone()));
            }
        }
    }

    /// Each result at its ordinal, or at the next position behind the one before it: an application that counts 1, 1, 2 shows three.
    fn finish(mut self) -> SearchEvent {
        self.event.results.sort_by_key(|result| result.position);
        let mut last = 0;
        for result in &mut self.event.results {
            result.position = result.position.max(last + 1);
            last = result.position;
        }
        self.event
    }
}

impl Act {
    /// Marks the result in the list that stood there at the time; else in one that was shown at some other time.
    fn take_place(self, lists: &mut [SearchEvent], counts: &mut Counts) {
        let shows = |list: &SearchEvent| list.results.iter().any(|result| result.document_id == self.document);
        let at_the_time = lists.iter().rposition(|list| list.query_timestamp <= self.at && shows(list));
        let list = at_the_time.or_else(|| lists.iter().position(shows)).map(|at| &mut lists[at]);
        let result = list.and_then(|list| list.results.iter_mut().find(|result| result.document_id == self.document));
        let Some(result) = result else {
            match self.what {
                What::Cart => counts.carts_not_shown += 1,
                What::Purchase => counts.purchases_not_shown += 1,
                What::Click | What::Impression => counts.clicks_not_shown += 1,
            }
            return;
        };
        match self.what {
            What::Cart => result.added_to_cart = true,
            What::Purchase => result.purchased = true,
            What::Click | What::Impression => {
                result.clicked = true;
                result.click_timestamp = result.click_timestamp.or(Some(self.at));
                result.dwell_time_seconds = result.dwell_time_seconds.or(self.dwell_seconds);
            }
        }
    }
}

/// UBI logs no score.
fn result(position: u32, document_id: String) -> ResultImpression {
    ResultImpression {
        position,
        document_id,
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
