//! What MLflow is told of a run beside its curves: parameters, tags, a name. Pure.

use std::collections::BTreeMap;

use proto::v1;

use super::naming::to_mlflow;

/// Says which run of Lockstep's a run of MLflow's is; what a lost answer is made good by.
pub const RUN_ID: &str = "lockstep.run_id";
pub const PHASE: &str = "lockstep.phase";
pub const VERSION: &str = "lockstep.version";
pub const DATASET_HASH: &str = "lockstep.dataset_hash";
pub const CHECKPOINT: &str = "lockstep.checkpoint";
pub const STANDING: &str = "lockstep.standing";
/// Before a metric's name: what it counts, and how.
pub const CONVENTION: &str = "lockstep.convention.";
pub const COMMIT: &str = "mlflow.source.git.commit";

const PARAMETER_AT_MOST: usize = 6000;
const TAG_AT_MOST: usize = 5000;

pub type Pairs = BTreeMap<String, String>;

/// The document, a key a parameter. A document that this version cannot read has none.
pub fn parameters(spec_toml: &str) -> Pairs {
    let Ok(spec) = proto::spec::parse(spec_toml, &[]) else { return Pairs::new() };
    let flat = proto::spec::check::flatten(&spec).into_iter();
    flat.map(|(key, value)| (to_mlflow(&key), shortened(value, PARAMETER_AT_MOST))).collect()
}

/// Those that are known when the run is made.
pub fn first_tags(run: &v1::RunStatus) -> Pairs {
    let mut tags = Pairs::new();
    let mut tag = |key: &str, value: &str| {
        if !value.is_empty() {
            tags.insert(key.to_owned(), shortened(value.to_owned(), TAG_AT_MOST));
        }
    };
    tag(RUN_ID, &run.run_id);
    tag("lockstep.name", &run.name);
    tag(VERSION, &version());
    tag("mlflow.runName", &run.name);
    tag("mlflow.source.name", "lockstep");
    tag("mlflow.source.type", "LOCAL");
    if let Some(origin) = &run.origin {
        tag("mlflow.user", &origin.user);
        tag(COMMIT, &origin.git_commit);
        tag("lockstep.host", &origin.host);
        tag("lockstep.folder", &origin.folder);
        tag("lockstep.submitted_by", &origin.lockstep);
    }
    tags
}

/// Those that become known as it goes.
pub fn later_tags(run: &v1::RunStatus) -> Pairs {
    let mut tags = Pairs::new();
    let mut tag = |key: String, value: &str| {
        if !value.is_empty() {
            tags.insert(key, shortened(value.to_owned(), TAG_AT_MOST));
        }
    };
    tag(DATASET_HASH.into(), &run.dataset_hash);
    tag(PHASE.into(), &phase_word(run.phase()));
    tag(STANDING.into(), &run.standing);
    tag("lockstep.workers".into(), &run.world.to_string());
    if let Some(best) = &run.best {
        tag(CHECKPOINT.into(), &best.path);
        for metric in &best.metrics {
            tag(format!("{CONVENTION}{}", to_mlflow(&metric.name)), &metric.convention);
        }
    }
    tags
}

/// `0.1.0`, with the commit behind it where the build knows it.
pub fn version() -> String {
    match proto::COMMIT {
        Some(commit) => format!("{} ({commit})", proto::VERSION),
        None => proto::VERSION.to_owned(),
    }
}

/// `succeeded`, `failed`, …
pub fn phase_word(phase: v1::Phase) -> String {
    phase.as_str_name().trim_start_matches("PHASE_").to_lowercase()
}

/// MLflow knows no more.
pub fn status_word(phase: v1::Phase) -> &'static str {
    match phase {
        v1::Phase::Succeeded => "FINISHED",
        v1::Phase::Stopped => "KILLED",
        v1::Phase::Failed => "FAILED",
        _ => "RUNNING",
    }
}

/// Of a run whose tags do not say.
pub fn phase_of_status(word: &str) -> v1::Phase {
    match word {
        "FINISHED" => v1::Phase::Succeeded,
        "KILLED" => v1::Phase::Stopped,
        "FAILED" => v1::Phase::Failed,
        "RUNNING" => v1::Phase::Training,
        _ => v1::Phase::Unspecified,
    }
}

fn shortened(text: String, at_most: usize) -> String {
    let characters = text.chars().count();
    if characters <= at_most {
        return text;
    }
    let end = format!(" … ({characters} characters)");
    let kept: String = text.chars().take(at_most - end.chars().count()).collect();
    kept + &end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_document_is_a_parameter_but_for_where_it_is_told_to() {
        let spec = "name = \"a\"\n[data]\ntrain = \"/d\"\nvalidation = \"/v\"\n[model]\nhidden = [8, 4]\n[tracking]\nmlflow = \"http://h\"\n\
                    [training]\nbatch = 77\nearly_stopping = { patience = 5 }\n";
        assert!(parameters(&format!("{spec}[other]\n")).is_empty(), "what cannot be read is not guessed");
        let parameters = parameters(spec);
        let value = |key: &str| parameters.get(key).map(String::as_str);
        assert_eq!(value("training.batch"), Some("77"));
        assert_eq!(value("model.hidden"), Some("[8, 4]"));
        assert_eq!(value("training.early_stopping.patience"), Some("5"));
        assert_eq!(value("data.cache"), Some("256 MiB"));
        assert_eq!(value("optimizer.learning_rate"), Some("0.001"));
        assert!(parameters.keys().all(|key| !key.starts_with("tracking")));
    }

    #[test]
    fn long_values_are_cut_where_mlflow_would_refuse_them_and_say_so() {
        let cut = shortened("ä".repeat(7000), PARAMETER_AT_MOST);
        assert_eq!(cut.chars().count(), PARAMETER_AT_MOST);
        assert!(cut.ends_with("ä … (7000 characters)"));
        assert_eq!(shortened("short".into(), PARAMETER_AT_MOST), "short");
    }

    #[test]
    fn phases_come_back_from_mlflows_words() {
        for phase in [v1::Phase::Succeeded, v1::Phase::Stopped, v1::Phase::Failed, v1::Phase::Training] {
            assert_eq!(phase_of_status(status_word(phase)), phase);
        }
    }
}
