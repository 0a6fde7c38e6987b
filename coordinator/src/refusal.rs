//! Requests that cannot be met: our own words on this side, a gRPC status on the other.
//!
//! A status carries its code, the message, and under the metadata key [`FAILURE`] the encoded `lockstep.v1.Failure` with causes
//! and hint; [`failure_of`] reads it back.

use prost::Message as _;
use proto::v1;
use tonic::{
    Code, Status,
    metadata::{BinaryMetadataKey, MetadataValue},
};

use crate::{checkpoints::CheckpointError, journal::JournalError};

/// Metadata key of the encoded [`v1::Failure`].
pub const FAILURE: &str = "lockstep-failure-bin";

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub kind: RefusalKind,
    pub message: String,
    pub causes: Vec<String>,
    pub hint: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The words are wrong, whatever the coordinator does.
    Invalid,
    NotFound,
    /// Not as things stand now.
    Conflict,
    /// Too much at once.
    Exhausted,
    /// The coordinator is going away.
    Unavailable,
    Internal,
}

impl Refusal {
    pub fn new(kind: RefusalKind, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { kind, message: message.into(), causes: Vec::new(), hint: hint.into() }
    }

    pub(crate) fn shutting_down() -> Self {
        Self::new(RefusalKind::Unavailable, "the coordinator is shutting down", "start it again, then ask again")
    }

    /// It stands by, and `leader` is who leads, where that is known.
    pub(crate) fn standby(leader: Option<&str>) -> Self {
        let (message, hint) = match leader {
            Some(leader) => (
                format!("standby: the leader is {leader}"),
                "name all coordinators, separated by commas, and the one that leads is found (`--coordinator`, LOCKSTEP_COORDINATOR)",
            ),
            None => {
                ("standby: no coordinator leads".to_owned(), "one will within seconds, once etcd answers: ask again")
            }
        };
        Self::new(RefusalKind::Unavailable, message, hint)
    }

    pub(crate) fn no_such_run(id: &str) -> Self {
        let message = match id {
            "" => "there is no run yet".to_owned(),
            id => format!("there is no run `{id}`"),
        };
        Self::new(RefusalKind::NotFound, message, "`lockstep list` shows the runs of this coordinator")
    }
}

impl From<CheckpointError> for Refusal {
    fn from(error: CheckpointError) -> Self {
        let refusal = Self::new(RefusalKind::Conflict, error.message, error.hint.unwrap_or_default());
        Self { causes: error.causes, ..refusal }
    }
}

impl From<JournalError> for Refusal {
    fn from(error: JournalError) -> Self {
        let mut refusal = Self::new(RefusalKind::Internal, error.to_string(), error.hint());
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            refusal.causes.push(cause.to_string());
            source = cause.source();
        }
        refusal
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal.kind {
            RefusalKind::Invalid => Code::InvalidArgument,
            RefusalKind::NotFound => Code::NotFound,
            RefusalKind::Conflict => Code::FailedPrecondition,
            RefusalKind::Exhausted => Code::ResourceExhausted,
            RefusalKind::Unavailable => Code::Unavailable,
            RefusalKind::Internal => Code::Internal,
        };
        let input_is_wrong =
            matches!(refusal.kind, RefusalKind::Invalid | RefusalKind::NotFound | RefusalKind::Conflict);
        let Refusal { message, causes, hint, .. } = refusal;
        let failure = v1::Failure { message: message.clone(), causes, hint, input_is_wrong };
        let mut status = Self::new(code, message);
        let value = MetadataValue::from_bytes(&failure.encode_to_vec());
        status.metadata_mut().insert_bin(BinaryMetadataKey::from_static(FAILURE), value);
        status
    }
}

/// What a status says, with causes and hint where a coordinator sent them.
pub fn failure_of(status: &Status) -> v1::Failure {
    let sent = status.metadata().get_bin(FAILURE).and_then(|value| value.to_bytes().ok());
    sent.and_then(|bytes| v1::Failure::decode(bytes).ok())
        .unwrap_or_else(|| v1::Failure { message: status.message().to_owned(), ..v1::Failure::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_arrives_with_causes_and_hint() {
        let mut refusal = Refusal::new(RefusalKind::Conflict, "`név` is taken", "choose another `name`");
        refusal.causes.push("a run holds it".into());
        let status = Status::from(refusal);
        assert_eq!(status.code(), Code::FailedPrecondition);
        let failure = failure_of(&status);
        assert_eq!(
            (failure.message, failure.causes, failure.hint, failure.input_is_wrong),
            ("`név` is taken".into(), vec!["a run holds it".into()], "choose another `name`".into(), true)
        );
        assert_eq!(failure_of(&Status::internal("plain")).message, "plain");
    }
}
