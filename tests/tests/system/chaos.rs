//! Workers killed, paused and sent away in mid-run: the run goes on, loses nothing, and ends as if nothing had happened.

use std::{fs, process::Child, sync::OnceLock, time::Duration};

use serde_json::Value;
use tests::{
    Sandbox,
    chaos::{Chaos, Deed, Fault, Outcome, Whom, audited, signal, workers_of},
};

use crate::{small_dataset, train};

/// Some 1,500 steps an epoch, and some seconds of training.
const RUN: &str = r#"
    name = "chaos"
    seed = 11
    [data]
    train = "data/train"
    validation = "data/validation"
    [model]
    hidden = [64, 32]
    dropout = 0.1
    normalize = "standard"
    [loss]
    kind = "listnet"
    [training]
    epochs = 12
    batch = 4
    [schedule]
    kind = "cosine"
    [cluster]
    workers = 2
    [checkpoint]
    every = "500 steps"
    keep = 2
"#;

const WORLD: usize = 2;

fn prepare() -> Sandbox {
    let sandbox = Sandbox::new();
    small_dataset(&sandbox, 8000, "graded");
    sandbox.write("run.toml", RUN);
    sandbox
}

fn weights(sandbox: &Sandbox) -> Vec<u8> {
    fs::read(sandbox.path("checkpoints/chaos/latest/model.safetensors")).unwrap()
}

/// The weights that the run ends with where nobody disturbs it, and its epochs.
fn undisturbed() -> &'static (Vec<u8>, Vec<Value>) {
    static UNDISTURBED: OnceLock<(Vec<u8>, Vec<Value>)> = OnceLock::new();
    UNDISTURBED.get_or_init(|| {
        let sandbox = prepare();
        let whole = train(&sandbox, &[]).ok();
        audited(&sandbox, "checkpoints/.state");
        (weights(&sandbox), whole.json().into_iter().filter(|event| event["event"] == "epoch").collect())
    })
}

/// The run under this plan, to its end.
#[track_caller]
fn under(sandbox: &Sandbox, plan: Vec<Fault>, arguments: &[&str]) -> Outcome {
    Chaos::start(sandbox, arguments, plan).finish().ok()
}

/// Nothing came of it: the weights are the undisturbed run's to the bit, so is what each epoch reported, and each row was counted once.
#[track_caller]
fn same_as_undisturbed(sandbox: &Sandbox, outcome: &Outcome) -> Value {
    let (expected, epochs) = undisturbed();
    for (ours, theirs) in outcome.named("epoch").iter().zip(epochs) {
        for field in ["epoch", "step", "train_loss", "rows", "validation", "audit"] {
            assert_eq!(ours[field], theirs[field], "{field} of epoch {}", theirs["epoch"]);
        }
    }
    assert_eq!(outcome.named("epoch").len(), epochs.len());
    assert!(weights(sandbox) == *expected, "the weights differ");
    let audit = audited(sandbox, "checkpoints/.state");
    assert!(audit["epochs"].as_array().unwrap().iter().all(|epoch| epoch["verdict"] == "proven"), "{audit:#}");
    audit
}

fn step(event: &Value) -> u64 {
    event["step"].as_u64().unwrap_or(0)
}

fn is(event: &Value, name: &str) -> bool {
    event["event"] == name
}

#[test]
fn rank_0_killed_in_mid_epoch_is_replaced_and_the_weights_are_the_undisturbed_ones_to_the_bit() {
    let sandbox = prepare();
    let outcome = under(&sandbox, vec![Fault::at_step(2000, Whom::Rank(0), Deed::Kill)], &[]);
    let seated = outcome.named("seated");
    assert_eq!(seated.len(), 2, "{seated:?}");
    assert_eq!((&outcome.struck[0].worker[..], outcome.struck.len()), ("w0:1", 1));
    // The survivor has become rank 0.
    assert_eq!(outcome.members(), ["w1:1", "w0:2"]);
    let first_step = seated[1]["first_step"].as_u64().unwrap();
    let steps_per_epoch = outcome.named("progress")[0]["steps_per_epoch"].as_u64().unwrap();
    assert!(first_step >= 2000 && !first_step.is_multiple_of(steps_per_epoch), "it went on from step {first_step}");
    let lost = outcome.named("lost")[0];
    assert_eq!(lost["worker"], "w0:1");
    assert!(lost["why"].as_str().unwrap().contains("killed by signal 9 (SIGKILL)"), "{lost}");
    let said = |words: &str| outcome.err.lines().filter(|line| line.contains(words)).count();
    assert_eq!(said("worker w0:1 killed by signal 9 (SIGKILL)"), 1, "{}", outcome.err);
    same_as_undisturbed(&sandbox, &outcome);
}

#[test]
fn another_rank_killed_is_replaced_from_the_memory_of_rank_0() {
    let sandbox = prepare();
    let outcome = under(&sandbox, vec![Fault::at_step(2000, Whom::Rank(1), Deed::Kill)], &[]);
    assert_eq!(outcome.members(), ["w0:1", "w1:2"]);
    // What rank 0 had applied was not done again.
    let audit = same_as_undisturbed(&sandbox, &outcome);
    assert_eq!(audit["steps_done_again"], 0, "{audit:#}");
}

#[test]
fn both_workers_killed_at_once_go_on_from_the_newest_checkpoint() {
    let sandbox = prepare();
    let outcome = under(&sandbox, vec![Fault::at_step(2000, Whom::Everybody, Deed::Kill)], &[]);
    assert_eq!(outcome.struck.len(), WORLD);
    let mut members = outcome.members();
    members.sort_unstable();
    assert_eq!(members, ["w0:2", "w1:2"]);
    let first_step = outcome.named("seated").last().unwrap()["first_step"].as_u64().unwrap();
    assert!(first_step > 0 && first_step.is_multiple_of(500), "it went on from step {first_step}");
    let (expected, _) = undisturbed();
    assert!(weights(&sandbox) == *expected, "the weights differ");
    audited(&sandbox, "checkpoints/.state");
}

#[test]
fn a_worker_killed_during_validation_is_replaced_and_the_epoch_ends_once() {
    let sandbox = prepare();
    // Its last step is reported before it is validated: from there it is under way.
    let last_step = |event: &Value| {
        is(event, "progress")
            && step(event) >= 3000
            && step(event).is_multiple_of(event["steps_per_epoch"].as_u64().unwrap())
    };
    let validation = ["--set", "data.validation=all"];
    let whole = {
        let sandbox = prepare();
        train(&sandbox, &validation).ok();
        weights(&sandbox)
    };
    let plan = vec![
        Fault::when(last_step, Whom::Rank(1), Deed::Kill),
        Fault::when(last_step, Whom::Rank(0), Deed::Kill).later(Duration::from_millis(20)),
        Fault::when(last_step, Whom::Rank(0), Deed::Kill).later(Duration::from_millis(60)),
    ];
    let outcome = under(&sandbox, plan, &validation);
    // At least one struck between an epoch's last step and its end.
    let during = outcome.struck.iter().filter(|struck| {
        let after = outcome.events[struck.events..].iter();
        let next = after.filter(|event| is(event, "epoch") || is(event, "lost")).map(|event| is(event, "lost")).next();
        next == Some(true)
            && last_step(outcome.events[..struck.events].iter().rfind(|event| is(event, "progress")).unwrap())
    });
    assert!(during.count() >= 1, "no fault struck during validation: {:?}", outcome.struck);
    let epochs: Vec<u64> = outcome.named("epoch").iter().map(|epoch| epoch["epoch"].as_u64().unwrap()).collect();
    assert_eq!(epochs, (0..12).collect::<Vec<_>>());
    assert!(weights(&sandbox) == whole, "the weights differ");
    audited(&sandbox, "checkpoints/.state");
}

#[test]
fn twenty_kills_at_random_lose_no_row_and_repeat_none() {
    const KILLS: usize = 20;
    let sandbox = prepare();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut kill = || {
        let whom = Whom::Rank(random(WORLD as u64) as usize);
        Fault::when_seated(WORLD, whom, Deed::Kill).later(Duration::from_millis(20 + random(300)))
    };
    let plan = (0..KILLS).map(|_| kill()).collect();
    let outcome = under(&sandbox, plan, &["--max-restarts", "100"]);
    assert_eq!(outcome.struck.len(), KILLS);
    assert!(outcome.named("seated").len() > KILLS);
    same_as_undisturbed(&sandbox, &outcome);
}

#[test]
fn a_worker_that_is_paused_too_long_is_replaced_and_its_successor_is_undisturbed() {
    let sandbox = prepare();
    let plan = vec![
        Fault::at_step(2000, Whom::Rank(1), Deed::Pause),
        // Its launcher has seen to it that it does not come back; if it did, this would be when.
        Fault::when(|event| is(event, "seated"), Whom::TheSame, Deed::GoOn).later(Duration::from_millis(200)),
    ];
    let outcome = under(&sandbox, plan, &[]);
    assert_eq!(outcome.struck[0].deed, Deed::Pause);
    assert_eq!(outcome.members(), ["w0:1", "w1:2"]);
    let lost: Vec<&Value> = outcome.named("lost").iter().map(|lost| &lost["worker"]).collect();
    assert_eq!(lost, ["w1:1"], "its successor was disturbed");
    same_as_undisturbed(&sandbox, &outcome);
}

/// A process of a standing cluster; killed, and waited for, when dropped.
struct Member(Child);

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Nobody kills the old process here: it comes back, finds itself replaced, and must go.
#[test]
fn a_worker_back_from_a_pause_finds_its_successor_at_work_and_does_not_disturb_it() {
    let sandbox = prepare();
    let address = sandbox.free_address();
    let start = |arguments: &[&str]| {
        let log =
            fs::File::create(sandbox.path(format!("{}.log", arguments.join("-").replace(['/', ':'], "_")))).unwrap();
        Member(sandbox.command().args(arguments).stderr(log).spawn().unwrap())
    };
    let _coordinator = start(&["coordinator", "--listen", &address, "--state", "state"]);
    while std::net::TcpStream::connect(&address).is_err() {
        std::thread::yield_now();
    }
    let worker =
        |slot: &str, more: &[&str]| start(&[&["worker", "--coordinator", &address, "--slot", slot], more].concat());
    let (_zero, mut old) = (worker("0", &[]), worker("1", &[]));
    let mut watch = sandbox.start(&[
        "submit",
        "run.toml",
        "--watch",
        "--json",
        "--coordinator",
        &address,
        "--set",
        "training.epochs=24",
    ]);
    watch.until(|event| is(event, "progress") && step(event) >= 2000);
    signal(old.0.id(), Deed::Pause);
    watch.until(|event| is(event, "lost") && event["worker"] == "w1:1");
    let _new = worker("1", &["--device", "cpu"]);
    let seated = watch.until(|event| is(event, "seated"));
    assert_eq!(seated["workers"], serde_json::json!(["w0:1", "w1:2"]));
    signal(old.0.id(), Deed::GoOn);
    let ended = watch.until(|event| {
        assert!(!is(event, "lost"), "somebody was disturbed: {event}");
        is(event, "ended")
    });
    assert_eq!(ended["phase"], "succeeded", "{ended}");
    // It was refused by name, or its session was gone: it does not wait for ever.
    assert!(!old.0.wait().unwrap().success());
    let audit = sandbox.lockstep(&["audit", "--coordinator", &address]).ok();
    assert!(audit.out.contains("exactly once, through 2 generations"), "{}", audit.out);
}

/// What an epoch trained on is the same whatever the world, and its loss almost.
#[track_caller]
fn same_epochs_as_undisturbed(outcome: &Outcome) {
    let (_, epochs) = undisturbed();
    let ours = outcome.named("epoch");
    assert_eq!(ours.len(), epochs.len());
    for (ours, theirs) in ours.iter().zip(epochs) {
        assert_eq!((&ours["audit"], &ours["rows"]), (&theirs["audit"], &theirs["rows"]));
        let (a, b) = (ours["train_loss"].as_f64().unwrap(), theirs["train_loss"].as_f64().unwrap());
        assert!((a / b - 1.0).abs() < 1e-3, "the loss of epoch {} is {a}, undisturbed {b}", theirs["epoch"]);
    }
}

#[test]
fn where_one_worker_is_enough_training_goes_on_with_one_at_once_and_the_other_is_let_in_again() {
    let sandbox = prepare();
    let outcome =
        under(&sandbox, vec![Fault::at_step(2000, Whom::Rank(1), Deed::Kill)], &["--set", "cluster.min_workers=1"]);
    let worlds: Vec<Value> = outcome.named("seated").iter().map(|seated| seated["workers"].clone()).collect();
    let expected = [vec!["w0:1", "w1:1"], vec!["w0:1"], vec!["w0:1", "w1:2"]];
    assert_eq!(worlds, expected.map(Value::from));
    same_epochs_as_undisturbed(&outcome);
    let audit = audited(&sandbox, "checkpoints/.state");
    assert_eq!((&audit["generations"], &audit["steps_done_again"]), (&3.into(), &0.into()), "{audit:#}");
}

#[test]
fn a_worker_told_to_go_hands_over_and_leaves_with_no_step_lost() {
    let sandbox = prepare();
    let plan = vec![Fault::at_step(2000, Whom::Rank(1), Deed::Terminate)];
    let mut run = Chaos::start(&sandbox, &["--set", "cluster.min_workers=1"], plan);
    let alone = run.until(|event| is(event, "seated") && event["generation"] == 2);
    assert_eq!(alone["workers"], serde_json::json!(["w0:1"]));
    // Its process ends well, and nobody takes its place.
    while workers_of(run.address()).len() > 1 {
        run.until(|event| is(event, "progress"));
    }
    let workers = sandbox.lockstep(&["workers", "--json", "--coordinator", run.address()]).ok();
    let workers: Value = serde_json::from_str(&workers.out).unwrap();
    let state =
        |name: &str| workers.as_array().unwrap().iter().find(|w| w["worker"] == name).map(|w| w["state"].clone());
    // Whichever of the two is heard of first.
    let left = state("w1:1").unwrap();
    assert!(["left: dismissed", "left: exited with code 0"].iter().any(|words| left == *words), "{workers:#}");
    assert_eq!(state("w1:2"), None);
    let outcome = run.finish().ok();
    assert_eq!(outcome.named("seated").len(), 2);
    same_epochs_as_undisturbed(&outcome);
    let audit = audited(&sandbox, "checkpoints/.state");
    assert_eq!(audit["steps_done_again"], 0, "{audit:#}");
}

#[test]
fn without_restarts_a_killed_worker_ends_the_run_by_name() {
    let sandbox = prepare();
    let plan = vec![Fault::at_step(2000, Whom::Rank(1), Deed::Kill)];
    let outcome = Chaos::start(&sandbox, &["--max-restarts", "0"], plan).finish();
    assert_eq!(outcome.code, Some(1), "{}", outcome.err);
    let error = outcome.err.lines().find(|line| line.starts_with("error: ")).unwrap();
    assert!(error.contains("w1:1") && error.contains("killed by signal 9 (SIGKILL)"), "{error}");
    // Resumed, it ends as it would have.
    train(&sandbox, &["--resume"]).ok();
    assert!(weights(&sandbox) == undisturbed().0, "the weights differ");
}
