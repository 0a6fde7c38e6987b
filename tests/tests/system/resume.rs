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
    assert_eq!(newest_weights(&sandbox, "killed"), newest_weights(&sandbox, "whole"));
    assert_eq!(resumed.event("epoch")["train_loss"], whole.event("epoch")["train_loss"]);
}

#[test]
fn resuming_with_another_number_of_workers_gives_the_same_batches_and_almost_the_same_weights() {
    let sandbox = Sandbox::new();
    prepare(&sandbox);
    let whole = train(&sandbox, &["--set", "checkpoint.dir=whole"]).ok();
    let mut run = sandbox.start(&[&TRAIN[..], &["--set", "checkpoint.dir=killed"]].concat());
    run.until(|event| event["event"] == "checkpoint" && step(event) >= 49);
    run.kill_everything();
    // The audit of the epoch that was cut in two passes only if both worlds dealt the same batches.
    let resumed = train(&sandbox, &["--set", "checkpoint.dir=killed", "--resume", "--workers", "3"]).ok();
    let loss = |ended: &Value| ended["train_loss"].as_f64().unwrap();
    let (ours, theirs) = (loss(&resumed.event("epoch")), loss(&whole.event("epoch")));
    assert!((ours / theirs - 1.0).abs() < 1e-3, "last epoch's loss {ours}, uninterrupted {theirs}");
    assert_eq!(resumed.event("epoch")["audit"], whole.event("epoch")["audit"]);
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
    assert!(resumed.err.contains(name), "stderr does not name {name}:\n{}", resumed.err);
}
