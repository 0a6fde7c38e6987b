//! From the partitions' shards to the dataset's folders.

use std::{fs, path::Path};

use super::{
    PartReport, PrepareReport,
    sink::{Outcome, PartOutcome, SinkSpec},
};
use crate::PipelineError;

/// The report's name beside the data; readers of datasets pass over what is no Parquet.
pub const REPORT: &str = "_prepare.json";

/// Moves the files that outcomes name into the dataset's folders, in the order of the partitions, and removes all else.
pub fn arrange(staging: &Path, spec: &SinkSpec, outcomes: &[Outcome]) -> Result<Vec<PartReport>, PipelineError> {
    let mut reports = Vec::new();
    for (at, name) in spec.part_names().into_iter().enumerate() {
        let folder = staging.join(name);
        fs::create_dir_all(&folder).map_err(|error| PipelineError::io("create", &folder, error))?;
        let mut report = PartReport { name: name.to_owned(), ..PartReport::default() };
        for outcome in outcomes {
            let PartOutcome { files, rows, lists, bytes } = outcome.parts[at];
            for file in 0..files {
                let from = staging.join(&outcome.shard).join(name).join(part_file(file));
                let to = folder.join(part_file(report.files + file));
                fs::rename(&from, &to).map_err(|error| PipelineError::io("move", &from, error))?;
            }
            report.files += files;
            report.rows += rows;
            report.lists += lists;
            report.bytes += bytes;
        }
        if report.rows == 0 {
            let message = match name {
                "" => "no row is left to write".to_owned(),
                name => format!("part `{name}` gets no row"),
            };
            return Err(PipelineError::data(message).with_hint("see the dates, the split and --missing drop"));
        }
        reports.push(report);
    }
    for entry in fs::read_dir(staging).map_err(|error| PipelineError::io("read", staging, error))? {
        let path = entry.map_err(|error| PipelineError::io("read", staging, error))?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("shard-")) {
            fs::remove_dir_all(&path).map_err(|error| PipelineError::io("remove", &path, error))?;
        }
    }
    Ok(reports)
}

fn part_file(number: usize) -> String {
    format!("part-{number:05}.parquet")
}

pub fn write_report(staging: &Path, report: &PrepareReport) -> Result<(), PipelineError> {
    let path = staging.join(REPORT);
    let json = serde_json::to_vec_pretty(report)
        .map_err(|error| PipelineError::data("the report cannot be written as JSON").because(error))?;
    fs::write(&path, json).map_err(|error| PipelineError::io("write", &path, error))
}
