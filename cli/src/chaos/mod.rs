//! The verb `chaos`: a run whose workers are killed, paused and sent away on purpose, and what that cost it.

mod plan;
mod saboteur;

use std::{fmt::Write as _, process::ExitCode, time::Instant};

use proto::v1;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    args::ChaosArgs,
    audit::{Ledger, Report},
    children::Commander,
    errors::Fault,
    train,
    view::Story,
    words,
};
use saboteur::{Blow, Kind, Saboteur};

pub async fn chaos(args: ChaosArgs, log: Option<&str>) -> Result<ExitCode, Fault> {
    let chaos = Chaos::new(Saboteur::new(plan::plan(&args)?, args.seed));
    Box::pin(train::train_under(Some(chaos), args.train, log)).await
}

/// What is done to a run, and the books that are kept of it.
pub struct Chaos {
    saboteur: Saboteur,
    ledger: Ledger,
    done: Done,
}

/// Blows that struck.
#[derive(Debug, Default)]
struct Done {
    kills: u64,
    pauses: u64,
    terminations: u64,
}

impl Chaos {
    fn new(saboteur: Saboteur) -> Self {
        Self { saboteur, ledger: Ledger::default(), done: Done::default() }
    }

    pub fn take(&mut self, event: &v1::RunEvent) {
        self.ledger.take(event);
        self.saboteur.take(event, Instant::now());
    }

    pub fn due(&self) -> Option<Instant> {
        self.saboteur.due()
    }

    /// Does what is due; a line for each thing that was done.
    pub async fn strike(&mut self, crew: &Commander) -> Vec<String> {
        let mut lines = Vec::new();
        for Blow { worker, kind } in self.saboteur.strike(Instant::now()) {
            let (signal, did) = match kind {
                Kind::Kill => (Signal::KILL, "killed"),
                Kind::Pause => (Signal::STOP, "paused"),
                Kind::GoOn => (Signal::CONT, "let go on"),
                Kind::Terminate => (Signal::TERM, "told to go"),
            };
            if !crew.signal(worker, signal).await {
                // It was gone before; after a pause that was to be expected.
                if kind != Kind::GoOn {
                    lines.push(format!("chaos: {worker} was to be {did}, and is gone already"));
                }
                continue;
            }
            match kind {
                Kind::Kill => self.done.kills += 1,
                Kind::Pause => self.done.pauses += 1,
                Kind::Terminate => self.done.terminations += 1,
                Kind::GoOn => {}
            }
            lines.push(format!("chaos: {worker} {did}"));
        }
        lines
    }

    /// What was done, what it cost, and whether it left a trace.
    pub fn conclude(self, story: &Story) -> Conclusion {
        let Self { ledger, done, .. } = self;
        Conclusion {
            done,
            losses: story.losses,
            recoveries: story.recoveries,
            stood_seconds: story.stood_seconds,
            seconds: story.seconds(),
            audit: ledger.report(),
        }
    }
}

pub struct Conclusion {
    done: Done,
    losses: u64,
    recoveries: u64,
    stood_seconds: f64,
    seconds: f64,
    audit: Report,
}

impl Conclusion {
    /// Some row was not counted once.
    pub fn is_bad(&self) -> bool {
        self.audit.is_violated() || self.audit.is_unprovable()
    }

    pub fn fault(&self) -> Fault {
        Fault::run("chaos left a trace")
            .caused_by(self.audit.sentence())
            .hint("this is a fault of lockstep: please report it with the plan and the seed")
    }

    pub fn render(&self) -> String {
        let mut text = format!("\n{}", self.audit.render());
        let done = [(self.done.kills, "kill"), (self.done.pauses, "pause"), (self.done.terminations, "order to go")];
        let done: Vec<String> = done
            .iter()
            .filter(|(times, _)| *times > 0)
            .map(|(times, what)| match *what {
                "order to go" if *times > 1 => format!("{} orders to go", words::count(*times)),
                what => words::counted(*times, what),
            })
            .collect();
        let done = if done.is_empty() { "nothing".to_owned() } else { done.join(", ") };
        let _ = writeln!(text, "done to it   {done}");
        let share = if self.seconds > 0.0 { 100.0 * self.stood_seconds / self.seconds } else { 0.0 };
        let _ = writeln!(
            text,
            "cost         {} lost, {} recovered from, {} without training ({share:.1} % of {}), {} done again",
            words::counted(self.losses, "worker"),
            if self.recoveries == 1 { "once".to_owned() } else { format!("{} times", words::count(self.recoveries)) },
            words::moments(self.stood_seconds),
            words::span(self.seconds),
            words::counted(self.audit.void_steps, "step"),
        );
        text
    }

    pub fn json(&self) -> Value {
        json!({
            "event": "chaos",
            "kills": self.done.kills,
            "pauses": self.done.pauses,
            "terminations": self.done.terminations,
            "losses": self.losses,
            "recoveries": self.recoveries,
            "stood_seconds": self.stood_seconds,
            "seconds": self.seconds,
            "steps_done_again": self.audit.void_steps,
            "audit": self.audit.json(),
        })
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn the_end_says_what_was_done_and_what_it_cost() {
        let conclusion = Conclusion {
            done: Done { kills: 12, pauses: 1, terminations: 2 },
            losses: 15,
            recoveries: 15,
            stood_seconds: 9.876,
            seconds: 300.0,
            audit: Ledger::default().report(),
        };
        expect![[r"

            run : no epoch has ended yet
            done to it   12 kills, 1 pause, 2 orders to go
            cost         15 workers lost, 15 times recovered from, 9.88 s without training (3.3 % of 5:00), 0 steps done again
        "]]
        .assert_eq(&conclusion.render());
        assert!(!conclusion.is_bad());
    }
}
