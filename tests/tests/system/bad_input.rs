//! Bad input: one clear message with a hint, the right exit code, nothing half-written, nobody left running.

use std::fs;

use tests::Sandbox;

use crate::{small_dataset, train};

const RUN: &str = r#"
name = "bad"
[data]
train = "data/train"
validation = "data/validation"
[model]
hidden = [16]
[loss]
kind = "listnet"
[training]
epochs = 1
batch = 32
[cluster]
workers = 2
"#;

fn prepared() -> Sandbox {
    let sandbox = Sandbox::new();
    small_dataset(&sandbox, 60, "graded");
    sandbox.write("run.toml", RUN);
    sandbox
}

/// Trains, expecting exit code `code` and all of `words` on stderr.
#[track_caller]
fn refused(sandbox: &Sandbox, more: &[&str], code: i32, words: &[&str]) {
    let ended = train(sandbox, more);
    assert_eq!(ended.code, Some(code), "stdout:\n{}\nstderr:\n{}", ended.out, ended.err);
    for word in words {
        assert!(ended.err.contains(word), "no `{word}` in:\n{}", ended.err);
    }
    let errors = ended.err.lines().filter(|line| line.starts_with("error")).count();
    assert_eq!(errors, 1, "one error, said once:\n{}", ended.err);
    let written = fs::read_dir(sandbox.path("checkpoints/bad")).map_or(0, |entries| entries.count());
    assert_eq!(written, 0, "something was left in the checkpoint folder");
}

#[test]
fn a_missing_dataset_is_named() {
    refused(&prepared(), &["--set", "data.train=nowhere"], 2, &["nowhere", "hint:"]);
}

#[test]
fn a_truncated_file_is_named() {
    let sandbox = prepared();
    let file = sandbox.path("data/train/part-00000.parquet");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    refused(&sandbox, &[], 2, &["part-00000.parquet", "not a whole Parquet file", "hint:"]);
}

#[test]
fn a_missing_label_column_is_named_with_the_columns_there_are() {
    refused(&prepared(), &["--set", "data.label=clicks"], 2, &["no label column `clicks`", "bm25_score", "hint:"]);
}

#[test]
fn every_problem_of_a_document_is_reported_with_its_line() {
    let sandbox = prepared();
    sandbox.write("run.toml", &RUN.replace("epochs = 1", "epocs = 1").replace("batch = 32", "batch = \"many\""));
    let ended = sandbox.lockstep(&["check", "run.toml"]);
    assert_eq!(ended.code, Some(2));
    let all = format!("{}{}", ended.out, ended.err);
    for word in ["run.toml:11", "epocs", "run.toml:12", "batch"] {
        assert!(all.contains(word), "no `{word}` in:\n{all}");
    }
}

#[test]
fn a_dataset_with_fewer_lists_than_workers_is_refused() {
    let sandbox = prepared();
    sandbox.write("one.csv", "query_id,label,f\n1,1,0.5\n1,0,0.25\n");
    sandbox.lockstep(&["import", "csv", "one.csv", "--out", "one"]).ok();
    refused(&sandbox, &["--set", "data.train=one", "--set", "data.validation=one"], 2, &["1 list", "2 workers"]);
}

#[test]
fn a_label_outside_the_losss_domain_is_refused() {
    refused(&prepared(), &["--set", "loss.kind=bce"], 2, &["bce", "between 0 and 1"]);
}

#[test]
fn data_without_a_single_pair_is_refused_after_an_epoch_that_taught_nothing() {
    let sandbox = prepared();
    let rows: String = (0..40).map(|row| format!("{},1,0.{row}\n", row / 4)).collect();
    sandbox.write("flat.csv", &format!("query_id,label,f\n{rows}"));
    sandbox.lockstep(&["import", "csv", "flat.csv", "--out", "flat"]).ok();
    let more = ["--set", "data.train=flat", "--set", "data.validation=flat", "--set", "loss.kind=lambdarank"];
    refused(&sandbox, &more, 2, &["lambdarank", "two different labels"]);
}

#[test]
fn a_port_in_use_is_named() {
    let sandbox = prepared();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = sandbox.lockstep(&["train", "run.toml", "--listen", &address]);
    assert_eq!(ended.code, Some(2), "{}", ended.err);
    assert!(ended.err.contains(&address) && ended.err.contains("hint:"), "{}", ended.err);
}

#[test]
fn a_worker_binary_of_another_version_is_refused() {
    let sandbox = prepared();
    let fake = sandbox.write("fake-worker", "#!/bin/sh\necho lockstep-worker 9.9.9\n");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&fake, executable).unwrap();
    let ended = sandbox.run(sandbox.command().args(["train", "run.toml"]).env("LOCKSTEP_WORKER", &fake));
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    assert!(ended.err.contains("9.9.9") && ended.err.contains("hint:"), "{}", ended.err);
}

#[test]
fn a_checkpoint_of_another_model_is_refused_with_what_differs() {
    let sandbox = prepared();
    train(&sandbox, &[]).ok();
    let ended = train(&sandbox, &["--resume", "--set", "model.hidden=[8]"]);
    assert_eq!(ended.code, Some(2), "{}", ended.err);
    assert!(ended.err.contains("hidden") && ended.err.contains("hint:"), "{}", ended.err);
}

#[test]
fn a_fresh_run_never_overwrites_the_checkpoints_of_an_older_one() {
    let sandbox = prepared();
    train(&sandbox, &[]).ok();
    let ended = train(&sandbox, &[]);
    assert_eq!(ended.code, Some(2), "{}", ended.err);
    assert!(ended.err.contains("--resume"), "{}", ended.err);
}

/// A mount of its own, which goes away with the process: a file system of a few hundred kilobytes for checkpoints.
#[test]
fn a_full_disk_delays_checkpoints_never_training_and_the_run_ends_with_a_clear_error() {
    let sandbox = prepared();
    fs::create_dir(sandbox.path("tiny")).unwrap();
    let script = "mount -t tmpfs -o size=300k tmpfs tiny && exec \"$@\"";
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(tests::binary("lockstep"));
    command.args(["train", "run.toml", "--json", "--listen", "127.0.0.1:0", "--state", "state"]);
    command.args(["--set", "checkpoint.dir=tiny", "--set", "model.hidden=[256, 128]", "--set", "training.epochs=4"]);
    let probe = sandbox.run(std::process::Command::new("unshare").args(["--mount", "true"]));
    if probe.code != Some(0) {
        return tests::skip("no mount namespace can be made here (not root?)");
    }
    let ended = sandbox.run(&mut command);
    assert_eq!(ended.code, Some(1), "stdout:\n{}\nstderr:\n{}", ended.out, ended.err);
    assert_eq!(ended.json().iter().filter(|event| event["event"] == "epoch").count(), 4, "training went on");
    assert!(ended.err.contains("could not be written") && ended.err.contains("o space left"), "{}", ended.err);
    assert!(ended.err.contains("hint:"), "{}", ended.err);
}
