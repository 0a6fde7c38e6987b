//! A run as it is kept, wherever that is: by its coordinator, in a state folder without one, or by MLflow. What is asked of runs (which is the
//! best, what differs) is answered here, the same for all of them. Pure.

use std::{cmp::Ordering, collections::BTreeMap};

use proto::v1;

use crate::tracking::{about, mlflow::FoundRun};

/// Facts and the newest point of each curve.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    pub run_id: String,
    pub name: String,
    pub phase: v1::Phase,
    pub standing: String,
    pub started_unix_millis: u64,
    /// 0 while it runs.
    pub ended_unix_millis: u64,
    pub dataset_hash: String,
    /// Lockstep's.
    pub version: String,
    /// Of the folder that it was submitted in.
    pub git_commit: String,
    pub user: String,
    pub experiment: String,
    pub mlflow_run_id: String,
    /// Folder of the best checkpoint, on the machine of the coordinator.
    pub checkpoint: String,
    pub parameters: BTreeMap<String, String>,
    /// By curve. Without a prefix (`ndcg@10`): of the best checkpoint.
    pub metrics: BTreeMap<String, f64>,
    /// What such a metric counts, and how.
    pub conventions: BTreeMap<String, String>,
}

/// One thing that two runs do not have in common; absent: the run does not have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub what: String,
    pub values: [Option<String>; 2],
}

impl Kept {
    /// As a coordinator or its journal tells it; `curves`: those whose newest points are wanted beside the best checkpoint's metrics.
    pub fn of(status: &v1::RunStatus, curves: &[v1::Series]) -> Self {
        let mut kept = Self {
            run_id: status.run_id.clone(),
            name: status.name.clone(),
            phase: status.phase(),
            standing: status.standing.clone(),
            started_unix_millis: status.created_unix_micros / 1000,
            ended_unix_millis: status.ended_unix_micros / 1000,
            dataset_hash: status.dataset_hash.clone(),
            parameters: about::parameters(&status.spec_toml),
            version: about::version(),
            ..Self::default()
        };
        if let Some(origin) = &status.origin {
            (kept.git_commit, kept.user) = (origin.git_commit.clone(), origin.user.clone());
            kept.version.clone_from(&origin.lockstep);
        }
        if let Some(tracking) = &status.tracking {
            kept.experiment.clone_from(&tracking.experiment);
            kept.mlflow_run_id.clone_from(&tracking.mlflow_run_id);
        }
        if let Some(best) = &status.best {
            kept.checkpoint.clone_from(&best.path);
            for metric in &best.metrics {
                kept.metrics.insert(metric.name.clone(), metric.value);
                kept.conventions.insert(metric.name.clone(), metric.convention.clone());
            }
        }
        for curve in curves {
            if let Some(newest) = curve.points.last() {
                kept.metrics.insert(curve.name.clone(), newest.value);
            }
        }
        kept
    }

    /// As MLflow has it. One that Lockstep did not make has MLflow's id for its own.
    pub fn found(run: &FoundRun, experiment: &str) -> Self {
        let tag = |key: &str| run.tags.get(key).cloned().unwrap_or_default();
        let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
        let phase = v1::Phase::from_str_name(&tag(about::PHASE).to_uppercase());
        let conventions = run.tags.iter().filter_map(|(key, value)| {
            let name = key.strip_prefix(about::CONVENTION)?;
            Some((super::tracking::naming::from_mlflow(name), value.clone()))
        });
        Self {
            run_id: or(tag(about::RUN_ID), &run.id),
            name: run.name.clone(),
            phase: match about::phase_of_status(&run.status) {
                v1::Phase::Training => phase.unwrap_or(v1::Phase::Training),
                ended => ended,
            },
            standing: tag(about::STANDING),
            started_unix_millis: run.start_millis,
            ended_unix_millis: run.end_millis,
            dataset_hash: tag(about::DATASET_HASH),
            version: tag(about::VERSION),
            git_commit: tag(about::COMMIT),
            user: tag("mlflow.user"),
            experiment: experiment.to_owned(),
            mlflow_run_id: run.id.clone(),
            checkpoint: tag(about::CHECKPOINT),
            parameters: run.parameters.clone(),
            metrics: run.metrics.iter().map(|point| (point.name.clone(), point.value)).collect(),
            conventions: conventions.collect(),
        }
    }
}

/// The run whose newest point of this curve is the highest (or lowest); of equal ones the one that started last, as MLflow orders them. A run
/// without such a curve, or whose newest point is NaN, is not compared.
pub fn best<'a>(runs: &'a [Kept], metric: &str, lowest: bool) -> Option<&'a Kept> {
    let value = |run: &Kept| run.metrics.get(metric).copied().filter(|value| !value.is_nan());
    let comparable = runs.iter().filter_map(|run| Some((value(run)?, run)));
    let better = |a: &(f64, &Kept), b: &(f64, &Kept)| {
        let by_value = a.0.total_cmp(&b.0);
        let by_value = if a.0 == b.0 { Ordering::Equal } else { by_value };
        let by_value = if lowest { by_value.reverse() } else { by_value };
        by_value
            .then(a.1.started_unix_millis.cmp(&b.1.started_unix_millis))
            .then(b.1.mlflow_run_id.cmp(&a.1.mlflow_run_id))
    };
    comparable.max_by(better).map(|(_, run)| run)
}

/// What of their documents, data, code and figures is not the same.
pub fn differences(a: &Kept, b: &Kept) -> Vec<Difference> {
    let facts = |run: &Kept| {
        [
            ("name", &run.name),
            ("dataset", &run.dataset_hash),
            ("version", &run.version),
            ("git commit", &run.git_commit),
            ("user", &run.user),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(what, value)| (what.to_owned(), value.clone()))
        .chain([("phase".to_owned(), about::phase_word(run.phase))])
        .collect::<BTreeMap<_, _>>()
    };
    let figures = |run: &Kept| run.metrics.iter().map(|(name, value)| (name.clone(), value.to_string())).collect();
    let mut differences = of_two(&facts(a), &facts(b));
    // A name is a parameter too.
    let mut parameters = of_two(&a.parameters, &b.parameters);
    parameters.retain(|difference| difference.what != "name");
    differences.extend(parameters);
    differences.extend(of_two(&figures(a), &figures(b)));
    differences
}

fn of_two(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> Vec<Difference> {
    let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let differing = keys.into_iter().filter(|key| a.get(*key) != b.get(*key));
    differing.map(|key| Difference { what: key.clone(), values: [a.get(key).cloned(), b.get(key).cloned()] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(id: &str, started: u64, value: Option<f64>) -> Kept {
        let metrics = value.map(|value| ("ndcg@10".to_owned(), value)).into_iter().collect();
        Kept { run_id: id.into(), started_unix_millis: started, metrics, ..Kept::default() }
    }

    #[test]
    fn nan_never_wins_and_of_equals_the_newest_does() {
        let runs = [
            run("old", 1, Some(0.7)),
            run("new", 2, Some(0.7)),
            run("nan", 3, Some(f64::NAN)),
            run("none", 4, None),
            run("least", 5, Some(-0.5)),
        ];
        assert_eq!(best(&runs, "ndcg@10", false).unwrap().run_id, "new");
        assert_eq!(best(&runs, "ndcg@10", true).unwrap().run_id, "least");
        assert_eq!(best(&runs[2..4], "ndcg@10", false), None);
        let zeros = [run("minus", 2, Some(-0.0)), run("plus", 1, Some(0.0))];
        assert_eq!(
            best(&zeros, "ndcg@10", false).unwrap().run_id,
            "minus",
            "they are equal, as they are in a database"
        );
    }

    #[test]
    fn only_what_differs_is_a_difference() {
        let (mut a, mut b) = (run("a", 1, Some(0.5)), run("b", 2, Some(0.25)));
        a.parameters =
            [("training.batch", "16"), ("seed", "1"), ("name", "x")].map(|(k, v)| (k.into(), v.into())).into();
        b.parameters =
            [("training.batch", "32"), ("seed", "1"), ("name", "y")].map(|(k, v)| (k.into(), v.into())).into();
        b.dataset_hash = "d".into();
        let found: Vec<_> = differences(&a, &b).into_iter().map(|d| (d.what, d.values)).collect();
        let two = |a: &str, b: &str| [Some(a.to_owned()), Some(b.to_owned())];
        assert_eq!(
            found,
            [
                ("dataset".to_owned(), [None, Some("d".to_owned())]),
                ("training.batch".to_owned(), two("16", "32")),
                ("ndcg@10".to_owned(), two("0.5", "0.25")),
            ]
        );
    }
}
