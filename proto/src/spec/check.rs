//! From the text of a `run.toml` to a [`RunSpec`], or to every problem it has, and back to text.
//!
//! Two passes: [`document`] types each key by itself, so that one wrong value hides no other; [`rules`] then judges the
//! values together, silent about keys that the first pass already refused.

mod document;
mod rules;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt};

use bytesize::ByteSize;

use super::RunSpec;

/// One thing that is wrong with a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problem {
    /// From 1; absent where no line is to blame (a key that is missing, a `--set`).
    pub line: Option<usize>,
    /// From 1; only where the text is not TOML.
    pub column: Option<usize>,
    /// The `--set` to blame, as it was typed.
    pub set: Option<String>,
    /// Dotted: `training.batch`. Empty where the document itself is at fault.
    pub key: String,
    pub message: String,
    pub hint: Option<String>,
}

/// All of them, in the order of their lines; those without a line come last.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.set, self.line) {
            (Some(set), _) => write!(f, "--set {set}: ")?,
            (None, Some(line)) => write!(f, "line {line}: ")?,
            (None, None) => {}
        }
        if self.key.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.key, self.message) }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => one.fmt(f),
            many => {
                write!(f, "{} problems in the run's document", many.len())?;
                many.iter().try_for_each(|problem| write!(f, "; {problem}"))
            }
        }
    }
}

/// `sets` are `--set` overrides: a dotted key and a TOML value (or bare words, taken as a string). They win over the text.
pub fn parse(text: &str, sets: &[(String, String)]) -> Result<RunSpec, Problems> {
    let mut document = document::read(text, sets)?;
    let spec = document.typed();
    rules::judge(&spec, &mut document);
    let problems = document.into_problems();
    if problems.is_empty() { Ok(spec) } else { Err(Problems(problems)) }
}

/// One line a problem, `run.toml:12: training.batch: …`, its hint below it. `file` is how its author knows the document.
pub fn render(file: &str, problems: &Problems) -> String {
    let mut text = String::new();
    for problem in &problems.0 {
        let place = match (&problem.set, problem.line, problem.column) {
            (Some(set), _, _) => format!("--set {set}"),
            (None, Some(line), Some(column)) => format!("{file}:{line}:{column}"),
            (None, Some(line), None) => format!("{file}:{line}"),
            (None, None, _) => file.to_owned(),
        };
        let key = if problem.key.is_empty() { String::new() } else { format!("{}: ", problem.key) };
        text += &format!("{place}: {key}{}\n", problem.message);
        if let Some(hint) = &problem.hint {
            text += &format!("  hint: {hint}\n");
        }
    }
    text
}

/// The resolved document, one section after the other: [`parse`] gives the same `RunSpec` back.
///
/// # Panics
/// If a path is not UTF-8 or the seed is past 2^63 - 1; no document can say either, so no checked spec holds them.
pub fn to_toml(spec: &RunSpec) -> String {
    let table = toml::Table::try_from(spec).expect("a checked spec has UTF-8 paths and numbers that TOML can write");
    let (sections, top): (toml::Table, toml::Table) = table.into_iter().partition(|(_, value)| value.is_table());
    let mut text = top.to_string();
    for name in document::SECTIONS {
        let Some(mut section) = sections.get(name).cloned() else { continue };
        if let (true, Some(data)) = (name == "data", section.as_table_mut()) {
            // The type's own form rounds: "117.7 MiB".
            for (key, size) in [
                ("block_bytes", spec.data.block_bytes),
                ("cache", spec.data.cache),
                ("read_ahead", spec.data.read_ahead),
            ] {
                data.insert(key.into(), exact(size).into());
            }
        }
        text.push('\n');
        text += &toml::Table::from_iter([(name.to_owned(), section)]).to_string();
    }
    text
}

/// Every key of a run and its value as text, defaults included: `training.batch` and `128`. Where a run is told to is no part of what it is.
///
/// # Panics
/// As [`to_toml`].
pub fn flatten(spec: &RunSpec) -> BTreeMap<String, String> {
    fn into(flat: &mut BTreeMap<String, String>, path: &str, value: &toml::Value) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    into(flat, &path, value);
                }
            }
            toml::Value::String(text) => drop(flat.insert(path.to_owned(), text.clone())),
            other => drop(flat.insert(path.to_owned(), other.to_string())),
        }
    }
    let spec = RunSpec { tracking: None, ..spec.clone() };
    let table: toml::Table = to_toml(&spec).parse().expect("what was written as TOML can be read");
    let mut flat = BTreeMap::new();
    into(&mut flat, "", &toml::Value::Table(table));
    flat
}

fn exact(ByteSize(bytes): ByteSize) -> String {
    match [(30, "GiB"), (20, "MiB"), (10, "KiB")].iter().find(|(bits, _)| bytes > 0 && bytes % (1u64 << bits) == 0) {
        Some((bits, unit)) => format!("{} {unit}", bytes >> bits),
        None => format!("{bytes} B"),
    }
}
