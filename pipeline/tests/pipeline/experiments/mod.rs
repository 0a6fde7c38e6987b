//! Estimates of a new ranker and readings of a test, against a world whose truth is known.

mod arms;
mod new_ranker;

use std::{fs, path::Path, sync::Arc};

use arrow::{
    array::{
        ArrayRef, BooleanArray, Float32Array, Int32Array, Int64Array, ListArray, RecordBatch, StringArray, StructArray,
        TimestampMicrosecondArray,
    },
    buffer::OffsetBuffer,
    compute::concat_batches,
    datatypes::{DataType, Field, Fields, Schema},
};
use parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder};
use pipeline::{
    PipelineError,
    abtest::{self, AbTestOptions, AbTestReport, Unit, WithoutUser},
    counterfactual::{self, ActionsOptions, ClicksOptions, ClicksReport, ListWeights, Reward, ScoredBy},
    prepare::list_id,
    simulate::{
        ATTRACTIVENESS, Candidate, Destination, EXAMINATION, Log, SimulateOptions, SimulatedArm, World, document_id,
        query_id, simulate,
    },
};
use ranking::{
    counterfactual::{ByExamination, Conclusion, Doubt, Estimates, Gain, Limits, Moved, Value, new_positions},
    events::SearchEvent,
    online::{Metric, Outcome, ReadingOptions, Users, Verdict},
    propensity::PropensityTable,
};

use crate::entries;

fn world(seed: u64) -> SimulateOptions {
    SimulateOptions {
        seed,
        queries: 150,
        documents: 2000,
        users: 1500,
        events: 3000,
        days: 2,
        exploration: 0.2,
        ..SimulateOptions::default()
    }
}

fn in_async<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(work)
}

/// The new ranker: it knows the grades. Documents of a query are neighbours, so that no two have one score.
fn score(document: u64, grade: u8) -> f32 {
    f32::from(grade) + (document % 97) as f32 / 200.0
}

/// How likely each query is to be asked: the mass of Zipf's continuous law over its rank.
fn asked(options: &SimulateOptions) -> Vec<f64> {
    let power = 1.0 - options.zipf;
    let below = |rank: u64| (rank as f64).powf(power);
    let all = below(options.queries + 1) - 1.0;
    (1..=options.queries).map(|rank| (below(rank + 1) - below(rank)) / all).collect()
}

/// What a ranker (from 0) shows for a query, in its order.
fn shown(world: &World, number: u64, ranker: u8, results: usize) -> Vec<Candidate> {
    let mut candidates: Vec<Candidate> = world.candidates(&world.query(number), 0).collect();
    candidates.sort_by(|a, b| b.score(ranker).total_cmp(&a.score(ranker)));
    candidates.truncate(results);
    candidates
}

/// What the new ranker truly earns a search, over all that can be asked, if a wanted result is worth this at its position.
fn truth(options: &SimulateOptions, worth: impl Fn(usize) -> f64) -> f64 {
    let world = World::new(options);
    let value = |number: u64, ranker: u8| -> f64 {
        let mut shown = shown(&world, number, ranker, options.results as usize);
        shown.sort_by(|a, b| score(b.document, b.grade).total_cmp(&score(a.document, a.grade)));
        shown.iter().enumerate().map(|(at, shown)| worth(at) * ATTRACTIVENESS[usize::from(shown.grade)]).sum()
    };
    let asked = asked(options).into_iter().zip(0..);
    asked.map(|(share, number)| share * 0.5 * (value(number, 0) + value(number, 1))).sum()
}

fn dcg(at: usize) -> f64 {
    1.0 / (at as f64 + 2.0).log2()
}

fn each_event(options: &SimulateOptions, mut each: impl FnMut(&SearchEvent)) {
    let mut log = Log::new(options);
    let mut event = Log::blank();
    while log.fill(&mut event) {
        each(&event);
    }
}

fn number(id: &str) -> u64 {
    id[1..].parse().unwrap()
}

/// Grades by query and document.
fn grades(options: &SimulateOptions) -> Vec<std::collections::HashMap<u64, u8>> {
    let world = World::new(options);
    let of = |query: u64| world.candidates(&world.query(query), 0).map(|found| (found.document, found.grade)).collect();
    (0..options.queries).map(of).collect()
}

/// A folder with a lake of this world.
struct Here {
    folder: tempfile::TempDir,
    options: SimulateOptions,
}

impl Here {
    fn new(options: SimulateOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let destination = Destination::Lake(folder.path().join("lake").display().to_string());
        let options = SimulateOptions { destination, ..options };
        in_async(simulate(&options, |_, _| {})).unwrap();
        Self { folder, options }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> std::path::PathBuf {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    fn lake(&self) -> String {
        self.path("lake").display().to_string()
    }

    /// The new ranker's scores of all candidates, by query.
    fn by_query(&self) -> std::path::PathBuf {
        let mut text = "query_id,document_id,score\n".to_owned();
        for (query, grades) in grades(&self.options).iter().enumerate() {
            for (&document, &grade) in grades {
                let (query, document) = (query_id(query as u64), (document, document_id(document)));
                text += &format!("{query},{},{}\n", document.1, score(document.0, grade));
            }
        }
        self.write("scores.csv", &text)
    }

    /// The new ranker's scores of what was shown, by list.
    fn by_list(&self) -> std::path::PathBuf {
        let grades = grades(&self.options);
        let (mut lists, mut documents, mut scores) = (Vec::new(), Vec::new(), Vec::new());
        each_event(&self.options, |event| {
            let grades = &grades[number(&event.query_id) as usize - 1];
            for result in &event.results {
                let document = number(&result.document_id) - 1;
                lists.push(list_id(&event.session_id, &event.query_id, event.query_timestamp.0));
                documents.push(result.document_id.clone());
                scores.push(score(document, grades[&document]));
            }
        });
        let schema = Schema::new(vec![
            Field::new("list_id", DataType::Int64, false),
            Field::new("document_id", DataType::Utf8, false),
            Field::new("score", DataType::Float32, false),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(lists)),
            Arc::new(StringArray::from(documents)),
            Arc::new(Float32Array::from(scores)),
        ];
        let path = self.path("scores.parquet");
        write(&path, &RecordBatch::try_new(Arc::new(schema), columns).unwrap());
        path
    }

    fn clicks(&self, change: impl FnOnce(&mut ClicksOptions)) -> Result<ClicksReport, PipelineError> {
        let mut options = ClicksOptions {
            logs: self.lake(),
            from: None,
            to: None,
            scores: self.path("scores.csv"),
            weights: ListWeights::Examination { table: PropensityTable::reference(), gain: Gain::Clicks },
            reward: Reward::Click,
            clip: None,
            limits: Limits::default(),
        };
        change(&mut options);
        in_async(counterfactual::clicks(&options, &mut |_, _| {}))
    }

    fn abtest(&self, change: impl FnOnce(&mut AbTestOptions)) -> Result<AbTestReport, PipelineError> {
        let mut options = AbTestOptions { logs: self.lake(), resamples: 200, ..AbTestOptions::default() };
        change(&mut options);
        in_async(abtest::read(&options, &mut |_, _| {}))
    }
}

fn write(path: &Path, batch: &RecordBatch) {
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

/// A search of the one query `q1`, in a log that other systems could have written.
#[derive(Clone)]
struct Search {
    user: Option<String>,
    session: String,
    arm: Option<String>,
    /// Positions, and which were clicked; documents are named for where they stood.
    results: Vec<(u32, bool)>,
}

/// A lake without commits, of files with the fewest columns: no carts, no purchases, and no arms unless one is named.
struct Logged {
    folder: tempfile::TempDir,
}

impl Logged {
    fn new(files: &[(&str, Vec<Search>)]) -> Self {
        let here = Self { folder: tempfile::tempdir().unwrap() };
        let folder = here.folder.path().join("lake/click_logs/date=2026-01-01");
        fs::create_dir_all(&folder).unwrap();
        files.iter().for_each(|(name, searches)| write(&folder.join(name), &batch(searches)));
        here
    }

    fn lake(&self) -> String {
        self.folder.path().join("lake").display().to_string()
    }

    fn clicks(&self, scores: String) -> ClicksReport {
        let path = self.folder.path().join("scores.csv");
        fs::write(&path, scores).unwrap();
        let options = ClicksOptions {
            logs: self.lake(),
            from: None,
            to: None,
            scores: path,
            weights: ListWeights::Examination { table: PropensityTable::reference(), gain: Gain::Clicks },
            reward: Reward::Click,
            clip: None,
            limits: Limits::default(),
        };
        in_async(counterfactual::clicks(&options, &mut |_, _| {})).unwrap()
    }

    fn abtest(&self, change: impl FnOnce(&mut AbTestOptions)) -> Result<AbTestReport, PipelineError> {
        let mut options = AbTestOptions { logs: self.lake(), resamples: 200, ..AbTestOptions::default() };
        change(&mut options);
        in_async(abtest::read(&options, &mut |_, _| {}))
    }
}

fn batch(searches: &[Search]) -> RecordBatch {
    let results: Vec<(u32, bool)> = searches.iter().flat_map(|search| search.results.iter().copied()).collect();
    let fields = Fields::from(vec![
        Field::new("position", DataType::Int32, false),
        Field::new("document_id", DataType::Utf8, false),
        Field::new("clicked", DataType::Boolean, false),
    ]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(results.iter().map(|(position, _)| *position as i32).collect::<Int32Array>()),
        Arc::new(StringArray::from_iter_values(results.iter().map(|(position, _)| format!("d{position}")))),
        Arc::new(BooleanArray::from_iter(results.iter().map(|(_, clicked)| Some(*clicked)))),
    ];
    let item = Arc::new(Field::new("item", DataType::Struct(fields.clone()), false));
    let lists = ListArray::new(
        item,
        OffsetBuffer::from_lengths(searches.iter().map(|search| search.results.len())),
        Arc::new(StructArray::new(fields, columns, None)),
        None,
    );
    let text =
        |value: fn(&Search) -> Option<&str>| Arc::new(StringArray::from_iter(searches.iter().map(value))) as ArrayRef;
    let times = TimestampMicrosecondArray::from(vec![1_767_225_600_000_000; searches.len()]).with_timezone("UTC");
    let mut columns = vec![
        ("session_id", text(|search| Some(&search.session))),
        ("query_id", text(|_| Some("q1"))),
        ("user_id", text(|search| search.user.as_deref())),
        ("query_timestamp", Arc::new(times) as ArrayRef),
        ("results", Arc::new(lists) as ArrayRef),
    ];
    if searches.iter().any(|search| search.arm.is_some()) {
        columns.push(("arm", text(|search| search.arm.as_deref())));
    }
    RecordBatch::try_from_iter(columns).unwrap()
}
