//! Judgments and a ranking of TREC's form: `query iteration document relevance` and `query Q0 document rank score tag`.
//!
//! As in trec_eval the scores decide the order, not the column of ranks. Both files are held in memory.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    fs::File,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
};

use ranking::metrics::Ties;

use super::{
    EvaluateOptions, Walked,
    columns::Query,
    form::{Form, form_of},
    lists::{Judge, Judged, ScoreSlice, wrong_label, wrong_score},
    shown,
};
use crate::PipelineError;

type Documents<T> = HashMap<Box<str>, T>;
/// Documents and their scores.
type Ranking = Vec<(Box<str>, f64)>;
/// Queries in the order of their first lines, documents in that of theirs.
type Run = Vec<(Box<str>, Ranking)>;

pub(super) struct Pair {
    qrels_path: PathBuf,
    run_path: PathBuf,
    qrels: HashMap<Box<str>, Documents<f32>>,
    run: Run,
}

impl Pair {
    pub fn read(qrels: &Path, run: &Path, options: &EvaluateOptions) -> Result<Self, PipelineError> {
        Ok(Self {
            qrels_path: qrels.to_owned(),
            run_path: run.to_owned(),
            qrels: read_qrels(qrels, options)?,
            run: read_run(run)?,
        })
    }

    pub fn walk(
        &self,
        complete: bool,
        options: &EvaluateOptions,
        on: &mut dyn FnMut(Judged<'_>) -> Result<(), PipelineError>,
    ) -> Result<Walked, PipelineError> {
        let mut judge = Judge::new(options);
        let (mut rows, mut unjudged) = (0, Vec::new());
        let (mut labels, mut scores, mut unretrieved) = (Vec::new(), Vec::new(), Vec::new());
        for (query, documents) in &self.run {
            let Some(judgments) = self.qrels.get(query) else {
                unjudged.push(&**query);
                continue;
            };
            let retrieved: HashSet<&str> = documents.iter().map(|(document, _)| &**document).collect();
            let mut documents: Vec<&(Box<str>, f64)> = documents.iter().collect();
            if options.convention.ties == Ties::DocumentDescending {
                documents.sort_by(|a, b| b.0.cmp(&a.0));
            }
            labels.clear();
            scores.clear();
            for (document, score) in documents {
                labels.push(judgments.get(document).copied().unwrap_or(0.0));
                scores.push(*score);
            }
            unretrieved.clear();
            let left = judgments.iter().filter(|(document, _)| !retrieved.contains(&***document));
            unretrieved.extend(left.map(|(_, label)| *label));
            rows += labels.len() as u64;
            on(judge.judge(Query::Text(query), &labels, ScoreSlice::Double(&scores), &unretrieved))?;
        }
        if rows == 0 {
            return Err(self.nothing_in_common());
        }
        let ranked: HashSet<&str> = self.run.iter().map(|(query, _)| &**query).collect();
        let mut unranked: Vec<&str> =
            self.qrels.keys().map(|query| &**query).filter(|query| !ranked.contains(query)).collect();
        unranked.sort_unstable();
        if complete {
            for query in &unranked {
                unretrieved.clear();
                unretrieved.extend(self.qrels[*query].values());
                on(judge.judge(Query::Text(query), &[], ScoreSlice::Double(&[]), &unretrieved))?;
            }
        }
        Ok(Walked { input: self.input(), rows, notes: notes(&unjudged, &unranked, complete) })
    }

    fn input(&self) -> String {
        format!("{} against {}", shown(&self.run_path), shown(&self.qrels_path))
    }

    fn nothing_in_common(&self) -> PipelineError {
        let judged = self.qrels.keys().min().map_or("", |query| query);
        let ranked = self.run.first().map_or("", |(query, _)| query);
        let message = format!(
            "{} and {} have no query in common: one judges `{judged}` and {} more, the other ranks `{ranked}` and {} more",
            shown(&self.qrels_path),
            shown(&self.run_path),
            self.qrels.len() - 1,
            self.run.len() - 1
        );
        PipelineError::data(message)
            .with_hint("are they of the same topics, and written the same way (`q1` is not `1`)?")
    }
}

/// What is not in both.
fn notes(unjudged: &[&str], unranked: &[&str], complete: bool) -> Vec<String> {
    let some = |queries: &[&str]| match queries {
        [one] => format!("query `{one}`"),
        [first, more @ ..] => format!("{} queries (`{first}` and {} more)", queries.len(), more.len()),
        [] => String::new(),
    };
    let mut notes = Vec::new();
    if !unranked.is_empty() {
        notes.push(match complete {
            true => format!("judged but without rows in the run, counted as empty rankings: {}", some(unranked)),
            false => format!(
                "judged but without rows in the run, left out as trec_eval does without -c: {}; --complete counts them",
                some(unranked)
            ),
        });
    }
    if !unjudged.is_empty() {
        notes.push(format!("in the run but without judgments, left out: {}", some(unjudged)));
    }
    notes
}

fn read_qrels(path: &Path, options: &EvaluateOptions) -> Result<HashMap<Box<str>, Documents<f32>>, PipelineError> {
    let range = options.convention.labels(&options.metrics);
    let mut qrels: HashMap<Box<str>, Documents<(f32, u64)>> = HashMap::new();
    lines(path, "query iteration document relevance", |fields: [&str; 4], line| {
        let [query, _, document, label] = fields;
        let place = || format!("{} line {line}", shown(path));
        let label: f32 = label.parse().map_err(|_| not_a_number(&place(), "relevance", label))?;
        if !range.contains(label) {
            return Err(wrong_label(&place(), label, &range));
        }
        let documents = match qrels.get_mut(query) {
            Some(documents) => documents,
            None => qrels.entry(query.into()).or_default(),
        };
        match documents.entry(document.into()) {
            Entry::Occupied(known) => {
                Err(twice(&place(), query, document, known.get().1, "is judged", "keep one judgment of each pair"))
            }
            Entry::Vacant(vacant) => {
                vacant.insert((label, line));
                Ok(())
            }
        }
    })?;
    let without_lines =
        |documents: Documents<(f32, u64)>| documents.into_iter().map(|(id, (label, _))| (id, label)).collect();
    Ok(qrels.into_iter().map(|(query, documents)| (query, without_lines(documents))).collect())
}

fn read_run(path: &Path) -> Result<Run, PipelineError> {
    let mut run = Run::new();
    let mut known: HashMap<Box<str>, (usize, Documents<u64>)> = HashMap::new();
    lines(path, "query Q0 document rank score tag", |fields: [&str; 6], line| {
        let [query, _, document, _, score, _] = fields;
        let place = || format!("{} line {line}", shown(path));
        let score: f64 = score.parse().map_err(|_| not_a_number(&place(), "score", score))?;
        if !score.is_finite() {
            return Err(wrong_score(&place(), score));
        }
        if !known.contains_key(query) {
            known.insert(query.into(), (run.len(), Documents::new()));
            run.push((query.into(), Vec::new()));
        }
        let Some((at, documents)) = known.get_mut(query) else { return Ok(()) };
        match documents.entry(document.into()) {
            Entry::Occupied(first) => Err(twice(
                &place(),
                query,
                document,
                *first.get(),
                "stands in the run",
                "a ranking has each document once",
            )),
            Entry::Vacant(vacant) => {
                vacant.insert(line);
                run[*at].1.push((document.into(), score));
                Ok(())
            }
        }
    })?;
    Ok(run)
}

fn not_a_number(place: &str, what: &str, text: &str) -> PipelineError {
    PipelineError::data(format!("{place}: the {what} `{text}` is not a number")).with_hint(
        "the fields of qrels are `query iteration document relevance`, of runs `query Q0 document rank score tag`",
    )
}

fn twice(place: &str, query: &str, document: &str, first: u64, what: &str, hint: &str) -> PipelineError {
    PipelineError::data(format!(
        "{place}: document `{document}` of query `{query}` {what} twice, first in line {first}"
    ))
    .with_hint(hint)
}

/// The fields of each line that is not blank, and its number from 1.
fn lines<const N: usize>(
    path: &Path,
    form: &str,
    mut on: impl FnMut([&str; N], u64) -> Result<(), PipelineError>,
) -> Result<(), PipelineError> {
    if form_of(path)? == Form::Parquet {
        return Err(PipelineError::data(format!("{} is Parquet, not lines of `{form}`", shown(path)))
            .with_hint("predictions in Parquet are evaluated by themselves: `lockstep evaluate FILE`"));
    }
    let file = File::open(path).map_err(|error| PipelineError::io("open", path, error))?;
    let mut any = false;
    for (line, text) in (1u64..).zip(BufReader::with_capacity(1 << 18, file).lines()) {
        let text = text.map_err(|error| PipelineError::io("read", path, error))?;
        let mut fields = [""; N];
        let mut found = 0;
        // Some editors mark UTF-8 so; it is no part of the first query's id.
        let text = if line == 1 { text.trim_start_matches('\u{feff}') } else { &text };
        for field in text.split_ascii_whitespace() {
            if found < N {
                fields[found] = field;
            }
            found += 1;
        }
        if found == 0 {
            continue;
        }
        if found != N {
            return Err(PipelineError::data(format!("{} line {line}: {found} fields and not {N}", shown(path)))
                .with_hint(format!("each line reads `{form}`")));
        }
        on(fields, line)?;
        any = true;
    }
    match any {
        true => Ok(()),
        false => {
            Err(PipelineError::data(format!("{} is empty", shown(path))).with_hint(format!("each line reads `{form}`")))
        }
    }
}
