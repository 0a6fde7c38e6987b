//! Killed and resumed: the same end as if nothing had happened.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;
use tests::Sandbox;

use crate::{TRAIN, small_dataset, train};

const RUN: &str = r#"
    name = "resumed"
    seed = 11
    [data]
    train = "data/train"
    validation = "data/validation"
    [model]
    hidden = [32, 16]
    dropout = 0.1
    normalize = "standard"
    [loss]
    kind = "listnet"
    [training]
    epochs = 40
    batch = 16
    [schedule]
    kind = "cosine"
    [cluster]
    workers = 2
    [checkpoint]
    every = "7 steps"
    keep = 2
"#;

fn step(event: &Value) -> u64 {
    event["step"].as_u64().unwrap_or(0)
}

fn epoch_of(run: &tests::Ended, epoch: u64) -> Value {
    let found = run.json().into_iter().find(|event| event["event"] == "epoch" && event["epoch"] == epoch);
    found.unwrap_or_else(|| panic!("no epoch {epoch} in {}", run.out))
}

fn newest_weights(sandbox: &Sandbox, dir: &str) -> Vec<u8> {
    fs::read(sandbox.path(format!("{dir}/resumed/latest/model.safetensors"))).unwrap()
}

fn prepare(sandbox: &Sandbox) {
    small_dataset(sandbox, 300, "graded");
    sandbox.write("run.toml", RUN);
}

#[test]
fn killing_everything_in_mid_epoch_and_resuming_gives_the_uninterrupted_weights_to_the_bit() {
    let sandbox = Sandbox::new();
    prepare(&sandbox);
    let whole = train(&sandbox, &["--set", "checkpoint.dir=whole"]).ok();
    let steps = step(&whole.event("ended")["last"]);

    let killed = [&TRAIN[..], &["--set", "checkpoint.dir=killed"]].concat();
    let mut run = sandbox.start(&killed);
    // The dataset has 15 steps an epoch or so: step 50 is in the middle of one.
    run.until(|event| event["event"] == "checkpoint" && step(event) >= 49);
    run.kill_everything();
    let resumed = train(&sandbox, &["--set", "checkpoint.dir=killed", "--resume"]).ok();
    let first = resumed.json().into_iter().find(|event| event["event"] == "progress").unwrap();
    let began = first["first_step"].as_u64().unwrap();
    assert!(began >= 49 && began < steps, "it went on from step {began} of {steps}");
    let steps_per_epoch = first["steps_per_epoch"].as_u64().unwrap();
    assert_ne!(began % steps_per_epoch, 0, "the cut was not in the middle of an epoch");
    assert_eq!(newest_weights(&sandbox, "killed"), newest_weights(&sandbox, "whole"));
    // The epoch that was cut: its sums began before the kill and ended after it.
    let (ours, theirs) = (epoch_of(&resumed, began / steps_per_epoch), epoch_of(&whole, began / steps_per_epoch));
    assert_eq!(ours["train_loss"], theirs["train_loss"]);
    assert_eq!(ours["audit"], theirs["audit"]);
    assert_eq!(ours["validation"], theirs["validation"]);
}

#[test]
fn resuming_with_another_number_of_workers_gives_the_same_batches_and_almost_the_same_weights() {
    let sandbox = Sandbox::new();
    prepare(&sandbox);
    let whole = train(&sandbox, &["--set", "checkpoint.dir=whole"]).ok();
    let mut run = sandbox.start(&[&TRAIN[..], &["--set", "checkpoint.dir=killed"]].concat());
    run.until(|event| event["event"] == "checkpoint" && step(event) >= 49);
    run.kill_everything();
    let resumed = train(&sandbox, &["--set", "checkpoint.dir=killed", "--resume", "--workers", "3"]).ok();
    let loss = |ended: &Value| ended["train_loss"].as_f64().unwrap();
    let first = resumed.json().into_iter().find(|event| event["event"] == "progress").unwrap();
    let cut = first["first_step"].as_u64().unwrap() / first["steps_per_epoch"].as_u64().unwrap();
    // Three workers went on where two had stopped: other batches would give another loss, and the audit would not add up.
    let (ours, theirs) = (epoch_of(&resumed, cut), epoch_of(&whole, cut));
    assert_eq!(ours["audit"], theirs["audit"]);
    assert!((loss(&ours) / loss(&theirs) - 1.0).abs() < 1e-5, "loss of epoch {cut}: {ours}, uninterrupted {theirs}");
}

#[test]
fn one_interrupt_saves_and_stops_and_the_run_can_be_resumed_to_the_same_end() {
    let sandbox = Sandbox::new();
    prepare(&sandbox);
    train(&sandbox, &["--set", "checkpoint.dir=whole"]).ok();
    let mut run = sandbox.start(&[&TRAIN[..], &["--set", "checkpoint.dir=stopped"]].concat());
    run.until(|event| event["event"] == "progress" && step(event) >= 20);
    run.signal(Signal::INT);
    let ended = run.until(|event| event["event"] == "ended");
    assert_eq!(ended["phase"], "stopped", "{ended}");
    assert!(step(&ended["last"]) >= 20);
    run.wait();
    train(&sandbox, &["--set", "checkpoint.dir=stopped", "--resume"]).ok();
    assert_eq!(newest_weights(&sandbox, "stopped"), newest_weights(&sandbox, "whole"));
}

#[test]
fn the_same_run_twice_gives_the_same_weights_to_the_bit() {
    let sandbox = Sandbox::new();
    prepare(&sandbox);
    let few = ["--set", "training.epochs=2"];
    for dir in ["one", "two"] {
        train(&sandbox, &[&few[..], &["--set", &format!("checkpoint.dir={dir}")]].concat()).ok();
    }
    assert_eq!(newest_weights(&sandbox, "one"), newest_weights(&sandbox, "two"));
}

#[test]
fn a_damaged_newest_checkpoint_is_skipped_by_name() {
    let sandbox = Sandbox::new();
    prepare(&sandbox);
    train(&sandbox, &["--set", "training.epochs=2"]).ok();
    let newest = fs::canonicalize(sandbox.path("checkpoints/resumed/latest")).unwrap();
    let weights = newest.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    let resumed = train(&sandbox, &["--set", "training.epochs=3", "--resume"]).ok();
    let name = newest.file_name().unwrap().to_str().unwrap();
    let said = format!("{}{}", resumed.out, resumed.err);
    let warned = said.lines().any(|line| line.contains("skipped") && line.contains(name));
    assert!(warned, "nothing says that {name} was skipped:\n{said}");
}

#[test]
fn a_dealing_broken_on_purpose_is_found_by_the_audit_of_its_epoch() {
    let sandbox = Sandbox::new();
    prepare(&sandbox);
    let arguments = [&TRAIN[..], &["--set", "loss.kind=mse", "--set", "training.batch=512"]].concat();
    let mut command = sandbox.command();
    let ended = sandbox.run(command.args(&arguments).env("LOCKSTEP_FAULT", "deal-twice"));
    assert_eq!(ended.code, Some(1), "{}{}", ended.out, ended.err);
    assert!(ended.err.contains("the audit of epoch 0 failed"), "{}", ended.err);
    assert!(ended.json().iter().all(|event| event["event"] != "epoch"));
    // The same without the fault.
    let few = ["--set", "loss.kind=mse", "--set", "training.batch=512", "--set", "training.epochs=1"];
    train(&sandbox, &[&few[..], &["--set", "checkpoint.dir=sound"]].concat()).ok();
}

#[test]
fn a_run_that_early_stopping_ended_has_nothing_left_to_do_when_it_is_resumed() {
    let sandbox = Sandbox::new();
    prepare(&sandbox);
    let stopping = "training.early_stopping={ metric = \"ndcg@10\", patience = 1, min_delta = 0.5 }";
    let ended = train(&sandbox, &["--set", stopping]).ok().event("ended");
    assert!(ended["reason"].as_str().unwrap().contains("early stopping"), "{ended}");
    let before = newest_weights(&sandbox, "checkpoints");
    let resumed = train(&sandbox, &["--set", stopping, "--resume"]).ok().event("ended");
    assert_eq!((&resumed["phase"], &resumed["reason"]), (&ended["phase"], &ended["reason"]));
    assert_eq!(newest_weights(&sandbox, "checkpoints"), before);
}

#[test]
fn a_new_run_starts_from_an_old_ones_weights_found_by_its_folder() {
    let sandbox = Sandbox::new();
    prepare(&sandbox);
    train(&sandbox, &["--set", "training.epochs=3"]).ok();
    let more = ["--set", "name=tuned", "--set", "checkpoint.initial=true", "--set", "training.epochs=1"];
    train(&sandbox, &[&more[..], &["--set", "model.start_from=checkpoints/resumed"]].concat()).ok();
    let start = fs::read(sandbox.path("checkpoints/tuned/step-00000000/model.safetensors")).unwrap();
    assert_eq!(start, newest_weights(&sandbox, "checkpoints"));
}
