//! Reports: what leaves a job for the coordinator. Every rank keeps a record of each step, so that whoever is rank 0 can tell what the
//! one before could not; only what all ranks are known to have applied is told. Windows of steps never wait for the channel; what must
//! not be lost (epochs, checkpoints) waits where it is full.

use std::{
    collections::VecDeque,
    ops::Range,
    time::{Duration, Instant},
};

use proto::v1::{self, worker_message::Message};
use tokio::sync::mpsc;

use super::{Agreed, Job};

/// A window of steps is reported at most this often.
const WINDOW: Duration = Duration::from_millis(200);

/// Steps whose records are kept.
const KEPT: usize = 1 << 16;

/// Ends of epochs that are kept.
const EPOCHS_KEPT: usize = 64;

/// Numbers in a record.
pub(super) const WORDS: usize = 13;

/// What one step carried, and what it took here.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Record {
    rows: u64,
    lists: u64,
    atoms: u64,
    hash: u128,
    /// 0 where the step's loss does not count.
    loss: f64,
    denominator: f64,
    gradient_norm: f64,
    /// Since the start of the run.
    skipped_nonfinite: u64,
    skipped_empty: u64,
    seconds: f64,
    wait_data_seconds: f64,
    wait_reduce_seconds: f64,
}

/// The records, and how much of them is known elsewhere.
#[derive(Debug)]
pub(super) struct Reports {
    /// None between two generations.
    sender: Option<mpsc::Sender<Message>>,
    /// Of the steps `first..first + records.len()`.
    records: VecDeque<Record>,
    first: u64,
    /// Steps that all ranks have applied.
    confirmed: u64,
    /// Steps that the coordinator was told of.
    reported: u64,
    /// Ends of the newest epochs, for a coordinator that may have missed them.
    pub epochs: VecDeque<v1::EpochEnded>,
    /// When the step under way began.
    began: Instant,
    wait_data: Duration,
    wait_reduce: Duration,
    said: Option<Instant>,
}

impl Reports {
    pub fn new() -> Self {
        Self {
            sender: None,
            records: VecDeque::with_capacity(KEPT),
            first: 0,
            confirmed: 0,
            reported: 0,
            epochs: VecDeque::new(),
            began: Instant::now(),
            wait_data: Duration::ZERO,
            wait_reduce: Duration::ZERO,
            said: None,
        }
    }

    /// A generation begins. `known`: what all members have, and what the coordinator knows.
    pub fn open(&mut self, sender: mpsc::Sender<Message>, known: Known) {
        self.sender = Some(sender);
        if self.end() != known.step {
            self.records.clear();
            self.first = known.step;
        }
        self.reported = known.reported.min(known.step);
        self.confirmed = self.confirmed.max(known.confirmed).min(known.step);
        self.said = None;
        self.restart_clock();
    }

    /// A generation is over.
    pub fn close(&mut self) {
        self.sender = None;
    }

    /// An epoch has ended.
    pub fn keep_epoch(&mut self, epoch: v1::EpochEnded) {
        if self.epochs.len() == EPOCHS_KEPT {
            self.epochs.pop_front();
        }
        self.epochs.push_back(epoch);
    }

    /// For what must not be lost; waits where the channel is full.
    pub fn send(&self, message: Message) {
        if let Some(sender) = &self.sender {
            // A closed channel means that the session is gone, and with it whoever would listen.
            let _ = sender.blocking_send(message);
        }
    }

    pub fn waited_for_data(&mut self, time: Duration) {
        self.wait_data += time;
    }

    pub fn waited_for_peers(&mut self, time: Duration) {
        self.wait_reduce += time;
    }

    /// The next step begins now: after set-up, and after anything that is not training.
    pub fn restart_clock(&mut self) {
        self.began = Instant::now();
        (self.wait_data, self.wait_reduce) = (Duration::ZERO, Duration::ZERO);
    }

    /// A collective has ended: all ranks came to it with so many steps applied.
    pub fn confirm(&mut self, steps: u64) {
        self.confirmed = steps;
    }

    pub fn confirmed(&self) -> u64 {
        self.confirmed
    }

    fn end(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    fn push(&mut self, record: Record) {
        if self.records.len() == KEPT {
            self.records.pop_front();
            self.first += 1;
        }
        self.records.push_back(record);
    }

    /// Records of the steps from `from` on.
    pub fn since(&self, from: u64) -> impl Iterator<Item = Record> {
        let from = from.saturating_sub(self.first).min(self.records.len() as u64);
        self.records.range(from as usize..).copied()
    }

    /// Puts records in the place of what is known here; `step` steps are done with the last of them.
    pub fn replace(&mut self, step: u64, records: impl ExactSizeIterator<Item = Record>) {
        self.first = step - records.len() as u64;
        self.records.clear();
        self.records.extend(records);
    }

    fn sum(&self, steps: Range<u64>) -> Record {
        let (from, to) = ((steps.start - self.first) as usize, (steps.end - self.first) as usize);
        self.records.range(from..to).copied().reduce(Record::then).unwrap_or_default()
    }
}

/// Where a generation begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub step: u64,
    pub confirmed: u64,
    pub reported: u64,
}

impl Record {
    fn then(self, next: Self) -> Self {
        Self {
            rows: self.rows + next.rows,
            lists: self.lists + next.lists,
            atoms: self.atoms + next.atoms,
            hash: self.hash + next.hash,
            loss: self.loss + next.loss,
            denominator: self.denominator + next.denominator,
            seconds: self.seconds + next.seconds,
            wait_data_seconds: self.wait_data_seconds + next.wait_data_seconds,
            wait_reduce_seconds: self.wait_reduce_seconds + next.wait_reduce_seconds,
            ..next
        }
    }

    /// For the wire: a joiner gets the newest records with the state.
    pub fn to_words(self) -> [u64; WORDS] {
        let bits = f64::to_bits;
        [
            self.rows,
            self.lists,
            self.atoms,
            (self.hash >> 64) as u64,
            self.hash as u64,
            bits(self.loss),
            bits(self.denominator),
            bits(self.gradient_norm),
            self.skipped_nonfinite,
            self.skipped_empty,
            bits(self.seconds),
            bits(self.wait_data_seconds),
            bits(self.wait_reduce_seconds),
        ]
    }

    pub fn from_words(words: [u64; WORDS]) -> Self {
        let [rows, lists, atoms, high, low, loss, denominator, norm, nonfinite, empty, seconds, data, reduce] = words;
        let number = f64::from_bits;
        Self {
            rows,
            lists,
            atoms,
            hash: u128::from(high) << 64 | u128::from(low),
            loss: number(loss),
            denominator: number(denominator),
            gradient_norm: number(norm),
            skipped_nonfinite: nonfinite,
            skipped_empty: empty,
            seconds: number(seconds),
            wait_data_seconds: number(data),
            wait_reduce_seconds: number(reduce),
        }
    }
}

impl Job {
    /// Puts down what a step carried, its loss where that counts, and tells of what is confirmed where it is time.
    pub(super) fn report(&mut self, agreed: &Agreed, counts: bool) {
        let (loss, denominator) =
            if counts { (agreed.terms.loss, agreed.terms.denominator) } else { Default::default() };
        let now = Instant::now();
        let reports = &mut self.reports;
        let took = now - reports.began;
        self.shared.worked(took.saturating_sub(reports.wait_reduce));
        reports.push(Record {
            rows: agreed.rows,
            lists: agreed.lists,
            atoms: agreed.atoms,
            hash: agreed.hash,
            loss,
            denominator,
            gradient_norm: self.gradient_norm,
            skipped_nonfinite: self.state.skipped_nonfinite,
            skipped_empty: self.state.skipped_empty,
            seconds: took.as_secs_f64(),
            wait_data_seconds: reports.wait_data.as_secs_f64(),
            wait_reduce_seconds: reports.wait_reduce.as_secs_f64(),
        });
        reports.restart_clock();
        if self.seat.rank == 0 && reports.said.is_none_or(|said| now - said >= WINDOW) {
            self.tell(u64::MAX, |sender, window| sender.try_send(window).is_ok());
        }
    }

    /// Tells of all that is confirmed, up to a step, waiting where the channel is full.
    pub(super) fn tell_all(&mut self, until: u64) {
        if self.seat.rank == 0 {
            self.tell(until, |sender, window| sender.blocking_send(window).is_ok());
        }
    }

    /// Windows of what is confirmed and not yet told; they never span epochs. What could not be sent is told with the next.
    fn tell(&mut self, until: u64, send: impl Fn(&mpsc::Sender<Message>, Message) -> bool) {
        loop {
            let from = self.reports.reported.max(self.reports.first);
            let to = self.reports.confirmed.min(until).min((from / self.steps_per_epoch + 1) * self.steps_per_epoch);
            if from >= to {
                return;
            }
            let window = self.window(from..to);
            let Some(sender) = &self.reports.sender else { return };
            if !send(sender, Message::Progress(window)) {
                return;
            }
            (self.reports.reported, self.reports.said) = (to, Some(Instant::now()));
        }
    }

    fn window(&self, steps: Range<u64>) -> v1::Progress {
        let sum = self.reports.sum(steps.clone());
        let epoch = steps.start / self.steps_per_epoch;
        v1::Progress {
            generation: self.seat.generation,
            epoch,
            epochs: self.spec.training.epochs,
            first_step: steps.start,
            step: steps.end,
            steps_per_epoch: self.steps_per_epoch,
            loss: sum.loss / sum.denominator,
            learning_rate: self.schedule.at(epoch, steps.end - 1),
            gradient_norm: sum.gradient_norm,
            rows: sum.rows,
            lists: sum.lists,
            seconds: sum.seconds,
            skipped_nonfinite: sum.skipped_nonfinite,
            skipped_empty: sum.skipped_empty,
            wait_data_seconds: sum.wait_data_seconds,
            wait_reduce_seconds: sum.wait_reduce_seconds,
            atoms: sum.atoms,
            hash_high: (sum.hash >> 64) as u64,
            hash_low: sum.hash as u64,
        }
    }

    /// Ends of the epochs from step `from` on, each after the windows that lead to it. What the coordinator knows, it drops.
    pub(super) fn tell_epochs(&mut self, from: u64) {
        if self.seat.rank != 0 {
            return;
        }
        for epoch in self.reports.epochs.iter().filter(|epoch| epoch.step >= from).cloned().collect::<Vec<_>>() {
            self.tell_all(epoch.step);
            self.reports.send(Message::Epoch(v1::EpochEnded { generation: self.seat.generation, ..epoch }));
        }
    }
}
