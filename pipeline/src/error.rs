//! The one error of this crate: what went wrong and where, what to do about it, and what caused it.

use std::{error::Error, path::Path};

use dataset::writer::WriteError;

/// What kind of trouble it is; the command line's exit code follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The options contradict each other or the data they name.
    Options,
    /// The input holds something that a training dataset cannot.
    Data,
    /// The machine refused: a file that cannot be read or written.
    Io,
    /// A server refused, or cannot be reached: a broker, an object store.
    Network,
}

/// Why an import, a generation, a split or an inspection ended; the message names file, line or row, and column.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct PipelineError {
    pub kind: ErrorKind,
    pub message: String,
    pub hint: Option<String>,
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl PipelineError {
    pub(crate) fn options(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Options, message: message.into(), hint: None, source: None }
    }

    pub(crate) fn data(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Data, message: message.into(), hint: None, source: None }
    }

    pub(crate) fn io(what: &str, path: &Path, source: std::io::Error) -> Self {
        let message = format!("cannot {what} `{}`", path.display());
        Self { kind: ErrorKind::Io, message, hint: None, source: Some(Box::new(source)) }
    }

    pub(crate) fn network(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Network, message: message.into(), hint: None, source: None }
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn because(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// What the reader of the message can do about it.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl From<WriteError> for PipelineError {
    fn from(error: WriteError) -> Self {
        let kind = match &error {
            WriteError::Exists { .. } | WriteError::NotADataset { .. } | WriteError::Schema { .. } => {
                ErrorKind::Options
            }
            WriteError::Value { .. } | WriteError::Scattered { .. } | WriteError::Null { .. } | WriteError::Empty => {
                ErrorKind::Data
            }
            WriteError::Busy { .. } | WriteError::Io { .. } | WriteError::Parquet { .. } => ErrorKind::Io,
        };
        let hint = error.hint().map(str::to_owned);
        let message = error.to_string();
        // The source is linked, the words are the writer's own.
        let source = match error {
            WriteError::Io { source, .. } => Some(Box::new(source) as _),
            WriteError::Parquet { source, .. } => Some(Box::new(source) as _),
            _ => None,
        };
        Self { kind, message, hint, source }
    }
}
