//! A lake as any tool would read it: commits as JSON, the files that they list as Parquet.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
};

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::{Float64Type, Int32Type, TimestampMicrosecondType};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use super::world::{Content, World};

/// What the commits of a lake list.
pub struct LakeOnDisk {
    pub files: usize,
    pub events: Vec<Content>,
    /// Payloads by partition and offset.
    dead: Vec<((i32, i64), Vec<u8>)>,
}

impl LakeOnDisk {
    pub fn read(lake: &Path) -> Self {
        let table = lake.join("click_logs");
        let mut found = Self { files: 0, events: Vec::new(), dead: Vec::new() };
        for commit in files(&table.join("_commits"), "json") {
            let commit: Value = serde_json::from_slice(&fs::read(commit).unwrap()).unwrap();
            for file in commit["files"].as_array().unwrap() {
                let path = table.join(file["path"].as_str().unwrap());
                assert_eq!(fs::metadata(&path).unwrap().len(), file["bytes"].as_u64().unwrap());
                let date = format!("date={}", file["date"].as_str().unwrap());
                assert!(path.starts_with(table.join(date)));
                let before = found.events.len();
                found.read_events(&path);
                assert_eq!((found.events.len() - before) as u64, file["rows"].as_u64().unwrap());
                found.files += 1;
            }
            for file in commit["dead_letters"].as_array().into_iter().flatten() {
                found.read_letters(&table.join(file["path"].as_str().unwrap()));
            }
        }
        found
    }

    fn read_events(&mut self, path: &Path) {
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap();
        for batch in reader {
            self.read_batch(&batch.unwrap());
        }
    }

    fn read_batch(&mut self, batch: &RecordBatch) {
        let column = |name: &str| batch.column_by_name(name).unwrap();
        let (session, query) = (column("session_id").as_string::<i32>(), column("query_id").as_string::<i32>());
        let at = column("query_timestamp").as_primitive::<TimestampMicrosecondType>();
        let results = column("results").as_list::<i32>();
        for row in 0..batch.num_rows() {
            let mut content = format!("{} {} {}", session.value(row), query.value(row), at.value(row));
            let shown = results.value(row);
            let shown = shown.as_struct();
            let field = |name: &str| shown.column_by_name(name).unwrap();
            let (position, document) =
                (field("position").as_primitive::<Int32Type>(), field("document_id").as_string::<i32>());
            let (clicked, dwell) =
                (field("clicked").as_boolean(), field("dwell_time_seconds").as_primitive::<Float64Type>());
            for at in 0..shown.len() {
                let dwell = dwell.is_valid(at).then(|| dwell.value(at));
                content += &format!("|{} {} {} {dwell:?}", position.value(at), document.value(at), clicked.value(at));
            }
            self.events.push(content);
        }
    }

    fn read_letters(&mut self, path: &Path) {
        for line in fs::read_to_string(path).unwrap().lines() {
            let letter: Value = serde_json::from_str(line).unwrap();
            assert!(!letter["reason"].as_str().unwrap().is_empty());
            let place = (letter["partition"].as_i64().unwrap() as i32, letter["offset"].as_i64().unwrap());
            let payload = match &letter["payload"] {
                Value::String(text) => text.as_bytes().to_vec(),
                _ => from_base64(letter["payload_base64"].as_str().unwrap()),
            };
            self.dead.push((place, payload));
        }
    }

    /// Each event and each malformed message of the world, and nothing else, once.
    #[track_caller]
    pub fn assert_holds(&self, world: &World) {
        self.assert_holds_events(world);
        let dead: BTreeMap<(i32, i64), Vec<u8>> = self.dead.iter().cloned().collect();
        assert_eq!(dead.len(), self.dead.len(), "a malformed message is there twice");
        assert_eq!(&dead, world.malformed());
    }

    #[track_caller]
    pub fn assert_holds_events(&self, world: &World) {
        self.assert_same_events(world.events());
    }

    /// In whatever order.
    #[track_caller]
    pub fn assert_same_events(&self, expected: &[Content]) {
        let mut found = self.events.clone();
        let mut expected = expected.to_vec();
        found.sort_unstable();
        expected.sort_unstable();
        let repeated = found.windows(2).filter(|pair| pair[0] == pair[1]).count();
        let missing = expected.iter().filter(|event| found.binary_search(event).is_err()).count();
        assert_eq!((found.len(), repeated, missing), (expected.len(), 0, 0), "events, of them repeated, missing");
        assert_eq!(found, expected);
    }

    /// All data files that have a name, listed by a commit or not.
    pub fn data_files(lake: &Path) -> Vec<PathBuf> {
        files(lake, "parquet")
    }
}

/// Files of this kind anywhere below, but for hidden ones and marks.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if !name.starts_with(['.', '_']) && path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found
}

fn from_base64(text: &str) -> Vec<u8> {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits: Vec<u32> =
        text.trim_end_matches('=').chars().map(|digit| ALPHABET.find(digit).unwrap() as u32).collect();
    let mut bytes = Vec::new();
    for group in digits.chunks(4) {
        let number = group.iter().fold(0, |number, digit| number << 6 | digit) << (6 * (4 - group.len()));
        bytes.extend_from_slice(&number.to_be_bytes()[1..group.len()]);
    }
    bytes
}
