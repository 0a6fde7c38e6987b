//! Columns of a batch as queries, labels, scores and documents.

use std::fmt;

use arrow::array::{
    Array, ArrayRef, AsArray, Float32Array, Float64Array, Int64Array, RecordBatch, StringArray, UInt64Array,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type, Schema, UInt64Type};
use xxhash_rust::xxh3::xxh3_64;

use crate::PipelineError;

/// Which columns are what. One that is not named has the first of the usual names that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnNames {
    /// Usually `query`, `list_id`, `query_id` or `qid`: rows of one value are one list.
    pub query: Option<String>,
    /// Usually `label`.
    pub label: Option<String>,
    /// Usually `score`.
    pub score: Option<String>,
    /// Usually `document`, `document_id`, `doc_id` or `docid`. Only looked at where ties go by it.
    pub document: Option<String>,
}

const QUERY: [&str; 4] = ["query", "list_id", "query_id", "qid"];
const LABEL: [&str; 1] = ["label"];
const SCORE: [&str; 1] = ["score"];
const DOCUMENT: [&str; 4] = ["document", "document_id", "doc_id", "docid"];

/// The columns of one file, by their places in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub query: usize,
    pub label: usize,
    pub score: usize,
    pub document: Option<usize>,
}

impl ColumnNames {
    /// Finds them among names; a column of documents only where they are needed. `source` says whose.
    pub(super) fn find<'a>(
        &self,
        source: &str,
        names: impl Iterator<Item = &'a str> + Clone,
        documents: bool,
    ) -> Result<Found, PipelineError> {
        let place = |name: &str| names.clone().position(|known| known == name);
        let missing = |what: &str, flag: &str, wanted: &str| {
            let listed: Vec<String> = names.clone().map(|name| format!("`{name}`")).collect();
            PipelineError::data(format!("{source} has no column {wanted} for {what}"))
                .with_hint(format!("its columns are {}: name the right one with --{flag}", listed.join(", ")))
        };
        let find = |asked: &Option<String>, usual: &[&str], what: &str, flag: &str| match asked {
            Some(name) => place(name).ok_or_else(|| missing(what, flag, &format!("`{name}`"))),
            None => usual.iter().find_map(|name| place(name)).ok_or_else(|| {
                let usual: Vec<String> = usual.iter().map(|name| format!("`{name}`")).collect();
                missing(what, flag, &usual.join(" or "))
            }),
        };
        let document = match &self.document {
            _ if !documents => None,
            Some(_) => Some(find(&self.document, &DOCUMENT, "documents", "document")?),
            None => DOCUMENT.iter().find_map(|name| place(name)),
        };
        Ok(Found {
            query: find(&self.query, &QUERY, "queries", "query")?,
            label: find(&self.label, &LABEL, "labels", "label")?,
            score: find(&self.score, &SCORE, "scores", "score")?,
            document,
        })
    }
}

/// A query's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Query<'a> {
    Int(i64),
    UInt(u64),
    Text(&'a str),
}

impl fmt::Display for Query<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(id) => write!(f, "{id}"),
            Self::UInt(id) => write!(f, "{id}"),
            Self::Text(id) => f.write_str(id),
        }
    }
}

impl Query<'_> {
    /// Different whole numbers have different hashes; texts collide by chance (among 10 million with a probability of 3 in a million).
    pub fn hash(&self) -> u64 {
        match self {
            Self::Int(id) => *id as u64,
            Self::UInt(id) => *id,
            Self::Text(id) => xxh3_64(id.as_bytes()),
        }
    }

    pub fn kept(&self) -> KeptQuery {
        match self {
            Self::Int(id) => KeptQuery::Int(*id),
            Self::UInt(id) => KeptQuery::UInt(*id),
            Self::Text(id) => KeptQuery::Text((*id).to_owned()),
        }
    }
}

/// A query's id that outlives its batch.
#[derive(Clone, Debug)]
pub(super) enum KeptQuery {
    Int(i64),
    UInt(u64),
    Text(String),
}

impl KeptQuery {
    pub fn as_query(&self) -> Query<'_> {
        match self {
            Self::Int(id) => Query::Int(*id),
            Self::UInt(id) => Query::UInt(*id),
            Self::Text(id) => Query::Text(id),
        }
    }
}

pub(super) enum Queries {
    Int(Int64Array),
    UInt(UInt64Array),
    Text(StringArray),
}

impl Queries {
    pub fn at(&self, row: usize) -> Query<'_> {
        match self {
            Self::Int(ids) => Query::Int(ids.value(row)),
            Self::UInt(ids) => Query::UInt(ids.value(row)),
            Self::Text(ids) => Query::Text(ids.value(row)),
        }
    }

    /// What ids are, in words.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Int(_) | Self::UInt(_) => "integers",
            Self::Text(_) => "text",
        }
    }

    /// The rows at which another query begins, without row 0; then the number of rows.
    pub fn ends(&self, ends: &mut Vec<usize>) {
        fn of<T: PartialEq>(ids: &[T], ends: &mut Vec<usize>) {
            ends.extend(ids.windows(2).enumerate().filter(|(_, pair)| pair[0] != pair[1]).map(|(at, _)| at + 1));
        }
        ends.clear();
        let rows = match self {
            Self::Int(ids) => {
                of(ids.values(), ends);
                ids.len()
            }
            Self::UInt(ids) => {
                of(ids.values(), ends);
                ids.len()
            }
            Self::Text(ids) => {
                ends.extend((1..ids.len()).filter(|row| ids.value(*row) != ids.value(row - 1)));
                ids.len()
            }
        };
        ends.push(rows);
    }
}

pub(super) enum Scores {
    Single(Float32Array),
    Double(Float64Array),
}

/// One batch's columns. No value is null; labels and scores may still be anything.
pub(super) struct Columns {
    pub queries: Queries,
    pub labels: Float32Array,
    pub scores: Scores,
    pub documents: Option<StringArray>,
}

/// What is wrong with a batch: in which row, where it is one row's.
pub(super) struct Wrong {
    pub row: Option<usize>,
    pub error: PipelineError,
}

impl Columns {
    /// `place` says where a row of the batch is; `documents` whether they are needed.
    pub fn of(batch: &RecordBatch, names: &ColumnNames, source: &str, documents: bool) -> Result<Self, Wrong> {
        let whole = |error| Wrong { row: None, error };
        let schema: &Schema = batch.schema_ref();
        let found =
            names.find(source, schema.fields().iter().map(|field| field.name().as_str()), documents).map_err(whole)?;
        let column = |at: usize| -> Result<&ArrayRef, Wrong> {
            let array = batch.column(at);
            match array.logical_nulls().filter(|nulls| nulls.null_count() > 0) {
                None => Ok(array),
                Some(nulls) => Err(Wrong {
                    row: (0..array.len()).find(|row| nulls.is_null(*row)),
                    error: PipelineError::data(format!("the value of `{}` is missing", schema.field(at).name()))
                        .with_hint("drop such rows, or fill them in, where the predictions are written"),
                }),
            }
        };
        let to = |at: usize, kind: &DataType| -> Result<ArrayRef, Wrong> {
            let array = column(at)?;
            // Not safe: a value that does not fit is an error, not a null.
            let options = CastOptions { safe: false, ..CastOptions::default() };
            cast_with_options(array, kind, &options).map_err(|error| {
                let field = schema.field(at);
                let message =
                    format!("{source}, column `{}` of {}: not readable as {kind}", field.name(), field.data_type());
                whole(PipelineError::data(message).because(error))
            })
        };
        let number = |at: usize, what: &str| match schema.field(at).data_type() {
            kind if kind.is_numeric() || *kind == DataType::Boolean => Ok(()),
            kind => Err(whole(
                PipelineError::data(format!(
                    "{source}, column `{}` is {kind}: {what} are numbers",
                    schema.field(at).name()
                ))
                .with_hint(match what {
                    "labels" => "write them as grades, 0 for not relevant, or name the right column with --label",
                    _ => "write them as numbers, or name the right column with --score",
                }),
            )),
        };
        let queries = match value_type(schema.field(found.query).data_type()) {
            DataType::UInt64 => Queries::UInt(to(found.query, &DataType::UInt64)?.as_primitive::<UInt64Type>().clone()),
            kind if kind.is_integer() => {
                Queries::Int(to(found.query, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
            }
            // What else training groups rows by: equal values have equal texts, others have others.
            kind if !kind.is_nested() => Queries::Text(to(found.query, &DataType::Utf8)?.as_string::<i32>().clone()),
            kind => {
                let name = schema.field(found.query).name();
                return Err(whole(
                    PipelineError::data(format!("{source}, column `{name}` is {kind}: queries are single values"))
                        .with_hint("write the ids as integers or text, or name another column with --query"),
                ));
            }
        };
        number(found.label, "labels")?;
        number(found.score, "scores")?;
        let labels = to(found.label, &DataType::Float32)?.as_primitive::<Float32Type>().clone();
        let scores = match schema.field(found.score).data_type() {
            DataType::Float32 | DataType::Float16 => {
                Scores::Single(to(found.score, &DataType::Float32)?.as_primitive::<Float32Type>().clone())
            }
            _ => Scores::Double(to(found.score, &DataType::Float64)?.as_primitive::<Float64Type>().clone()),
        };
        let documents = match found.document {
            Some(at) => Some(to(at, &DataType::Utf8)?.as_string::<i32>().clone()),
            None => None,
        };
        Ok(Self { queries, labels, scores, documents })
    }
}

fn value_type(kind: &DataType) -> &DataType {
    match kind {
        DataType::Dictionary(_, values) => value_type(values),
        kind => kind,
    }
}
