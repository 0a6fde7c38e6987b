//! A document in, its problems out.

use std::{num::NonZeroU64, time::Duration};

use expect_test::{Expect, expect};

use super::*;
use crate::spec::{
    Activation, Device, EarlyStopping, Every, LossKind, ModelKind, Normalize, OptimizerKind, ScheduleKind, Tracking,
};

const CONTRACT: &str = r#"name = "baseline"
seed = 17
[data]                       # names default to what prepare and import write
train = "data/train"         # a file or a folder of Parquet
validation = "data/validation"
label = "label"
query = "query_id"
weight = "sample_weight"     # a dataset without it weighs every row 1
[model]
kind = "mlp"
hidden = [128, 64]
normalize = "standard"
[loss]
kind = "lambdarank"
[training]
epochs = 20
batch = 128
early_stopping = { metric = "ndcg@10", patience = 3 }
[optimizer]
kind = "adamw"
learning_rate = 1e-3
weight_decay = 0.01
[schedule]
kind = "cosine"
[cluster]
workers = 2
lanes = 64
[checkpoint]
dir = "checkpoints"
every = "1 epoch"
keep = 3
"#;

fn problems(text: &str, sets: &[(&str, &str)], expected: Expect) {
    let sets: Vec<_> = sets.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    expected.assert_eq(&match parse(text, &sets) {
        Ok(_) => "no problem\n".to_owned(),
        Err(problems) => render("run.toml", &problems),
    });
}

/// One section on top of the least that a document needs.
fn section(lines: &str, expected: Expect) {
    let mut text = String::from("name = \"a\"\n[data]\ntrain = \"t\"\nvalidation = \"v\"\n");
    if !lines.contains("[model]") {
        text += "[model]\nkind = \"linear\"\n";
    }
    problems(&(text + lines), &[], expected);
}

#[test]
fn the_contract_is_a_valid_document() {
    let spec = parse(CONTRACT, &[]).unwrap();
    assert_eq!(spec.name, "baseline");
    assert_eq!(spec.model.hidden, [128, 64]);
    assert_eq!(spec.training.early_stopping.as_ref().unwrap().patience, 3);
    assert_eq!(spec.checkpoint.every, Every::Epochs(NonZeroU64::MIN));
}

#[test]
fn every_kind_of_problem_is_reported_in_one_go_with_its_line() {
    let text = r#"name = "base line"
sede = 17
[data]
train = "data/train"
block_bytes = "4 XB"
[model]
kind = "mpl"
hidden = [128, 0]
[loss]
kind = "listnet"
sigma = 2.0
[training]
epochs = "twenty"
batch = -1
early_stopping = { metric = "ndgc", patience = 0 }
[optimizer]
kind = "sgd"
betas = [0.9, 0.999]
learning_rate = 0
[cluster]
workers = 8
lanes = 4
join_timeout = "soon"
[checkpoint]
every = 5
[chekpoint]
dir = "x"
"#;
    problems(
        text,
        &[],
        expect![[r#"
            run.toml:1: name: `base line` cannot name a run
              hint: letters, digits, `-`, `_` and `.` are allowed, and it must not start with `.`: it becomes a folder
            run.toml:2: sede: is not a key that a run has
              hint: did you mean `seed`?
            run.toml:5: data.block_bytes: expected a size, not the text `4 XB`
              hint: write "4 MiB" or a number of bytes
            run.toml:7: model.kind: the text `mpl` is none of "linear", "mlp", "dcn_v2", "torchscript"
              hint: did you mean "mlp"?
            run.toml:8: model.hidden: a layer of width 0 lets nothing through
              hint: leave that layer out
            run.toml:11: loss.sigma: the loss `listnet` has no use for it
              hint: it belongs to `ranknet` and `lambdarank`
            run.toml:13: training.epochs: expected a whole number, 0 or more, not the text `twenty`
            run.toml:14: training.batch: expected a whole number, 0 or more, not -1
            run.toml:15: training.early_stopping: needs validation data
              hint: add `validation = "data/validation"` under `[data]`, or leave early stopping out
            run.toml:15: training.early_stopping.metric: `ndgc` is not a metric
              hint: write "ndcg@10"; known are ndcg, dcg, map, mrr, precision, recall and err, each also with a cut-off
            run.toml:15: training.early_stopping.patience: must be at least 1, not 0
            run.toml:18: optimizer.betas: `sgd` has no use for it
              hint: it belongs to `adamw`; `sgd` has `momentum`
            run.toml:19: optimizer.learning_rate: must be more than 0, not 0
            run.toml:22: cluster.lanes: 4 lanes cannot feed 8 workers
              hint: take a multiple of the workers; 64 suits most runs
            run.toml:23: cluster.join_timeout: `soon` is not a time: write "60 s" or "5 min"
            run.toml:25: checkpoint.every: expected a text in quotes, not 5
              hint: write "1 epoch", "500 steps" or "10 min"
            run.toml:26: chekpoint: is not a key that a run has
              hint: did you mean `checkpoint`?
        "#]],
    );
}

#[test]
fn text_that_is_not_toml_is_reported_alone_with_line_and_column() {
    problems(
        "name = \"a\"\n[data\ntrain = 5\n",
        &[],
        expect![[r#"
        run.toml:2:6: not TOML: unclosed table, expected `]`
    "#]],
    );
    problems(
        "name = \"a\"\nseed = = 4\n",
        &[],
        expect![[r#"
        run.toml:2:8: not TOML: extra `=`, expected nothing
    "#]],
    );
    problems(
        "seed = 1\nseed = 2\n",
        &[],
        expect![[r#"
        run.toml:2:1: not TOML: duplicate key
    "#]],
    );
}

#[test]
fn an_empty_document_lacks_what_has_no_default() {
    problems(
        "",
        &[],
        expect![[r#"
        run.toml: name: is missing
          hint: add `name = "baseline"`: it names the run's checkpoints and curves
        run.toml: data.train: is missing
          hint: add `train = "data/train"` under `[data]`: a Parquet file or a folder of them
        run.toml: model.hidden: is missing: an `mlp` needs it
          hint: add `hidden = [128, 64]`, or take `kind = "linear"`
    "#]],
    );
}

#[test]
fn unknown_keys_name_the_one_that_was_meant() {
    problems(
        "name = \"a\"\nepochs = 5\n[data]\ntrian = \"t\"\nlane = 3\n[model]\nkind = \"linear\"\n[training]\nlearning_rate = 1\nzzzz = 1\n[training.early_stoping]\npatience = 1\n",
        &[],
        expect![[r#"
            run.toml:2: epochs: is not a key that a run has
              hint: did you mean `training.epochs`?
            run.toml:4: data.trian: is not a key that a run has
              hint: did you mean `data.train`?
            run.toml:5: data.lane: is not a key that a run has
              hint: did you mean `cluster.lanes`?
            run.toml:9: training.learning_rate: is not a key that a run has
              hint: did you mean `optimizer.learning_rate`?
            run.toml:10: training.zzzz: is not a key that a run has
              hint: `[training]` has epochs, batch, accumulate, clip_norm, early_stopping, max_nonfinite, threads
            run.toml:11: training.early_stoping: is not a key that a run has
              hint: did you mean `training.early_stopping`?
        "#]],
    );
}

#[test]
fn tables_and_values_do_not_pass_for_one_another() {
    problems(
        "name = [\"a\"]\ndata = [\"t\"]\ntraining = 3\n[model]\nkind = 3\nhidden = {}\n[loss.kind]\nx = 1\n[optimizer]\nlearning_rate = \"fast\"\n[[cluster]]\nworkers = 1\n[checkpoint]\ninitial = \"yes\"\n",
        &[],
        expect![[r#"
            run.toml:1: name: expected a text in quotes, not a list
            run.toml:2: data: expected a table, not a list
              hint: write `[data]` on a line of its own
            run.toml:3: training: expected a table, not 3
              hint: write `[training]` on a line of its own
            run.toml:5: model.kind: 3 is none of "linear", "mlp", "dcn_v2", "torchscript"
            run.toml:6: model.hidden: expected a list, not a table
              hint: write [128, 64]
            run.toml:7: loss.kind: a table is none of "mse", "bce", "ranknet", "lambdarank", "listnet", "approx_ndcg"
            run.toml:10: optimizer.learning_rate: expected a number, not the text `fast`
            run.toml:11: cluster: expected a table, not a list
              hint: write `[cluster]` on a line of its own
            run.toml:14: checkpoint.initial: expected true or false, not the text `yes`
        "#]],
    );
}

#[test]
fn sets_win_over_the_text_and_their_problems_name_them() {
    let sets = [
        ("training.epochs", "5"),
        ("checkpoint.every", "500 steps"),
        ("name", "2024-05-01"),
        ("data.train", "/d/x.parquet"),
    ];
    let sets: Vec<_> = sets.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let spec = parse(CONTRACT, &sets).unwrap();
    assert_eq!(spec.training.epochs, 5);
    assert_eq!(spec.checkpoint.every, Every::Steps(NonZeroU64::new(500).unwrap()));
    assert_eq!(spec.name, "2024-05-01");
    assert_eq!(spec.data.train.to_str(), Some("/d/x.parquet"));

    problems(
        CONTRACT,
        &[
            ("training.epochs", "many"),
            ("cluster.workers", "65"),
            ("model.hiden", "[1]"),
            ("training.early_stopping", "{ metric = \"auc\" }"),
            ("loss", "bce"),
            (".x", "1"),
            ("training.batch", "0"),
        ],
        expect![[r#"
            run.toml:27: cluster.lanes: 64 lanes cannot feed 65 workers
              hint: take a multiple of the workers; 64 suits most runs
            --set .x=1: .x: is not a key
              hint: write `--set training.epochs=5`
            --set loss=bce: loss: expected a table, not the text `bce`
              hint: write `[loss]` on a line of its own
            --set model.hiden=[1]: model.hiden: is not a key that a run has
              hint: did you mean `model.hidden`?
            --set training.epochs=many: training.epochs: expected a whole number, 0 or more, not the text `many`
            --set training.batch=0: training.batch: must be at least 1, not 0
            --set training.early_stopping={ metric = "auc" }: training.early_stopping.metric: `auc` is not a metric
              hint: write "ndcg@10"; known are ndcg, dcg, map, mrr, precision, recall and err, each also with a cut-off
        "#]],
    );
}

#[test]
fn a_bad_value_says_nothing_about_the_keys_beside_it() {
    section(
        "[model]\nkind = 3\n[cluster]\nworkers = \"many\"\nlanes = 0\n",
        expect![[r#"
        run.toml:6: model.kind: 3 is none of "linear", "mlp", "dcn_v2", "torchscript"
        run.toml:8: cluster.workers: expected a whole number, 0 or more, not the text `many`
        run.toml:9: cluster.lanes: must be at least 1, not 0
    "#]],
    );
}

#[test]
fn keys_that_a_kind_has_no_use_for_are_refused() {
    section(
        "[model]\nkind = \"linear\"\nhidden = [4]\ndropout = 0.1\ncross_layers = 2\n",
        expect![[r#"
        run.toml:7: model.hidden: a `linear` model has no use for it
          hint: it belongs to `mlp` and `dcn_v2`
        run.toml:8: model.dropout: a `linear` model has no use for it
          hint: it belongs to `mlp` and `dcn_v2`
        run.toml:9: model.cross_layers: a `linear` model has no use for it
          hint: it belongs to `dcn_v2`
    "#]],
    );
    section(
        "[model]\nkind = \"mlp\"\ncross_rank = 2\n",
        expect![[r#"
            run.toml:7: model.cross_rank: an `mlp` has no use for it
              hint: it belongs to `dcn_v2`
            run.toml: model.hidden: is missing: an `mlp` needs it
              hint: add `hidden = [128, 64]`, or take `kind = "linear"`
        "#]],
    );
    section(
        "[model]\nkind = \"dcn_v2\"\nlayer_norm = true\ncross_layers = 0\n",
        expect![[r#"
        run.toml:7: model.layer_norm: a `dcn_v2` without a deep tower has no use for it
          hint: add `hidden = [128, 64]`
        run.toml:8: model.cross_layers: must be at least 1, not 0
    "#]],
    );
    section(
        "[model]\nkind = \"torchscript\"\nhidden = [4]\n",
        expect![[r#"
        run.toml:7: model.hidden: a `torchscript` model has no use for it
          hint: it belongs to `mlp` and `dcn_v2`
        run.toml: model.path: is missing: a `torchscript` model needs it
          hint: add `path = "model.pt"`: the file that `torch.jit.script(model).save("model.pt")` wrote
    "#]],
    );
    section(
        "[model]\nkind = \"torchscript\"\npath = \"s3://bucket/model.pt\"\n",
        expect![[r#"
        run.toml:7: model.path: must be a file that each worker's machine can open, not an address
          hint: fetch it first
    "#]],
    );
    section(
        "[model]\nkind = \"linear\"\npath = \"model.pt\"\n",
        expect![[r#"
        run.toml:7: model.path: a `linear` model has no use for it
          hint: it belongs to `torchscript`; `start_from` begins from a checkpoint's weights
    "#]],
    );
    section("[model]\nkind = \"torchscript\"\npath = \"model.pt\"\nnormalize = \"log1p\"\n", expect![["no problem\n"]]);
    section(
        "[loss]\nkind = \"mse\"\ntemperature = 0.1\ntruncation = 5\n",
        expect![[r#"
        run.toml:9: loss.temperature: the loss `mse` has no use for it
          hint: it belongs to `approx_ndcg`
        run.toml:10: loss.truncation: the loss `mse` has no use for it
          hint: it belongs to `lambdarank`
    "#]],
    );
    section(
        "[loss]\nkind = \"lambdarank\"\nsigma = -1.0\ntruncation = 0\n",
        expect![[r#"
        run.toml:9: loss.sigma: must be more than 0, not -1
        run.toml:10: loss.truncation: must be more than 0, not 0
    "#]],
    );
    section(
        "[optimizer]\nmomentum = 0.9\n",
        expect![[r#"
        run.toml:8: optimizer.momentum: `adamw` has no use for it
          hint: it belongs to `sgd`; `adamw` has `betas`
    "#]],
    );
    section(
        "[schedule]\nminimum = 0.1\nwarmup = \"10 min\"\n",
        expect![[r#"
        run.toml:8: schedule.minimum: a `constant` schedule has no use for it
          hint: it is where `cosine` ends
        run.toml:9: schedule.warmup: cannot be a time
          hint: write "100 steps" or "1 epoch": a rate that depends on the clock cannot be repeated
    "#]],
    );
}

#[test]
fn numbers_outside_their_range_are_refused() {
    section(
        "[model]\nkind = \"mlp\"\nhidden = [8]\ndropout = 1.0\n",
        expect![[r#"
        run.toml:8: model.dropout: must be at least 0 and less than 1, not 1
          hint: it is the probability of dropping a unit
    "#]],
    );
    section(
        "[optimizer]\nlearning_rate = nan\nweight_decay = -0.1\nbetas = [0.9, 1.0]\neps = 0.0\n",
        expect![[r#"
        run.toml:8: optimizer.learning_rate: must be more than 0, not NaN
        run.toml:9: optimizer.weight_decay: must be 0 or more, not -0.1
        run.toml:10: optimizer.betas: each must be at least 0 and less than 1, not [0.9, 1.0]
          hint: PyTorch's are [0.9, 0.999]
        run.toml:11: optimizer.eps: must be more than 0, not 0
    "#]],
    );
    section(
        "[training]\nepochs = 0\nbatch = 2\naccumulate = 4\nclip_norm = 0\n",
        expect![[r#"
        run.toml:8: training.epochs: must be at least 1, not 0
        run.toml:10: training.accumulate: 4 pieces of a batch of 2 leave some empty
          hint: `training.batch` is of the whole step, before it is cut in pieces
        run.toml:11: training.clip_norm: must be more than 0, not 0
    "#]],
    );
    section(
        "[schedule]\nkind = \"cosine\"\nminimum = 1\nwarmup = \"11 epochs\"\n",
        expect![[r#"
        run.toml:9: schedule.minimum: 1 is above `optimizer.learning_rate` = 0.001
          hint: the rate starts at `optimizer.learning_rate` and falls to it
        run.toml:10: schedule.warmup: 11 epochs are more than `training.epochs` = 10
    "#]],
    );
    section(
        "[cluster]\nworkers = 0\nlanes = 0\njoin_timeout = \"0 s\"\n[checkpoint]\ndir = \"\"\nkeep = 0\nevery = \"0 steps\"\n",
        expect![[r#"
        run.toml:8: cluster.workers: must be at least 1, not 0
        run.toml:9: cluster.lanes: must be at least 1, not 0
        run.toml:10: cluster.join_timeout: must be more than 0
          hint: write "60 s"
        run.toml:12: checkpoint.dir: must not be empty
          hint: the default is "checkpoints"
        run.toml:13: checkpoint.keep: must be at least 1, not 0
        run.toml:14: checkpoint.every: `0 steps` is neither epochs, steps nor a time: write "1 epoch", "500 steps" or "10 min"
    "#]],
    );
}

#[test]
fn a_tracker_is_an_address_without_secrets() {
    let document = |tracking: &str| {
        format!("name = \"a\"\n[data]\ntrain = \"d\"\n[model]\nkind = \"linear\"\n[tracking]\n{tracking}")
    };
    problems(
        &document("experiment = \" \"\n"),
        &[],
        expect![[r#"
            run.toml:7: tracking.experiment: must not be empty
              hint: leave the key out to take "lockstep"
            run.toml: tracking.mlflow: is missing
              hint: add `mlflow = "http://127.0.0.1:5000"`, or leave `[tracking]` out
        "#]],
    );
    for (url, words) in [
        ("http://ann:secret@h:5000", "a run's document is kept and shown"),
        ("h:5000", "`h:5000` is not the address of an MLflow server"),
        ("sqlite:///mlflow.db", "is not the address of an MLflow server"),
        ("http://", "is not the address of an MLflow server"),
    ] {
        let Err(found) = parse(&document(&format!("mlflow = \"{url}\"\n")), &[]) else { panic!("{url}") };
        assert!(found.0[0].message.contains(words) && !found.to_string().contains("secret"), "{found}");
    }
}

#[test]
fn data_is_checked_for_columns_that_cannot_be_two_things() {
    problems(
        "name = \".a\"\nseed = 9223372036854775808\n[data]\ntrain = \"\"\nlabel = \"y\"\nquery = \"y\"\nfeatures = [\"a\", \"a\", \"y\"]\nblock_bytes = \"1 KiB\"\nreaders = 0\nread_ahead = 0\n[model]\nkind = \"linear\"\n[training]\nearly_stopping = { metric = \"ndcg@0\" }\n",
        &[],
        expect![[r#"
            run.toml:1: name: `.a` cannot name a run
              hint: letters, digits, `-`, `_` and `.` are allowed, and it must not start with `.`: it becomes a folder
            run.toml:2: seed: is too large a number: at most 9223372036854775807
            run.toml:4: data.train: must not be empty
              hint: add `train = "data/train"` under `[data]`: a Parquet file or a folder of them
            run.toml:6: data.query: column `y` is already `data.label`
            run.toml:7: data.features: `a` is listed twice
            run.toml:7: data.features: `y` is `data.label`, so it cannot be a feature
              hint: a model that reads its own label learns nothing else
            run.toml:8: data.block_bytes: 1.0 KiB is too small, a block is at least 64.0 KiB
              hint: the default, "4 MiB", suits most data
            run.toml:9: data.readers: must be at least 1, not 0
            run.toml:10: data.read_ahead: must be more than 0
              hint: the default is "64 MiB"
            run.toml:14: training.early_stopping: needs validation data
              hint: add `validation = "data/validation"` under `[data]`, or leave early stopping out
            run.toml:14: training.early_stopping.metric: `ndcg@0` is not a metric
              hint: write "ndcg@10"; known are ndcg, dcg, map, mrr, precision, recall and err, each also with a cut-off
        "#]],
    );
}

#[test]
fn what_is_written_reads_back_as_the_same_spec() {
    let mut spec = parse(CONTRACT, &[]).unwrap();
    assert_eq!(parse(&to_toml(&spec), &[]).as_ref(), Ok(&spec));

    spec.seed = i64::MAX as u64;
    spec.data.group = Some("a \"quoted\" group".into());
    spec.data.features = Some(vec!["bm25".into(), "é".into()]);
    spec.data.block_bytes = ByteSize(123_456_789);
    spec.data.cache = ByteSize(0);
    spec.data.read_ahead = ByteSize::gib(3);
    spec.model.kind = ModelKind::DcnV2;
    spec.model.activation = Some(Activation::Gelu);
    spec.model.dropout = Some(0.1);
    spec.model.layer_norm = Some(true);
    spec.model.cross_layers = Some(3);
    spec.model.cross_rank = Some(8);
    spec.model.normalize = Normalize::Log1p;
    spec.model.start_from = Some("/c/old".into());
    spec.loss.kind = LossKind::ApproxNdcg;
    spec.loss.temperature = Some(1.0 / 3.0);
    spec.training.clip_norm = Some(1e-30);
    spec.training.threads = Some(4);
    spec.training.early_stopping = Some(EarlyStopping { metric: "map".into(), patience: 1, min_delta: 1e-4 });
    spec.optimizer.kind = OptimizerKind::Sgd;
    spec.optimizer.momentum = Some(0.9);
    spec.schedule.kind = ScheduleKind::Cosine;
    spec.schedule.minimum = Some(1e-9);
    spec.schedule.warmup = Some(Every::Steps(NonZeroU64::new(7).unwrap()));
    spec.cluster.device = Device::Cuda;
    spec.cluster.join_timeout = Duration::from_millis(90_500);
    spec.checkpoint.every = Every::Time(Duration::from_secs(615));
    spec.checkpoint.initial = true;
    spec.tracking = Some(Tracking { mlflow: "http://h:5000/mlflow".into(), experiment: "ranking, 2026".into() });
    assert_eq!(parse(&to_toml(&spec), &[]), Ok(spec));
}

#[test]
fn the_written_document_reads_well() {
    expect![[r#"
        name = "baseline"
        seed = 17

        [data]
        block_bytes = "4 MiB"
        cache = "256 MiB"
        label = "label"
        query = "query_id"
        read_ahead = "64 MiB"
        readers = 1
        train = "data/train"
        validation = "data/validation"
        weight = "sample_weight"

        [model]
        hidden = [128, 64]
        kind = "mlp"
        normalize = "standard"

        [loss]
        kind = "lambdarank"

        [training]
        accumulate = 1
        batch = 128
        epochs = 20
        max_nonfinite = 10

        [training.early_stopping]
        metric = "ndcg@10"
        min_delta = 0.0
        patience = 3

        [optimizer]
        kind = "adamw"
        learning_rate = 0.001
        weight_decay = 0.01

        [schedule]
        kind = "cosine"

        [cluster]
        device = "auto"
        join_timeout = "1m"
        lanes = 64
        workers = 2

        [checkpoint]
        dir = "checkpoints"
        every = "1 epoch"
        initial = false
        keep = 3
    "#]]
    .assert_eq(&to_toml(&parse(CONTRACT, &[]).unwrap()));
}

#[test]
fn early_stopping_may_go_by_what_people_judged_where_there_are_judgments() {
    let text = |data: &str, metric: &str| {
        format!(
            "name = \"a\"\n[data]\ntrain = \"t\"\n{data}\n[model]\nhidden = [8]\n[training]\nearly_stopping = {{ metric = \"{metric}\" }}\n"
        )
    };
    problems(&text("judgments = \"j\"", "judgments/map"), &[], expect!["no problem\n"]);
    problems(&text("judgments = \"j\"\nvalidation = \"v\"", "ndcg@10"), &[], expect!["no problem\n"]);
    problems(
        &text("validation = \"v\"", "judgments/ndcg@10"),
        &[],
        expect![[r#"
            run.toml:8: training.early_stopping.metric: `judgments/ndcg@10` needs human judgments
              hint: add `judgments = "data/judged"` under `[data]`, or name a metric of data.validation: "ndcg@10"
        "#]],
    );
    problems(
        &text("judgments = \"j\"", "ndcg@10"),
        &[],
        expect![[r#"
            run.toml:8: training.early_stopping.metric: `ndcg@10` needs validation data
              hint: add `validation = "data/validation"` under `[data]`, or write "judgments/ndcg@10"
        "#]],
    );
    problems(
        &text("judgments = \"\"", "judgments/auc"),
        &[],
        expect![[r#"
            run.toml:4: data.judgments: must not be empty
              hint: leave the key out to train without human judgments
            run.toml:8: training.early_stopping.metric: `judgments/auc` is not a metric
              hint: write "ndcg@10"; known are ndcg, dcg, map, mrr, precision, recall and err, each also with a cut-off
        "#]],
    );
}

#[test]
fn the_best_epoch_is_chosen_by_clicks_unless_only_judgments_are_there_or_asked_for() {
    let best_by = |data: &str, training: &str| {
        let text =
            format!("name = \"a\"\n[data]\ntrain = \"t\"\n{data}\n[model]\nhidden = [8]\n[training]\n{training}\n");
        parse(&text, &[]).unwrap().best_by()
    };
    let both = "validation = \"v\"\njudgments = \"j\"";
    assert_eq!(best_by("", ""), None);
    assert_eq!(best_by(both, "").as_deref(), Some("ndcg@10"));
    assert_eq!(best_by("judgments = \"j\"", "").as_deref(), Some("judgments/ndcg@10"));
    let asked = "early_stopping = { metric = \"judgments/mrr\" }";
    assert_eq!(best_by(both, asked).as_deref(), Some("judgments/mrr"));
}
