//! What an audit has found, for people and for machines.

use proto::v1;
use serde_json::{Value, json};

use super::ledger::Carried;
use crate::{json::phase, remote::table, words};

pub struct Report {
    pub run_id: String,
    /// Epochs of the run's document.
    pub planned: u64,
    pub generations: u64,
    pub losses: u64,
    /// Steps that were reported and are void: done again.
    pub void_steps: u64,
    /// How the run ended; absent: it has not, or nobody saw it.
    pub ended: Option<v1::Phase>,
    pub epochs: Vec<EpochReport>,
    /// What is wrong with no epoch in particular.
    pub faults: Vec<String>,
}

pub struct EpochReport {
    /// From 0.
    pub epoch: u64,
    /// The steps (from, to] of it are this run's.
    pub from: u64,
    pub to: u64,
    pub generations: Vec<u64>,
    pub carried: Carried,
    /// Absent before its end.
    pub expected_rows: Option<u64>,
    pub verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every row once.
    Proven,
    /// Every row once by the sum that the run's state carried to the epoch's end. Why its reports do not add up to it.
    HandedOn(String),
    UnderWay,
    /// The run ended before it.
    Unfinished,
    /// Why; it may be right.
    Unprovable(String),
    Violated(Vec<String>),
}

impl Verdict {
    /// This one, unless something is wrong.
    pub fn of(wrong: Vec<String>, right: Self) -> Self {
        if wrong.is_empty() { right } else { Self::Violated(wrong) }
    }

    fn words(&self) -> String {
        match self {
            Self::Proven => "every row once".into(),
            Self::HandedOn(why) => format!("every row once, by the sum that was handed on: {why}"),
            Self::UnderWay => "under way".into(),
            Self::Unfinished => "not finished".into(),
            Self::Unprovable(why) => format!("cannot be proven: {why}"),
            Self::Violated(wrong) => format!("VIOLATED: {}", wrong.join("; ")),
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::HandedOn(_) => "handed on",
            Self::UnderWay => "under way",
            Self::Unfinished => "unfinished",
            Self::Unprovable(_) => "unprovable",
            Self::Violated(_) => "violated",
        }
    }
}

impl Report {
    /// Something is wrong.
    pub fn is_violated(&self) -> bool {
        !self.faults.is_empty() || self.epochs.iter().any(|epoch| matches!(epoch.verdict, Verdict::Violated(_)))
    }

    /// Nothing is wrong, but it cannot be shown that all is right.
    pub fn is_unprovable(&self) -> bool {
        !self.is_violated() && self.epochs.iter().any(|epoch| matches!(epoch.verdict, Verdict::Unprovable(_)))
    }

    fn with(&self, wanted: impl Fn(&Verdict) -> bool) -> impl Iterator<Item = &EpochReport> {
        self.epochs.iter().filter(move |epoch| wanted(&epoch.verdict))
    }

    /// A line an epoch, then one sentence.
    pub fn render(&self) -> String {
        let mut text = String::new();
        if !self.epochs.is_empty() {
            let mut table = table(&["epoch", "steps", "generations", "rows", "verdict"], &[0, 1, 3]);
            for epoch in &self.epochs {
                table.add_row([
                    format!("{}/{}", epoch.epoch + 1, self.planned),
                    format!("{}–{}", words::count(epoch.from), words::count(epoch.to)),
                    ranges(&epoch.generations),
                    words::count(epoch.carried.rows),
                    epoch.verdict.words(),
                ]);
            }
            text += &format!("{}\n", table.trim_fmt());
        }
        for fault in &self.faults {
            text += &format!("VIOLATED: {fault}\n");
        }
        text + &self.sentence() + "\n"
    }

    pub fn sentence(&self) -> String {
        let run = &self.run_id;
        let violated = self.with(|verdict| matches!(verdict, Verdict::Violated(_))).count() as u64;
        if violated > 0 {
            return format!("run {run}: {} not counted as it must be", were(violated));
        }
        if !self.faults.is_empty() {
            return format!("run {run}: its history contradicts itself");
        }
        let unprovable = self.with(|verdict| matches!(verdict, Verdict::Unprovable(_))).count() as u64;
        if unprovable > 0 {
            return format!(
                "run {run}: for {} it cannot be proven that every row was counted once; nothing says that it was not",
                words::counted(unprovable, "epoch")
            );
        }
        let whole = || self.with(|verdict| matches!(verdict, Verdict::Proven | Verdict::HandedOn(_)));
        let Some(rows) = whole().find_map(|epoch| epoch.expected_rows) else {
            return format!("run {run}: no epoch has ended yet");
        };
        let rest = match self.epochs.last().map(|last| &last.verdict) {
            Some(Verdict::UnderWay) => "; the last one is under way",
            Some(Verdict::Unfinished) => "; the last one was not finished",
            _ => "",
        };
        let through = match self.generations {
            0 | 1 => String::new(),
            generations => format!(", through {} generations", words::count(generations)),
        };
        let again = match self.void_steps {
            0 => String::new(),
            steps => format!(", {} done again", words::counted(steps, "step")),
        };
        let epochs = match whole().count() as u64 {
            1 => "1 epoch".into(),
            epochs => format!("each of {} epochs", words::count(epochs)),
        };
        format!("run {run}: {epochs} counted all {} rows exactly once{through}{again}{rest}", words::count(rows))
    }

    pub fn json(&self) -> Value {
        let epochs = self.epochs.iter().map(|epoch| {
            let (why, violations) = match &epoch.verdict {
                Verdict::Unprovable(why) | Verdict::HandedOn(why) => (Some(why), &[][..]),
                Verdict::Violated(wrong) => (None, &wrong[..]),
                _ => (None, &[][..]),
            };
            json!({
                "epoch": epoch.epoch,
                "first_step": epoch.from,
                "step": epoch.to,
                "generations": epoch.generations,
                "rows": epoch.carried.rows,
                "expected_rows": epoch.expected_rows,
                "atoms": epoch.carried.atoms,
                "hash": format!("{:032x}", epoch.carried.hash),
                "verdict": epoch.verdict.word(),
                "why": why,
                "violations": violations,
            })
        });
        json!({
            "run_id": self.run_id,
            "phase": self.ended.map(|ended| phase(ended.into())),
            "epochs": epochs.collect::<Vec<_>>(),
            "planned_epochs": self.planned,
            "generations": self.generations,
            "losses": self.losses,
            "steps_done_again": self.void_steps,
            "violations": self.faults,
            "violated": self.is_violated(),
            "unprovable": self.is_unprovable(),
            "sentence": self.sentence(),
        })
    }
}

fn were(epochs: u64) -> String {
    if epochs == 1 { "1 epoch was".into() } else { format!("{} epochs were", words::count(epochs)) }
}

/// `1, 3–5`.
fn ranges(numbers: &[u64]) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let shown = |&(first, last): &(u64, u64)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first}–{last}"),
    };
    ranges.iter().map(shown).collect::<Vec<_>>().join(", ")
}
