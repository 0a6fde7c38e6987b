//! What a training dataset's columns are, and why a chunk of them may be refused.

use std::{path::PathBuf, sync::Arc};

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};

use super::Layout;
use crate::layout::{DOCUMENT, FEATURES, LABEL, LIST, QUERY, WEIGHT};

/// How ids are stored: integers where every one of them is an integer, else text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdKind {
    Int64,
    Utf8,
}

/// What a column is to training, and so what type it has; every column but [`Kind::Other`] is free of nulls.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    List(IdKind),
    Query(IdKind),
    Document(IdKind),
    /// float32
    Label,
    /// float32
    Weight,
    /// float32
    Feature,
    /// Carried along, not trained on: any type, nullable as the field says.
    Other(FieldRef),
}

/// A column of a training dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub name: String,
    pub kind: Kind,
}

impl Column {
    pub fn new(name: impl Into<String>, kind: Kind) -> Self {
        Self { name: name.into(), kind }
    }

    /// `list_id`
    pub fn list(ids: IdKind) -> Self {
        Self::new(LIST, Kind::List(ids))
    }

    /// `query_id`
    pub fn query(ids: IdKind) -> Self {
        Self::new(QUERY, Kind::Query(ids))
    }

    /// `document_id`, as text
    pub fn document() -> Self {
        Self::new(DOCUMENT, Kind::Document(IdKind::Utf8))
    }

    /// `label`
    pub fn label() -> Self {
        Self::new(LABEL, Kind::Label)
    }

    /// `sample_weight`
    pub fn weight() -> Self {
        Self::new(WEIGHT, Kind::Weight)
    }

    pub fn feature(name: impl Into<String>) -> Self {
        Self::new(name, Kind::Feature)
    }

    /// The type that arrays of this column have in a chunk.
    pub fn data_type(&self) -> DataType {
        match &self.kind {
            Kind::List(ids) | Kind::Query(ids) | Kind::Document(ids) => match ids {
                IdKind::Int64 => DataType::Int64,
                IdKind::Utf8 => DataType::Utf8,
            },
            Kind::Label | Kind::Weight | Kind::Feature => DataType::Float32,
            Kind::Other(field) => field.data_type().clone(),
        }
    }

    fn field(&self) -> FieldRef {
        match &self.kind {
            Kind::Other(field) => field.clone(),
            _ => Arc::new(Field::new(&self.name, self.data_type(), false)),
        }
    }
}

/// The columns of a training dataset, in order: one label, a list or a query (or both), at least one feature.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingSchema {
    columns: Vec<Column>,
    group: usize,
    features: Vec<usize>,
}

impl TrainingSchema {
    pub fn new(columns: Vec<Column>) -> Result<Self, WriteError> {
        let refuse = |message: String| Err(WriteError::Schema { message });
        for (index, column) in columns.iter().enumerate() {
            if columns[..index].iter().any(|other| other.name == column.name) {
                return refuse(format!("column `{}` appears twice", column.name));
            }
        }
        let one = |what: &str, is: fn(&Kind) -> bool| match columns.iter().filter(|c| is(&c.kind)).count() {
            0 | 1 => Ok(columns.iter().position(|c| is(&c.kind))),
            n => Err(WriteError::Schema { message: format!("{n} columns hold the {what}") }),
        };
        let list = one("list", |kind| matches!(kind, Kind::List(_)))?;
        let query = one("query", |kind| matches!(kind, Kind::Query(_)))?;
        one("weight", |kind| matches!(kind, Kind::Weight))?;
        one("document", |kind| matches!(kind, Kind::Document(_)))?;
        if one("label", |kind| matches!(kind, Kind::Label))?.is_none() {
            return refuse("no column holds the label".into());
        }
        let Some(group) = list.or(query) else { return refuse("no column holds the list or the query".into()) };
        let features: Vec<usize> = (0..columns.len()).filter(|&i| columns[i].kind == Kind::Feature).collect();
        if features.is_empty() {
            return refuse("no column is a feature".into());
        }
        Ok(Self { columns, group, features })
    }

    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The column whose runs of equal values are the lists.
    pub fn group(&self) -> usize {
        self.group
    }

    /// Where the features are among the columns.
    pub fn features(&self) -> &[usize] {
        &self.features
    }

    pub fn feature_names(&self) -> Vec<String> {
        self.features.iter().map(|&i| self.columns[i].name.clone()).collect()
    }

    /// The one column of this kind, if there is one.
    pub fn find(&self, is: fn(&Kind) -> bool) -> Option<usize> {
        self.columns.iter().position(|column| is(&column.kind))
    }

    /// What the file's own schema is; the vector column stands where the first feature stood.
    pub(super) fn physical(&self, layout: Layout) -> SchemaRef {
        let mut fields = Vec::with_capacity(self.columns.len());
        for (index, column) in self.columns.iter().enumerate() {
            match (layout, &column.kind) {
                (Layout::Vector, Kind::Feature) if index == self.features[0] => fields.push(self.vector_field()),
                (Layout::Vector, Kind::Feature) => {}
                _ => fields.push(column.field()),
            }
        }
        Arc::new(Schema::new(fields))
    }

    pub(super) fn vector_field(&self) -> FieldRef {
        let item = Field::new("item", DataType::Float32, false);
        Arc::new(Field::new(FEATURES, DataType::FixedSizeList(Arc::new(item), self.features.len() as i32), false))
    }
}

/// Why a dataset was not written. Rows count from 0, over all that was given to the writer.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("`{}` exists and is not empty", path.display())]
    Exists { path: PathBuf },
    #[error("`{}` is not a dataset: it holds `{found}`", path.display())]
    NotADataset { path: PathBuf, found: String },
    #[error("`{}` is being written by a process that is alive", path.display())]
    Busy { path: PathBuf },
    #[error("{message}")]
    Schema { message: String },
    #[error("row {row}, column `{column}`: {value} {refused}")]
    Value { row: u64, column: String, value: f32, refused: &'static str },
    #[error("row {row}, column `{column}`: the value is missing")]
    Null { row: u64, column: String },
    #[error("row {row}, column `{column}`: `{id}` appears again after other values")]
    Scattered { row: u64, column: String, id: String },
    #[error("there is no row to write")]
    Empty,
    #[error("cannot {what} `{}`", path.display())]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot write `{}`", path.display())]
    Parquet { path: PathBuf, source: parquet::errors::ParquetError },
}

impl WriteError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Exists { .. } => Some("name another folder, or replace this one with --overwrite"),
            Self::NotADataset { .. } => Some("only folders of Parquet files are replaced; name another folder"),
            Self::Busy { .. } => Some("wait for it to end, or name another folder"),
            Self::Value { .. } | Self::Null { .. } => Some("clean the data first: a model can learn nothing from it"),
            Self::Scattered { .. } => Some("the rows of a list must follow each other: sort the input by this column"),
            Self::Schema { .. } | Self::Empty | Self::Io { .. } | Self::Parquet { .. } => None,
        }
    }
}
