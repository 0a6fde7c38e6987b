//! Transitions as text: `check("submit 2; prepare; join w1; join w2; step 40", expect![[…]])`.

mod ending;
mod gathering;
mod recovering;
mod training;

use std::{collections::VecDeque, fmt::Write as _, path::PathBuf, time::Duration};

use expect_test::Expect;
use proto::{Deadlines, Generation, RunId, WorkerId, v1};

use super::{
    Departure, Effect, Event, Holding, JobEnd, Notice, Order, Plan, Prepared, Publication, Record, Report, Run, Staged,
    Start,
};
use crate::clock::Timestamp;

pub(super) fn plan(workers: u32) -> Plan {
    elastic(workers, workers, workers)
}

pub(super) fn elastic(least: u32, workers: u32, most: u32) -> Plan {
    Plan {
        id: RunId::new(1, 1),
        name: "baseline".into(),
        spec_toml: String::new(),
        workers,
        least,
        most,
        epochs: 20,
        join_timeout: Duration::from_secs(60),
        deadlines: Deadlines::default(),
        best_by: Some("ndcg@10".into()),
        origin: None,
        resume_from: String::new(),
    }
}

/// "w3" is slot 3 in its first life, "w3:2" in its second.
fn worker(text: &str) -> WorkerId {
    let (slot, life) = text.trim_start_matches('w').split_once(':').unwrap_or((text.trim_start_matches('w'), "1"));
    WorkerId { slot: slot.parse().unwrap(), life: life.parse().unwrap() }
}

pub(super) fn staged(step: u64, ndcg: Option<f64>) -> Staged {
    let metrics =
        ndcg.map(|value| v1::Metric { name: "ndcg@10".into(), value, convention: String::new() }).into_iter().collect();
    let checkpoint = v1::Checkpoint { step, metrics, ..Default::default() };
    Staged { path: PathBuf::from(format!("staged-{step}")), checkpoint }
}

fn failure(message: &str) -> v1::Failure {
    v1::Failure { message: message.into(), ..Default::default() }
}

/// Words to events. Reports come from generation 1 unless a line ends in `@g<n>`.
fn event(words: &str, now: &mut Timestamp) -> Vec<Event> {
    let (words, generation) = match words.split_once(" @g") {
        Some((words, generation)) => (words, Generation(generation.parse().unwrap())),
        None => (words, Generation(1)),
    };
    let mut rest: VecDeque<&str> = words.split_whitespace().collect();
    let verb = rest.pop_front().unwrap();
    let tail = |rest: &VecDeque<&str>| rest.iter().copied().collect::<Vec<_>>().join(" ");
    let report = |worker, report| Event::Report { worker, generation, report };
    let first = worker("w1");
    let one = match verb {
        "prepare" => Event::Prepared(Prepared { dataset_hash: "d".into(), ..Default::default() }),
        "resume" => Event::Prepared(Prepared {
            dataset_hash: "d".into(),
            resumed_at: Some(rest[0].parse().unwrap()),
            best: Some(staged(rest[1].parse().unwrap(), None).checkpoint),
            best_score: Some(rest[2].parse().unwrap()),
            ..Default::default()
        }),
        "refuse" => Event::Refused(failure(&tail(&rest))),
        "queue" => Event::Queued { behind: (rest[0] == "behind").then(|| RunId::new(0, 0)) },
        "join" => return rest.into_iter().map(|w| Event::Offered { worker: worker(w) }).collect(),
        "turned" => Event::TurnedAway { why: tail(&rest), nobody_else_will_come: false },
        "alone" => Event::TurnedAway { why: tail(&rest), nobody_else_will_come: true },
        "lose" | "exit" => {
            let id = worker(rest.pop_front().unwrap());
            Event::Left { worker: id, cause: Departure { why: tail(&rest), told: verb == "exit" } }
        }
        "step" => {
            let (step, from) = (rest[0].parse().unwrap(), rest.get(1).map_or(first, |w| worker(w)));
            report(from, Report::Progress(v1::Progress { step, epoch: 2, epochs: 20, ..Default::default() }))
        }
        "epoch" => {
            let epoch = v1::EpochEnded { epoch: rest[0].parse().unwrap(), step: 100, ..Default::default() };
            report(first, Report::Epoch(epoch))
        }
        "stage" => {
            let from = rest.iter().find(|word| word.starts_with('w')).map_or(first, |word| worker(word));
            let ndcg = rest.get(1).and_then(|value| value.parse().ok());
            report(from, Report::Staged(staged(rest[0].parse().unwrap(), ndcg)))
        }
        "published" => {
            let staged = staged(rest[0].parse().unwrap(), None);
            let checkpoint = v1::Checkpoint { path: format!("step-{}", rest[0]), ..staged.checkpoint };
            Event::Published { staged: staged.path, outcome: Ok(Publication { checkpoint, ..Default::default() }) }
        }
        "unpublished" => Event::Published {
            staged: staged(rest.pop_front().unwrap().parse().unwrap(), None).path,
            outcome: Err(tail(&rest)),
        },
        "drain" => {
            let id = worker(rest.pop_front().unwrap());
            Event::Drain { worker: id }
        }
        "beat" => {
            let id = worker(rest.pop_front().unwrap());
            let step = rest.pop_front().unwrap().parse().unwrap();
            report(id, Report::Step { step, waiting: rest.pop_front() == Some("waiting"), pulse: step })
        }
        "ended" => {
            let id = worker(rest.pop_front().unwrap());
            let how = rest.pop_front().unwrap();
            let end = match how {
                "finished" => JobEnd::Finished("all 20 epochs".into()),
                "stopped" => JobEnd::Ordered(Order::Stop),
                "yielded" => JobEnd::Ordered(Order::Yield),
                "aborted" => JobEnd::Ordered(Order::Abort),
                "failed" => JobEnd::Failed(failure(&tail(&rest))),
                "peerlost" => JobEnd::PeerLost { words: format!("`{}`", worker(rest[0])), peer: Some(worker(rest[0])) },
                how => panic!("no such end: {how}"),
            };
            // "at 120": holds that step's state; "in 120": with its epoch still open; "blank": none.
            let step = |word| {
                let at = rest.iter().position(|found| *found == word)?;
                rest.get(at + 1)?.parse().ok()
            };
            let (at, open) = (step("at"), step("in"));
            let reached = at.or(open).unwrap_or(123);
            let blank = rest.contains(&"blank");
            let holding = (!blank).then_some(Holding { step: reached, epoch_closed: open.is_none() });
            report(id, Report::Ended { step: reached, end, holding })
        }
        "stop" => Event::Stop { now: rest.front() == Some(&"now") },
        "shutdown" => Event::ShutDown,
        "wait" => {
            now.0 += rest[0].trim_end_matches('s').parse::<u64>().unwrap() * 1_000_000;
            Event::Tick
        }
        verb => panic!("no such event: {verb}"),
    };
    vec![one]
}

fn words(effect: &Effect) -> String {
    match effect {
        Effect::Persist(Record::Run(status)) => format!("persist run g{}", status.generation),
        Effect::Persist(Record::Checkpoint(checkpoint)) => format!("persist checkpoint {}", checkpoint.step),
        Effect::Persist(Record::Pruned { step }) => format!("persist pruned {step}"),
        Effect::Emit(Notice::Standing(standing)) => format!("says: {}", standing.words),
        Effect::Emit(Notice::Seated(seated)) => format!("tell seated g{}", seated.generation),
        Effect::Emit(Notice::Lost(lost)) => {
            format!("tell lost {} of g{} at {}: {}", lost.worker, lost.generation, lost.step, lost.why)
        }
        Effect::Emit(Notice::Progress(progress)) => format!("tell step {}", progress.step),
        Effect::Emit(Notice::Epoch(epoch)) => format!("tell epoch {}", epoch.epoch),
        Effect::Emit(Notice::Checkpoint(checkpoint)) => {
            format!("tell checkpoint {}{}", checkpoint.step, if checkpoint.best { " best" } else { "" })
        }
        Effect::Emit(Notice::System(seen)) => format!("tell system {} at {}", seen.worker, seen.step),
        Effect::Emit(Notice::Warning(warning)) => format!("warn: {}", warning.message),
        Effect::Emit(Notice::Ended(ended)) => {
            let failure = ended.failure.as_ref();
            let causes = failure.map(|f| f.causes.iter().map(|c| format!("; cause: {c}")).collect::<String>());
            let hint = failure.filter(|f| !f.hint.is_empty()).map(|f| format!("; hint: {}", f.hint));
            let last = ended.last.as_ref().map(|last| format!("; last {}", last.step));
            let best = ended.best.as_ref().map(|best| format!("; best {}", best.step));
            let extras = [causes, hint, last, best].into_iter().flatten().collect::<String>();
            format!("tell ended {:?}{extras}", ended.phase())
        }
        Effect::Prepare => "prepare".into(),
        Effect::Seat { generation, members, start, first_step, reported_step, save_only } => {
            let members: Vec<_> = members.iter().map(ToString::to_string).collect();
            let start = match start {
                Start::Submitted => String::new(),
                Start::Memory { source, lacking } if lacking.is_empty() => format!(" from memory (rank {source})"),
                Start::Memory { source, lacking } => format!(" from memory of rank {source}, {lacking:?} lack it"),
                Start::Checkpoint(path) => format!(" from {path}"),
            };
            let steps =
                if *first_step > 0 { format!(" at {first_step}, reported {reported_step}") } else { String::new() };
            format!(
                "seat {generation}: {}{start}{steps}{}",
                members.join(" "),
                if *save_only { ", to save" } else { "" }
            )
        }
        Effect::Order { worker, generation, order } => format!("order {order:?} {worker} {generation}"),
        Effect::Publish { staged, best } => {
            format!("publish {}{}", staged.checkpoint.step, if *best { " as best" } else { "" })
        }
        Effect::Answer { worker, published, .. } => format!("answer {worker}: {published:?}"),
        Effect::RemoveStaging => "remove staging".into(),
        Effect::Release { worker } => format!("release {worker}"),
        Effect::Expel { worker, why } => format!("expel {worker}: {why}"),
        Effect::Dismiss { worker } => format!("dismiss {worker}"),
    }
}

fn check(script: &str, expected: Expect) {
    let mut parts = script.split(';').map(str::trim);
    // "submit 2", or "submit 1 2 3": at least 1, 2 to begin with, at most 3.
    let numbers: Vec<u32> =
        parts.next().unwrap().strip_prefix("submit ").unwrap().split(' ').map(|n| n.parse().unwrap()).collect();
    let plan_of = match numbers[..] {
        [least, workers, most] => elastic(least, workers, most),
        _ => plan(numbers[0]),
    };
    let mut now = Timestamp(1_000_000);
    let mut run = Run::new(plan_of, now);
    let mut seen = String::new();
    let mut feed = |line: &str, events: Vec<Event>, now: Timestamp| {
        let effects: Vec<_> = events.into_iter().flat_map(|event| run.on(now, event)).collect();
        let said = effects.iter().any(|effect| matches!(effect, Effect::Emit(Notice::Standing(_))));
        writeln!(seen, "> {line}").unwrap();
        for effect in &effects {
            writeln!(seen, "  {}", words(effect).replace(plan(1).id.as_str(), "r-1")).unwrap();
        }
        if !said {
            writeln!(seen, "  = {}", run.standing(now).words).unwrap();
        }
    };
    feed("submit", vec![Event::Submitted], now);
    for part in parts {
        let events = event(part, &mut now);
        feed(part, events, now);
    }
    expected.assert_eq(&seen);
}
