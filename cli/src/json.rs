//! Messages of the wire as JSON for machines: the names of the .proto file, absent things as null, phases as words.

use proto::v1::{self, run_event::Event};
use serde_json::{Map, Value, json};

use crate::print;

/// One line on stdout.
pub fn print(value: &Value) {
    print::line(value);
}

/// `{"event": "progress", "run_id": …, "sequence": …, "unix_micros": …, …}`.
pub fn event(message: &v1::RunEvent) -> Value {
    let (name, body) = match &message.event {
        None => ("unknown", json!({})),
        Some(Event::Standing(standing)) => {
            ("standing", json!({ "phase": phase(standing.phase), "words": standing.words }))
        }
        Some(Event::Seated(seated)) => {
            let body = json!({
                "generation": seated.generation,
                "workers": seated.workers,
                "first_step": seated.first_step,
                "stood_seconds": seated.stood_seconds,
            });
            ("seated", body)
        }
        Some(Event::Lost(lost)) => (
            "lost",
            json!({ "worker": lost.worker, "generation": lost.generation, "step": lost.step, "why": lost.why }),
        ),
        Some(Event::Progress(window)) => ("progress", progress(window)),
        Some(Event::Epoch(ended)) => ("epoch", epoch(ended)),
        Some(Event::Checkpoint(published)) => ("checkpoint", checkpoint(published)),
        Some(Event::Warning(warning)) => ("warning", json!({ "message": warning.message })),
        Some(Event::System(seen)) => (
            "system",
            json!({
                "worker": seen.worker,
                "step": seen.step,
                "cpu_percent": seen.cpu_percent,
                "memory_bytes": seen.memory_bytes,
            }),
        ),
        Some(Event::Ended(ended)) => (
            "ended",
            json!({
                "phase": phase(ended.phase),
                "reason": ended.reason,
                "failure": ended.failure.as_ref().map(failure),
                "best": ended.best.as_ref().map(checkpoint),
                "last": ended.last.as_ref().map(checkpoint),
            }),
        ),
    };
    let mut line = Map::new();
    line.insert("event".into(), name.into());
    line.insert("run_id".into(), message.run_id.clone().into());
    line.insert("sequence".into(), message.sequence.into());
    line.insert("unix_micros".into(), message.unix_micros.into());
    if let Value::Object(body) = body {
        line.extend(body);
    }
    Value::Object(line)
}

pub fn status(run: &v1::RunStatus) -> Value {
    json!({
        "run_id": run.run_id,
        "name": run.name,
        "phase": phase(run.phase),
        "standing": run.standing,
        "generation": run.generation,
        "world": run.world,
        "min_workers": run.min_workers,
        "max_workers": run.max_workers,
        "members": run.members,
        "step": run.step,
        "recoveries": run.recoveries,
        "created_unix_micros": run.created_unix_micros,
        "ended_unix_micros": (run.ended_unix_micros > 0).then_some(run.ended_unix_micros),
        "progress": run.progress.as_ref().map(progress),
        "last_epoch": run.last_epoch.as_ref().map(epoch),
        "best": run.best.as_ref().map(checkpoint),
        "failure": run.failure.as_ref().map(failure),
        "workers": run.workers.iter().map(worker).collect::<Vec<_>>(),
        "dataset_hash": run.dataset_hash,
        "spec_toml": run.spec_toml,
        "origin": run.origin.as_ref().map(|origin| json!({
            "lockstep": origin.lockstep,
            "user": origin.user,
            "host": origin.host,
            "folder": origin.folder,
            "git_commit": origin.git_commit,
        })),
        "tracking": run.tracking.as_ref().map(tracking),
    })
}

pub fn tracking(tracking: &v1::Tracking) -> Value {
    json!({
        "mlflow": tracking.url,
        "experiment": tracking.experiment,
        "mlflow_run_id": (!tracking.mlflow_run_id.is_empty()).then_some(&tracking.mlflow_run_id),
        "done": tracking.done,
        "pending_points": tracking.pending_points,
        "standing": tracking.standing,
    })
}

pub fn worker(worker: &v1::WorkerStatus) -> Value {
    json!({
        "worker": worker.worker,
        "host": worker.host,
        "pid": worker.pid,
        "device": worker.device,
        "state": worker.state,
        "run_id": worker.run_id,
        "rank": worker.rank,
        "world": worker.world,
        "step": worker.step,
        "last_heartbeat_unix_micros": worker.last_heartbeat_unix_micros,
    })
}

pub fn checkpoint(checkpoint: &v1::Checkpoint) -> Value {
    json!({
        "path": checkpoint.path,
        "step": checkpoint.step,
        "epoch": checkpoint.epoch,
        "step_in_epoch": checkpoint.step_in_epoch,
        "unix_micros": checkpoint.unix_micros,
        "bytes": checkpoint.bytes,
        "metrics": metrics(&checkpoint.metrics),
        "best": checkpoint.best,
    })
}

pub fn series(series: &v1::Series) -> Value {
    let points = series
        .points
        .iter()
        .map(|point| json!({ "step": point.step, "unix_micros": point.unix_micros, "value": point.value }));
    json!({ "name": series.name, "points": points.collect::<Vec<_>>() })
}

fn progress(window: &v1::Progress) -> Value {
    json!({
        "generation": window.generation,
        "epoch": window.epoch,
        "epochs": window.epochs,
        "first_step": window.first_step,
        "step": window.step,
        "steps_per_epoch": window.steps_per_epoch,
        "loss": window.loss,
        "learning_rate": window.learning_rate,
        "gradient_norm": window.gradient_norm,
        "rows": window.rows,
        "lists": window.lists,
        "seconds": window.seconds,
        "skipped_nonfinite": window.skipped_nonfinite,
        "skipped_empty": window.skipped_empty,
        "wait_data_seconds": window.wait_data_seconds,
        "wait_reduce_seconds": window.wait_reduce_seconds,
        "atoms": window.atoms,
        "hash": hash(window.hash_high, window.hash_low),
    })
}

fn epoch(ended: &v1::EpochEnded) -> Value {
    json!({
        "generation": ended.generation,
        "epoch": ended.epoch,
        "epochs": ended.epochs,
        "step": ended.step,
        "train_loss": ended.train_loss,
        "rows": ended.rows,
        "lists": ended.lists,
        "train_seconds": ended.train_seconds,
        "validation_seconds": ended.validation_seconds,
        "validation": metrics(&ended.validation),
        "judgments": metrics(&ended.judgments),
        "learning_rate": ended.learning_rate,
        "improved": ended.improved,
        "epochs_without_improvement": ended.epochs_without_improvement,
        "audit": ended.audit.as_ref().map(|audit| json!({
            "rows": audit.rows,
            "expected_rows": audit.expected_rows,
            "atoms": audit.atoms,
            "expected_atoms": audit.expected_atoms,
            "hash": hash(audit.hash_high, audit.hash_low),
            "expected_hash": hash(audit.expected_hash_high, audit.expected_hash_low),
        })),
    })
}

/// The two halves of a 128-bit sum, in hex.
fn hash(high: u64, low: u64) -> String {
    format!("{high:016x}{low:016x}")
}

fn metrics(metrics: &[v1::Metric]) -> Value {
    let of =
        |metric: &v1::Metric| json!({ "name": metric.name, "value": metric.value, "convention": metric.convention });
    metrics.iter().map(of).collect()
}

fn failure(failure: &v1::Failure) -> Value {
    json!({
        "message": failure.message,
        "causes": failure.causes,
        "hint": failure.hint,
        "input_is_wrong": failure.input_is_wrong,
    })
}

/// `training`, `succeeded`, …
pub fn phase(phase: i32) -> String {
    v1::Phase::try_from(phase).unwrap_or_default().as_str_name().trim_start_matches("PHASE_").to_lowercase()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn an_event_is_one_flat_object_and_what_is_not_finite_is_null() {
        let message = v1::RunEvent {
            sequence: 7,
            unix_micros: 1,
            run_id: "r-1".into(),
            event: Some(Event::Ended(v1::Ended {
                phase: v1::Phase::Failed.into(),
                failure: Some(v1::Failure { message: "no".into(), ..v1::Failure::default() }),
                best: Some(v1::Checkpoint {
                    path: "/c/step-1".into(),
                    metrics: vec![v1::Metric { name: "map".into(), value: f64::NAN, convention: "c".into() }],
                    ..v1::Checkpoint::default()
                }),
                last: None,
                reason: "no".into(),
            })),
        };
        expect![[r#"
            {
              "best": {
                "best": false,
                "bytes": 0,
                "epoch": 0,
                "metrics": [
                  {
                    "convention": "c",
                    "name": "map",
                    "value": null
                  }
                ],
                "path": "/c/step-1",
                "step": 0,
                "step_in_epoch": 0,
                "unix_micros": 0
              },
              "event": "ended",
              "failure": {
                "causes": [],
                "hint": "",
                "input_is_wrong": false,
                "message": "no"
              },
              "last": null,
              "phase": "failed",
              "reason": "no",
              "run_id": "r-1",
              "sequence": 7,
              "unix_micros": 1
            }
        "#]]
        .assert_eq(&format!("{:#}\n", event(&message)));
    }
}
