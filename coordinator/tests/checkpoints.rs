//! Which checkpoint a run goes on from.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fake;

use std::path::Path;

use coordinator::{resolve_resume, resolve_start};
use fake::{manifest, spec, write_checkpoint};
use proto::RunSpec;

fn folder_of(dir: &Path, steps: &[u64]) -> (String, RunSpec) {
    let text = spec(dir, "baseline", 1);
    for &step in steps {
        write_checkpoint(&dir.join(format!("baseline/step-{step:08}")), "r-1", &text, step, Some(0.5));
    }
    let spec = proto::spec::parse(&text, &[]).unwrap();
    (text, spec)
}

#[test]
fn the_newest_intact_checkpoint_is_taken_and_damaged_ones_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (_, spec) = folder_of(dir.path(), &[100, 200, 300, 400]);
    let step = |n: u64| dir.path().join(format!("baseline/step-{n:08}"));
    // One bit, one missing file, one cut manifest.
    let mut weights = std::fs::read(step(400).join("model.safetensors")).unwrap();
    weights[500] ^= 1;
    std::fs::write(step(400).join("model.safetensors"), weights).unwrap();
    std::fs::remove_file(step(300).join("model.safetensors")).unwrap();
    std::fs::write(step(200).join("manifest.json"), b"{\"format\": 1").unwrap();

    for what in ["latest", dir.path().join("baseline").to_str().unwrap()] {
        let found = resolve_resume(&spec, what, Some(&manifest(100))).unwrap();
        assert_eq!(found.manifest.step, 100);
        assert_eq!(found.skipped.len(), 3, "{:?}", found.skipped);
        let named = |n: u64, why: &str| {
            let name = format!("`{}` is damaged and was skipped", step(n).display());
            assert!(found.skipped.iter().any(|s| s.contains(&name) && s.contains(why)), "{n}: {:?}", found.skipped);
        };
        named(400, "do not have the hash");
        named(300, "No such file");
        named(200, "is not a checkpoint's manifest");
    }
    // Asked for by name it is refused, not replaced by another.
    let error = resolve_resume(&spec, step(400).to_str().unwrap(), None).unwrap_err();
    assert!(error.message.contains("is damaged"), "{error}");
    std::fs::remove_dir_all(step(100)).unwrap();
    let error = resolve_resume(&spec, "latest", None).unwrap_err();
    assert_eq!(error.causes.len(), 3);
    assert!(error.message.contains("no checkpoint in") && error.message.contains("is intact"), "{error}");
}

#[test]
fn a_checkpoint_of_another_model_or_data_is_refused_with_what_differs() {
    let dir = tempfile::tempdir().unwrap();
    let (text, _) = folder_of(dir.path(), &[100]);
    let parse = |text: &str| proto::spec::parse(text, &[]).unwrap();
    let wider = parse(&text.replace("hidden = [8]", "hidden = [16, 8]"));
    let error = resolve_resume(&wider, "latest", None).unwrap_err();
    assert!(error.message.contains("`model.hidden` is [16,8], the checkpoint has [8]"), "{error}");
    let error = resolve_start(&wider, &dir.path().join("baseline"), None).unwrap_err();
    assert!(error.message.contains("`model.hidden`"), "{error}");

    let other_loss = parse(&text.replace("[training]", "[loss]\nkind = \"listnet\"\n[training]"));
    let error = resolve_resume(&other_loss, "latest", None).unwrap_err();
    assert!(error.message.contains("`loss.kind` is \"listnet\", the checkpoint has \"lambdarank\""), "{error}");
    assert!(error.hint.unwrap().contains("start_from"));
    resolve_start(&other_loss, &dir.path().join("baseline"), Some(&manifest(7))).unwrap();

    let mut data = manifest(7);
    let error = resolve_resume(&parse(&text), "latest", Some(&data)).unwrap_err();
    assert!(error.message.contains("the dataset is another: its hash is hash-7, the checkpoint's hash-100"), "{error}");
    data = manifest(100);
    data.columns.as_mut().unwrap().features[1] = "price".into();
    let error = resolve_resume(&parse(&text), "latest", Some(&data)).unwrap_err();
    assert!(error.message.contains("feature 1 is `price`, the checkpoint has `f1`"), "{error}");
}

#[test]
fn where_there_is_no_checkpoint_the_folder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (_, spec) = folder_of(dir.path(), &[]);
    let error = resolve_resume(&spec, "latest", None).unwrap_err();
    assert!(error.message.contains("there is no checkpoint in") && error.message.contains("baseline"), "{error}");
    let error = resolve_resume(&spec, "/nowhere/at/all", None).unwrap_err();
    assert_eq!(error.message, "checkpoint `/nowhere/at/all` does not exist");
}

#[test]
fn a_resume_with_other_columns_or_another_optimizer_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (text, _) = folder_of(dir.path(), &[100]);
    let parse = |text: &str| proto::spec::parse(text, &[]).unwrap();
    let columns = "[data]\nlabel = \"grade\"\nquery = \"search\"\ngroup = \"page\"\nweight = \"w\"";
    let other = parse(&text.replace("[data]", columns).replace("[model]", "[optimizer]\nkind = \"sgd\"\n[model]"));
    let error = resolve_resume(&other, "latest", Some(&manifest(7))).unwrap_err();
    for difference in [
        "`data.label` is \"grade\", the checkpoint has \"label\"",
        "`data.query` is \"search\", the checkpoint has \"query_id\"",
        "`data.group` is \"page\", the checkpoint has no value, which means the data's own",
        "`data.weight` is \"w\", the checkpoint has no value, which means the data's own",
        "`optimizer.kind` is \"sgd\", the checkpoint has \"adamw\"",
        "the dataset is another",
    ] {
        assert!(error.message.contains(difference), "{difference}: {error}");
    }
    // What was left to its default may be spelt out.
    let spelt = parse(&text.replace("[data]", "[data]\ngroup = \"query_id\""));
    resolve_resume(&spelt, "latest", Some(&manifest(100))).unwrap();
}
