//! A model's scores: the same to the bit inside a run and after it, in the data's order, whole or not at all; and what people judged
//! beside what was clicked.

use std::{fs, fs::File, path::Path, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray as _, Float32Array, Float64Array, Int64Array, RecordBatch},
    compute,
    datatypes::{Float32Type, Schema},
};
use parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder};
use ranking::metrics::{Convention, Evaluator, Mean, Metric};
use serde_json::Value;
use tests::{Ended, Sandbox};

use crate::{small_dataset, train};

const RUN: &str = r#"
    name = "scored"
    seed = 4
    [data]
    train = "data/train"
    validation = "data/validation"
    [model]
    hidden = [24, 7]
    normalize = "standard"
    [loss]
    kind = "lambdarank"
    [training]
    epochs = 2
    batch = 32
"#;

fn trained() -> Sandbox {
    let sandbox = Sandbox::new();
    small_dataset(&sandbox, 400, "graded");
    sandbox.write("run.toml", RUN);
    train(&sandbox, &[]).ok();
    sandbox
}

/// All rows of a Parquet file, or of a folder of them in the order of names.
fn read(path: &Path) -> RecordBatch {
    let mut files: Vec<_> = match fs::read_dir(path) {
        Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
        Err(_) => vec![path.to_owned()],
    };
    files.sort();
    let of = |path: &std::path::PathBuf| {
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap();
        reader.map(Result::unwrap).collect::<Vec<_>>()
    };
    let batches: Vec<RecordBatch> =
        files.iter().filter(|path| path.extension().is_some_and(|end| end == "parquet")).flat_map(of).collect();
    compute::concat_batches(&batches[0].schema(), &batches).unwrap()
}

fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    fs::create_dir_all(path).unwrap();
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer =
        ArrowWriter::try_new(File::create(path.join("part.parquet")).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn floats<'a>(batch: &'a RecordBatch, name: &str) -> &'a [f32] {
    batch.column_by_name(name).unwrap().as_primitive::<Float32Type>().values()
}

/// What validation reports, worked out from a file of scores.
fn metrics_of(scores: &RecordBatch, group: &str) -> Vec<(String, f64)> {
    let (labels, scored) = (floats(scores, "label"), floats(scores, "score"));
    let group = scores.column_by_name(group).unwrap();
    let mut evaluator = Evaluator::new(&Metric::REPORTED, Convention::default());
    let (mut means, mut values) = ([Mean::default(); 5], [0.0; 5]);
    for list in compute::partition(&[Arc::clone(group)]).unwrap().ranges() {
        evaluator.list(&labels[list.clone()], &scored[list], &mut values);
        means.iter_mut().zip(values).for_each(|(mean, value)| mean.add(value));
    }
    Metric::REPORTED.iter().zip(means).map(|(metric, mean)| (metric.to_string(), mean.value())).collect()
}

fn reported(metrics: &Value) -> Vec<(String, f64)> {
    let of = |metric: &Value| (metric["name"].as_str().unwrap().to_owned(), metric["value"].as_f64().unwrap());
    metrics.as_array().unwrap().iter().map(of).collect()
}

#[track_caller]
fn refused(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, Some(code), "stdout:\n{}\nstderr:\n{}", ended.out, ended.err);
    for word in words {
        assert!(ended.err.contains(word), "no `{word}` in:\n{}", ended.err);
    }
    assert_eq!(ended.err.lines().filter(|line| line.starts_with("error")).count(), 1, "said once:\n{}", ended.err);
}

#[test]
fn validation_inside_a_run_equals_the_scores_of_its_checkpoint_to_the_bit_for_one_two_and_three_workers() {
    let sandbox = Sandbox::new();
    small_dataset(&sandbox, 400, "graded");
    sandbox.write("run.toml", RUN);
    let mlp: &[&str] = &["--set", "data.block_bytes=64 KiB"];
    let dcn: &[&str] = &["--set", "model.kind=dcn_v2", "--set", "model.cross_rank=3", "--set", "training.threads=2"];
    for (model, sets) in [("mlp", mlp), ("dcn", dcn)] {
        for workers in ["1", "2", "3"] {
            let dir = format!("{model}-{workers}");
            let set = format!("checkpoint.dir={dir}");
            let run = train(&sandbox, &[sets, &["--workers", workers, "--set", &set]].concat()).ok();
            let inside = reported(&run.event("epoch")["validation"]);
            let model = format!("{dir}/scored");
            for threads in ["1", "3"] {
                let out = format!("{dir}-{threads}.parquet");
                let score = ["score", "--model", &model, "--checkpoint", "latest", "--data", "data/validation"];
                sandbox.lockstep(&[&score[..], &["--out", &out, "--threads", threads]].concat()).ok();
                let after = metrics_of(&read(&sandbox.path(&out)), "query_id");
                assert_eq!(inside, after, "{dir}, {threads} threads");
            }
            let evaluate =
                ["evaluate", "--model", &model, "--checkpoint", "latest", "--data", "data/validation", "--json"];
            let evaluated = sandbox.lockstep(&evaluate).ok();
            assert_eq!(inside, reported(&evaluated.json()[0]["metrics"]), "{dir}");
            let manifest = fs::read(sandbox.path(format!("{model}/latest/manifest.json"))).unwrap();
            let manifest: Value = serde_json::from_slice(&manifest).unwrap();
            assert_eq!(inside, reported(&manifest["metrics"]), "{dir}");
        }
    }
}

#[test]
fn scores_stand_row_for_row_beside_the_ids_and_the_label_whatever_else_the_data_holds() {
    let sandbox = trained();
    let report = sandbox
        .lockstep(&["score", "--model", "checkpoints/scored", "--data", "all", "--out", "a.parquet", "--json"])
        .ok();
    let (data, scores) = (read(&sandbox.path("all")), read(&sandbox.path("a.parquet")));
    let names: Vec<String> = scores.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(report.json()[0]["columns"], serde_json::json!(names));
    assert_eq!(report.json()[0]["rows"], data.num_rows());
    for name in names.iter().filter(|name| *name != "score") {
        assert_eq!(scores.column_by_name(name), data.column_by_name(name), "{name}");
    }
    // The same rows the other way round, their columns too, without a label and with text that no model reads: the same scores.
    let rows = data.num_rows() as i64;
    let back = Int64Array::from_iter_values((0..rows).rev());
    let mut columns: Vec<(String, ArrayRef)> = Vec::new();
    for (field, column) in data.schema().fields().iter().zip(data.columns()).rev() {
        if field.name() != "label" {
            columns.push((field.name().clone(), compute::take(column, &back, None).unwrap()));
        }
    }
    let note = arrow::array::StringArray::from_iter_values((0..rows).map(|row| format!("note {row}")));
    columns.push(("note".into(), Arc::new(note)));
    write(&sandbox.path("back"), columns.iter().map(|(name, column)| (name.as_str(), Arc::clone(column))).collect());
    sandbox.lockstep(&["score", "--model", "checkpoints/scored/best", "--data", "back", "--out", "b.parquet"]).ok();
    let reversed = read(&sandbox.path("b.parquet"));
    assert!(reversed.column_by_name("label").is_none());
    let forwards: Vec<u32> = floats(&scores, "score").iter().map(|score| score.to_bits()).collect();
    let backwards: Vec<u32> = floats(&reversed, "score").iter().rev().map(|score| score.to_bits()).collect();
    assert!(forwards == backwards, "a row's score depends on where it lies");
}

#[test]
fn a_feature_that_is_missing_or_no_number_or_not_finite_is_named_and_nothing_is_written() {
    let sandbox = trained();
    let data = read(&sandbox.path("all")).slice(0, 100);
    let feature = {
        let manifest = fs::read(sandbox.path("checkpoints/scored/best/manifest.json")).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        manifest["features"][2].as_str().unwrap().to_owned()
    };
    let with = |name: &str, column: Option<ArrayRef>| {
        let schema: Arc<Schema> = data.schema();
        let mut columns = Vec::new();
        for (field, kept) in schema.fields().iter().zip(data.columns()) {
            match (*field.name() == feature, &column) {
                (true, Some(column)) => columns.push((field.name().as_str(), Arc::clone(column))),
                (true, None) => {}
                (false, _) => columns.push((field.name().as_str(), Arc::clone(kept))),
            }
        }
        write(&sandbox.path(name), columns);
        sandbox.lockstep(&["score", "--model", "checkpoints/scored", "--data", name, "--out", "out.parquet"])
    };
    let numbers = |odd: Option<f64>| -> ArrayRef {
        Arc::new(Float64Array::from_iter((0..100).map(|row| if row == 57 { odd } else { Some(0.5) })))
    };
    let quoted = format!("`{feature}`");
    refused(&with("missing", None), 2, &["part.parquet", "no feature", &quoted, "hint:"]);
    let text: ArrayRef = Arc::new(arrow::array::StringArray::from_iter_values((0..100).map(|row| row.to_string())));
    refused(&with("text", Some(text)), 2, &["part.parquet", &quoted, "not a number", "hint:"]);
    refused(&with("null", Some(numbers(None))), 2, &["part.parquet`, row 57", &quoted, "is null", "hint:"]);
    refused(&with("nan", Some(numbers(Some(f64::NAN)))), 2, &["part.parquet`, row 57", &quoted, "NaN", "hint:"]);
    assert!(!sandbox.path("out.parquet").exists());
    with("fine", Some(numbers(Some(1.0)))).ok();
    refused(&with("fine", Some(numbers(Some(1.0)))), 2, &["`out.parquet` exists", "--overwrite"]);
}

#[test]
fn a_damaged_checkpoint_and_a_folder_that_is_none_are_refused_by_name() {
    let sandbox = trained();
    let score = |model: &str| sandbox.lockstep(&["score", "--model", model, "--data", "all", "--out", "out.parquet"]);
    refused(&score("nowhere"), 2, &["`nowhere`", "cannot be found", "hint:"]);
    refused(&score("data"), 2, &["`data`", "holds no checkpoint named `best`", "hint:"]);
    let evaluated = sandbox.lockstep(&["evaluate", "--model", "nowhere", "--data", "all"]);
    refused(&evaluated, 2, &["`nowhere`", "cannot be found", "hint:"]);
    let weights = sandbox.path("checkpoints/scored/best").canonicalize().unwrap().join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&weights, bytes).unwrap();
    refused(&score("checkpoints/scored"), 2, &["is damaged", "`model.safetensors`", "hint:"]);
    assert!(!sandbox.path("out.parquet").exists());
}

#[test]
fn what_people_judged_has_a_curve_of_its_own_and_may_decide_which_epoch_is_the_best() {
    let sandbox = Sandbox::new();
    small_dataset(&sandbox, 300, "graded");
    // Clicks that fall on what stands first, whatever it is worth; the judgments are the grades, and know no lists of a log.
    let clicked = |from: &str, to: &str| {
        let data = read(&sandbox.path(from));
        let labels =
            Float32Array::from_iter_values((0..data.num_rows()).map(|row| if row % 7 == 0 { 1.0 } else { 0.0 }));
        let mut columns: Vec<(String, ArrayRef)> =
            vec![("list_id".into(), Arc::clone(data.column_by_name("query_id").unwrap()))];
        for (field, column) in data.schema().fields().iter().zip(data.columns()) {
            let column =
                if field.name() == "label" { Arc::new(labels.clone()) as ArrayRef } else { Arc::clone(column) };
            columns.push((field.name().clone(), column));
        }
        write(&sandbox.path(to), columns.iter().map(|(name, column)| (name.as_str(), Arc::clone(column))).collect());
    };
    clicked("data/train", "clicks/train");
    clicked("data/validation", "clicks/validation");
    let features: Vec<String> = {
        let data = read(&sandbox.path("clicks/train"));
        let ids = ["list_id", "query_id", "document_id", "label", "sample_weight"];
        data.schema()
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .filter(|name| !ids.contains(&name.as_str()))
            .collect()
    };
    sandbox.write(
        "run.toml",
        &format!(
            "name = \"judged\"\n[data]\ntrain = \"clicks/train\"\nvalidation = \"clicks/validation\"\njudgments = \"data/validation\"\n\
             group = \"list_id\"\nfeatures = {features:?}\n[model]\nhidden = [16]\nnormalize = \"standard\"\n\
             [loss]\nkind = \"bce\"\n[training]\nepochs = 3\nbatch = 256\n\
             early_stopping = {{ metric = \"judgments/ndcg@3\", patience = 9 }}\n",
        ),
    );
    let run = train(&sandbox, &["--workers", "2"]).ok();
    let epoch = run.event("epoch");
    let (clicks, judged) = (reported(&epoch["validation"]), reported(&epoch["judgments"]));
    let names: Vec<&str> = judged.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["ndcg@1", "ndcg@5", "ndcg@10", "map", "mrr", "ndcg@3"]);
    assert!(clicks.iter().zip(&judged).all(|(clicks, judged)| clicks.1 != judged.1), "{clicks:?} {judged:?}");

    let best = run.event("ended")["best"].clone();
    let decisive = reported(&best["metrics"]).into_iter().find(|(name, _)| name == "judgments/ndcg@3").unwrap().1;
    let epochs = run.json().into_iter().filter(|event| event["event"] == "epoch");
    let highest = epochs.map(|epoch| reported(&epoch["judgments"]).pop().unwrap().1).fold(f64::MIN, f64::max);
    assert_eq!(decisive, highest, "the best checkpoint is the one that people would choose");

    // Each curve is that of its own dataset.
    for (data, group, expected) in [("clicks/validation", "list_id", &clicks), ("data/validation", "query_id", &judged)]
    {
        let out = sandbox.path("out.parquet");
        let score = ["score", "--model", "checkpoints/judged", "--checkpoint", "latest", "--data", data];
        sandbox.lockstep(&[&score[..], &["--out", "out.parquet", "--overwrite"]].concat()).ok();
        assert_eq!(metrics_of(&read(&out), group), expected[..5], "{data}");
    }

    let without = sandbox.lockstep(&["check", "run.toml", "--set", "data.judgments="]);
    assert_eq!(without.code, Some(2), "{}", without.err);
    let text = fs::read_to_string(sandbox.path("run.toml")).unwrap().replace("judgments = \"data/validation\"\n", "");
    sandbox.write("plain.toml", &text);
    let plain = sandbox.lockstep(&["check", "plain.toml"]);
    refused(&plain, 2, &["training.early_stopping.metric", "needs human judgments", "hint:"]);
}
