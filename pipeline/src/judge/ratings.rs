//! Ratings as JSONL, one a line: `{"query_id":"q1","document_id":"d7","rater":"ann","grade":3}`.
//!
//! `grade` is 0 to 4, or null for a pair that the rater passed over. Ids and raters are text; whole numbers become their digits.
//! Other fields are passed over, so that a file of tasks that a rater filled in is a file of ratings.

use std::{
    collections::HashSet,
    fmt,
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
};

use ranking::judgments::{Grade, Pair};
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::{PipelineError, fresh::FreshFile};

/// One line of a file of ratings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub pair: Pair,
    /// The rater and their grade; `None` for a pair that was passed over.
    pub rating: Option<(String, Grade)>,
}

/// Hands over each line of a file, in order. A line that is none is an error that names it and its field.
pub fn read(path: &Path, mut each: impl FnMut(Line)) -> Result<(), PipelineError> {
    let file = File::open(path).map_err(|error| PipelineError::io("open", path, error))?;
    for (number, line) in (1u64..).zip(BufReader::new(file).lines()) {
        let line = line.map_err(|error| PipelineError::io("read", path, error))?;
        if !line.trim().is_empty() {
            each(parse(&line).map_err(|what| {
                let message = format!("`{}` line {number}: {what}", path.display());
                PipelineError::data(message).with_hint(
                    "a rating is {\"query_id\":\"q1\",\"document_id\":\"d7\",\"rater\":\"ann\",\"grade\":3}, on a line of its own",
                )
            })?);
        }
    }
    Ok(())
}

fn parse(line: &str) -> Result<Line, String> {
    let Wire { query_id, document_id, rater, grade } =
        serde_json::from_str(line).map_err(|error| spell_json(&error))?;
    for (field, id) in [("query_id", &query_id), ("document_id", &document_id)] {
        if id.0.is_empty() {
            return Err(format!("{field}: the id is empty"));
        }
    }
    let rating = match (grade, rater) {
        (None, _) => None,
        (Some(grade), Some(Id(rater))) if !rater.is_empty() => Some((rater, grade)),
        (Some(_), _) => return Err("rater: a grade needs the name of who gave it".into()),
    };
    Ok(Line { pair: Pair { query_id: query_id.0, document_id: document_id.0 }, rating })
}

/// What serde_json says without where in the line, which is one line of many.
pub(super) fn spell_json(error: &serde_json::Error) -> String {
    let words = error.to_string();
    match words.rfind(" at line ") {
        Some(end) => format!("{} (character {})", &words[..end], error.column()),
        None => words,
    }
}

#[derive(Deserialize)]
struct Wire {
    query_id: Id,
    document_id: Id,
    rater: Option<Id>,
    // Not a plain Option: that would take a line without a grade for a pair passed over.
    #[serde(deserialize_with = "grade_or_null")]
    grade: Option<Grade>,
}

/// A name, or a whole number that is used as one.
pub(super) struct Id(pub String);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;

        impl de::Visitor<'_> for Name {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name in quotes, or a whole number")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Id, E> {
                Ok(Id(text.to_owned()))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Id, E> {
                Ok(Id(number.to_string()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Id, E> {
                Ok(Id(number.to_string()))
            }
        }

        deserializer.deserialize_any(Name)
    }
}

fn grade_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Grade>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    if value.is_null() {
        return Ok(None);
    }
    let grade = value.as_u64().and_then(|number| u8::try_from(number).ok()).and_then(Grade::new);
    grade.map(Some).ok_or_else(|| de::Error::custom(format!("grade: {value} is not 0, 1, 2, 3, 4 or null")))
}

/// Writes a file of ratings, which appears when it is whole.
pub struct RatingsWriter {
    file: FreshFile,
    ratings: u64,
    raters: HashSet<String>,
}

#[derive(Serialize)]
struct Written<'a> {
    query_id: &'a str,
    document_id: &'a str,
    rater: &'a str,
    grade: Grade,
}

impl RatingsWriter {
    /// Refuses a file that is there, unless `overwrite`.
    pub fn create(path: &Path, overwrite: bool) -> Result<Self, PipelineError> {
        Ok(Self { file: FreshFile::begin(path, overwrite)?, ratings: 0, raters: HashSet::new() })
    }

    pub fn push(&mut self, pair: &Pair, rater: &str, grade: Grade) -> Result<(), PipelineError> {
        let Pair { query_id, document_id } = pair;
        let line = Written { query_id, document_id, rater, grade };
        let written = serde_json::to_writer(&mut self.file, &line).map_err(std::io::Error::from);
        let written = written.and_then(|()| self.file.write_all(b"\n"));
        written.map_err(|error| PipelineError::io("write", self.file.target(), error))?;
        self.ratings += 1;
        if !self.raters.contains(rater) {
            self.raters.insert(rater.to_owned());
        }
        Ok(())
    }

    pub fn ratings(&self) -> u64 {
        self.ratings
    }

    pub fn raters(&self) -> u64 {
        self.raters.len() as u64
    }

    pub fn commit(self) -> Result<(), PipelineError> {
        self.file.commit()
    }
}
