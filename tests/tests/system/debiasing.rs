//! What the way from click logs to a ranker is for: by weighting clicks, true relevance is learned better than by taking them as they are.

use std::fs;

use serde_json::Value;
use tests::Sandbox;

const SEEDS: u64 = 10;

const RUN: &str = r#"
name = "naive"
seed = 17

[data]
train = "naive"
validation = "world/truth"

[model]
kind = "mlp"
hidden = [32]
normalize = "standard"

[loss]
kind = "listnet"

[training]
epochs = 6
batch = 128

[optimizer]
kind = "adamw"
learning_rate = 3e-3

[cluster]
workers = 2
"#;

fn ndcg(sandbox: &Sandbox, run: &str) -> f64 {
    let manifest = fs::read(sandbox.path(format!("checkpoints/{run}/latest/manifest.json"))).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let metrics = manifest["metrics"].as_array().unwrap();
    metrics.iter().find(|metric| metric["name"] == "ndcg@10").unwrap()["value"].as_f64().unwrap()
}

/// True ndcg@10 of a model trained on naive clicks, and of one trained on weighted ones, in the world of a seed.
fn naive_and_debiased(seed: u64) -> (f64, f64) {
    let sandbox = Sandbox::new();
    let seed = seed.to_string();
    let sizes = ["--events", "12000", "--queries", "600", "--documents", "6000", "--users", "1000", "--days", "2"];
    let simulate = ["logs", "simulate", "--out-lake", "lake", "--features", "world", "--seed", &seed];
    sandbox.lockstep(&[&simulate[..], &sizes].concat()).ok();
    let days = ["--from", "2026-01-01", "--to", "2026-01-02"];
    let estimate = ["propensity", "estimate", "--logs", "lake", "--method", "randomized", "--out", "propensities.json"];
    sandbox.lockstep(&[&estimate[..], &days].concat()).ok();
    let debiased = ["--weights", "ipw-clicks", "--propensities", "propensities.json"];
    for (out, weights) in [("naive", &[][..]), ("debiased", &debiased)] {
        let prepare = ["prepare", "--logs", "lake", "--labels", "binary"];
        let tables = [
            ["--query-features", "world/query_features"],
            ["--document-features", "world/document_features"],
            ["--pair-features", "world/pair_features"],
            ["--user-features", "world/user_features"],
        ];
        sandbox.lockstep(&[&prepare[..], tables.as_flattened(), &days, weights, &["--out", out]].concat()).ok();
    }
    sandbox.write("run.toml", RUN);
    super::train(&sandbox, &[]).ok();
    super::train(&sandbox, &["--set", "name=debiased", "--set", "data.train=debiased"]).ok();
    (ndcg(&sandbox, "naive"), ndcg(&sandbox, "debiased"))
}

#[test]
fn clicks_weighted_by_estimated_propensities_beat_naive_ones_against_the_truth_over_ten_seeds() {
    let found: Vec<(f64, f64)> = (1..=SEEDS).map(naive_and_debiased).collect();
    let gains: Vec<f64> = found.iter().map(|(naive, debiased)| debiased - naive).collect();
    println!("gains of true ndcg@10: {gains:.4?}");
    assert!(gains.iter().all(|gain| *gain > 0.02), "naive and debiased: {found:?}");
}
