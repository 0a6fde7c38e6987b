//! Small lakes and tables, prepared and read back.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod joins;
mod judged;
mod refused;
mod rules;

use std::{
    collections::BTreeMap,
    fs::File,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::array::{ArrayRef, AsArray, Float32Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Float32Type, Int64Type};
use parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder};
use pipeline::{
    Output, PipelineError,
    engine::{Engine, EngineOptions},
    lake::{Lake, LakeWriter, RollOptions},
    prepare::{JoinChoice, Key, LogRange, Missing, PrepareOptions, PrepareReport, SplitBy, prepare},
};
use ranking::{
    events::{LogSchema, ResultImpression, SearchEvent, Timestamp},
    labels::LabelOptions,
    propensity::{PropensityTable, Weighting},
};

/// A folder with a lake and tables.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Puts events into the lake, as one commit.
    fn log(&self, name: &str, schema: &LogSchema, events: &[SearchEvent]) {
        let lake = Lake::open(&self.text("lake")).unwrap();
        let mut writer = LakeWriter::new(&lake, schema.clone(), RollOptions::default(), "test");
        events.iter().for_each(|event| writer.push(event).unwrap());
        let commit = writer.commit(name, serde_json::Value::Null);
        tokio::runtime::Runtime::new().unwrap().block_on(commit).unwrap();
    }

    /// A feature table of one file.
    fn table(&self, name: &str, columns: Vec<(&str, ArrayRef)>) -> String {
        write(&self.path(&format!("{name}.parquet")), columns);
        self.text(&format!("{name}.parquet"))
    }

    fn options(&self, tables: &[(Key, String)], features: &[&str]) -> PrepareOptions {
        PrepareOptions {
            logs: Some(LogRange {
                lake: self.text("lake"),
                dates: "2026-01-01".parse().unwrap()..="2026-01-31".parse().unwrap(),
            }),
            judgments: None,
            tables: tables.iter().cloned().collect::<BTreeMap<_, _>>(),
            features: features.iter().map(|name| (*name).to_owned()).collect(),
            labels: LabelOptions::default(),
            weighting: Weighting::default(),
            propensities: PropensityTable::reference(),
            missing: Missing::Error,
            split: SplitBy::Nothing,
            joins: JoinChoice::Auto,
            output: Output { path: self.path("data"), overwrite: true, ..Output::default() },
            engine: EngineOptions {
                engine: Engine::Local,
                threads: NonZeroUsize::new(2).unwrap(),
                memory: 256 << 20,
                spill: None,
            },
        }
    }

    fn prepare(&self, options: &PrepareOptions) -> Result<(PrepareReport, Vec<Row>), PipelineError> {
        let report = prepare(options, &|_| {})?;
        let rows = read(&options.output.path, &options.features);
        Ok((report, rows))
    }

    /// The message and hint with which it ends; nothing was published, nothing is left.
    fn refused(&self, options: &PrepareOptions) -> String {
        let error = prepare(options, &|_| {}).unwrap_err();
        assert!(!options.output.path.exists(), "something was published");
        let left: Vec<_> =
            std::fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().contains("partial")), "{left:?}");
        let source = std::error::Error::source(&error).map(|source| format!(" <- {source}")).unwrap_or_default();
        format!("{error}{source} | {}", error.hint().unwrap_or_default())
    }
}

fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn texts<S: AsRef<str>>(values: &[S]) -> ArrayRef {
    Arc::new(values.iter().map(|value| Some(value.as_ref())).collect::<StringArray>())
}

fn floats(values: &[f32]) -> ArrayRef {
    Arc::new(Float32Array::from(values.to_vec()))
}

fn moments(values: &[&str]) -> ArrayRef {
    let values = values.iter().map(|text| text.parse::<Timestamp>().unwrap().0);
    Arc::new(TimestampMicrosecondArray::from_iter_values(values).with_timezone("UTC"))
}

/// A prepared row.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    list: i64,
    query: String,
    document: String,
    label: f32,
    weight: f32,
    features: Vec<f32>,
}

fn read(folder: &Path, features: &[String]) -> Vec<Row> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "parquet"))
        .collect();
    files.sort();
    let mut rows = Vec::new();
    for file in files {
        for batch in ParquetRecordBatchReaderBuilder::try_new(File::open(file).unwrap()).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            let float = |name: &str| batch.column_by_name(name).unwrap().as_primitive::<Float32Type>().clone();
            let text = |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>().clone();
            let lists = batch.column_by_name("list_id").unwrap().as_primitive::<Int64Type>().clone();
            let (queries, documents) = (text("query_id"), text("document_id"));
            let (labels, weights) = (float("label"), float("sample_weight"));
            let columns: Vec<_> = features.iter().map(|name| float(name)).collect();
            rows.extend((0..batch.num_rows()).map(|row| Row {
                list: lists.value(row),
                query: queries.value(row).to_owned(),
                document: documents.value(row).to_owned(),
                label: labels.value(row),
                weight: weights.value(row),
                features: columns.iter().map(|column| column.value(row)).collect(),
            }));
        }
    }
    rows
}

/// A search on a day of January, with results `d<first>`… at positions 1, 2, ….
fn event(number: usize, query: &str, day: u32, results: Vec<ResultImpression>) -> SearchEvent {
    SearchEvent {
        session_id: format!("s{number}"),
        query_id: query.to_owned(),
        user_id: (!number.is_multiple_of(3)).then(|| format!("u{}", number % 5)),
        query: "shoes".into(),
        query_timestamp: Timestamp(
            format!("2026-01-{day:02}T12:00:00Z").parse::<Timestamp>().unwrap().0 + number as i64 * 1_000_000,
        ),
        results,
        device: "phone".into(),
        location: "DE".into(),
        ranker_version: None,
        arm: None,
        explored: None,
    }
}

fn result(position: u32, document: &str) -> ResultImpression {
    ResultImpression {
        position,
        document_id: document.to_owned(),
        score: 1.0,
        clicked: false,
        click_timestamp: None,
        dwell_time_seconds: None,
        added_to_cart: false,
        purchased: false,
        propensity: None,
        features: Vec::new(),
    }
}

/// Events enough for every rule: three queries, eight documents, every kind of engagement.
fn events(count: usize) -> Vec<SearchEvent> {
    let results = |number: usize| {
        (1..=(2 + number % 12) as u32)
            .map(|position| {
                let kind = number * 7 + position as usize;
                ResultImpression {
                    clicked: kind.is_multiple_of(3),
                    dwell_time_seconds: match kind % 4 {
                        0 => None,
                        1 => Some(30.0),
                        _ => Some(30.0 + (kind % 9) as f64),
                    },
                    added_to_cart: kind.is_multiple_of(11),
                    purchased: kind.is_multiple_of(13),
                    propensity: (kind.is_multiple_of(5)).then_some(0.25),
                    features: vec![(kind % 6 != 5).then_some(kind as f32 / 4.0)],
                    ..result(position, &format!("d{position}"))
                }
            })
            .collect()
    };
    (0..count)
        .map(|number| event(number, &format!("q{}", number % 3), 1 + (number % 20) as u32, results(number)))
        .collect()
}

/// Every list's rows lie together.
fn assert_contiguous(rows: &[Row]) {
    let mut seen = std::collections::HashSet::new();
    for (at, row) in rows.iter().enumerate() {
        assert!(at > 0 && rows[at - 1].list == row.list || seen.insert(row.list), "list {} comes again", row.list);
    }
}

fn sorted(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by(|a, b| (a.list, &a.document).cmp(&(b.list, &b.document)));
    rows
}

fn document_table(world: &World) -> (Key, String) {
    let ids: Vec<String> = (1..=13).map(|n| format!("d{n}")).collect();
    let values: Vec<f32> = (1..=13).map(|n| n as f32 * 10.0).collect();
    (Key::Document, world.table("documents", vec![("document_id", texts(&ids)), ("doc_quality", floats(&values))]))
}

fn query_table(world: &World) -> (Key, String) {
    let table = vec![("query_id", texts(&["q0", "q1", "q2"])), ("query_length", floats(&[1.0, 2.0, 3.0]))];
    (Key::Query, world.table("queries", table))
}
