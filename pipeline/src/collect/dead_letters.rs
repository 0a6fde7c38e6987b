//! Messages that are no events, kept as JSON lines: where they were, what is wrong with them, and what they were, to the byte.

use std::io::Write as _;

use serde::Serialize;

use crate::{
    PipelineError,
    lake::{DeadLetters, Spool},
    store::Store,
};

/// Below the table; hidden from engines that list folders.
pub const FOLDER: &str = "_dead_letters";

/// One line.
#[derive(Serialize)]
pub struct Letter<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since 1970, by the broker's clock or the producer's.
    pub timestamp: Option<i64>,
    pub reason: &'a str,
    /// The payload, if it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<&'a str>,
    /// The payload, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
}

impl<'a> Letter<'a> {
    #[must_use]
    pub fn with_payload(mut self, payload: &'a [u8]) -> Self {
        match std::str::from_utf8(payload) {
            Ok(text) => self.payload = Some(text),
            Err(_) => self.payload_base64 = Some(base64(payload)),
        }
        self
    }
}

/// The letters of one batch.
pub struct Letterbox {
    spool: Spool,
    messages: u64,
    folder: String,
}

impl Letterbox {
    pub fn new(store: &Store, source: &str) -> Result<Self, PipelineError> {
        let folder = format!("{FOLDER}/{source}");
        Ok(Self { spool: Spool::new(store, &folder)?, messages: 0, folder })
    }

    pub fn put(&mut self, letter: &Letter<'_>) -> Result<(), PipelineError> {
        let failed = |error| PipelineError::io("write to", self.folder.as_ref(), error);
        let mut line = serde_json::to_vec(letter).map_err(std::io::Error::from).map_err(failed)?;
        line.push(b'\n');
        self.messages += 1;
        self.spool.write_all(&line).map_err(failed)
    }

    pub fn bytes(&self) -> u64 {
        self.spool.bytes()
    }

    pub async fn publish(self, store: &Store, stem: &str) -> Result<DeadLetters, PipelineError> {
        let token = rand::random::<u64>();
        let path = format!("{}/{stem}-{token:016x}-0.jsonl", self.folder);
        let published = self.spool.publish(store, &path).await?;
        Ok(DeadLetters { path, messages: self.messages, bytes: published.bytes, xxh3: published.xxh3 })
    }
}

/// RFC 4648, padded.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let number = chunk.iter().fold(0, |number, &byte| number << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let letter = ALPHABET[(number >> (18 - 6 * at)) as usize & 63];
            text.push(if at <= chunk.len() { letter.into() } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (bytes, text) in cases {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xFF, 0xFE, 0xFD]), "//79");
    }

    #[test]
    fn a_letter_keeps_the_payload_to_the_byte() {
        let letter = Letter {
            topic: "t",
            partition: 1,
            offset: 2,
            timestamp: None,
            reason: "no",
            payload: None,
            payload_base64: None,
        };
        let line = serde_json::to_string(&letter.with_payload(b"{\"a\n")).unwrap();
        let expected = r#"{"topic":"t","partition":1,"offset":2,"timestamp":null,"reason":"no","payload":"{\"a\n"}"#;
        assert_eq!(line, expected);
    }
}
