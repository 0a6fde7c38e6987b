//! From the file that a person wrote to the spec that is submitted; and the verb `check`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use proto::{
    RunSpec,
    spec::{ModelKind, OptimizerKind, ScheduleKind, parse},
};

use crate::{
    args::{CheckArgs, DocumentArgs},
    errors::Fault,
    print, words,
};

/// Reads and checks the document; `flags` win over its `--set`s, which win over its text.
pub fn load(document: &DocumentArgs, flags: &[(&str, String)]) -> Result<RunSpec, Fault> {
    let file = document.file.display().to_string();
    let text = std::fs::read_to_string(&document.file).map_err(|error| {
        let fault = Fault::words(format!("cannot read `{file}`")).because(&error);
        match error.kind() {
            std::io::ErrorKind::NotFound => fault.hint("name the run's document: `lockstep train run.toml`"),
            _ => fault,
        }
    })?;
    let flags = flags.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
    let sets: Vec<_> = document.sets.iter().cloned().chain(flags).collect();
    parse(&text, &sets).map_err(|problems| Fault::document(&file, &problems))
}

/// Paths as the coordinator and workers need them: the same wherever they were started.
pub fn absolute(mut spec: RunSpec) -> Result<RunSpec, Fault> {
    spec.data.train = absolute_path(&spec.data.train)?;
    spec.data.validation = spec.data.validation.as_deref().map(absolute_path).transpose()?;
    spec.model.path = spec.model.path.as_deref().map(absolute_path).transpose()?;
    spec.data.judgments = spec.data.judgments.as_deref().map(absolute_path).transpose()?;
    spec.model.start_from = spec.model.start_from.as_deref().map(absolute_path).transpose()?;
    spec.checkpoint.dir = absolute_path(&spec.checkpoint.dir)?;
    Ok(spec)
}

/// For a run whose workers are on this machine: what its module is said to be is here, before anything starts.
pub fn find_module(spec: &RunSpec) -> Result<(), Fault> {
    let Some(path) = &spec.model.path else { return Ok(()) };
    std::fs::File::open(path).map(drop).map_err(|error| {
        Fault::words(format!("the module `{}` cannot be read: {error}", path.display()))
            .hint("`model.path` names the file that `torch.jit.script(model).save(\"model.pt\")` wrote")
    })
}

/// Addresses of object stores stay as they are.
pub fn absolute_path(path: &Path) -> Result<PathBuf, Fault> {
    if path.to_str().is_some_and(|text| text.contains("://")) {
        return Ok(path.to_owned());
    }
    let absolute = std::path::absolute(path)
        .map_err(|error| Fault::words(format!("`{}` is not a path", path.display())).because(&error))?;
    if absolute.to_str().is_none() {
        return Err(Fault::words(format!("the path `{}` is not UTF-8", absolute.display()))
            .hint("start `lockstep` in a folder whose name is"));
    }
    Ok(absolute)
}

pub fn check(args: &CheckArgs) -> Result<ExitCode, Fault> {
    let spec = load(&args.document, &[])?;
    print::line(format_args!("{} is valid", args.document.file.display()));
    print::line(summary(&spec));
    Ok(ExitCode::SUCCESS)
}

/// Two lines: what would learn from what, and how.
pub fn summary(spec: &RunSpec) -> String {
    let model = match spec.model.kind {
        ModelKind::Linear => "linear".to_owned(),
        ModelKind::Mlp => format!("mlp {:?}", spec.model.hidden),
        ModelKind::DcnV2 if spec.model.hidden.is_empty() => "dcn_v2".to_owned(),
        ModelKind::DcnV2 => format!("dcn_v2 {:?}", spec.model.hidden),
        ModelKind::Torchscript => format!("module {}", spec.model.path.clone().unwrap_or_default().display()),
    };
    let loss = spec.loss.kind;
    let mut validation = match (&spec.data.validation, &spec.data.judgments) {
        (Some(path), _) => format!(", validated on {}", path.display()),
        (None, Some(_)) => String::new(),
        (None, None) => ", not validated".to_owned(),
    };
    if let Some(path) = &spec.data.judgments {
        validation += &format!(", compared with the judgments in {}", path.display());
    }
    let optimizer = match spec.optimizer.kind {
        OptimizerKind::Adamw => "adamw",
        OptimizerKind::Sgd => "sgd",
    };
    let schedule = match spec.schedule.kind {
        ScheduleKind::Constant => "constant",
        ScheduleKind::Cosine => "cosine",
    };
    let unit = if spec.loss.kind.is_pointwise() { "row" } else { "list" };
    format!(
        "`{}`: {model}, {loss} loss, trained on {}{validation}\n{} of batches of {}, {optimizer} at {} ({schedule}), {}, {}, a checkpoint every {} in {}",
        spec.name,
        spec.data.train.display(),
        words::counted(spec.training.epochs, "epoch"),
        words::counted(spec.training.batch, unit),
        spec.optimizer.learning_rate,
        words::counted(spec.cluster.workers.into(), "worker"),
        words::counted(spec.cluster.lanes.into(), "lane"),
        spec.checkpoint.every,
        spec.checkpoint.dir.join(&spec.name).display(),
    )
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn document(text: &str, sets: &[(&str, &str)]) -> (tempfile::TempDir, DocumentArgs) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run.toml");
        std::fs::write(&file, text).unwrap();
        let sets = sets.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        (folder, DocumentArgs { file, sets })
    }

    #[test]
    fn a_document_with_ten_problems_shows_ten() {
        let (folder, document) = document(
            "name = \"a b\"\nepoch = 3\n[data]\nlabel = 4\n[model]\nhidden = [0]\ndropout = 2\n[training]\nbatch = 0\n[optimizer]\nlearning_rate = \"fast\"\n[schedule]\nkind = \"cosinus\"\n",
            &[("checkpoint.keep", "0"), ("loss.kind", "hinge")],
        );
        let rendered = load(&document, &[]).unwrap_err().render();
        let rendered = rendered.replace(&format!("{}/", folder.path().display()), "");
        expect![[r#"
            run.toml:1: name: `a b` cannot name a run
              hint: letters, digits, `-`, `_` and `.` are allowed, and it must not start with `.`: it becomes a folder
            run.toml:2: epoch: is not a key that a run has
              hint: did you mean `training.epochs`?
            run.toml:4: data.label: expected a text in quotes, not 4
            run.toml:6: model.hidden: a layer of width 0 lets nothing through
              hint: leave that layer out
            run.toml:7: model.dropout: must be at least 0 and less than 1, not 2
              hint: it is the probability of dropping a unit
            run.toml:9: training.batch: must be at least 1, not 0
            run.toml:11: optimizer.learning_rate: expected a number, not the text `fast`
            run.toml:13: schedule.kind: the text `cosinus` is none of "constant", "cosine"
              hint: did you mean "cosine"?
            run.toml: data.train: is missing
              hint: add `train = "data/train"` under `[data]`: a Parquet file or a folder of them
            --set loss.kind=hinge: loss.kind: the text `hinge` is none of "mse", "bce", "ranknet", "lambdarank", "listnet", "approx_ndcg"
            --set checkpoint.keep=0: checkpoint.keep: must be at least 1, not 0
            error: `run.toml` has 11 problems, nothing was started
        "#]].assert_eq(&rendered);
    }

    #[test]
    fn a_missing_document_is_named() {
        let document = DocumentArgs { file: "no/such/run.toml".into(), sets: Vec::new() };
        expect![[r#"
            error: cannot read `no/such/run.toml`
              caused by: No such file or directory (os error 2)
            hint: name the run's document: `lockstep train run.toml`
        "#]]
        .assert_eq(&load(&document, &[]).unwrap_err().render());
    }

    #[test]
    fn flags_win_over_sets_and_the_summary_says_what_would_train() {
        let (_folder, document) = document(
            "name = \"baseline\"\n[data]\ntrain = \"d/train\"\n[model]\nhidden = [64, 32]\n",
            &[("cluster.workers", "4"), ("training.epochs", "1")],
        );
        let spec = load(&document, &[("cluster.workers", "2".into())]).unwrap();
        expect![[r#"
            `baseline`: mlp [64, 32], lambdarank loss, trained on d/train, not validated
            1 epoch of batches of 128 lists, adamw at 0.001 (constant), 2 workers, 64 lanes, a checkpoint every 1 epoch in checkpoints/baseline"#]].assert_eq(&summary(&spec));
    }

    #[test]
    fn paths_become_absolute_and_addresses_stay() {
        let cwd = std::env::current_dir().unwrap();
        assert_eq!(absolute_path(Path::new("data/train")).unwrap(), cwd.join("data/train"));
        assert_eq!(absolute_path(Path::new("s3://bucket/x")).unwrap(), Path::new("s3://bucket/x"));
    }
}
