//! Rows cut into lists, checked, and each list evaluated.

use std::ops::Range;

use arrow::array::StringArray;
use arrow::record_batch::RecordBatch;
use ranking::metrics::{Evaluator, LabelRange};

use super::{
    ColumnNames, EvaluateOptions, Walked,
    columns::{Columns, KeptQuery, Query, Scores},
    seen::{Returned, Seen},
};
use crate::PipelineError;

/// Batches of rows, lists contiguous, and where each row is.
pub(super) trait Rows {
    /// What it is, for messages: the file that the last batch came from.
    fn name(&self) -> String;
    /// All of it, for the report.
    fn input(&self) -> String;
    /// What else is to be said of it.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
    fn next(&mut self) -> Result<Option<RecordBatch>, PipelineError>;
    /// In words: file and row, of a row counted from 0 over everything.
    fn place(&self, row: u64) -> String;
}

/// A list and its values.
pub(super) struct Judged<'a> {
    pub query: Query<'a>,
    pub labels: &'a [f32],
    /// One a metric; NaN where the list does not count.
    pub values: &'a [f64],
    pub rows: u64,
    /// Whether a document of it is relevant.
    pub relevant: bool,
}

type OnList<'a> = &'a mut dyn FnMut(Judged<'_>) -> Result<(), PipelineError>;

pub(super) struct Lists<'a> {
    names: &'a ColumnNames,
    /// Ties go by document id.
    by_document: bool,
    /// Of the batches so far: the same id is another query as text.
    ids: Option<&'static str>,
    labels: LabelRange,
    judge: Judge,
    seen: Seen,
    open: Open,
    ends: Vec<usize>,
}

/// Evaluates one list.
pub(super) struct Judge {
    evaluator: Evaluator,
    values: Vec<f64>,
    /// A label from here on makes a query one with relevant documents.
    relevant_at: f32,
}

/// The list whose end was not seen yet.
#[derive(Default)]
struct Open {
    query: Option<KeptQuery>,
    first_row: u64,
    labels: Vec<f32>,
    scores: OpenScores,
    documents: Vec<String>,
}

enum OpenScores {
    Single(Vec<f32>),
    Double(Vec<f64>),
}

impl Default for OpenScores {
    fn default() -> Self {
        Self::Single(Vec::new())
    }
}

#[derive(Clone, Copy)]
pub(super) enum ScoreSlice<'a> {
    Single(&'a [f32]),
    Double(&'a [f64]),
}

impl Judge {
    pub fn new(options: &EvaluateOptions) -> Self {
        let of_relevance = options.metrics.iter().any(|metric| metric.is_of_relevance());
        Self {
            evaluator: Evaluator::new(&options.metrics, options.convention),
            values: vec![0.0; options.metrics.len()],
            relevant_at: if of_relevance { options.convention.relevant_at } else { f32::MIN_POSITIVE },
        }
    }

    pub fn judge<'a>(
        &'a mut self,
        query: Query<'a>,
        labels: &'a [f32],
        scores: ScoreSlice<'_>,
        unretrieved: &[f32],
    ) -> Judged<'a> {
        match scores {
            ScoreSlice::Single(scores) => {
                self.evaluator.list_and_unretrieved(labels, scores, unretrieved, &mut self.values);
            }
            ScoreSlice::Double(scores) => {
                self.evaluator.list_and_unretrieved(labels, scores, unretrieved, &mut self.values);
            }
        }
        let relevant = labels.iter().chain(unretrieved).any(|label| *label >= self.relevant_at);
        Judged { query, labels, values: &self.values, rows: labels.len() as u64, relevant }
    }
}

impl<'a> Lists<'a> {
    pub fn new(options: &EvaluateOptions, names: &'a ColumnNames) -> Self {
        Self {
            names,
            by_document: options.by_document(),
            ids: None,
            labels: options.convention.labels(&options.metrics),
            judge: Judge::new(options),
            seen: Seen::new(),
            open: Open::default(),
            ends: Vec::new(),
        }
    }

    pub fn walk(mut self, rows: &mut dyn Rows, on: OnList<'_>) -> Result<Walked, PipelineError> {
        let mut first = 0;
        while let Some(batch) = rows.next()? {
            if batch.num_rows() == 0 {
                continue;
            }
            let columns = Columns::of(&batch, self.names, &rows.name(), self.by_document).map_err(|wrong| {
                let mut error = wrong.error;
                if let Some(row) = wrong.row {
                    error.message = format!("{}: {}", rows.place(first + row as u64), error.message);
                }
                error
            })?;
            if self.by_document && columns.documents.is_none() {
                return Err(PipelineError::options(format!(
                    "{} has no column of documents, by which ties are broken",
                    rows.name()
                ))
                .with_hint("name it with --document, or break ties otherwise: --ties row-order, --ties averaged"));
            }
            let ids = columns.queries.kind();
            if let Some(before) = self.ids.replace(ids).filter(|before| *before != ids) {
                return Err(PipelineError::data(format!("{}: queries are {ids}, and {before} before", rows.name()))
                    .with_hint("an id is one query only where all files of a folder write it the same way"));
            }
            self.check(&columns, |row| rows.place(first + row as u64))?;
            self.batch(&columns, first, rows, on)?;
            first += batch.num_rows() as u64;
        }
        self.close(rows, on)?;
        if first == 0 {
            return Err(PipelineError::data(format!("{} holds no rows", rows.input()))
                .with_hint("there is nothing to evaluate"));
        }
        let returned = self.seen.finish().map_err(spool_failed)?;
        match returned {
            Some(returned) => Err(came_back(returned, rows)),
            None => Ok(Walked { input: rows.input(), rows: first, notes: rows.notes() }),
        }
    }

    /// Labels and scores that have no value under the convention.
    fn check(&self, columns: &Columns, place: impl Fn(usize) -> String) -> Result<(), PipelineError> {
        let labels = columns.labels.values();
        if !labels.iter().all(|label| self.labels.contains(*label)) {
            let row = labels.iter().position(|label| !self.labels.contains(*label)).unwrap_or(0);
            return Err(wrong_label(&place(row), labels[row], &self.labels));
        }
        let (row, score) = match &columns.scores {
            Scores::Single(scores) => {
                let scores = scores.values();
                if scores.iter().all(|score| score.is_finite()) {
                    return Ok(());
                }
                let row = scores.iter().position(|score| !score.is_finite()).unwrap_or(0);
                (row, f64::from(scores[row]))
            }
            Scores::Double(scores) => {
                let scores = scores.values();
                if scores.iter().all(|score| score.is_finite()) {
                    return Ok(());
                }
                let row = scores.iter().position(|score| !score.is_finite()).unwrap_or(0);
                (row, scores[row])
            }
        };
        Err(wrong_score(&place(row), score))
    }

    fn batch(&mut self, columns: &Columns, first: u64, rows: &dyn Rows, on: OnList<'_>) -> Result<(), PipelineError> {
        let mut ends = std::mem::take(&mut self.ends);
        columns.queries.ends(&mut ends);
        let mut start = 0;
        for end in &ends {
            let list = start..*end;
            let continues = match &self.open.query {
                Some(open) => start == 0 && open.as_query() == columns.queries.at(0),
                None => false,
            };
            if start == 0 && !continues {
                self.close(rows, on)?;
            }
            if continues || *end == columns.labels.len() {
                // The last list may go on in the next batch.
                self.keep(columns, list, first, continues);
                if *end < columns.labels.len() {
                    self.close(rows, on)?;
                }
            } else {
                let query = columns.queries.at(start);
                self.seen_at(query, first + start as u64, rows)?;
                let labels = &columns.labels.values()[list.clone()];
                let scores = slice(&columns.scores, &list);
                match &columns.documents {
                    Some(documents) => {
                        let ids: Vec<&str> = list.clone().map(|row| documents.value(row)).collect();
                        self.by_documents(query, labels, scores, &ids, on)?;
                    }
                    None => on(self.judge.judge(query, labels, scores, &[]))?,
                }
            }
            start = *end;
        }
        self.ends = ends;
        Ok(())
    }

    fn keep(&mut self, columns: &Columns, list: Range<usize>, first: u64, continues: bool) {
        let open = &mut self.open;
        if !continues {
            open.query = Some(columns.queries.at(list.start).kept());
            open.first_row = first + list.start as u64;
        }
        open.labels.extend_from_slice(&columns.labels.values()[list.clone()]);
        open.scores.extend(slice(&columns.scores, &list));
        if let Some(documents) = &columns.documents {
            let ids: &StringArray = documents;
            open.documents.extend(list.map(|row| ids.value(row).to_owned()));
        }
    }

    /// Evaluates the open list, if there is one.
    fn close(&mut self, rows: &dyn Rows, on: OnList<'_>) -> Result<(), PipelineError> {
        let open = std::mem::take(&mut self.open);
        let Some(query) = &open.query else { return Ok(()) };
        let query = query.as_query();
        self.seen_at(query, open.first_row, rows)?;
        let scores = open.scores.as_slice();
        if self.by_document {
            let ids: Vec<&str> = open.documents.iter().map(String::as_str).collect();
            self.by_documents(query, &open.labels, scores, &ids, on)
        } else {
            on(self.judge.judge(query, &open.labels, scores, &[]))
        }
    }

    /// Hands the rows over in the order in which equal scores shall stand.
    fn by_documents(
        &mut self,
        query: Query<'_>,
        labels: &[f32],
        scores: ScoreSlice<'_>,
        ids: &[&str],
        on: OnList<'_>,
    ) -> Result<(), PipelineError> {
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_by(|a, b| ids[*b].cmp(ids[*a]));
        let labels: Vec<f32> = order.iter().map(|row| labels[*row]).collect();
        let judged = match scores {
            ScoreSlice::Single(scores) => {
                let scores: Vec<f32> = order.iter().map(|row| scores[*row]).collect();
                self.judge.judge(query, &labels, ScoreSlice::Single(&scores), &[])
            }
            ScoreSlice::Double(scores) => {
                let scores: Vec<f64> = order.iter().map(|row| scores[*row]).collect();
                self.judge.judge(query, &labels, ScoreSlice::Double(&scores), &[])
            }
        };
        on(judged)
    }

    #[inline]
    fn seen_at(&mut self, query: Query<'_>, row: u64, rows: &dyn Rows) -> Result<(), PipelineError> {
        match self.seen.insert(query.hash(), row) {
            Ok(None) => Ok(()),
            Ok(Some(returned)) => Err(came_back(returned, rows)),
            Err(error) => Err(spool_failed(error)),
        }
    }
}

impl OpenScores {
    fn as_slice(&self) -> ScoreSlice<'_> {
        match self {
            Self::Single(scores) => ScoreSlice::Single(scores),
            Self::Double(scores) => ScoreSlice::Double(scores),
        }
    }

    fn extend(&mut self, more: ScoreSlice<'_>) {
        match (&mut *self, more) {
            (Self::Single(scores), ScoreSlice::Single(more)) => scores.extend_from_slice(more),
            (Self::Double(scores), ScoreSlice::Double(more)) => scores.extend_from_slice(more),
            (Self::Double(scores), ScoreSlice::Single(more)) => {
                scores.extend(more.iter().map(|score| f64::from(*score)))
            }
            (Self::Single(scores), ScoreSlice::Double(more)) => {
                *self =
                    Self::Double(scores.iter().map(|score| f64::from(*score)).chain(more.iter().copied()).collect());
            }
        }
    }
}

fn slice<'a>(scores: &'a Scores, list: &Range<usize>) -> ScoreSlice<'a> {
    match scores {
        Scores::Single(scores) => ScoreSlice::Single(&scores.values()[list.clone()]),
        Scores::Double(scores) => ScoreSlice::Double(&scores.values()[list.clone()]),
    }
}

pub(super) fn wrong_label(place: &str, label: f32, range: &LabelRange) -> PipelineError {
    let error = |what: String, hint: &str| PipelineError::data(format!("{place}: {what}")).with_hint(hint);
    if !label.is_finite() {
        return error(format!("the label is {}", spell(label.into())), "labels are finite numbers");
    }
    if label < range.least {
        let hint = "negative judgments count as 0 with --negative zero, as trec_eval and ranx have it";
        return error(format!("the label {label} is below 0"), hint);
    }
    let hint = match range.why {
        why if why.starts_with("err") => {
            "say what a perfect document's grade is with --largest-grade, or leave err out"
        }
        why if why.starts_with("the linear") => "scale the labels down: ndcg stays the same, dcg scales with them",
        _ => "with --gain linear labels may be as large as 2^31",
    };
    error(format!("the label {label} is above {}, {}", range.most, range.why), hint)
}

pub(super) fn wrong_score(place: &str, score: f64) -> PipelineError {
    let hint = if score.is_nan() {
        "a NaN has no place in a ranking: see what produced it"
    } else {
        "an infinite score mostly is an overflow: see what produced it; to put a document last, give it a score below all others"
    };
    PipelineError::data(format!("{place}: the score is {}", spell(score))).with_hint(hint)
}

fn spell(number: f64) -> &'static str {
    match number {
        number if number.is_nan() => "NaN",
        number if number > 0.0 => "infinite",
        _ => "minus infinity",
    }
}

fn came_back(returned: Returned, rows: &dyn Rows) -> PipelineError {
    let (first, again) = (rows.place(returned.first), rows.place(returned.again));
    PipelineError::data(format!("{again}: a query comes back that began at {first} and had ended"))
        .with_hint("the rows of a query stand together: sort the predictions by query")
}

fn spool_failed(error: std::io::Error) -> PipelineError {
    PipelineError::io("keep the queries seen in", &std::env::temp_dir(), error)
}
