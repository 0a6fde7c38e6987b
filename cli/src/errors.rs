//! The one shape that every error takes before a person sees it, and the one place that writes it down.

use std::{error::Error, process::ExitCode};

use pipeline::{ErrorKind, PipelineError};
use proto::{spec::Problems, v1};

/// What went wrong, what caused it, what to do about it.
#[derive(Debug)]
pub struct Fault {
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
    blame: Blame,
    /// Goes before the error: the problems of a document.
    preface: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blame {
    /// Something failed: exit code 1.
    Run,
    /// The words, the document or the data were wrong: exit code 2.
    Words,
}

impl Fault {
    pub fn run(message: impl Into<String>) -> Self {
        Self { message: message.into(), causes: Vec::new(), hint: None, blame: Blame::Run, preface: String::new() }
    }

    pub fn words(message: impl Into<String>) -> Self {
        Self { blame: Blame::Words, ..Self::run(message) }
    }

    /// The problems of the document that its author knows as `file`.
    pub fn document(file: &str, problems: &Problems) -> Self {
        let count = match problems.0.len() {
            1 => "a problem".to_owned(),
            count => format!("{count} problems"),
        };
        Self {
            preface: proto::spec::check::render(file, problems),
            ..Self::words(format!("`{file}` has {count}, nothing was started"))
        }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into()).filter(|hint: &String| !hint.is_empty());
        self
    }

    /// Adds an error and what it was caused by, each once.
    #[must_use]
    pub fn because(mut self, source: &(dyn Error + 'static)) -> Self {
        let mut next = Some(source);
        while let Some(error) = next {
            let words = error.to_string();
            // Layers that repeat what they wrap are common ("transport error: transport error").
            if !words.is_empty() && self.causes.last() != Some(&words) {
                self.causes.push(words);
            }
            next = error.source();
        }
        self
    }

    #[must_use]
    pub fn caused_by(mut self, words: impl Into<String>) -> Self {
        self.causes.push(words.into());
        self
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.blame {
            Blame::Run => 1,
            Blame::Words => 2,
        })
    }

    pub fn render(&self) -> String {
        let mut text = self.preface.clone();
        text += &format!("error: {}\n", self.message);
        for cause in &self.causes {
            text += &format!("  caused by: {}\n", cause.trim_end().replace('\n', "\n             "));
        }
        if let Some(hint) = &self.hint {
            text += &format!("hint: {hint}\n");
        }
        text
    }
}

impl From<v1::Failure> for Fault {
    fn from(failure: v1::Failure) -> Self {
        let fault = if failure.input_is_wrong { Self::words(failure.message) } else { Self::run(failure.message) };
        Self { causes: failure.causes, ..fault }.hint(failure.hint)
    }
}

impl From<PipelineError> for Fault {
    fn from(error: PipelineError) -> Self {
        let fault = match error.kind {
            ErrorKind::Options | ErrorKind::Data => Self::words(error.message),
            ErrorKind::Io | ErrorKind::Network => Self::run(error.message),
        };
        let fault = match &error.source {
            Some(source) => fault.because(source.as_ref()),
            None => fault,
        };
        fault.hint(error.hint.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the outer layer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn an_error_reads_as_message_causes_and_hint() {
        let fault = Fault::run("run `r-01` did not start: 3 of 4 workers joined within 60 s")
            .because(&Outer(std::io::Error::other("two\nlines")))
            .hint("update `w2`");
        expect![[r#"
            error: run `r-01` did not start: 3 of 4 workers joined within 60 s
              caused by: the outer layer
              caused by: two
                         lines
            hint: update `w2`
        "#]]
        .assert_eq(&fault.render());
        assert_eq!(fault.exit_code(), ExitCode::from(1));
    }

    #[test]
    fn a_failure_of_the_input_is_the_words_fault_and_an_empty_hint_is_none() {
        let failure = v1::Failure {
            message: "dataset `d` is empty".into(),
            causes: vec!["it has no rows".into()],
            hint: String::new(),
            input_is_wrong: true,
        };
        let fault = Fault::from(failure);
        expect![[r#"
            error: dataset `d` is empty
              caused by: it has no rows
        "#]]
        .assert_eq(&fault.render());
        assert_eq!(fault.exit_code(), ExitCode::from(2));
    }

    #[test]
    fn a_document_shows_its_problems_first() {
        let problems = proto::spec::parse("name = 1\nsede = 2\n", &[("data.train".into(), "x".into())]).unwrap_err();
        expect![[r#"
            run.toml:1: name: expected a text in quotes, not 1
            run.toml:2: sede: is not a key that a run has
              hint: did you mean `seed`?
            run.toml: model.hidden: is missing: an `mlp` needs it
              hint: add `hidden = [128, 64]`, or take `kind = "linear"`
            error: `run.toml` has 3 problems, nothing was started
        "#]]
        .assert_eq(&Fault::document("run.toml", &problems).render());
    }
}
