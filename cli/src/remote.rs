//! The verbs that ask a coordinator: each one request or two, and what comes back as a person or a machine reads it.

use std::process::ExitCode;

use comfy_table::{CellAlignment, Table, presets};
use proto::{
    spec::{check::to_toml, parse},
    v1::{
        self, CheckpointsRequest, GetRunRequest, ListRunsRequest, ListWorkersRequest, MetricsRequest, RunStatus,
        StopRunRequest, SubmitRequest,
    },
};
use serde_json::{Value, json};

use crate::{
    args::{ClientArgs, MetricsArgs, RunArgs, StopArgs, SubmitArgs},
    client::Client,
    document,
    errors::Fault,
    json, origin, print,
    resume::resume_from,
    view::{Story, View},
    words,
};

impl Client {
    pub async fn submit(&mut self, spec_toml: String, resume_from: String) -> Result<String, Fault> {
        let origin = Some(origin::here().await);
        let reply = self.runs.submit(SubmitRequest { spec_toml, resume_from, origin }).await;
        Ok(reply.map_err(|status| self.fault(&status))?.into_inner().run_id)
    }

    pub async fn stop(&mut self, run_id: &str, now: bool) -> Result<(), Fault> {
        let reply = self.runs.stop(StopRunRequest { run_id: run_id.to_owned(), now }).await;
        reply.map(drop).map_err(|status| self.fault(&status))
    }

    /// The ids of those that have not ended.
    pub async fn live_runs(&mut self) -> Result<Vec<String>, Fault> {
        let reply = self.runs.list(ListRunsRequest {}).await;
        let runs = reply.map_err(|status| self.fault(&status))?.into_inner().runs;
        Ok(runs.into_iter().filter(|run| run.ended_unix_micros == 0).map(|run| run.run_id).collect())
    }

    /// The run, or the newest one.
    pub async fn run(&mut self, run: Option<&String>) -> Result<RunStatus, Fault> {
        let reply = self.runs.get(GetRunRequest { run_id: run.cloned().unwrap_or_default() }).await;
        Ok(reply.map_err(|status| self.fault(&status))?.into_inner())
    }
}

pub async fn submit(args: SubmitArgs) -> Result<ExitCode, Fault> {
    let spec = document::load(&args.document, &[])?;
    let resume = resume_from(&spec, args.resume.as_deref())?;
    let spec = document::absolute(spec)?;
    let mut client = Client::connect(&args.client.at.coordinator).await?;
    let run_id = client.submit(to_toml(&spec), resume).await?;
    match (args.client.json, args.watch) {
        (true, false) => json::print(&json!({ "run_id": run_id })),
        (false, false) => print::line(run_id),
        (_, true) => return follow(&client, &run_id, args.client.json, spec.best_by()).await,
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn watch(args: &RunArgs) -> Result<ExitCode, Fault> {
    let mut client = Client::connect(&args.client.at.coordinator).await?;
    let run = client.run(args.run.as_ref()).await?;
    follow(&client, &run.run_id, args.client.json, metric_of(&run)).await
}

async fn follow(client: &Client, run_id: &str, json: bool, metric: Option<String>) -> Result<ExitCode, Fault> {
    let mut view = View::new(json, metric);
    if !json {
        view.notice(&format!("run {run_id}"));
    }
    let mut events = client.watch(run_id).await?;
    while let Some(event) = events.next().await.inspect_err(|_| view.clear())? {
        view.show(&event);
    }
    view.summarise();
    verdict(view.story())
}

/// The exit code of a run: one that saved and stopped did what it was told, one that threw steps away did not.
pub fn verdict(story: &Story) -> Result<ExitCode, Fault> {
    let Some(ended) = &story.ended else {
        return Err(Fault::run(format!("the end of run `{}` was not seen", story.run_id)));
    };
    if let Some(failure) = ended.failure.clone().filter(|_| ended.phase() == v1::Phase::Failed) {
        return Err(failure.into());
    }
    if ended.phase() == v1::Phase::Failed {
        return Err(Fault::run(format!("run `{}` failed: {}", story.run_id, ended.reason)));
    }
    let saved = ended.last.as_ref().map(|last| last.step);
    if ended.phase() == v1::Phase::Stopped && story.step > saved.unwrap_or(0) {
        let (cause, hint) = match saved {
            Some(step) => (
                format!("it had trained to step {}, its newest checkpoint is of step {step}", story.step),
                "go on from there with `lockstep train run.toml --resume`",
            ),
            None => (format!("it had trained to step {}, and has no checkpoint", story.step), "start it again"),
        };
        return Err(Fault::run(format!("run `{}` was stopped without saving", story.run_id))
            .caused_by(cause)
            .hint(hint));
    }
    if let Some(first) = story.epochs.mismatches.first() {
        return Err(Fault::run(format!("run `{}` trained on something else than its dataset", story.run_id))
            .caused_by(first.clone())
            .hint("do not use its checkpoints; check that nobody writes to the dataset while it is read, then report this"));
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn list(args: &ClientArgs) -> Result<ExitCode, Fault> {
    let mut client = Client::connect(&args.at.coordinator).await?;
    let reply = client.runs.list(ListRunsRequest {}).await;
    let runs = reply.map_err(|status| client.fault(&status))?.into_inner().runs;
    if args.json {
        json::print(&runs.iter().map(json::status).collect::<Value>());
    } else if runs.is_empty() {
        print::line("no runs yet");
    } else {
        let mut table = table(&["run", "name", "phase", "step", "submitted", "standing"], &[3]);
        for run in &runs {
            let step = run.progress.as_ref().map_or_else(|| "-".into(), |progress| words::count(progress.step));
            table.add_row([
                run.run_id.clone(),
                run.name.clone(),
                json::phase(run.phase),
                step,
                words::moment(run.created_unix_micros),
                run.standing.clone(),
            ]);
        }
        print::line(table.trim_fmt());
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn status(args: &RunArgs) -> Result<ExitCode, Fault> {
    let mut client = Client::connect(&args.client.at.coordinator).await?;
    let run = client.run(args.run.as_ref()).await?;
    if args.client.json {
        json::print(&json::status(&run));
    } else {
        print::data(&screen(&run));
    }
    Ok(ExitCode::SUCCESS)
}

/// One readable screen.
fn screen(run: &RunStatus) -> String {
    let mut text = String::new();
    let mut fact = |name: &str, words: String| text += &format!("{name:<12}{words}\n");
    fact("run", format!("{} `{}`", run.run_id, run.name));
    fact("standing", run.standing.clone());
    fact("members", members(run));
    let ended = match run.ended_unix_micros {
        0 => String::new(),
        at => {
            let seconds = at.saturating_sub(run.created_unix_micros) as f64 / 1e6;
            format!(", ended {} after {}", words::moment(at), words::span(seconds))
        }
    };
    fact("submitted", format!("{}{ended}", words::moment(run.created_unix_micros)));
    if let Some(progress) = &run.progress {
        fact("progress", Story::default().line(progress));
    }
    if let Some(epoch) = &run.last_epoch {
        let metrics = |metrics: &[v1::Metric]| -> String {
            metrics.iter().map(|metric| format!("  {} {:.4}", metric.name, metric.value)).collect()
        };
        let (number, loss) = (epoch.epoch + 1, words::loss(epoch.train_loss));
        fact("last epoch", format!("{number}/{}  train loss {loss}{}", epoch.epochs, metrics(&epoch.validation)));
        if !epoch.judgments.is_empty() {
            fact("judgments", metrics(&epoch.judgments).trim_start().to_owned());
        }
    }
    if let Some(best) = &run.best {
        let metric = metric_of(run).and_then(|name| best.metrics.iter().find(|metric| metric.name == name).cloned());
        let value = metric.map_or_else(String::new, |metric| format!("{} {:.4}, ", metric.name, metric.value));
        fact("best", format!("{value}after {}", words::counted(best.epoch, "epoch")));
        fact("checkpoint", best.path.clone());
    }
    if let Some(tracking) = &run.tracking {
        fact("tracking", tracking.standing.clone());
    }
    fact("dataset", if run.dataset_hash.is_empty() { "-".into() } else { run.dataset_hash.clone() });
    if let Some(failure) = &run.failure {
        text += &Fault::from(failure.clone()).render();
    }
    if !run.workers.is_empty() {
        text += &format!("\n{}\n", workers_table(&run.workers).trim_fmt());
    }
    text
}

/// `2 workers (w0:1, w1:3), generation 4, recovered 3 times`.
fn members(run: &RunStatus) -> String {
    let mut text = words::counted(run.world.into(), "worker");
    if !run.members.is_empty() {
        text += &format!(" ({})", run.members.join(", "));
    }
    text += &format!(", generation {}", run.generation);
    match run.recoveries {
        0 => text,
        1 => text + ", recovered once",
        times => text + &format!(", recovered {} times", words::count(times.into())),
    }
}

pub async fn workers(args: &ClientArgs) -> Result<ExitCode, Fault> {
    let mut client = Client::connect(&args.at.coordinator).await?;
    let reply = client.workers.list(ListWorkersRequest {}).await;
    let workers = reply.map_err(|status| client.fault(&status))?.into_inner().workers;
    if args.json {
        json::print(&workers.iter().map(json::worker).collect::<Value>());
    } else if workers.is_empty() {
        print::line(format_args!(
            "no workers yet: start one with `lockstep worker --coordinator {}`",
            args.at.coordinator
        ));
    } else {
        print::line(workers_table(&workers).trim_fmt());
    }
    Ok(ExitCode::SUCCESS)
}

fn workers_table(workers: &[v1::WorkerStatus]) -> Table {
    let mut table = table(&["worker", "host", "pid", "device", "rank", "step", "heard", "state"], &[2, 4, 5]);
    for worker in workers {
        let rank = if worker.world > 0 { format!("{}/{}", worker.rank, worker.world) } else { "-".into() };
        table.add_row([
            worker.worker.clone(),
            worker.host.clone(),
            worker.pid.to_string(),
            worker.device.clone(),
            rank,
            words::count(worker.step),
            words::moment(worker.last_heartbeat_unix_micros),
            worker.state.clone(),
        ]);
    }
    table
}

pub async fn checkpoints(args: &RunArgs) -> Result<ExitCode, Fault> {
    let mut client = Client::connect(&args.client.at.coordinator).await?;
    let run = client.run(args.run.as_ref()).await?;
    let reply = client.runs.checkpoints(CheckpointsRequest { run_id: run.run_id.clone() }).await;
    let checkpoints = reply.map_err(|status| client.fault(&status))?.into_inner().checkpoints;
    if args.client.json {
        json::print(&checkpoints.iter().map(json::checkpoint).collect::<Value>());
    } else if checkpoints.is_empty() {
        print::line(format_args!("run {} has no checkpoint yet", run.run_id));
    } else {
        let metric = metric_of(&run);
        let of = metric.as_deref().unwrap_or("metric");
        let mut table = table(&["step", "epochs", of, "size", "written", "path"], &[0, 1, 2, 3]);
        for checkpoint in &checkpoints {
            let value = checkpoint.metrics.iter().find(|metric| metric.name == of);
            let value = value.map_or_else(|| "-".into(), |metric| format!("{:.4}", metric.value));
            let best = if checkpoint.best { "  * best" } else { "" };
            table.add_row([
                words::count(checkpoint.step),
                words::count(checkpoint.epoch),
                value,
                bytesize::ByteSize(checkpoint.bytes).to_string(),
                words::moment(checkpoint.unix_micros),
                format!("{}{best}", checkpoint.path),
            ]);
        }
        print::line(table.trim_fmt());
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn metrics(args: MetricsArgs) -> Result<ExitCode, Fault> {
    let mut client = Client::connect(&args.client.at.coordinator).await?;
    let run = client.run(args.run.as_ref()).await?;
    let request = MetricsRequest { run_id: run.run_id, names: args.names.clone() };
    let reply = client.runs.metrics(request).await;
    let series = reply.map_err(|status| client.fault(&status))?.into_inner().series;
    if let Some(missing) = args.names.iter().find(|name| series.iter().all(|one| one.name != **name)) {
        return Err(Fault::words(format!("the run has no curve `{missing}`"))
            .hint("`lockstep metrics` without names lists the curves it has"));
    }
    if args.client.json {
        json::print(&series.iter().map(json::series).collect::<Value>());
    } else if args.names.is_empty() {
        print::line(curves(&series).trim_fmt());
    } else {
        for one in &series {
            let mut table = table(&["step", "time", &one.name], &[0, 2]);
            for point in &one.points {
                let (step, time) = (words::count(point.step), words::moment(point.unix_micros));
                table.add_row([step, time, point.value.to_string()]);
            }
            print::line(table.trim_fmt());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A line a curve: where it began, how far it went, where it is.
fn curves(series: &[v1::Series]) -> Table {
    let mut table = table(&["curve", "points", "first", "least", "most", "last"], &[1, 2, 3, 4, 5]);
    for one in series {
        let values = || one.points.iter().map(|point| point.value);
        let ends = [values().next(), values().reduce(f64::min), values().reduce(f64::max), values().next_back()];
        let ends = ends.map(|value| value.map_or_else(|| "-".into(), words::loss));
        table.add_row([vec![one.name.clone(), words::count(one.points.len() as u64)], ends.to_vec()].concat());
    }
    table
}

pub async fn stop(args: &StopArgs) -> Result<ExitCode, Fault> {
    let mut client = Client::connect(&args.client.at.coordinator).await?;
    let run_id = client.run(args.run.as_ref()).await?.run_id;
    client.stop(&run_id, args.now).await?;
    if args.client.json {
        json::print(&json!({ "run_id": run_id, "now": args.now }));
    } else {
        let how = if args.now { "stops at once" } else { "saves a checkpoint and stops" };
        print::line(format_args!("run {run_id} {how}; `lockstep watch {run_id}` shows its end"));
    }
    Ok(ExitCode::SUCCESS)
}

/// The metric that decides which epoch of a run is the best.
fn metric_of(run: &RunStatus) -> Option<String> {
    parse(&run.spec_toml, &[]).ok()?.best_by()
}

/// Columns that line up, without rules; `right` are the columns of numbers.
pub fn table(head: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(head);
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn worker(slot: u32, state: &str) -> v1::WorkerStatus {
        v1::WorkerStatus {
            worker: format!("w{slot}:1"),
            host: "box".into(),
            pid: 4711 + slot,
            device: "cpu".into(),
            state: state.into(),
            rank: slot,
            world: 2,
            step: 1240,
            last_heartbeat_unix_micros: 1_795_541_333_000_000,
            ..v1::WorkerStatus::default()
        }
    }

    #[test]
    fn status_is_one_readable_screen() {
        let run = RunStatus {
            run_id: "r-01jdk3".into(),
            name: "baseline".into(),
            phase: v1::Phase::Failed.into(),
            standing: "failed: worker `w1:1` was killed by signal 9".into(),
            generation: 4,
            world: 2,
            members: vec!["w0:1".into(), "w1:2".into()],
            recoveries: 3,
            created_unix_micros: 1_795_541_333_000_000,
            ended_unix_micros: 1_795_541_398_000_000,
            progress: Some(v1::Progress {
                epochs: 20,
                epoch: 3,
                step: 1240,
                steps_per_epoch: 400,
                loss: 0.5,
                rows: 1000,
                seconds: 0.01,
                ..v1::Progress::default()
            }),
            failure: Some(v1::Failure {
                message: "worker `w1:1` was killed by signal 9".into(),
                hint: "resume with `lockstep train run.toml --resume`".into(),
                ..v1::Failure::default()
            }),
            workers: vec![worker(0, "idle"), worker(1, "left: killed by signal 9")],
            dataset_hash: "ab12".into(),
            ..RunStatus::default()
        };
        expect![[r#"
            run         r-01jdk3 `baseline`
            standing    failed: worker `w1:1` was killed by signal 9
            members     2 workers (w0:1, w1:2), generation 4, recovered 3 times
            submitted   2026-11-24T17:28:53Z, ended 2026-11-24T17:29:58Z after 1:05
            progress    epoch 4/20  step 1,240/8,000  loss 0.50000  100.0 k rows/s
            dataset     ab12
            error: worker `w1:1` was killed by signal 9
            hint: resume with `lockstep train run.toml --resume`

            worker  host   pid  device  rank   step  heard                 state
            w0:1    box   4711  cpu      0/2  1,240  2026-11-24T17:28:53Z  idle
            w1:1    box   4712  cpu      1/2  1,240  2026-11-24T17:28:53Z  left: killed by signal 9
        "#]]
        .assert_eq(&screen(&run));
    }

    #[test]
    fn curves_show_where_they_began_and_where_they_are() {
        let point = |step, value| v1::Point { step, unix_micros: 0, value };
        let series = [
            v1::Series { name: "train/loss".into(), points: vec![point(10, 0.7), point(20, 0.5), point(30, 0.6)] },
            v1::Series { name: "validation/ndcg@10".into(), points: Vec::new() },
        ];
        expect![[r#"
            curve               points    first    least     most     last
            train/loss               3  0.70000  0.50000  0.70000  0.60000
            validation/ndcg@10       0        -        -        -        -
        "#]]
        .assert_eq(&format!("{}\n", curves(&series).trim_fmt()));
    }

    #[test]
    fn a_run_that_was_stopped_is_no_failure_and_a_wrong_audit_is() {
        let mut story = Story::default();
        story.ended = Some(v1::Ended { phase: v1::Phase::Stopped.into(), ..v1::Ended::default() });
        assert!(verdict(&story).is_ok());
        story.epochs.mismatches.push("AUDIT MISMATCH".into());
        assert_eq!(verdict(&story).unwrap_err().exit_code(), ExitCode::from(1));
    }
}
