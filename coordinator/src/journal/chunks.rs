//! How entries become keys of etcd. Pure.
//!
//! Below the store's name: `runs/RUN`, `tracking/RUN`, `checkpoints/RUN/STEP`, and `events/RUN/SEQUENCE`, a chunk of events that begins with
//! that one. What is committed together becomes one chunk a run; every [`FOLD`] chunks are folded into one, in the same transaction as
//! the write that makes them so many. A run whose events take more than [`RUN_BYTES`] has its old ones made coarser, again and again:
//! neighbouring windows of progress become one (their sums stay exact), of the points of what workers take of their machines every second one goes.
//!
//! etcd takes 128 operations and 1.5 MiB a transaction. What one run has in a commit is one transaction as long as it fits; else its
//! state follows its events, so that a status never speaks of events that are not there.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use prost::Message as _;
use proto::v1::{self, run_event};

use super::{Entry, JournalError};
use crate::etcd::{
    delete, put,
    wire::{KeyValue, RequestOp},
};

const TRANSACTION_OPERATIONS: usize = 100;
const TRANSACTION_BYTES: usize = 1 << 20;

/// Events in one chunk, about.
const CHUNK_BYTES: usize = 256 << 10;
/// So many chunks of single commits become one.
const FOLD: usize = 32;

/// What a run's events may take, about.
pub const RUN_BYTES: usize = if cfg!(test) { 64 << 10 } else { 16 << 20 };

/// The keys of one store.
pub struct Keys(pub String);

impl Keys {
    pub fn format(&self) -> String {
        format!("{}/format", self.0)
    }

    pub fn runs(&self) -> String {
        format!("{}/runs/", self.0)
    }

    pub fn tracking(&self) -> String {
        format!("{}/tracking/", self.0)
    }

    pub fn checkpoints(&self) -> String {
        format!("{}/checkpoints/", self.0)
    }

    pub fn events(&self, run: &str) -> String {
        format!("{}/events/{run}/", self.0)
    }

    pub fn chunk(&self, run: &str, first: u64) -> String {
        format!("{}/events/{run}/{first:020}", self.0)
    }

    fn checkpoint(&self, run: &str, step: u64) -> String {
        format!("{}/checkpoints/{run}/{step:020}", self.0)
    }
}

/// The first key behind all that begin with this.
pub fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        // ASCII: it does not overflow.
        *last += 1;
    }
    end
}

/// The first key behind this one.
pub fn behind(key: &str) -> Vec<u8> {
    let mut key = key.as_bytes().to_vec();
    key.push(0);
    key
}

/// Where the chunks of a run begin, and what they hold.
#[derive(Clone, Default)]
pub struct Chunks {
    sizes: BTreeMap<u64, usize>,
    /// The newest ones, to be folded: where each begins, and its bytes.
    young: Vec<(u64, Vec<u8>)>,
    /// Steps at which a generation may begin: no window of progress may reach over one.
    cuts: BTreeSet<u64>,
    /// Chunks from here on are coarsened next; 0 before a round.
    coarse_to: u64,
    /// Another round only when the run takes more than this: not all that is written can be made coarser.
    allowed: usize,
}

/// What is written where.
pub struct Plan {
    pub transactions: Vec<Vec<RequestOp>>,
    /// Of the runs that are written of, once it has been.
    pub chunks: HashMap<String, Chunks>,
}

/// What one commit says of one run.
#[derive(Default)]
struct OfRun<'a> {
    events: Vec<&'a v1::RunEvent>,
    /// `None`: pruned.
    checkpoints: BTreeMap<u64, Option<&'a v1::Checkpoint>>,
    tracking: Option<&'a v1::Tracking>,
    status: Option<&'a v1::RunStatus>,
}

/// The same for the same input: a commit whose answer was lost is sent again as it was.
pub fn plan<'a>(keys: &Keys, known: &HashMap<String, Chunks>, entries: impl IntoIterator<Item = &'a Entry>) -> Plan {
    let mut order: Vec<&str> = Vec::new();
    let mut by_run: HashMap<&str, OfRun<'_>> = HashMap::new();
    for entry in entries {
        let of = by_run.entry(run_of(entry)).or_insert_with(|| {
            order.push(run_of(entry));
            OfRun::default()
        });
        match entry {
            Entry::Run(status) => of.status = Some(status),
            Entry::Event(event) => of.events.push(event),
            Entry::Checkpoint { checkpoint, .. } => drop(of.checkpoints.insert(checkpoint.step, Some(checkpoint))),
            Entry::Pruned { step, .. } => drop(of.checkpoints.insert(*step, None)),
            Entry::Tracking { tracking, .. } => of.tracking = Some(tracking),
        }
    }
    let mut plan = Plan { transactions: Vec::new(), chunks: HashMap::new() };
    let mut packing = Packing::default();
    for run in order {
        let Some(of) = by_run.remove(run) else { continue };
        let mut chunks = known.get(run).cloned().unwrap_or_default();
        let mut operations = chunks.append(keys, run, &of.events);
        operations.extend(of.checkpoints.into_iter().map(|(step, checkpoint)| {
            let key = keys.checkpoint(run, step);
            match checkpoint {
                Some(checkpoint) => put(key, checkpoint.encode_to_vec(), 0),
                None => delete(key, Vec::new()),
            }
        }));
        operations.extend(of.tracking.map(|it| put(keys.tracking() + run, it.encode_to_vec(), 0)));
        operations.extend(of.status.map(|it| put(keys.runs() + run, it.encode_to_vec(), 0)));
        packing.add(operations);
        plan.chunks.insert(run.to_owned(), chunks);
    }
    packing.close();
    plan.transactions = packing.done;
    plan
}

fn run_of(entry: &Entry) -> &str {
    match entry {
        Entry::Run(status) => &status.run_id,
        Entry::Event(event) => &event.run_id,
        Entry::Checkpoint { run, .. } | Entry::Pruned { run, .. } | Entry::Tracking { run, .. } => run,
    }
}

/// Operations into transactions.
#[derive(Default)]
struct Packing {
    done: Vec<Vec<RequestOp>>,
    open: Vec<RequestOp>,
    bytes: usize,
}

impl Packing {
    /// Those that belong together: in one transaction if that can be.
    fn add(&mut self, operations: Vec<RequestOp>) {
        let bytes: usize = operations.iter().map(RequestOp::encoded_len).sum();
        let fits_alone = operations.len() <= TRANSACTION_OPERATIONS && bytes <= TRANSACTION_BYTES;
        if fits_alone && !self.has_room(operations.len(), bytes) {
            self.close();
        }
        for operation in operations {
            let bytes = operation.encoded_len();
            if !self.has_room(1, bytes) {
                self.close();
            }
            self.bytes += bytes;
            self.open.push(operation);
        }
    }

    fn has_room(&self, operations: usize, bytes: usize) -> bool {
        self.open.len() + operations <= TRANSACTION_OPERATIONS && self.bytes + bytes <= TRANSACTION_BYTES
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.done.push(std::mem::take(&mut self.open));
            self.bytes = 0;
        }
    }
}

impl Chunks {
    /// Of a run that another leader has written.
    pub fn read(&mut self, first: u64, value: &[u8]) -> Result<Vec<v1::RunEvent>, JournalError> {
        let events = decode_chunk(value)?;
        self.sizes.insert(first, value.len());
        self.cuts.extend(events.iter().filter_map(cut));
        Ok(events)
    }

    fn append(&mut self, keys: &Keys, run: &str, events: &[&v1::RunEvent]) -> Vec<RequestOp> {
        self.cuts.extend(events.iter().filter_map(|event| cut(event)));
        let mut pieces: Vec<(u64, Vec<u8>)> = Vec::new();
        for event in events {
            let bytes = event.encode_length_delimited_to_vec();
            match pieces.last_mut() {
                Some((_, piece)) if piece.len() + bytes.len() <= CHUNK_BYTES => piece.extend(bytes),
                _ => pieces.push((event.sequence, bytes)),
            }
        }
        match &*pieces {
            [] => Vec::new(),
            [(first, piece)] => self.append_one(keys, run, *first, piece.clone()),
            _ => {
                self.young.clear();
                self.sizes.extend(pieces.iter().map(|(first, piece)| (*first, piece.len())));
                pieces.into_iter().map(|(first, piece)| put(keys.chunk(run, first), piece, 0)).collect()
            }
        }
    }

    fn append_one(&mut self, keys: &Keys, run: &str, first: u64, piece: Vec<u8>) -> Vec<RequestOp> {
        let young: usize = self.young.iter().map(|(_, bytes)| bytes.len()).sum();
        let full = self.young.len() + 1 >= FOLD || young + piece.len() > CHUNK_BYTES;
        if !full || self.young.is_empty() {
            self.sizes.insert(first, piece.len());
            self.young.push((first, piece.clone()));
            return vec![put(keys.chunk(run, first), piece, 0)];
        }
        let young = std::mem::take(&mut self.young);
        let starts: Vec<u64> = young.iter().map(|(first, _)| *first).collect();
        let mut folded: Vec<u8> = young.into_iter().flat_map(|(_, bytes)| bytes).collect();
        folded.extend(piece);
        self.replace(keys, run, &starts, folded)
    }

    /// One chunk in the place of these.
    fn replace(&mut self, keys: &Keys, run: &str, starts: &[u64], with: Vec<u8>) -> Vec<RequestOp> {
        let Some(&first) = starts.first() else { return Vec::new() };
        for start in starts {
            self.sizes.remove(start);
        }
        self.sizes.insert(first, with.len());
        let mut operations = vec![put(keys.chunk(run, first), with, 0)];
        if let (Some(&second), Some(&last)) = (starts.get(1), starts.last()) {
            operations.push(delete(keys.chunk(run, second), behind(&keys.chunk(run, last))));
        }
        operations
    }

    /// The chunks that are to be made coarser next, where the run takes too much: where the first and the last of them begin.
    pub fn coarsen_next(&mut self, most: usize) -> Option<(u64, u64)> {
        let bytes: usize = self.sizes.values().sum();
        if self.coarse_to == 0 && bytes <= most.max(self.allowed) {
            return None;
        }
        // The newest quarter stays as it is, and what is still to be folded.
        let young = self.sizes.len().div_ceil(4).max(self.young.len() + 1);
        let old = self.sizes.iter().take(self.sizes.len().saturating_sub(young));
        let mut span: Option<(u64, u64)> = None;
        let mut together = 0;
        for (&first, size) in old.skip_while(|(first, _)| **first < self.coarse_to) {
            together += size;
            span = match span {
                Some(_) if together > TRANSACTION_BYTES / 2 => break,
                Some((begin, _)) => Some((begin, first)),
                None => Some((first, first)),
            };
        }
        match span {
            Some((_, last)) => self.coarse_to = last + 1,
            None => (self.coarse_to, self.allowed) = (0, bytes + bytes / 4),
        }
        span
    }

    /// Those chunks, as they lie in etcd, as one.
    pub fn coarsen(&mut self, keys: &Keys, run: &str, values: &[KeyValue]) -> Result<Vec<RequestOp>, JournalError> {
        let starts: Vec<u64> = values.iter().filter_map(|found| last_number(&found.key)).collect();
        let mut events = Vec::new();
        for found in values {
            events.extend(decode_chunk(&found.value)?);
        }
        let coarse = coarser(events, &self.cuts);
        let bytes: Vec<u8> = coarse.iter().flat_map(prost::Message::encode_length_delimited_to_vec).collect();
        Ok(self.replace(keys, run, &starts, bytes))
    }
}

/// The number that ends a key.
pub fn last_number(key: &[u8]) -> Option<u64> {
    std::str::from_utf8(key).ok()?.rsplit('/').next()?.parse().ok()
}

fn decode_chunk(mut bytes: &[u8]) -> Result<Vec<v1::RunEvent>, JournalError> {
    let mut events = Vec::new();
    while !bytes.is_empty() {
        events.push(v1::RunEvent::decode_length_delimited(&mut bytes).map_err(JournalError::Record)?);
    }
    Ok(events)
}

/// A generation begins at the newest state that somebody holds, or at a checkpoint.
fn cut(event: &v1::RunEvent) -> Option<u64> {
    match &event.event {
        Some(run_event::Event::Seated(seated)) => Some(seated.first_step),
        Some(run_event::Event::Checkpoint(checkpoint)) => Some(checkpoint.step),
        _ => None,
    }
}

/// About half as many figures; all else stays.
fn coarser(events: Vec<v1::RunEvent>, cuts: &BTreeSet<u64>) -> Vec<v1::RunEvent> {
    let mut coarse: Vec<v1::RunEvent> = Vec::with_capacity(events.len());
    let mut left_out: HashSet<String> = HashSet::new();
    // Where a window lies that is not one of two yet.
    let mut single: Option<usize> = None;
    for event in events {
        match &event.event {
            Some(run_event::Event::System(seen)) => {
                if left_out.insert(seen.worker.clone()) {
                    continue;
                }
                left_out.remove(&seen.worker);
            }
            Some(run_event::Event::Progress(later)) => {
                let earlier = single.take().and_then(|at| match &coarse[at].event {
                    Some(run_event::Event::Progress(earlier)) => Some((at, both(earlier, later, cuts)?)),
                    _ => None,
                });
                if let Some((at, both)) = earlier {
                    coarse.remove(at);
                    coarse.push(v1::RunEvent { event: Some(run_event::Event::Progress(both)), ..event });
                    continue;
                }
                single = Some(coarse.len());
            }
            _ => {}
        }
        coarse.push(event);
    }
    coarse
}

/// Two windows as one; `None`: they are none.
fn both(a: &v1::Progress, b: &v1::Progress, cuts: &BTreeSet<u64>) -> Option<v1::Progress> {
    let neighbours = a.generation == b.generation && a.epoch == b.epoch && a.step == b.first_step;
    if !neighbours || cuts.contains(&a.step) {
        return None;
    }
    let hash = |window: &v1::Progress| u128::from(window.hash_high) << 64 | u128::from(window.hash_low);
    let sum = hash(a).wrapping_add(hash(b));
    let rows = a.rows + b.rows;
    // The windows' denominators are not told: rows stand for them.
    let loss = if rows == 0 { b.loss } else { (a.loss * a.rows as f64 + b.loss * b.rows as f64) / rows as f64 };
    Some(v1::Progress {
        first_step: a.first_step,
        loss,
        rows,
        lists: a.lists + b.lists,
        seconds: a.seconds + b.seconds,
        wait_data_seconds: a.wait_data_seconds + b.wait_data_seconds,
        wait_reduce_seconds: a.wait_reduce_seconds + b.wait_reduce_seconds,
        atoms: a.atoms + b.atoms,
        hash_high: (sum >> 64) as u64,
        hash_low: sum as u64,
        ..*b
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::etcd::wire::request_op::Request;

    fn event(sequence: u64, event: run_event::Event) -> v1::RunEvent {
        v1::RunEvent { sequence, run_id: "r-1".into(), event: Some(event), ..Default::default() }
    }

    fn window(sequence: u64, epoch: u64, first_step: u64, step: u64) -> v1::RunEvent {
        let low = u64::MAX - 1;
        let progress =
            v1::Progress { epoch, first_step, step, rows: 10, atoms: 5, hash_low: low, ..Default::default() };
        event(sequence, run_event::Event::Progress(progress))
    }

    fn warning(sequence: u64, bytes: usize) -> Entry {
        Entry::Event(Arc::new(event(sequence, run_event::Event::Warning(v1::Warning { message: "x".repeat(bytes) }))))
    }

    fn status(run: &str) -> Entry {
        Entry::Run(Box::new(v1::RunStatus { run_id: run.into(), ..Default::default() }))
    }

    fn keys() -> Keys {
        Keys("store".into())
    }

    fn touched(operations: &[RequestOp]) -> Vec<String> {
        let text = |key: &[u8]| String::from_utf8_lossy(key).trim_end_matches('\0').to_owned();
        let words = operations.iter().map(|operation| match operation.request.as_ref().unwrap() {
            Request::RequestPut(put) => format!("put {}", text(&put.key)),
            Request::RequestDeleteRange(gone) if gone.range_end.is_empty() => format!("delete {}", text(&gone.key)),
            Request::RequestDeleteRange(gone) => format!("delete {} to {}", text(&gone.key), text(&gone.range_end)),
            Request::RequestRange(_) => "read".to_owned(),
        });
        words.collect()
    }

    #[test]
    fn a_commit_of_one_run_is_one_transaction_with_each_key_once() {
        let checkpoint = |step| v1::Checkpoint { step, ..Default::default() };
        let entries = [
            status("r-1"),
            warning(1, 10),
            Entry::Checkpoint { run: "r-1".into(), checkpoint: checkpoint(7) },
            Entry::Pruned { run: "r-1".into(), step: 7 },
            warning(2, 10),
            status("r-1"),
        ];
        let plan = plan(&keys(), &HashMap::new(), &entries);
        assert_eq!(plan.transactions.len(), 1);
        assert_eq!(
            touched(&plan.transactions[0]),
            [
                "put store/events/r-1/00000000000000000001",
                "delete store/checkpoints/r-1/00000000000000000007",
                "put store/runs/r-1"
            ]
        );
    }

    #[test]
    fn no_transaction_is_more_than_etcd_takes_and_a_status_comes_behind_its_events() {
        let mut entries: Vec<Entry> = (0..300).map(|run| status(&format!("r-{run}"))).collect();
        entries.push(status("r-1"));
        entries.extend((1..=40).map(|sequence| warning(sequence, 100_000)));
        let plan = plan(&keys(), &HashMap::new(), &entries);
        assert!(plan.transactions.iter().all(|operations| {
            let bytes: usize = operations.iter().map(RequestOp::encoded_len).sum();
            operations.len() <= 128 && bytes <= 3 << 19
        }));
        let all: Vec<String> = plan.transactions.iter().flat_map(|operations| touched(operations)).collect();
        assert!(all.iter().filter(|key| key.starts_with("put store/events/")).count() > 10);
        let status = all.iter().position(|key| key == "put store/runs/r-1").unwrap();
        assert!(all[status..].iter().all(|key| !key.contains("/events/r-1/")));
    }

    #[test]
    fn small_chunks_are_folded_by_the_write_that_makes_them_many() {
        let mut known = HashMap::new();
        for sequence in 1..=FOLD as u64 {
            let planned = plan(&keys(), &known, &[warning(sequence, 10)]);
            let touched = touched(&planned.transactions[0]);
            if sequence < FOLD as u64 {
                assert_eq!(touched, [format!("put store/events/r-1/{sequence:020}")]);
            } else {
                let (second, last) = (2, FOLD - 1);
                assert_eq!(
                    touched,
                    [
                        format!("put store/events/r-1/{:020}", 1),
                        format!("delete store/events/r-1/{second:020} to store/events/r-1/{last:020}")
                    ]
                );
                let Some(Request::RequestPut(put)) = &planned.transactions[0][0].request else { panic!("no put") };
                let numbers: Vec<u64> = decode_chunk(&put.value).unwrap().iter().map(|event| event.sequence).collect();
                assert_eq!(numbers, (1..=FOLD as u64).collect::<Vec<_>>());
            }
            known.extend(planned.chunks);
        }
        assert_eq!(known["r-1"].sizes.len(), 1);
    }

    #[test]
    fn coarser_windows_tile_the_same_steps_with_the_same_sums_and_never_reach_over_a_cut_or_an_epoch() {
        let seen = |sequence, worker: &str| {
            event(sequence, run_event::Event::System(v1::SystemUse { worker: worker.into(), ..Default::default() }))
        };
        let events = vec![
            window(1, 0, 0, 10),
            seen(2, "w0:1"),
            window(3, 0, 10, 20),
            seen(4, "w0:1"),
            window(5, 0, 20, 30),
            event(6, run_event::Event::Checkpoint(v1::Checkpoint { step: 30, ..Default::default() })),
            window(7, 0, 30, 40),
            window(8, 0, 40, 50),
            window(9, 1, 50, 60),
            window(10, 1, 60, 70),
        ];
        let cuts = events.iter().filter_map(cut).collect();
        let coarse = coarser(events, &cuts);
        let tiles: Vec<_> = coarse
            .iter()
            .filter_map(|event| match &event.event {
                Some(run_event::Event::Progress(window)) => Some((event.sequence, window.first_step, window.step)),
                _ => None,
            })
            .collect();
        assert_eq!(tiles, [(3, 0, 20), (5, 20, 30), (8, 30, 50), (10, 50, 70)]);
        assert!(coarse.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));
        assert_eq!(
            coarse.iter().map(|event| event.sequence).filter(|n| [2, 4, 6].contains(n)).collect::<Vec<_>>(),
            [4, 6]
        );
        let Some(run_event::Event::Progress(first)) = &coarse[0].event else { panic!("no window") };
        assert_eq!((first.rows, first.atoms, first.hash_high, first.hash_low), (20, 10, 1, u64::MAX - 3));
    }
}
