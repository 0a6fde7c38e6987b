//! The verbs `runs …`: what is kept of runs, the same from a coordinator, from a state folder without one, and from MLflow.

mod fetch;
mod keeper;
mod sync;

use std::process::ExitCode;

use coordinator::{
    kept::{self, Kept},
    tracking::about,
};
use proto::v1;
use serde_json::{Map, Value, json};

use crate::{
    args::{Runs, RunsBest, RunsCompare, RunsList, RunsShow},
    errors::Fault,
    json, print,
    remote::table,
    words,
};
pub use keeper::Keeper;
use keeper::Whole;

pub async fn runs(verb: Runs) -> Result<ExitCode, Fault> {
    match verb {
        Runs::List(args) => list(args).await,
        Runs::Show(args) => show(args).await,
        Runs::Best(args) => best(args).await,
        Runs::Compare(args) => compare(args).await,
        Runs::Fetch(args) => fetch::fetch(args).await,
        Runs::Sync(args) => sync::sync(args).await,
    }
}

async fn list(args: RunsList) -> Result<ExitCode, Fault> {
    let runs = Keeper::find(&args.keeper).await?.runs(&[]).await?;
    if args.keeper.json {
        json::print(&runs.iter().map(|run| as_json(run, false)).collect::<Value>());
    } else if runs.is_empty() {
        print::line("no runs yet");
    } else {
        let names = summary_names(&runs);
        let head: Vec<&str> =
            ["run", "name", "phase", "started"].into_iter().chain(names.iter().map(String::as_str)).collect();
        let right: Vec<usize> = (4..head.len()).collect();
        let mut table = table(&head, &right);
        for run in &runs {
            let facts =
                [run.run_id.clone(), run.name.clone(), about::phase_word(run.phase), moment(run.started_unix_millis)];
            let values = names
                .iter()
                .map(|name| run.metrics.get(name).map_or_else(|| "-".into(), |value| format!("{value:.4}")));
            table.add_row(facts.into_iter().chain(values));
        }
        print::line(table.trim_fmt());
    }
    Ok(ExitCode::SUCCESS)
}

/// Metrics of best checkpoints: the curves without a prefix.
fn summary_names(runs: &[Kept]) -> Vec<String> {
    let mut names: Vec<String> =
        runs.iter().flat_map(|run| run.metrics.keys()).filter(|name| !name.contains('/')).cloned().collect();
    names.sort_unstable();
    names.dedup();
    names
}

async fn show(args: RunsShow) -> Result<ExitCode, Fault> {
    let whole = Keeper::find(&args.keeper).await?.whole(args.run.as_deref()).await?;
    if args.keeper.json {
        let mut shown = as_json(&whole.kept, true);
        shown["curves"] = whole.curves.iter().map(curve_json).collect();
        shown["checkpoints"] = whole.checkpoints.iter().map(json::checkpoint).collect();
        if let Some(status) = &whole.status {
            shown["tracking"] = status.tracking.as_ref().map_or(Value::Null, json::tracking);
        }
        json::print(&shown);
    } else {
        print::data(&screen(&whole));
    }
    Ok(ExitCode::SUCCESS)
}

fn screen(whole: &Whole) -> String {
    let run = &whole.kept;
    let mut text = facts(run);
    if let Some(tracking) = whole.status.as_ref().and_then(|status| status.tracking.as_ref()) {
        text += &format!("{:<12}{} `{}`: {}\n", "tracking", tracking.url, tracking.experiment, tracking.standing);
        if !tracking.mlflow_run_id.is_empty() {
            let (id, run) = (&tracking.experiment_id, &tracking.mlflow_run_id);
            text += &format!("{:<12}{}/#/experiments/{id}/runs/{run}\n", "", tracking.url);
        }
    }
    if !run.metrics.is_empty() {
        let mut metrics = table(&["metric", "value", "convention"], &[1]);
        for (name, value) in &run.metrics {
            let convention = run.conventions.get(name).cloned().unwrap_or_default();
            metrics.add_row([name.clone(), words::loss(*value), convention]);
        }
        text += &format!("\n{}\n", metrics.trim_fmt());
    }
    if !run.parameters.is_empty() {
        let mut parameters = table(&["parameter", "value"], &[]);
        for (name, value) in &run.parameters {
            parameters.add_row([name, value]);
        }
        text += &format!("\n{}\n", parameters.trim_fmt());
    }
    if !whole.checkpoints.is_empty() {
        let mut checkpoints = table(&["step", "written", "checkpoint"], &[0]);
        for one in &whole.checkpoints {
            checkpoints.add_row([words::count(one.step), words::moment(one.unix_micros), one.path.clone()]);
        }
        text += &format!("\n{}\n", checkpoints.trim_fmt());
    }
    text
}

fn facts(run: &Kept) -> String {
    let mut text = String::new();
    let mut fact = |name: &str, words: &str| {
        if !words.is_empty() {
            text += &format!("{name:<12}{words}\n");
        }
    };
    fact("run", &format!("{} `{}`", run.run_id, run.name));
    fact("phase", &about::phase_word(run.phase));
    fact("standing", &run.standing);
    let ended = match run.ended_unix_millis {
        0 => String::new(),
        at => format!(", ended {}", moment(at)),
    };
    fact("started", &format!("{}{ended}", moment(run.started_unix_millis)));
    fact("user", &run.user);
    fact("lockstep", &run.version);
    fact("git commit", &run.git_commit);
    fact("dataset", &run.dataset_hash);
    fact("best", &run.checkpoint);
    fact("mlflow run", &run.mlflow_run_id);
    text
}

async fn best(args: RunsBest) -> Result<ExitCode, Fault> {
    let runs = Keeper::find(&args.keeper).await?.runs(std::slice::from_ref(&args.metric)).await?;
    let best = the_best(&runs, &args.metric, args.lowest)?;
    let value = best.metrics.get(&args.metric).copied().unwrap_or(f64::NAN);
    if args.keeper.json {
        let mut shown = as_json(best, false);
        shown["metric"] = args.metric.clone().into();
        shown["value"] = value.into();
        json::print(&shown);
    } else {
        print::line(format_args!("{:<12}{value}", args.metric));
        if let Some(convention) = best.conventions.get(&args.metric).filter(|words| !words.is_empty()) {
            print::line(format_args!("{:<12}({convention})", ""));
        }
        print::data(&facts(best));
    }
    Ok(ExitCode::SUCCESS)
}

fn the_best<'a>(runs: &'a [Kept], metric: &str, lowest: bool) -> Result<&'a Kept, Fault> {
    kept::best(runs, metric, lowest).ok_or_else(|| {
        let count = words::counted(runs.len() as u64, "run");
        let names = summary_names(runs);
        let fault = Fault::words(format!("none of {count} has a value of `{metric}`"));
        if names.is_empty() { fault } else { fault.hint(format!("there are {}", names.join(", "))) }
    })
}

async fn compare(args: RunsCompare) -> Result<ExitCode, Fault> {
    let mut keeper = Keeper::find(&args.keeper).await?;
    let (a, b) = (keeper.whole(Some(&args.a)).await?.kept, keeper.whole(Some(&args.b)).await?.kept);
    let differences = kept::differences(&a, &b);
    if args.keeper.json {
        let differences =
            differences.iter().map(|one| json!({ "what": one.what, "a": one.values[0], "b": one.values[1] }));
        let differences: Value = differences.collect();
        json::print(&json!({ "a": a.run_id, "b": b.run_id, "differences": differences }));
    } else if differences.is_empty() {
        print::line("nothing differs");
    } else {
        let mut table = table(&["", &a.run_id, &b.run_id], &[]);
        for one in differences {
            let [left, right] = one.values.map(|value| value.unwrap_or_else(|| "-".into()));
            table.add_row([one.what, left, right]);
        }
        print::line(table.trim_fmt());
    }
    Ok(ExitCode::SUCCESS)
}

/// `metrics`: all of them, not the best checkpoint's alone.
fn as_json(run: &Kept, all: bool) -> Value {
    let metrics = run.metrics.iter().filter(|(name, _)| all || !name.contains('/'));
    let metrics: Map<String, Value> = metrics.map(|(name, value)| (name.clone(), (*value).into())).collect();
    let some = |text: &String| (!text.is_empty()).then(|| text.clone());
    let mut shown = json!({
        "run_id": run.run_id,
        "name": run.name,
        "phase": about::phase_word(run.phase),
        "started_unix_millis": run.started_unix_millis,
        "ended_unix_millis": (run.ended_unix_millis > 0).then_some(run.ended_unix_millis),
        "dataset_hash": some(&run.dataset_hash),
        "version": some(&run.version),
        "git_commit": some(&run.git_commit),
        "user": some(&run.user),
        "experiment": some(&run.experiment),
        "mlflow_run_id": some(&run.mlflow_run_id),
        "checkpoint": some(&run.checkpoint),
        "metrics": metrics,
    });
    if all {
        shown["standing"] = run.standing.clone().into();
        shown["parameters"] = json!(run.parameters);
        shown["conventions"] = json!(run.conventions);
    }
    shown
}

/// To the millisecond, which is what MLflow keeps.
fn curve_json(curve: &v1::Series) -> Value {
    let point = |point: &v1::Point| json!({ "step": point.step, "unix_millis": point.unix_micros / 1000, "value": point.value });
    json!({ "name": curve.name, "points": curve.points.iter().map(point).collect::<Vec<_>>() })
}

fn moment(unix_millis: u64) -> String {
    words::moment(unix_millis * 1000)
}
