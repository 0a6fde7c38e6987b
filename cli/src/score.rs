//! `score`, and `evaluate --model`. Verbs that need libtorch are carried out by `lockstep-worker`, a child: its errors are ours, and it ends with us.

use std::{
    ffi::OsString,
    io::{BufRead as _, BufReader, Read},
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arrow::ipc::reader::StreamReader;
use pipeline::evaluate::{ColumnNames, EvaluateOptions, EvaluateReport, evaluate_batches};

use serde_json::Value;

use crate::{
    args::{ModelArgs, ScoreArgs},
    children,
    errors::Fault,
    json, print, progress, words,
};

/// `lockstep-worker` at work. Its stdin is held open for as long as it is wanted: when we are gone, however that came, it ends too.
pub struct Hand {
    child: Child,
    /// Waiting for a child would close it.
    _stdin: Option<ChildStdin>,
}

impl Hand {
    /// Starts it. What it writes to stderr is for people.
    pub fn start(arguments: Vec<OsString>, stdout: Stdio, log: &str) -> Result<Self, Fault> {
        let binary = children::find()?;
        let mut child = Command::new(&binary)
            .args(arguments)
            .args(["--log", log])
            .stdin(Stdio::piped())
            .stdout(stdout)
            .spawn()
            .map_err(|error| Fault::run(format!("`{}` does not start", binary.display())).because(&error))?;
        let stdin = child.stdin.take();
        Ok(Self { child, _stdin: stdin })
    }

    /// What it writes to a piped stdout, once.
    pub fn output(&mut self) -> Result<ChildStdout, Fault> {
        self.child.stdout.take().ok_or_else(|| Fault::run("the output of `lockstep-worker` is read already"))
    }

    /// Waits for its end. What went wrong it has said itself: `Err` is the exit code that is ours then too.
    pub fn finish(mut self) -> Result<Result<(), ExitCode>, Fault> {
        let status = self.child.wait().map_err(|error| Fault::run("`lockstep-worker` is lost").because(&error))?;
        verdict(status)
    }
}

/// One that nobody waits for any more is of no use.
impl Drop for Hand {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn verdict(status: ExitStatus) -> Result<Result<(), ExitCode>, Fault> {
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(Ok(())),
        (Some(code), _) => Ok(Err(ExitCode::from(u8::try_from(code).unwrap_or(1)))),
        (None, signal) => {
            let signal = signal.map_or_else(|| "a signal".to_owned(), |signal| format!("signal {signal}"));
            Err(Fault::run(format!("`lockstep-worker` was killed by {signal}")).hint("was the machine out of memory?"))
        }
    }
}

pub fn score(args: &ScoreArgs, log: &str) -> Result<ExitCode, Fault> {
    let to_stdout = args.out.as_os_str() == "-";
    if to_stdout && args.json {
        return Err(Fault::words("`--out -` streams the scores to stdout, where `--json` would print")
            .hint("leave one of them out"));
    }
    let mut arguments = of_model(&args.model, &args.data);
    flag(&mut arguments, "--out", Some(&args.out));
    for (name, value) in
        [("--query", &args.query), ("--list", &args.list), ("--document", &args.document), ("--label", &args.label)]
    {
        flag(&mut arguments, name, value.as_ref());
    }
    flag(&mut arguments, "--threads", args.threads.map(|threads| threads.to_string()));
    if args.overwrite {
        arguments.push("--overwrite".into());
    }
    if to_stdout {
        let hand = Hand::start(arguments, Stdio::inherit(), log)?;
        return Ok(hand.finish()?.err().unwrap_or(ExitCode::SUCCESS));
    }
    let mut hand = Hand::start(arguments, Stdio::piped(), log)?;
    let output = BufReader::new(hand.output()?);
    let bar = progress::counted("rows");
    let mut report = Value::Null;
    for line in output.lines().map_while(Result::ok) {
        let Ok(line) = serde_json::from_str::<Value>(&line) else { continue };
        match line["event"].as_str() {
            Some("progress") => {
                bar.set_length(line["of"].as_u64().unwrap_or_default());
                bar.set_position(line["rows"].as_u64().unwrap_or_default());
            }
            Some("scored") => report = line,
            _ => {}
        }
    }
    bar.finish_and_clear();
    if let Err(code) = hand.finish()? {
        return Ok(code);
    }
    if args.json {
        json::print(&report);
    } else {
        print::line(in_words(&report, &args.out));
    }
    Ok(ExitCode::SUCCESS)
}

/// Evaluates a model's scores as they are made. `Err`: `lockstep-worker` failed and has said why, this is its exit code.
pub fn evaluate(
    model: &ModelArgs,
    data: &Path,
    columns: &ColumnNames,
    options: &EvaluateOptions,
    log: &str,
) -> Result<Result<EvaluateReport, ExitCode>, Fault> {
    if let Some(target) = &options.per_query {
        target.check_apart(&[data, &model.model])?;
    }
    let mut arguments = of_model(model, data);
    flag(&mut arguments, "--out", Some("-"));
    flag(&mut arguments, "--list", columns.query.as_ref());
    flag(&mut arguments, "--document", columns.document.as_ref());
    flag(&mut arguments, "--label", columns.label.as_ref());
    let mut hand = Hand::start(arguments, Stdio::piped(), log)?;
    let ended = Arc::new(AtomicBool::new(false));
    let output = BufReader::with_capacity(1 << 20, Watched { output: hand.output()?, ended: Arc::clone(&ended) });
    let name = format!("`{}`, scored by `{}`", data.display(), model.model.display());
    let mut opened = StreamReader::try_new(output, None);
    let report = match &mut opened {
        Err(error) => Err(Fault::run("`lockstep-worker` gave no scores").because(error)),
        Ok(batches) => {
            let schema = batches.schema();
            let role = |role: &str| schema.metadata().get(role).cloned();
            let columns = ColumnNames {
                // As validation groups rows, unless it was said what a list is.
                query: columns.query.clone().or_else(|| role("lockstep.group")),
                label: columns.label.clone().or_else(|| role("lockstep.label")),
                score: Some("score".into()),
                document: columns.document.clone(),
            };
            evaluate_batches(batches, &name, &columns, options).map_err(Fault::from)
        }
    };
    if report.is_err() && !ended.load(Ordering::Relaxed) {
        // Before its output is closed, about which it would complain.
        drop(hand);
        return report.map(Ok);
    }
    // Where the scores end early, the child has said why: its words are the error.
    match hand.finish()? {
        Err(code) => Ok(Err(code)),
        Ok(()) => report.map(Ok),
    }
}

/// An output that knows whether it has come to its end.
struct Watched {
    output: ChildStdout,
    ended: Arc<AtomicBool>,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.output.read(buffer)?;
        if read == 0 && !buffer.is_empty() {
            self.ended.store(true, Ordering::Relaxed);
        }
        Ok(read)
    }
}

/// `score --model … --data …`
pub fn of_model(model: &ModelArgs, data: &Path) -> Vec<OsString> {
    let mut arguments = vec!["score".into()];
    flag(&mut arguments, "--model", Some(&model.model));
    flag(&mut arguments, "--checkpoint", Some(model.checkpoint.word()));
    flag(&mut arguments, "--features", model.features.as_ref());
    flag(&mut arguments, "--data", Some(data));
    arguments
}

/// A value that begins with `-` stays a value.
pub fn flag(arguments: &mut Vec<OsString>, name: &str, value: Option<impl Into<OsString>>) {
    if let Some(value) = value {
        let mut word = OsString::from(name);
        word.push("=");
        word.push(value.into());
        arguments.push(word);
    }
}

fn in_words(report: &Value, out: &Path) -> String {
    let (rows, seconds) = (report["rows"].as_u64().unwrap_or_default(), report["seconds"].as_f64().unwrap_or_default());
    let columns: Vec<&str> = report["columns"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let model = match report["run_name"].as_str() {
        Some(run) => format!("`{run}` after step {}", report["step"]),
        None => report["model"].as_str().unwrap_or_default().to_owned(),
    };
    format!(
        "scored  {} by {model}, in {} ({} rows/s)\nwrote   {}: {}",
        words::counted(rows, "row"),
        words::span(seconds),
        words::rate(rows, seconds),
        out.display(),
        columns.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_report_says_what_was_scored_by_what() {
        let report = json!({
            "event": "scored", "rows": 1_200_000, "seconds": 1.5, "run_name": "ctr", "step": 500,
            "columns": ["query_id", "label", "score"],
        });
        expect![[r#"
            scored  1,200,000 rows by `ctr` after step 500, in 1.5 s (800.0 k rows/s)
            wrote   out/scores.parquet: query_id, label, score"#]]
        .assert_eq(&in_words(&report, Path::new("out/scores.parquet")));
    }

    #[test]
    fn the_childs_end_is_ours() {
        assert!(matches!(verdict(ExitStatus::from_raw(0)), Ok(Ok(()))));
        assert!(matches!(verdict(ExitStatus::from_raw(2 << 8)), Ok(Err(code)) if code == ExitCode::from(2)));
        let killed = verdict(ExitStatus::from_raw(9)).unwrap_err();
        assert!(killed.render().contains("killed by signal 9"), "{}", killed.render());
    }

    #[test]
    fn a_value_that_begins_with_a_dash_stays_a_value() {
        let mut arguments = Vec::new();
        flag(&mut arguments, "--out", Some("-"));
        flag(&mut arguments, "--query", None::<String>);
        assert_eq!(arguments, ["--out=-"]);
    }
}
