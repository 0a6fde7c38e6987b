//! What a file of rankings is, by what it begins with, whatever it is called.

use std::{fs::File, io::Read as _, path::Path};

use super::shown;
use crate::PipelineError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// It holds no byte.
    Nothing,
    Parquet,
    /// As far as its first bytes tell.
    Text,
}

/// Ways to pack a file, by its first bytes, and what unpacks it.
const PACKED: [(&[u8], &str, &str); 5] = [
    (b"\x1f\x8b", "gzip", "gunzip --keep"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"BZh", "bzip2", "bunzip2 --keep"),
    (b"\xfd7zXZ", "xz", "unxz --keep"),
    (b"PK\x03\x04", "zip", "unzip"),
];
const LONGEST: u64 = 5;

/// What is packed, and text that is not UTF-8 from its first letter on, is refused.
pub(super) fn form_of(path: &Path) -> Result<Form, PipelineError> {
    let failed = |error| PipelineError::io("read", path, error);
    let mut first = Vec::new();
    File::open(path).map_err(failed)?.take(LONGEST).read_to_end(&mut first).map_err(failed)?;
    if let Some((_, packed, unpack)) = PACKED.iter().find(|(magic, ..)| first.starts_with(magic)) {
        return Err(PipelineError::data(format!("{} is packed by {packed}", shown(path)))
            .with_hint(format!("unpack it first: `{unpack} {}`; Parquet is packed inside", path.display())));
    }
    match &first[..] {
        [] => Ok(Form::Nothing),
        [b'P', b'A', b'R', b'1', ..] => Ok(Form::Parquet),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..] => {
            Err(PipelineError::data(format!("{} is text in UTF-16", shown(path))).with_hint(format!(
                "write it as UTF-8: `iconv --from-code UTF-16 --to-code UTF-8 {} --output …`",
                path.display()
            )))
        }
        _ => Ok(Form::Text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_by_its_first_bytes_and_what_cannot_be_read_is_refused_by_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.csv");
        let found = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            form_of(&path)
        };
        for (bytes, form) in [
            (&b""[..], Form::Nothing),
            (b"PAR1", Form::Parquet),
            (b"q", Form::Text),
            (b"\xef\xbb\xbfquery", Form::Text),
        ] {
            assert_eq!(found(bytes).unwrap(), form, "{bytes:?}");
        }
        for (bytes, words) in [
            (&b"\x1f\x8b\x08\0"[..], "packed by gzip"),
            (b"\x28\xb5\x2f\xfd", "packed by zstd"),
            (b"BZh9", "packed by bzip2"),
            (b"\xfd7zXZ\0", "packed by xz"),
            (b"PK\x03\x04", "packed by zip"),
            (b"\xff\xfeq\0", "UTF-16"),
            (b"\xfe\xff\0q", "UTF-16"),
            (b"q\0u\0", "UTF-16"),
        ] {
            let error = found(bytes).unwrap_err();
            assert!(error.message.contains(words), "{error}");
            assert!(error.hint.is_some_and(|hint| hint.contains("p.csv")), "{words}");
        }
    }
}
