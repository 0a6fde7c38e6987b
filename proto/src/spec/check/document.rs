//! The document as a tree whose keys know where they come from, typed key by key.
//!
//! Every key of a [`RunSpec`] has a default, so a document of one key is complete: typing each key alone finds all errors and
//! says whose they are. What is known about keys (their names, the words of an enum) is asked of the same deserializer.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize as _;
use toml::{
    Spanned, Value,
    de::{DeTable, DeValue, ValueDeserializer},
};

use super::{Problem, Problems, RunSpec};

/// The document's tables, in the order in which they are written.
pub const SECTIONS: [&str; 9] =
    ["data", "model", "loss", "training", "optimizer", "schedule", "cluster", "checkpoint", "tracking"];

/// Tables inside a section.
const INNER: [&str; 1] = ["training.early_stopping"];

/// Where a key was written.
#[derive(Clone, Debug)]
enum Origin {
    Line(usize),
    /// The `--set`, as it was typed.
    Set(String),
}

struct Entry {
    origin: Origin,
    node: Node,
}

enum Node {
    Table(BTreeMap<String, Entry>),
    Leaf(Value),
    /// A bare word of a `--set`, or a TOML value that may have been meant as one: whichever the key can use.
    Either(Option<Value>, String),
}

pub struct Document {
    root: BTreeMap<String, Entry>,
    /// Keys refused so far, and keys that an unknown one was probably meant to be.
    refused: BTreeSet<String>,
    problems: Vec<Problem>,
}

/// Text that is not TOML is the only problem that is reported alone.
pub fn read(text: &str, sets: &[(String, String)]) -> Result<Document, Problems> {
    let table = DeTable::parse(text).map_err(|error| Problems(vec![syntax(text, &error)]))?.into_inner();
    let mut document = Document { root: BTreeMap::new(), refused: BTreeSet::new(), problems: Vec::new() };
    document.root = document.tree(&Lines::of(text), "", table);
    for (key, value) in sets {
        document.set(key, value);
    }
    Ok(document)
}

fn syntax(text: &str, error: &toml::de::Error) -> Problem {
    let start = error.span().map_or(0, |span| span.start.min(text.len()));
    let before = &text.as_bytes()[..start];
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    Problem {
        line: Some(before.iter().filter(|byte| **byte == b'\n').count() + 1),
        column: Some(String::from_utf8_lossy(&before[line_start..]).chars().count() + 1),
        message: format!("not TOML: {}", error.message()),
        ..Problem::default()
    }
}

/// Byte offsets to lines.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect())
    }

    fn at(&self, offset: usize) -> usize {
        self.0.partition_point(|newline| *newline < offset) + 1
    }
}

impl Document {
    fn tree(&mut self, lines: &Lines, path: &str, table: DeTable<'_>) -> BTreeMap<String, Entry> {
        let mut tree = BTreeMap::new();
        for (key, value) in table {
            let origin = Origin::Line(lines.at(key.span().start));
            let name = key.into_inner().into_owned();
            let path = join(path, &name);
            let node = if value.get_ref().is_table() {
                match value.into_inner() {
                    DeValue::Table(inner) => Node::Table(self.tree(lines, &path, inner)),
                    _ => continue,
                }
            } else {
                match leaf(value) {
                    Ok(value) => Node::Leaf(value),
                    Err(message) => {
                        self.blame(&path, Some(&origin), message, None);
                        continue;
                    }
                }
            };
            tree.insert(name, Entry { origin, node });
        }
        tree
    }

    fn set(&mut self, key: &str, value: &str) {
        let typed = format!("{key}={value}");
        let origin = Origin::Set(typed);
        let names: Vec<&str> = key.split('.').map(str::trim).collect();
        if names.iter().any(|name| name.is_empty()) {
            self.blame(key, Some(&origin), "is not a key", Some("write `--set training.epochs=5`".into()));
            return;
        }
        // A bare word is not TOML, and a path or a date may look like it by accident.
        let node = match DeValue::parse(value) {
            Ok(parsed) => match parsed.into_inner() {
                DeValue::Table(inner) => {
                    let mut table = self.tree(&Lines(Vec::new()), key, inner);
                    adopt(&mut table, &origin);
                    Node::Table(table)
                }
                other => Node::Either(leaf(Spanned::new(0..0, other)).ok(), value.to_owned()),
            },
            Err(_) => Node::Either(None, value.to_owned()),
        };
        let mut level = &mut self.root;
        for name in &names[..names.len() - 1] {
            let entry = level
                .entry((*name).to_owned())
                .or_insert_with(|| Entry { origin: origin.clone(), node: Node::Table(BTreeMap::new()) });
            if !matches!(entry.node, Node::Table(_)) {
                *entry = Entry { origin: origin.clone(), node: Node::Table(BTreeMap::new()) };
            }
            let Node::Table(inner) = &mut entry.node else { return };
            level = inner;
        }
        level.insert(names[names.len() - 1].to_owned(), Entry { origin, node });
    }

    /// The values that could be typed; the others keep their defaults and become problems.
    pub fn typed(&mut self) -> RunSpec {
        let root = std::mem::take(&mut self.root);
        let mut good = toml::Table::new();
        self.type_table("", &root, &mut good);
        self.root = root;
        // Each key was typed alone, so together they are: nothing but a key's absence has an effect on another.
        RunSpec::deserialize(Value::Table(good)).unwrap_or_else(|error| {
            self.blame("", None, error.message().to_owned(), None);
            RunSpec::default()
        })
    }

    fn type_table(&mut self, path: &str, table: &BTreeMap<String, Entry>, good: &mut toml::Table) {
        for (name, entry) in table {
            let path = join(path, name);
            let value = match &entry.node {
                Node::Table(inner) => match probe(&path, Value::Table(toml::Table::new())) {
                    Ok(()) => {
                        let mut inside = toml::Table::new();
                        self.type_table(&path, inner, &mut inside);
                        good.insert(name.clone(), Value::Table(inside));
                        continue;
                    }
                    Err(message) => Err((message, "a table".to_owned())),
                },
                Node::Leaf(value) => typed_as(&path, value),
                Node::Either(value, text) => value
                    .as_ref()
                    .map_or_else(|| typed_as(&path, &Value::String(text.clone())), |value| typed_as(&path, value))
                    .or_else(|error| typed_as(&path, &Value::String(text.clone())).map_err(|_| error)),
            };
            match value {
                Ok(value) => {
                    good.insert(name.clone(), value);
                }
                Err((message, found)) => self.mistyped(&path, &entry.origin, &message, &found),
            }
        }
    }

    fn mistyped(&mut self, path: &str, origin: &Origin, message: &str, found: &str) {
        if message.starts_with("unknown field") {
            let (table, name) = path.rsplit_once('.').unwrap_or(("", path));
            let meant = meant(table, name);
            if let Some(meant) = &meant {
                self.refused.insert(meant.clone());
            }
            let known = quoted(message.split_once("expected").map_or("", |(_, rest)| rest));
            let hint = match meant {
                Some(meant) => format!("did you mean `{meant}`?"),
                None if table.is_empty() => format!("the document has {}", known.join(", ")),
                None => format!("`[{table}]` has {}", known.join(", ")),
            };
            return self.blame(path, Some(origin), "is not a key that a run has", Some(hint));
        }
        let words = words_of(path);
        let (message, hint) = if !words.is_empty() {
            let near = found
                .strip_prefix("the text ")
                .map(|word| word.trim_matches('`'))
                .and_then(|word| nearest(word, &words));
            let message = format!(
                "{found} is none of {}",
                words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
            );
            (message, near.map(|near| format!("did you mean \"{near}\"?")))
        } else if SECTIONS.contains(&path) || INNER.contains(&path) {
            let hint = if SECTIONS.contains(&path) {
                format!("write `[{path}]` on a line of its own")
            } else {
                "write `{ metric = \"ndcg@10\", patience = 3 }`".into()
            };
            (format!("expected a table, not {found}"), Some(hint))
        } else if let Some((_, expected)) =
            message.strip_prefix("invalid ").and_then(|rest| rest.rsplit_once("expected "))
        {
            let (expected, hint) = in_words(path, expected);
            (format!("expected {expected}, not {found}"), hint)
        } else {
            (message.to_owned(), None)
        };
        self.blame(path, Some(origin), message, hint);
    }

    /// A problem with a key, unless one of `keys` (the blamed one first) was refused before: a wrong value says nothing about others.
    pub fn refuse(&mut self, keys: &[&str], message: impl Into<String>, hint: Option<&str>) {
        let refused = |key: &str| {
            self.refused
                .iter()
                .any(|bad| key == bad || key.strip_prefix(bad.as_str()).is_some_and(|rest| rest.starts_with('.')))
        };
        if keys.iter().any(|key| refused(key)) {
            return;
        }
        let Some(key) = keys.first() else { return };
        let origin = self.origin(key).cloned();
        let problem = placed(key, origin.as_ref(), message.into(), hint.map(str::to_owned));
        self.problems.push(problem);
    }

    /// Was this key written, here or in a `--set`?
    pub fn has(&self, key: &str) -> bool {
        self.origin(key).is_some()
    }

    fn origin(&self, key: &str) -> Option<&Origin> {
        let mut level = Some(&self.root);
        let mut origin = None;
        for name in key.split('.') {
            let entry = level?.get(name)?;
            origin = Some(&entry.origin);
            level = match &entry.node {
                Node::Table(inner) => Some(inner),
                _ => None,
            };
        }
        origin
    }

    fn blame(&mut self, key: &str, origin: Option<&Origin>, message: impl Into<String>, hint: Option<String>) {
        self.refused.insert(key.to_owned());
        self.problems.push(placed(key, origin, message.into(), hint));
    }

    pub fn into_problems(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|problem| (problem.set.is_some(), problem.line.unwrap_or(usize::MAX)));
        self.problems
    }
}

fn placed(key: &str, origin: Option<&Origin>, message: String, hint: Option<String>) -> Problem {
    let (line, set) = match origin {
        Some(Origin::Line(line)) => (Some(*line), None),
        Some(Origin::Set(set)) => (None, Some(set.clone())),
        None => (None, None),
    };
    Problem { line, column: None, set, key: key.to_owned(), message, hint }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn adopt(table: &mut BTreeMap<String, Entry>, origin: &Origin) {
    for entry in table.values_mut() {
        entry.origin = origin.clone();
        if let Node::Table(inner) = &mut entry.node {
            adopt(inner, origin);
        }
    }
}

fn leaf(value: Spanned<DeValue<'_>>) -> Result<Value, String> {
    Value::deserialize(ValueDeserializer::from(value)).map_err(|error| match error.message() {
        message if message.contains("too large") || message.contains("overflow") => {
            format!("is too large a number: at most {}", i64::MAX)
        }
        message => message.to_owned(),
    })
}

/// A document of this key alone.
fn probe(path: &str, value: Value) -> Result<(), String> {
    let document =
        path.rsplit('.').fold(value, |inside, name| Value::Table(toml::Table::from_iter([(name.to_owned(), inside)])));
    RunSpec::deserialize(document).map(drop).map_err(|error| error.message().to_owned())
}

/// The value where the key can hold it, else the deserializer's words and our own for what was found.
fn typed_as(path: &str, value: &Value) -> Result<Value, (String, String)> {
    let found = match value {
        Value::String(text) => format!("the text `{text}`"),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => format!("{number:?}"),
        Value::Boolean(flag) => flag.to_string(),
        Value::Datetime(date) => format!("the date {date}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
    };
    // A derived struct would also take a list, field after field.
    if SECTIONS.contains(&path) || INNER.contains(&path) {
        return Err((String::new(), found));
    }
    match probe(path, value.clone()) {
        Ok(()) => Ok(value.clone()),
        Err(message) => Err((message, found)),
    }
}

/// serde's `expected …` as a person says it, and how to write such a value.
fn in_words(path: &str, expected: &str) -> (String, Option<String>) {
    let words = match expected {
        "u64" | "u32" | "usize" => "a whole number, 0 or more",
        "f64" => "a number",
        "a boolean" => "true or false",
        "a string" | "path string" => "a text in quotes",
        "a sequence" => "a list",
        "an integer or string" | "parsable string" | "integer overflow" => "a size",
        "an array of length 2" => "a list of two numbers",
        other => other,
    };
    let hint = match path {
        "checkpoint.every" => Some("write \"1 epoch\", \"500 steps\" or \"10 min\""),
        "schedule.warmup" => Some("write \"100 steps\" or \"1 epoch\""),
        "cluster.join_timeout" => Some("write \"60 s\" or \"5 min\""),
        "model.hidden" => Some("write [128, 64]"),
        "optimizer.betas" => Some("write [0.9, 0.999]"),
        _ if words == "a size" => Some("write \"4 MiB\" or a number of bytes"),
        _ => None,
    };
    (words.to_owned(), hint.map(str::to_owned))
}

/// The words that an enum's key takes; empty for other keys.
fn words_of(path: &str) -> Vec<String> {
    match probe(path, Value::String("?".into())) {
        Err(message) if message.starts_with("unknown variant") => {
            quoted(message.split_once("expected").map_or("", |(_, rest)| rest))
        }
        _ => Vec::new(),
    }
}

/// The keys of a table.
fn keys_of(table: &str) -> Vec<String> {
    match probe(&join(table, "?"), Value::Boolean(true)) {
        Err(message) => quoted(message.split_once("expected").map_or("", |(_, rest)| rest)),
        Ok(()) => Vec::new(),
    }
}

/// What stands between backticks.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The key that was probably meant: a near one in the same table, else the same or a near name in another.
fn meant(table: &str, name: &str) -> Option<String> {
    if let Some(near) = nearest(name, &keys_of(table)) {
        return Some(join(table, &near));
    }
    if keys_of("").iter().any(|key| key == name) {
        return Some(name.to_owned());
    }
    let tables = || SECTIONS.iter().chain(&INNER);
    let same = tables().find(|table| keys_of(table).iter().any(|key| key == name)).map(|table| join(table, name));
    same.or_else(|| tables().find_map(|table| Some(join(table, &nearest(name, &keys_of(table))?))))
}

/// The candidate within a third of the word's length in edits.
fn nearest(word: &str, candidates: &[String]) -> Option<String> {
    let allowed = (word.chars().count() / 3).max(1);
    let (distance, best) = candidates.iter().map(|candidate| (edits(word, candidate), candidate)).min()?;
    (distance <= allowed).then(|| best.clone())
}

/// Edit distance, a swap of neighbours being one edit (Damerau 1964, restricted).
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}
