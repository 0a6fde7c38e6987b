//! A run as it is asked for, checked as far as that goes without reading its data. Blocking: looks at the checkpoint folder.

use std::{fs::File, path::Path};

use proto::{Deadlines, RunId, RunSpec, spec::Problem, v1};

use crate::{
    checkpoints::RunFolder,
    refusal::{Refusal, RefusalKind},
    run::Plan,
};

/// Each record of a run holds it, and etcd takes records of 1.5 MiB.
const SPEC_AT_MOST: usize = 512 << 10;

/// A spec that can be queued.
#[derive(Clone, Debug)]
pub struct Submission {
    pub spec: RunSpec,
    pub spec_toml: String,
    pub resume_from: String,
    pub origin: Option<v1::Origin>,
}

impl Submission {
    pub fn check(spec_toml: String, resume_from: String) -> Result<Self, Refusal> {
        if spec_toml.len() > SPEC_AT_MOST {
            let message = format!("the run spec is of {} bytes, {SPEC_AT_MOST} are the most", spec_toml.len());
            let hint = "shorten it: comments and long lists take the most";
            return Err(Refusal::new(RefusalKind::Invalid, message, hint));
        }
        let spec = proto::spec::parse(&spec_toml, &[]).map_err(|problems| {
            let count = problems.0.len();
            let message = format!("the run spec has {count} problem{}", if count == 1 { "" } else { "s" });
            let refusal = Refusal::new(RefusalKind::Invalid, message, "`lockstep check run.toml` shows them all");
            Refusal { causes: problems.0.iter().map(in_words).collect(), ..refusal }
        })?;
        // Whoever else checks documents, these two would corrupt: a name is a folder, and nobody cannot train.
        if spec.name.is_empty() || spec.name.starts_with('.') || spec.name.contains(['/', '\0']) {
            let message = format!("`name = \"{}\"` cannot name a folder", spec.name);
            return Err(Refusal::new(RefusalKind::Invalid, message, "use letters, digits, `-`, `_` and `.`"));
        }
        if spec.cluster.workers == 0 {
            return Err(Refusal::new(RefusalKind::Invalid, "`cluster.workers` is 0", "set it to 1 or more"));
        }
        if resume_from.is_empty() {
            RunFolder::of(&spec).refuse_if_taken(&spec.name)?;
            // A resumed run takes the module from its checkpoint.
            if let Some(module) = &spec.model.path {
                refuse_unreadable_module(module)?;
            }
        }
        Ok(Self { spec, spec_toml, resume_from, origin: None })
    }

    /// One that was accepted by an earlier life of the coordinator: what it checked then is not checked again.
    pub fn again(status: &v1::RunStatus) -> Option<Self> {
        let spec = proto::spec::parse(&status.spec_toml, &[]).ok()?;
        Some(Self {
            spec,
            spec_toml: status.spec_toml.clone(),
            resume_from: status.resume_from.clone(),
            origin: status.origin.clone(),
        })
    }

    pub fn plan(&self, id: RunId, deadlines: Deadlines) -> Plan {
        Plan {
            id,
            name: self.spec.name.clone(),
            spec_toml: self.spec_toml.clone(),
            workers: self.spec.cluster.workers,
            least: self.spec.cluster.least(),
            most: self.spec.cluster.most(),
            deadlines,
            epochs: self.spec.training.epochs,
            join_timeout: self.spec.cluster.join_timeout,
            origin: self.origin.clone(),
            best_by: self.spec.best_by(),
            resume_from: self.resume_from.clone(),
        }
    }
}

/// Before workers are seated for it; what is in it is theirs to judge.
fn refuse_unreadable_module(module: &Path) -> Result<(), Refusal> {
    let opened = File::open(module).and_then(|file| file.metadata());
    let why = match opened {
        Ok(metadata) if metadata.is_file() => return Ok(()),
        Ok(_) => "it is not a file".to_owned(),
        Err(error) => error.to_string(),
    };
    let message = format!("`model.path` names `{}`, which cannot be read: {why}", module.display());
    let hint = "name the file that `torch.jit.script(model).save(\"model.pt\")` wrote, as the coordinator and the workers see it";
    Err(Refusal::new(RefusalKind::Invalid, message, hint))
}

fn in_words(problem: &Problem) -> String {
    let line = problem.line.map(|line| format!("line {line}: ")).unwrap_or_default();
    let key = if problem.key.is_empty() { String::new() } else { format!("`{}`: ", problem.key) };
    let hint = problem.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
    format!("{line}{key}{}{hint}", problem.message)
}
