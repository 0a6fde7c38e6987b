//! The proof that each epoch counted every row exactly once, from a run's events alone. Pure.
//!
//! A run reports its steps in windows: how many rows and atoms the steps (first, last] carried, and the 128-bit sum of the atoms' hashes.
//! A generation that begins voids what older ones reported past its first step. What remains must tile each epoch without gap or
//! overlap, and add up to what the dataset holds: the sum of all atoms' hashes is reckoned here anew. That the sum of 64-bit hashes
//! agrees while some atom came twice and another never is possible and does not happen: it is chance of one in 2^64.

use std::collections::{BTreeMap, BTreeSet};

use dataset::lanes::expected_hash;
use proto::v1::{self, run_event::Event};

use super::report::{EpochReport, Report, Verdict};
use crate::words;

/// What a run's events say of its steps, taken one by one.
#[derive(Default)]
pub struct Ledger {
    run_id: String,
    seats: Vec<Seat>,
    /// Those that count.
    windows: Vec<Window>,
    ends: BTreeMap<u64, End>,
    epochs: u64,
    steps_per_epoch: u64,
    void_steps: u64,
    losses: u64,
    ended: Option<v1::Phase>,
    /// What is wrong with no epoch in particular.
    faults: Vec<String>,
}

struct Seat {
    generation: u64,
    first_step: u64,
}

/// The steps (first_step, step].
#[derive(Clone, Copy)]
struct Window {
    /// That reported it.
    generation: u64,
    /// At work then, where that is another one.
    at_work: u64,
    first_step: u64,
    step: u64,
    rows: u64,
    atoms: u64,
    hash: u128,
    /// Its later steps are void: what the others carried is not known.
    cut: bool,
}

/// An epoch's end, as the run reported it.
struct End {
    generation: u64,
    step: u64,
    audit: Option<v1::Audit>,
}

/// What steps carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    pub rows: u64,
    pub atoms: u64,
    pub hash: u128,
}

impl Ledger {
    pub fn take(&mut self, message: &v1::RunEvent) {
        self.run_id.clone_from(&message.run_id);
        match &message.event {
            Some(Event::Seated(seated)) => self.seat(seated),
            Some(Event::Progress(window)) => self.count(window),
            Some(Event::Epoch(end)) => self.close(end),
            Some(Event::Lost(_)) => self.losses += 1,
            Some(Event::Ended(ended)) => self.ended = Some(ended.phase()),
            _ => {}
        }
    }

    /// The run has ended, whether or not its events say so: nobody lived to write that down.
    pub fn over(&mut self, phase: v1::Phase) {
        self.ended.get_or_insert(phase);
    }

    /// What older generations reported past its first step is void.
    fn seat(&mut self, seated: &v1::Seated) {
        let (generation, first_step) = (seated.generation, seated.first_step);
        if let Some(last) = self.seats.last().filter(|last| last.generation >= generation) {
            self.faults.push(format!("generation {generation} began after generation {}", last.generation));
        }
        self.seats.push(Seat { generation, first_step });
        let mut void = 0;
        self.windows.retain_mut(|window| {
            void += window.step.saturating_sub(window.first_step.max(first_step));
            window.cut |= window.first_step < first_step && first_step < window.step;
            window.step = window.step.min(first_step);
            window.first_step < window.step
        });
        self.void_steps += void;
        self.ends.retain(|_, end| end.step <= first_step);
    }

    fn count(&mut self, window: &v1::Progress) {
        let generation = window.generation;
        self.epochs = window.epochs;
        self.pace(window.steps_per_epoch);
        self.windows.push(Window {
            generation,
            at_work: self.seats.last().map_or(generation, |seat| seat.generation),
            first_step: window.first_step,
            step: window.step,
            rows: window.rows,
            atoms: window.atoms,
            hash: (u128::from(window.hash_high) << 64) | u128::from(window.hash_low),
            cut: false,
        });
    }

    fn close(&mut self, end: &v1::EpochEnded) {
        self.epochs = end.epochs;
        self.pace(end.step / (end.epoch + 1));
        let (epoch, generation) = (end.epoch, end.generation);
        let end = End { generation, step: end.step, audit: end.audit };
        if let Some(former) = self.ends.insert(epoch, end) {
            self.faults.push(format!(
                "epoch {} ended twice: in generation {} and in generation {generation}",
                epoch + 1,
                former.generation
            ));
        }
    }

    fn pace(&mut self, steps_per_epoch: u64) {
        let before = std::mem::replace(&mut self.steps_per_epoch, steps_per_epoch);
        if before > 0 && before != steps_per_epoch {
            self.faults.push(format!("an epoch had {before} steps, and then {steps_per_epoch}"));
        }
    }

    pub fn report(mut self) -> Report {
        self.windows.sort_by_key(|window| (window.first_step, window.step));
        let (mut sums, numbers) = (BTreeMap::new(), self.numbers());
        let epochs = numbers.clone().map(|epoch| self.epoch(epoch, epoch + 1 == numbers.end, &mut sums)).collect();
        let sizes: BTreeSet<(u64, u64)> =
            self.ends.values().filter_map(|end| end.audit).map(|a| (a.expected_rows, a.expected_atoms)).collect();
        if sizes.len() > 1 {
            let sizes: Vec<String> = sizes.iter().map(|(rows, _)| words::counted(*rows, "row")).collect();
            self.faults.push(format!("the epochs are of different datasets: {}", sizes.join(", then ")));
        }
        Report {
            run_id: self.run_id,
            planned: self.epochs,
            generations: self.seats.len() as u64,
            losses: self.losses,
            void_steps: self.void_steps,
            ended: self.ended,
            epochs,
            faults: self.faults,
        }
    }

    /// Steps that were done before this run.
    fn origin(&self) -> u64 {
        self.seats.first().map_or(0, |seat| seat.first_step)
    }

    /// From the first epoch that anything is known of to the last.
    fn numbers(&self) -> std::ops::Range<u64> {
        let per_epoch = self.steps_per_epoch;
        if per_epoch == 0 {
            return 0..0;
        }
        let last_of_windows = self.windows.iter().map(|window| window.step.saturating_sub(1) / per_epoch).max();
        let last = self.ends.keys().next_back().copied().max(last_of_windows);
        let first = self.ends.keys().next().map_or(u64::MAX, |epoch| *epoch).min(self.origin() / per_epoch);
        last.map_or(0..0, |last| first.min(last)..last + 1)
    }

    /// `sums`: what so many atoms must add up to, as far as it was reckoned.
    fn epoch(&self, epoch: u64, last: bool, sums: &mut BTreeMap<u64, u128>) -> EpochReport {
        let (begin, end) = (epoch * self.steps_per_epoch, (epoch + 1) * self.steps_per_epoch);
        let from = self.origin().clamp(begin, end);
        let before = |step: u64| self.windows.partition_point(|window| window.first_step < step);
        let windows = &self.windows[before(begin)..before(end)];
        let carried = windows.iter().fold(Carried::default(), |sum, window| Carried {
            rows: sum.rows + window.rows,
            atoms: sum.atoms + window.atoms,
            hash: sum.hash.wrapping_add(window.hash),
        });
        let closed = self.ends.get(&epoch);
        let generations: BTreeSet<u64> = windows
            .iter()
            .map(|window| window.generation)
            .chain(self.at_work(begin, end))
            .chain(closed.map(|end| end.generation))
            .collect();
        let reached = windows.last().map_or(from, |window| window.step);
        let verdict = self.verdict(epoch, last, windows, carried, sums);
        EpochReport {
            epoch,
            from,
            to: if closed.is_some() { end } else { reached },
            generations: generations.into_iter().collect(),
            carried,
            expected_rows: closed.and_then(|end| end.audit).map(|audit| audit.expected_rows),
            verdict,
        }
    }

    /// The generations that did the steps (begin, end], as far as they count.
    fn at_work(&self, begin: u64, end: u64) -> impl Iterator<Item = u64> {
        let first = self.seats.iter().rposition(|seat| seat.first_step <= begin).unwrap_or(0);
        self.seats.iter().skip(first).filter(move |seat| seat.first_step < end).map(|seat| seat.generation)
    }

    fn verdict(
        &self,
        epoch: u64,
        last: bool,
        windows: &[Window],
        carried: Carried,
        sums: &mut BTreeMap<u64, u128>,
    ) -> Verdict {
        let (begin, end) = (epoch * self.steps_per_epoch, (epoch + 1) * self.steps_per_epoch);
        let from = self.origin().clamp(begin, end);
        if windows.iter().any(|window| window.atoms == 0 && window.rows > 0) {
            return Verdict::Unprovable("its reports carry no hashes: an older lockstep wrote them".into());
        }
        let closed = self.ends.get(&epoch);
        let mut wrong = tiling(windows, from, if closed.is_some() || !last { end } else { 0 });
        wrong.extend(windows.iter().filter(|window| window.step > end).map(|window| {
            format!(
                "the report of {} by generation {} spans two epochs",
                steps(window.first_step, window.step),
                window.generation
            )
        }));
        wrong.extend(windows.iter().filter(|window| window.generation != window.at_work).map(|window| {
            format!(
                "{} counted by generation {} while generation {} was at work",
                were(window.first_step, window.step),
                window.generation,
                window.at_work
            )
        }));
        let Some(closed) = closed else {
            if !last || self.ended == Some(v1::Phase::Succeeded) {
                wrong.push("its end was not reported".into());
            }
            return match (wrong.is_empty(), self.ended) {
                (false, _) => Verdict::Violated(wrong),
                (true, None) => Verdict::UnderWay,
                (true, Some(_)) => Verdict::Unfinished,
            };
        };
        if closed.step != end {
            wrong.push(format!("it ended at step {} instead of {end}", closed.step));
        }
        let Some(audit) = &closed.audit else {
            return Verdict::of(wrong, Verdict::Unprovable("its end carries no audit".into()));
        };
        let expected = Carried {
            rows: audit.expected_rows,
            atoms: audit.expected_atoms,
            hash: *sums.entry(audit.expected_atoms).or_insert_with(|| expected_hash(audit.expected_atoms)),
        };
        let theirs = join(audit.expected_hash_high, audit.expected_hash_low);
        if theirs != expected.hash {
            wrong.push(format!(
                "its end expected the hash sum {theirs:032x}, its {} lists or rows have {:032x}",
                words::count(expected.atoms),
                expected.hash
            ));
        }
        let said = Carried { rows: audit.rows, atoms: audit.atoms, hash: join(audit.hash_high, audit.hash_low) };
        wrong.extend(difference("its end", said, expected));
        // The sums of these reports cover a part of the epoch, or more than counts; that of its end was handed on with the state.
        if let Some(cut) = windows.iter().find(|window| window.cut) {
            let were = steps(cut.first_step, cut.step);
            return Verdict::of(
                wrong,
                Verdict::HandedOn(format!("{were} were reported together with some that are void")),
            );
        }
        if from > begin {
            return Verdict::of(wrong, Verdict::HandedOn("its first steps were done in an earlier run".into()));
        }
        wrong.extend(difference("its steps", carried, expected));
        Verdict::of(wrong, Verdict::Proven)
    }
}

/// What is wrong with windows, in order, that must cover (from, until]; `until` 0: as far as they go.
fn tiling(windows: &[Window], from: u64, until: u64) -> Vec<String> {
    let mut wrong = Vec::new();
    let (mut covered, mut last): (u64, Option<&Window>) = (from, None);
    for window in windows {
        let by = window.generation;
        if window.first_step > covered {
            let place = match last.map(|last| last.generation) {
                Some(last) if last == by => format!("in generation {by}"),
                Some(last) => format!("between generation {last} and generation {by}"),
                None => format!("before generation {by}"),
            };
            wrong.push(format!("{} counted by nobody, {place}", were(covered, window.first_step)));
        } else if window.first_step < covered {
            let both = match last.map(|last| last.generation) {
                Some(last) if last == by => format!("by generation {by}"),
                Some(last) => format!("by generation {last} and by generation {by}"),
                None => format!("in an earlier run and by generation {by}"),
            };
            wrong.push(format!("{} counted twice, {both}", were(window.first_step, covered.min(window.step))));
        }
        if window.step > covered {
            covered = window.step;
            last = Some(window);
        }
    }
    if covered < until {
        let after = last.map_or_else(String::new, |last| format!(", after generation {}", last.generation));
        wrong.push(format!("{} counted by nobody{after}", were(covered, until)));
    }
    wrong
}

fn difference(who: &str, said: Carried, expected: Carried) -> Option<String> {
    let count = words::count;
    if said.rows != expected.rows {
        Some(format!("{who} counted {} rows of {}", count(said.rows), count(expected.rows)))
    } else if said.atoms != expected.atoms {
        Some(format!("{who} counted {} lists or rows of {}", count(said.atoms), count(expected.atoms)))
    } else if said.hash != expected.hash {
        Some(format!("{who} counted the right number of rows, but not each of them once"))
    } else {
        None
    }
}

/// `steps 41 to 60`, of (40, 60].
fn steps(first: u64, last: u64) -> String {
    match last.saturating_sub(first) {
        0 | 1 => format!("step {}", words::count(last)),
        _ => format!("steps {} to {}", words::count(first + 1), words::count(last)),
    }
}

/// `steps 41 to 60 were`.
fn were(first: u64, last: u64) -> String {
    format!("{} {}", steps(first, last), if last.saturating_sub(first) > 1 { "were" } else { "was" })
}

fn join(high: u64, low: u64) -> u128 {
    (u128::from(high) << 64) | u128::from(low)
}
