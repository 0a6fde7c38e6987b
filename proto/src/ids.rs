//! Names of things, one short form each: `r-01JD…` a run, `w3:2` worker 3 in its second life, `g7` generation 7.

use std::{fmt, str::FromStr};

/// A run, for ever. Sorts by the time of its submission.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(String);

impl RunId {
    /// A new id; the caller brings the clock and the randomness, so that a pure core can make one.
    pub fn new(unix_millis: u64, random: u128) -> Self {
        Self(format!("r-{}", ulid::Ulid::from_parts(unix_millis, random).to_string().to_lowercase()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A string that names no run.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a run id: they look like `r-01jdk3…` (`lockstep list` shows them)")]
pub struct NotARunId(String);

impl FromStr for RunId {
    type Err = NotARunId;

    fn from_str(text: &str) -> Result<Self, NotARunId> {
        let valid = text.strip_prefix("r-").is_some_and(|rest| ulid::Ulid::from_string(&rest.to_uppercase()).is_ok());
        if valid { Ok(Self(text.to_lowercase())) } else { Err(NotARunId(text.to_owned())) }
    }
}

/// One life of a worker process: a restarted worker is never its former self.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId {
    pub slot: u32,
    pub life: u32,
}

impl FromStr for WorkerId {
    type Err = NotAWorkerId;

    fn from_str(text: &str) -> Result<Self, NotAWorkerId> {
        let numbers = text.strip_prefix('w').and_then(|numbers| numbers.split_once(':'));
        let parsed = numbers.and_then(|(slot, life)| Some(Self { slot: slot.parse().ok()?, life: life.parse().ok()? }));
        parsed.ok_or_else(|| NotAWorkerId(text.to_owned()))
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "w{}:{}", self.slot, self.life)
    }
}

/// A string that names no worker.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a worker: they look like `w2:1`, worker 2 in its first life")]
pub struct NotAWorkerId(String);

/// One membership of a run: grows whenever a member leaves or joins. A rank means nothing outside its generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl Generation {
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}
