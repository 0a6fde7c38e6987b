//! Settings of the Kafka client that a person gives: TLS, SASL, and whatever else librdkafka knows. Their values are never shown.

use std::{fmt, fs, path::Path};

use crate::PipelineError;

/// What exactly once hangs on, and what other options say.
const OURS: [(&str, &str); 6] = [
    ("bootstrap.servers", "that is --brokers"),
    ("metadata.broker.list", "that is --brokers"),
    ("enable.auto.commit", "the lake decides where reading resumes"),
    ("enable.auto.offset.store", "the lake decides where reading resumes"),
    ("auto.offset.reset", "the lake decides where reading resumes"),
    ("enable.partition.eof", "the end of a topic is told by it"),
];

/// Keys and values for librdkafka, in the order given; a later one wins.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KafkaSettings(Vec<(String, String)>);

impl KafkaSettings {
    /// Adds `key=value`.
    pub fn add(&mut self, text: &str) -> Result<(), PipelineError> {
        let Some((key, value)) = text.split_once('=') else {
            // The text may be a secret whose key was forgotten.
            return Err(
                PipelineError::options("a Kafka setting has no `=`").with_hint("write `security.protocol=SASL_SSL`")
            );
        };
        let key = key.trim();
        if let Some((_, why)) = OURS.iter().find(|(ours, _)| *ours == key) {
            return Err(PipelineError::options(format!("`{key}` cannot be set")).with_hint(*why));
        }
        self.0.push((key.to_owned(), value.trim().to_owned()));
        Ok(())
    }

    /// Adds a file of `key=value` lines; empty ones and those that begin with `#` are passed over.
    pub fn add_file(&mut self, path: &Path) -> Result<(), PipelineError> {
        let text = fs::read_to_string(path).map_err(|error| PipelineError::io("read", path, error))?;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            self.add(line).map_err(|error| PipelineError {
                message: format!("{}:{}: {}", path.display(), number + 1, error.message),
                ..error
            })?;
        }
        Ok(())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// Keys only.
impl fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(key, _)| key)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_from_words_and_files_and_are_never_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "# broker\nsecurity.protocol = SASL_SSL\n\nsasl.password=p=w\n").unwrap();
        let mut settings = KafkaSettings::default();
        settings.add_file(file.path()).unwrap();
        settings.add("sasl.username=me").unwrap();
        let found: Vec<_> = settings.iter().collect();
        assert_eq!(found, [("security.protocol", "SASL_SSL"), ("sasl.password", "p=w"), ("sasl.username", "me")]);
        assert_eq!(format!("{settings:?}"), r#"["security.protocol", "sasl.password", "sasl.username"]"#);
    }

    #[test]
    fn what_exactly_once_hangs_on_cannot_be_set() {
        let mut settings = KafkaSettings::default();
        let error = settings.add("auto.offset.reset=latest").unwrap_err();
        assert_eq!(error.message, "`auto.offset.reset` cannot be set");
        let error = settings.add("hunter2").unwrap_err();
        assert!(!error.message.contains("hunter2"));
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "a=b\nsecret\n").unwrap();
        let error = settings.add_file(file.path()).unwrap_err();
        assert!(error.message.contains(":2:") && !error.message.contains("secret"), "{error}");
    }
}
