//! OpenSearch User Behavior Insights (<https://github.com/opensearch-project/user-behavior-insights>) into the lake: bulk files with
//! rows of `ubi_queries` and `ubi_events`, joined into search events.
//!
//! - Impressions make the lists: what was shown, and where. A query id may show several lists one after the other (words changed,
//!   results sorted anew); a list begins where a position or a document is taken otherwise than before. Impressions of one burst are one list:
//!   where two of them claim a position, the later one stands behind the other.
//! - Clicks (`click`, `item_click`), `add_to_cart` and `purchase` mark results; on a document that was not shown they are counted.
//! - UBI knows no scores, devices or places: the score is 0, the other two are `unknown`. A user is the `user_id`, else the `client_id`.
//!
//! All rows are in memory until they are joined, for their order in the files says nothing about what belongs together.

mod join;
mod rows;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::File,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
};

use chrono::NaiveDate;
use ranking::events::LogSchema;
use serde::Serialize;
use xxhash_rust::xxh3::Xxh3Default;

use self::{
    join::Joined,
    rows::{Line, read},
};
use crate::{
    PipelineError,
    lake::{Lake, LakeWriter, RollOptions},
};

/// Bad lines that a report shows.
const SHOWN: usize = 10;

/// Options of [`import`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UbiOptions {
    /// Bulk files, read as one.
    pub inputs: Vec<PathBuf>,
    /// The root of the lake.
    pub lake: String,
    /// Import lists whose query has no row, with the words that their impressions repeat, if any.
    pub keep_unknown: bool,
}

/// What was found, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct UbiReport {
    pub lines: u64,
    pub query_rows: u64,
    /// Different query ids among these.
    pub queries: u64,
    /// Of these, how many showed nothing.
    pub queries_without_impressions: u64,
    pub event_rows: u64,
    /// Different query ids of the events; that some have none counts as one more.
    pub event_query_ids: u64,
    /// Of these, how many have no query row; and of how many events.
    pub unknown_query_ids: u64,
    pub unknown_events: u64,
    pub events_without_query_id: u64,
    /// Lists of unknown queries, and whether they were imported.
    pub unknown_lists: u64,
    pub kept_unknown: bool,
    /// Search events that were written, and what they hold.
    pub events: u64,
    pub impressions: u64,
    pub clicks: u64,
    pub carts: u64,
    pub purchases: u64,
    /// Lists that replaced another one under the same query id.
    pub further_lists: u64,
    pub repeated_impressions: u64,
    /// Impressions at a position that another document of their list had; they stand behind it.
    pub shared_positions: u64,
    /// Impressions of a document that stood elsewhere in the same list.
    pub documents_again: u64,
    /// On documents that were not shown.
    pub clicks_not_shown: u64,
    pub carts_not_shown: u64,
    pub purchases_not_shown: u64,
    /// Actions that no list can use, by name.
    pub other_actions: BTreeMap<String, u64>,
    /// Timestamps without a zone, taken as UTC.
    pub naive_timestamps: u64,
    /// Applications that count positions from 0.
    pub positions_from_zero: Vec<String>,
    pub bad_lines: u64,
    /// The first of them: `file:line: why`.
    pub bad: Vec<String>,
    pub lake: String,
    pub files: usize,
    pub bytes: u64,
    pub dates: Vec<NaiveDate>,
}

/// Imports; what cannot be used is counted. An error if nothing can, or if the lake has these very files already.
pub async fn import(options: &UbiOptions) -> Result<UbiReport, PipelineError> {
    let inputs = options.inputs.clone();
    let rows = tokio::task::spawn_blocking(move || Rows::read(&inputs)).await;
    let rows = rows.map_err(|error| PipelineError::data("the import broke off").because(error))??;
    let Rows { joined, lines, bad_lines, bad, content } = rows;
    if joined.query_rows + joined.event_rows == 0 {
        let error = PipelineError::data("nothing in this input is a query or an event of UBI");
        return Err(match bad.first() {
            Some(first) => error.with_hint(format!("the first of {bad_lines} bad lines is {first}")),
            None => error.with_hint("it is empty"),
        });
    }
    let lake = Lake::open(&options.lake)?;
    if lake.commit_names("ubi").await?.contains(&content) {
        let message = format!("`{}` has this input already", options.lake);
        return Err(PipelineError::options(message).with_hint("import it into another lake"));
    }
    // What a killed writer left.
    lake.sweep().await?;
    let (query_rows, event_rows) = (joined.query_rows, joined.event_rows);
    let (events_without_query_id, naive_timestamps) = (joined.without_query_id, joined.naive);
    let other_actions = joined.others.clone();
    let (events, counts) = joined.finish(options.keep_unknown);
    let mut report = UbiReport {
        lines,
        query_rows,
        queries: counts.queries,
        queries_without_impressions: counts.queries_without_impressions,
        event_rows,
        event_query_ids: counts.event_query_ids,
        unknown_query_ids: counts.unknown_query_ids,
        unknown_events: counts.unknown_events,
        events_without_query_id,
        unknown_lists: counts.unknown_lists,
        kept_unknown: options.keep_unknown,
        further_lists: counts.further_lists,
        repeated_impressions: counts.repeated_impressions,
        shared_positions: counts.shared_positions,
        documents_again: counts.documents_again,
        clicks_not_shown: counts.clicks_not_shown,
        carts_not_shown: counts.carts_not_shown,
        purchases_not_shown: counts.purchases_not_shown,
        other_actions,
        naive_timestamps,
        positions_from_zero: counts.from_zero,
        bad_lines,
        bad,
        lake: options.lake.clone(),
        ..UbiReport::default()
    };
    if events.is_empty() {
        return Err(PipelineError::data("no list of results can be made of this input").with_hint(format!(
            "there are {} queries without an impression, and {} lists whose query has no row",
            report.queries_without_impressions, report.unknown_lists
        )));
    }

    let mut writer = LakeWriter::new(&lake, LogSchema::default(), RollOptions::default(), "ubi");
    let mut dates = BTreeSet::new();
    for event in &events {
        report.events += 1;
        report.impressions += event.results.len() as u64;
        for result in &event.results {
            report.clicks += u64::from(result.clicked);
            report.carts += u64::from(result.added_to_cart);
            report.purchases += u64::from(result.purchased);
        }
        dates.insert(event.query_timestamp.date());
        writer.push(event)?;
    }
    let inputs: Vec<String> = options.inputs.iter().map(|path| path.display().to_string()).collect();
    let files = writer.commit(&content, serde_json::json!({ "inputs": inputs })).await?;
    report.dates = dates.into_iter().collect();
    (report.files, report.bytes) = (files.len(), files.iter().map(|file| file.bytes).sum());
    Ok(report)
}

/// All that the input holds.
struct Rows {
    joined: Joined,
    lines: u64,
    bad_lines: u64,
    bad: Vec<String>,
    /// A hash of the input.
    content: String,
}

impl Rows {
    fn read(inputs: &[PathBuf]) -> Result<Self, PipelineError> {
        let mut rows =
            Self { joined: Joined::default(), lines: 0, bad_lines: 0, bad: Vec::new(), content: String::new() };
        let mut hash = Xxh3Default::new();
        for path in inputs {
            let file = File::open(path).map_err(|error| PipelineError::io("read", path, error))?;
            rows.read_file(path, BufReader::with_capacity(1 << 20, file), &mut hash)?;
        }
        rows.content = format!("{:032x}", hash.digest128());
        Ok(rows)
    }

    fn read_file(
        &mut self,
        path: &Path,
        mut file: BufReader<File>,
        hash: &mut Xxh3Default,
    ) -> Result<(), PipelineError> {
        let (mut line, mut number) = (Vec::new(), 0);
        // What the last line was an action for.
        let mut index: Option<Option<String>> = None;
        loop {
            line.clear();
            if file.read_until(b'\n', &mut line).map_err(|error| PipelineError::io("read", path, error))? == 0 {
                break;
            }
            number += 1;
            self.lines += 1;
            hash.update(&line);
            let text = line.trim_ascii();
            if text.is_empty() {
                continue;
            }
            let expected = index.take();
            match read(text, expected.as_ref().and_then(Option::as_deref)) {
                Ok(Line::Action(name)) => {
                    if expected.is_some() {
                        self.refuse(path, number - 1, "an action without a document");
                    }
                    index = Some(name);
                }
                Ok(Line::Query(row)) => self.joined.query(row),
                Ok(Line::Event(row)) => self.joined.event(row),
                Err(why) => self.refuse(path, number, &why),
            }
        }
        if index.is_some() {
            self.refuse(path, number, "an action without a document");
        }
        Ok(())
    }

    fn refuse(&mut self, path: &Path, number: u64, why: &str) {
        self.bad_lines += 1;
        if self.bad.len() < SHOWN {
            self.bad.push(format!("{}:{number}: {why}", path.display()));
        }
    }
}

impl fmt::Display for UbiReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "read    {} query rows of {} query ids, {} event rows",
            self.query_rows, self.queries, self.event_rows
        )?;
        write!(
            f,
            "unknown {} of {} query ids of the events have no query row",
            self.unknown_query_ids, self.event_query_ids
        )?;
        match self.events_without_query_id {
            0 => writeln!(f)?,
            count => writeln!(f, " (one of these is no id at all, of {})", counted(count, "event"))?,
        }
        let lists = if self.kept_unknown { "imported" } else { "left out" };
        let (events, showed) = (counted(self.unknown_events, "event"), counted(self.unknown_lists, "list"));
        writeln!(f, "        they have {events} and showed {showed}, {lists}")?;
        let Self { events, impressions, clicks, carts, purchases, .. } = self;
        writeln!(
            f,
            "events  {events} with {impressions} impressions, {clicks} clicks, {carts} in carts, {purchases} purchases"
        )?;
        let mut note = |count: u64, what: &str| if count > 0 { writeln!(f, "note    {count} {what}") } else { Ok(()) };
        note(self.queries_without_impressions, "queries showed nothing that was logged")?;
        note(self.further_lists, "lists replaced another one under the same query id")?;
        note(self.repeated_impressions, "impressions were logged again")?;
        note(
            self.shared_positions,
            "impressions were at a position that their list had given away; they stand behind it",
        )?;
        note(
            self.documents_again,
            "impressions were of a document that stood elsewhere in the same list; the first counts",
        )?;
        note(self.clicks_not_shown, "clicks were on results that were not shown")?;
        note(self.carts_not_shown, "results went to the cart that were not shown")?;
        note(self.purchases_not_shown, "results were purchased that were not shown")?;
        note(self.naive_timestamps, "timestamps had no zone and were taken as UTC")?;
        if !self.positions_from_zero.is_empty() {
            writeln!(f, "note    positions count from 0 in {}: raised by one", self.positions_from_zero.join(", "))?;
        }
        if !self.other_actions.is_empty() {
            let actions: Vec<String> =
                self.other_actions.iter().map(|(action, count)| format!("{action} {count}")).collect();
            writeln!(f, "unused  {}", actions.join(", "))?;
        }
        if self.bad_lines > 0 {
            writeln!(f, "bad     {}", counted(self.bad_lines, "line"))?;
            for line in &self.bad {
                writeln!(f, "        {line}")?;
            }
            if self.bad_lines > self.bad.len() as u64 {
                writeln!(f, "        …")?;
            }
        }
        let dates = counted(self.dates.len() as u64, "date");
        write!(f, "wrote   {} ({}, {dates})", self.lake, counted(self.files as u64, "file"))
    }
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
