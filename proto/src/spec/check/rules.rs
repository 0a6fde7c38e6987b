//! What a typed document must satisfy beyond its types: ranges, and values that go together.

use std::{collections::BTreeSet, path::Path};

use bytesize::ByteSize;

use super::document::Document;
use crate::spec::{Every, JUDGMENTS, LossKind, Model, ModelKind, OptimizerKind, RunSpec, ScheduleKind};

/// Below this a block is mostly overhead.
const SMALLEST_BLOCK: ByteSize = ByteSize::kib(64);

pub fn judge(spec: &RunSpec, document: &mut Document) {
    name(spec, document);
    data(spec, document);
    model(spec, document);
    loss(spec, document);
    training(spec, document);
    optimizer(spec, document);
    schedule(spec, document);
    cluster(spec, document);
    checkpoint(spec, document);
    tracking(spec, document);
}

fn name(spec: &RunSpec, document: &mut Document) {
    if spec.name.is_empty() {
        let message = if document.has("name") { "must not be empty" } else { "is missing" };
        document.refuse(
            &["name"],
            message,
            Some("add `name = \"baseline\"`: it names the run's checkpoints and curves"),
        );
    } else if !spec.name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) || spec.name.starts_with('.') {
        let hint = "letters, digits, `-`, `_` and `.` are allowed, and it must not start with `.`: it becomes a folder";
        document.refuse(&["name"], format!("`{}` cannot name a run", spec.name), Some(hint));
    } else if spec.name.len() > 128 {
        document.refuse(&["name"], format!("is {} characters long, at most 128 are allowed", spec.name.len()), None);
    }
}

fn data(spec: &RunSpec, document: &mut Document) {
    let data = &spec.data;
    if data.train.as_os_str().is_empty() {
        let message = if document.has("data.train") { "must not be empty" } else { "is missing" };
        document.refuse(
            &["data.train"],
            message,
            Some("add `train = \"data/train\"` under `[data]`: a Parquet file or a folder of them"),
        );
    }
    for (key, path, hint) in [
        ("data.validation", &data.validation, "leave the key out to train without validation"),
        ("data.judgments", &data.judgments, "leave the key out to train without human judgments"),
    ] {
        if path.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
            document.refuse(&[key], "must not be empty", Some(hint));
        }
    }
    let mut taken: Vec<(&str, &str)> = Vec::new();
    let columns =
        [("data.label", Some(&data.label)), ("data.query", Some(&data.query)), ("data.weight", data.weight.as_ref())];
    for (key, column) in columns {
        let Some(column) = column else { continue };
        if column.is_empty() {
            document.refuse(&[key], "must not be empty", None);
        } else if let Some((_, other)) = taken.iter().find(|(name, _)| name == column) {
            document.refuse(&[key, other], format!("column `{column}` is already `{other}`"), None);
        }
        taken.push((column, key));
    }
    if data.group.as_ref().is_some_and(String::is_empty) {
        document.refuse(
            &["data.group"],
            "must not be empty",
            Some("leave the key out: `list_id` is taken where the data has it, else the query"),
        );
    }
    if let Some(features) = &data.features {
        if features.is_empty() {
            document.refuse(
                &["data.features"],
                "names no column",
                Some("leave the key out to take the dataset's own list"),
            );
        }
        let mut seen = BTreeSet::new();
        for feature in features {
            if !seen.insert(feature) {
                document.refuse(&["data.features"], format!("`{feature}` is listed twice"), None);
            } else if let Some((_, other)) = taken.iter().find(|(name, _)| name == feature) {
                document.refuse(
                    &["data.features", other],
                    format!("`{feature}` is `{other}`, so it cannot be a feature"),
                    Some("a model that reads its own label learns nothing else"),
                );
            }
        }
    }
    if data.block_bytes < SMALLEST_BLOCK {
        let message = format!("{} is too small, a block is at least {SMALLEST_BLOCK}", data.block_bytes);
        document.refuse(&["data.block_bytes"], message, Some("the default, \"4 MiB\", suits most data"));
    }
    if data.read_ahead.0 == 0 {
        document.refuse(&["data.read_ahead"], "must be more than 0", Some("the default is \"64 MiB\""));
    }
    at_least_one(document, "data.readers", data.readers as u64);
}

fn model(spec: &RunSpec, document: &mut Document) {
    let model = &spec.model;
    let kind = match model.kind {
        ModelKind::Linear => "a `linear` model",
        ModelKind::Mlp => "an `mlp`",
        ModelKind::DcnV2 => "a `dcn_v2`",
        ModelKind::Torchscript => "a `torchscript` model",
    };
    let useless: &[&str] = match model.kind {
        ModelKind::Linear => &["hidden", "activation", "dropout", "layer_norm", "cross_layers", "cross_rank", "path"],
        ModelKind::Mlp => &["cross_layers", "cross_rank", "path"],
        ModelKind::DcnV2 => &["path"],
        ModelKind::Torchscript => &["hidden", "activation", "dropout", "layer_norm", "cross_layers", "cross_rank"],
    };
    for key in useless {
        let key = format!("model.{key}");
        if document.has(&key) {
            let hint = if key.starts_with("model.cross") {
                "it belongs to `dcn_v2`"
            } else if key == "model.path" {
                "it belongs to `torchscript`; `start_from` begins from a checkpoint's weights"
            } else {
                "it belongs to `mlp` and `dcn_v2`"
            };
            document.refuse(&[&key, "model.kind"], format!("{kind} has no use for it"), Some(hint));
        }
    }
    if model.kind == ModelKind::Mlp && model.hidden.is_empty() {
        let message = if document.has("model.hidden") {
            "an `mlp` needs at least one hidden layer"
        } else {
            "is missing: an `mlp` needs it"
        };
        document.refuse(
            &["model.hidden", "model.kind"],
            message,
            Some("add `hidden = [128, 64]`, or take `kind = \"linear\"`"),
        );
    }
    if model.kind == ModelKind::Torchscript {
        module_path(model, document);
    }
    if model.kind == ModelKind::DcnV2 && model.hidden.is_empty() {
        for key in ["model.activation", "model.dropout", "model.layer_norm"] {
            if document.has(key) {
                document.refuse(
                    &[key, "model.kind", "model.hidden"],
                    "a `dcn_v2` without a deep tower has no use for it",
                    Some("add `hidden = [128, 64]`"),
                );
            }
        }
    }
    if model.hidden.contains(&0) {
        document.refuse(&["model.hidden"], "a layer of width 0 lets nothing through", Some("leave that layer out"));
    }
    if let Some(dropout) = model.dropout.filter(|p| !(0.0..1.0).contains(p)) {
        document.refuse(
            &["model.dropout"],
            format!("must be at least 0 and less than 1, not {dropout}"),
            Some("it is the probability of dropping a unit"),
        );
    }
    for (key, value) in [("model.cross_layers", model.cross_layers), ("model.cross_rank", model.cross_rank)] {
        if let Some(value) = value {
            at_least_one(document, key, value as u64);
        }
    }
    if model.start_from.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
        document.refuse(
            &["model.start_from"],
            "must not be empty",
            Some("leave the key out to start from fresh weights"),
        );
    }
}

fn module_path(model: &Model, document: &mut Document) {
    let path = model.path.as_deref().unwrap_or(Path::new(""));
    let hint = "add `path = \"model.pt\"`: the file that `torch.jit.script(model).save(\"model.pt\")` wrote";
    if path.as_os_str().is_empty() {
        let message =
            if document.has("model.path") { "must not be empty" } else { "is missing: a `torchscript` model needs it" };
        document.refuse(&["model.path", "model.kind"], message, Some(hint));
    } else if path.to_str().is_some_and(|path| path.contains("://")) {
        document.refuse(
            &["model.path"],
            "must be a file that each worker's machine can open, not an address",
            Some("fetch it first"),
        );
    }
}

fn loss(spec: &RunSpec, document: &mut Document) {
    let loss = &spec.loss;
    let of = |kinds: &[LossKind]| kinds.contains(&loss.kind);
    let keys = [
        (
            "loss.sigma",
            loss.sigma,
            of(&[LossKind::Ranknet, LossKind::Lambdarank]),
            "it belongs to `ranknet` and `lambdarank`",
        ),
        (
            "loss.truncation",
            loss.truncation.map(|k| k as f64),
            of(&[LossKind::Lambdarank]),
            "it belongs to `lambdarank`",
        ),
        ("loss.temperature", loss.temperature, of(&[LossKind::ApproxNdcg]), "it belongs to `approx_ndcg`"),
    ];
    for (key, value, useful, belongs) in keys {
        let Some(value) = value else { continue };
        if !useful {
            document.refuse(&[key, "loss.kind"], format!("the loss `{}` has no use for it", loss.kind), Some(belongs));
        } else {
            positive(document, key, value);
        }
    }
}

fn training(spec: &RunSpec, document: &mut Document) {
    let training = &spec.training;
    at_least_one(document, "training.epochs", training.epochs);
    at_least_one(document, "training.batch", training.batch);
    at_least_one(document, "training.accumulate", training.accumulate);
    at_least_one(document, "training.max_nonfinite", training.max_nonfinite);
    if let Some(threads) = training.threads {
        at_least_one(document, "training.threads", threads as u64);
    }
    if training.batch > 0 && training.batch < training.accumulate {
        let message = format!("{} pieces of a batch of {} leave some empty", training.accumulate, training.batch);
        document.refuse(
            &["training.accumulate", "training.batch"],
            message,
            Some("`training.batch` is of the whole step, before it is cut in pieces"),
        );
    }
    if let Some(norm) = training.clip_norm {
        positive(document, "training.clip_norm", norm);
    }
    let Some(early) = &training.early_stopping else { return };
    let metric = early.metric.strip_prefix(JUDGMENTS);
    match (metric, &spec.data.validation, &spec.data.judgments) {
        (Some(_), _, None) => document.refuse(
            &["training.early_stopping.metric", "data.judgments"],
            format!("`{}` needs human judgments", early.metric),
            Some("add `judgments = \"data/judged\"` under `[data]`, or name a metric of data.validation: \"ndcg@10\""),
        ),
        (None, None, Some(_)) => document.refuse(
            &["training.early_stopping.metric", "training.early_stopping", "data.validation"],
            format!("`{}` needs validation data", early.metric),
            Some("add `validation = \"data/validation\"` under `[data]`, or write \"judgments/ndcg@10\""),
        ),
        (None, None, None) => document.refuse(
            &["training.early_stopping", "data.validation"],
            "needs validation data",
            Some("add `validation = \"data/validation\"` under `[data]`, or leave early stopping out"),
        ),
        _ => {}
    }
    if !is_metric(metric.unwrap_or(&early.metric)) {
        document.refuse(
            &["training.early_stopping.metric"],
            format!("`{}` is not a metric", early.metric),
            Some(
                "write \"ndcg@10\"; known are ndcg, dcg, map, mrr, precision, recall and err, each also with a cut-off",
            ),
        );
    }
    at_least_one(document, "training.early_stopping.patience", early.patience);
    if !(early.min_delta >= 0.0 && early.min_delta.is_finite()) {
        document.refuse(
            &["training.early_stopping.min_delta"],
            format!("must be 0 or more, not {}", early.min_delta),
            None,
        );
    }
}

/// What a validation can be asked for, without a cut-off.
const METRICS: [&str; 7] = ["ndcg", "dcg", "map", "mrr", "precision", "recall", "err"];

/// In the one way in which it is written: the best epoch is found by this name.
fn is_metric(name: &str) -> bool {
    let (name, cut_off) = name.split_once('@').map_or((name, None), |(name, cut_off)| (name, Some(cut_off)));
    let is_cut_off = |text: &str| text.parse::<u32>().is_ok_and(|k| k > 0 && k.to_string() == text);
    METRICS.contains(&name) && cut_off.is_none_or(is_cut_off)
}

fn optimizer(spec: &RunSpec, document: &mut Document) {
    let optimizer = &spec.optimizer;
    positive(document, "optimizer.learning_rate", optimizer.learning_rate);
    if let Some(decay) = optimizer.weight_decay.filter(|decay| !(*decay >= 0.0 && decay.is_finite())) {
        document.refuse(&["optimizer.weight_decay"], format!("must be 0 or more, not {decay}"), None);
    }
    let (kind, useless, belongs): (_, &[&str], _) = match optimizer.kind {
        OptimizerKind::Adamw => ("adamw", &["optimizer.momentum"], "it belongs to `sgd`; `adamw` has `betas`"),
        OptimizerKind::Sgd => {
            ("sgd", &["optimizer.betas", "optimizer.eps"], "it belongs to `adamw`; `sgd` has `momentum`")
        }
    };
    for key in useless {
        if document.has(key) {
            document.refuse(&[key, "optimizer.kind"], format!("`{kind}` has no use for it"), Some(belongs));
        }
    }
    let unit = 0.0..1.0;
    if let Some(betas) = optimizer.betas.filter(|betas| !betas.iter().all(|beta| unit.contains(beta))) {
        document.refuse(
            &["optimizer.betas"],
            format!("each must be at least 0 and less than 1, not {betas:?}"),
            Some("PyTorch's are [0.9, 0.999]"),
        );
    }
    if let Some(momentum) = optimizer.momentum.filter(|momentum| !unit.contains(momentum)) {
        document.refuse(&["optimizer.momentum"], format!("must be at least 0 and less than 1, not {momentum}"), None);
    }
    if let Some(eps) = optimizer.eps {
        positive(document, "optimizer.eps", eps);
    }
}

fn schedule(spec: &RunSpec, document: &mut Document) {
    let schedule = &spec.schedule;
    if let Some(minimum) = schedule.minimum {
        if schedule.kind == ScheduleKind::Constant {
            document.refuse(
                &["schedule.minimum", "schedule.kind"],
                "a `constant` schedule has no use for it",
                Some("it is where `cosine` ends"),
            );
        } else if !(minimum >= 0.0 && minimum.is_finite()) {
            document.refuse(&["schedule.minimum"], format!("must be 0 or more, not {minimum}"), None);
        } else if minimum > spec.optimizer.learning_rate {
            let message = format!("{minimum} is above `optimizer.learning_rate` = {}", spec.optimizer.learning_rate);
            document.refuse(
                &["schedule.minimum", "optimizer.learning_rate"],
                message,
                Some("the rate starts at `optimizer.learning_rate` and falls to it"),
            );
        }
    }
    match schedule.warmup {
        Some(Every::Time(_)) => {
            let hint = "write \"100 steps\" or \"1 epoch\": a rate that depends on the clock cannot be repeated";
            document.refuse(&["schedule.warmup"], "cannot be a time", Some(hint));
        }
        Some(Every::Epochs(epochs)) if epochs.get() > spec.training.epochs => {
            let message = format!("{epochs} epochs are more than `training.epochs` = {}", spec.training.epochs);
            document.refuse(&["schedule.warmup", "training.epochs"], message, None);
        }
        _ => {}
    }
}

fn cluster(spec: &RunSpec, document: &mut Document) {
    let cluster = &spec.cluster;
    at_least_one(document, "cluster.workers", cluster.workers.into());
    at_least_one(document, "cluster.lanes", cluster.lanes.into());
    if cluster.lanes > 0 && cluster.lanes < cluster.workers {
        let message = format!("{} lanes cannot feed {} workers", cluster.lanes, cluster.workers);
        document.refuse(
            &["cluster.lanes", "cluster.workers"],
            message,
            Some("take a multiple of the workers; 64 suits most runs"),
        );
    }
    if let Some(least) = cluster.min_workers {
        at_least_one(document, "cluster.min_workers", least.into());
        if least > cluster.workers {
            document.refuse(
                &["cluster.min_workers", "cluster.workers"],
                format!("a run that begins with {} workers cannot need {least}", cluster.workers),
                Some("raise `cluster.workers`, or leave the key out: the run then waits whenever one is missing"),
            );
        }
    }
    if let Some(most) = cluster.max_workers.filter(|most| *most < cluster.workers) {
        document.refuse(
            &["cluster.max_workers", "cluster.workers"],
            format!("a run that begins with {} workers has more than {most}", cluster.workers),
            Some("lower `cluster.workers`, or leave the key out"),
        );
    }
    if let Some(most) = cluster.max_workers.filter(|most| cluster.lanes > 0 && cluster.lanes < *most) {
        document.refuse(
            &["cluster.lanes", "cluster.max_workers"],
            format!("{} lanes cannot feed {most} workers", cluster.lanes),
            Some("take a multiple of the workers; 64 suits most runs"),
        );
    }
    if cluster.join_timeout.is_zero() {
        document.refuse(&["cluster.join_timeout"], "must be more than 0", Some("write \"60 s\""));
    }
}

fn checkpoint(spec: &RunSpec, document: &mut Document) {
    if spec.checkpoint.dir.as_os_str().is_empty() {
        document.refuse(&["checkpoint.dir"], "must not be empty", Some("the default is \"checkpoints\""));
    }
    at_least_one(document, "checkpoint.keep", spec.checkpoint.keep as u64);
}

fn tracking(spec: &RunSpec, document: &mut Document) {
    let Some(tracking) = &spec.tracking else { return };
    let url = &tracking.mlflow;
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let authority = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    if url.is_empty() {
        let message = if document.has("tracking.mlflow") { "must not be empty" } else { "is missing" };
        let hint = "add `mlflow = \"http://127.0.0.1:5000\"`, or leave `[tracking]` out";
        document.refuse(&["tracking.mlflow"], message, Some(hint));
    } else if authority.is_some_and(|authority| authority.contains('@')) {
        document.refuse(
            &["tracking.mlflow"],
            "holds a name or a password, and a run's document is kept and shown",
            Some("set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN) where the coordinator is started"),
        );
    } else if authority.is_none_or(str::is_empty) || url.contains(['?', '#', ' ']) {
        document.refuse(
            &["tracking.mlflow"],
            format!("`{url}` is not the address of an MLflow server"),
            Some("write \"http://127.0.0.1:5000\""),
        );
    }
    if tracking.experiment.trim().is_empty() {
        document.refuse(&["tracking.experiment"], "must not be empty", Some("leave the key out to take \"lockstep\""));
    } else if tracking.experiment.chars().count() > 500 {
        document.refuse(&["tracking.experiment"], "is longer than the 500 characters that MLflow takes", None);
    }
}

fn at_least_one(document: &mut Document, key: &str, value: u64) {
    if value == 0 {
        document.refuse(&[key], "must be at least 1, not 0", None);
    }
}

fn positive(document: &mut Document, key: &str, value: f64) {
    if !(value > 0.0 && value.is_finite()) {
        document.refuse(&[key], format!("must be more than 0, not {value}"), None);
    }
}
