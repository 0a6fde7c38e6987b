//! The whole system: real binaries, real processes, real files.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod bad_input;
mod chaos;
mod collect;
mod debiasing;
mod engine;
mod evaluation;
mod experiments;
mod foreign_clients;
mod judge;
mod models;
mod parity;
mod picky_tracker;
mod resume;
mod scoring;
mod spark;
mod standby;
mod tracking;

use tests::Sandbox;

/// A small dataset with uneven weights, split in two.
fn small_dataset(sandbox: &Sandbox, queries: u32, labels: &str) {
    let queries = queries.to_string();
    let generate = ["generate", "--queries", &queries, "--seed", "5", "--weights", "--labels", labels, "--out", "all"];
    sandbox.lockstep(&generate).ok();
    sandbox.lockstep(&["split", "all", "--parts", "train=0.75,validation=0.25", "--out", "data"]).ok();
}

/// `lockstep train` on a free port, events as JSON.
const TRAIN: [&str; 5] = ["train", "run.toml", "--json", "--listen", "127.0.0.1:0"];

fn train(sandbox: &Sandbox, more: &[&str]) -> tests::Ended {
    sandbox.lockstep(&[&TRAIN, more].concat())
}
