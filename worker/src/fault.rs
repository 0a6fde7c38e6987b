//! Why a verb that this binary carries out for `lockstep` failed: the message, what to do about it, and whose doing it was.

use dataset::manifest::DatasetError;

/// Lowercase, no full stop; the place is in the message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    pub message: String,
    pub hint: Option<String>,
    /// The words or the data were wrong: exit code 2.
    pub input_is_wrong: bool,
}

impl Fault {
    /// Something failed that was rightly asked for.
    pub fn failed(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()), input_is_wrong: false }
    }

    pub fn wrong_input(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { input_is_wrong: true, ..Self::failed(message, hint) }
    }
}

impl From<DatasetError> for Fault {
    fn from(error: DatasetError) -> Self {
        Self { message: error.message, hint: error.hint, input_is_wrong: true }
    }
}
