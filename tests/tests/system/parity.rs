//! Against PyTorch: the same weights from the same start and the same batches, and the same ndcg on real data.

use std::{path::Path, sync::Arc};

use dataset::{
    lanes::{Atom, Blocks},
    manifest,
    reader::{Batch, LaneReader, Plan},
    source::ParquetSource,
};
use proto::spec::{self, RunSpec};
use tests::Sandbox;

use crate::{small_dataset, train};

/// The atoms of every step of every epoch, as a run deals them.
fn global_batches(spec: &RunSpec, root: &Path) -> Vec<Vec<Vec<u64>>> {
    let pointwise = spec.loss.kind.is_pointwise();
    let atom = if pointwise { Atom::Row } else { Atom::List };
    let manifest = manifest::build(root, &spec.data, !pointwise).unwrap();
    let blocks = Arc::new(Blocks::cut(&manifest, atom, spec.cluster.lanes, spec.data.block_bytes.as_u64()));
    let source = ParquetSource::new(manifest.clone(), &blocks, u64::MAX);
    let plan = Plan {
        blocks,
        features: source.features(),
        lanes: spec.cluster.lanes,
        seed: spec.seed,
        rank: 0,
        world: 1,
        batch: spec.training.batch,
        epochs: spec.training.epochs,
        epoch: 0,
        step: 0,
        read_ahead: 1 << 20,
        readers: 1,
    };
    let mut reader = LaneReader::open(plan, Arc::new(source));
    let (steps, mut batch) = (reader.steps_per_epoch(), Batch::default());
    let mut step = |epoch, step| {
        reader.next(epoch, step, &mut batch).unwrap();
        batch.atoms.clone()
    };
    (0..spec.training.epochs).map(|epoch| (0..steps).map(|s| step(epoch, s)).collect()).collect()
}

#[test]
fn five_epochs_of_whole_batches_give_pytorchs_weights_for_one_two_and_three_workers() {
    let sandbox = Sandbox::new();
    small_dataset(&sandbox, 120, "binary");
    // AdamW's update forgives a gradient scaled as a whole; SGD's and a clipped one do not.
    let adamw = "learning_rate = 1e-2";
    let sgd = "kind = \"sgd\"\nlearning_rate = 0.05\nmomentum = 0.9";
    let mlp = "hidden = [64, 32]";
    let dcn = "kind = \"dcn_v2\"\nhidden = [16]\ncross_layers = 2";
    let cases = [
        ("bce", "standard", mlp, adamw, ""),
        ("listnet", "log1p", mlp, adamw, ""),
        ("mse", "standard", mlp, sgd, "accumulate = 3"),
        ("ranknet", "standard", dcn, sgd, "clip_norm = 0.05"),
    ];
    for (kind, normalize, model, optimizer, training) in cases {
        let rows = if matches!(kind, "bce" | "mse") { 1 << 20 } else { 1 << 16 };
        let run = format!(
            r#"
            name = "parity-{kind}"
            seed = 3
            [data]
            train = "data/train"
            [model]
            {model}
            normalize = "{normalize}"
            [loss]
            kind = "{kind}"
            [training]
            epochs = 5
            batch = {rows}
            {training}
            [optimizer]
            {optimizer}
            [schedule]
            kind = "cosine"
            [checkpoint]
            initial = true
            "#
        );
        sandbox.write("run.toml", &run);
        for workers in ["1", "2", "3"] {
            let dir = format!("checkpoint.dir={kind}-{workers}");
            train(&sandbox, &["--workers", workers, "--set", &dir]).ok();
            let folder = sandbox.path(format!("{kind}-{workers}/parity-{kind}"));
            let (start, end) = (folder.join("step-00000000"), folder.join("step-00000005/model.safetensors"));
            let arguments = [start.as_os_str(), "--compare".as_ref(), end.as_os_str()];
            let Some(compared) = sandbox.peer("parity.py", &arguments) else { return };
            assert_eq!(compared.code, Some(0), "{kind}, {workers} workers: {}{}", compared.out, compared.err);
        }
    }
}

#[test]
fn on_the_lightgbm_example_pytorch_reaches_the_same_ndcg_and_both_beat_a_linear_model() {
    let Some(data) = tests::shared("lightgbm") else { return };
    let sandbox = Sandbox::new();
    let import = |file: &str, out: &str| {
        let file = data.join(file);
        let file = file.to_str().unwrap();
        sandbox.lockstep(&["import", "svmrank", file, "--features", "300", "--out", out]).ok();
    };
    import("rank.train", "train");
    import("rank.test", "test");
    for kind in ["lambdarank", "listnet"] {
        let run = |name: &str, model: &str| {
            format!(
                r#"
                name = "{name}"
                seed = 1
                [data]
                train = "train"
                validation = "test"
                [model]
                normalize = "standard"
                {model}
                [loss]
                kind = "{kind}"
                [training]
                epochs = 12
                batch = 16
                [schedule]
                kind = "cosine"
                [cluster]
                workers = 2
                [checkpoint]
                initial = true
                "#
            )
        };
        let ndcg = |metrics: &serde_json::Value| -> f64 {
            let metrics = metrics["validation"].as_array().unwrap();
            metrics.iter().find(|metric| metric["name"] == "ndcg@10").unwrap()["value"].as_f64().unwrap()
        };
        sandbox.write("run.toml", &run(&format!("linear-{kind}"), "kind = \"linear\""));
        let linear = ndcg(&train(&sandbox, &[]).ok().event("epoch"));
        let document = run(&format!("neural-{kind}"), "kind = \"mlp\"\nhidden = [64, 32]");
        sandbox.write("run.toml", &document);
        let ours = ndcg(&train(&sandbox, &[]).ok().event("epoch"));

        let spec = spec::parse(&document, &[]).unwrap();
        let batches = global_batches(&spec, &sandbox.path("train"));
        let batches = sandbox.write("batches.json", &serde_json::to_string(&batches).unwrap());
        let start = sandbox.path(format!("checkpoints/neural-{kind}/step-00000000"));
        let test = sandbox.path("test");
        let arguments =
            [start.as_os_str(), "--batches".as_ref(), batches.as_os_str(), "--evaluate".as_ref(), test.as_os_str()];
        let Some(peer) = sandbox.peer("parity.py", &arguments) else { return };
        let theirs = peer.ok().json().iter().find_map(|line| line["ndcg@10"].as_f64()).expect("ndcg@10 of the peer");
        eprintln!("{kind}: ndcg@10 on rank.test: ours {ours:.4}, PyTorch {theirs:.4}, linear {linear:.4}");
        assert!((ours - theirs).abs() <= 0.002, "{kind}: ours {ours}, PyTorch {theirs}");
        assert!(ours > linear && theirs > linear, "{kind}: ours {ours}, PyTorch {theirs}, linear {linear}");
    }
}
