//! A report on any training Parquet, ours or foreign: what it holds, how it lies on disk, and what is odd about it.
//!
//! It reads every row once and changes nothing. Values that training would refuse are counted here, with where the first one is.

mod odd;
mod render;
mod statistics;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use arrow::array::{Array, AsArray};
use arrow::datatypes::Float32Type;
use dataset::writer::{Column, Kind, TrainingSchema};
use serde::Serialize;

pub use self::render::render;
pub(crate) use self::render::thousands;
use self::{
    odd::Duplicates,
    statistics::{Place, Statistics},
};
use crate::{
    Chunk, LabelCount, PipelineError, ReadOptions, TrainingReader,
    tally::{Distinct, Labels, Lists},
};

/// Options of [`inspect`]. A column named here must be there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InspectOptions {
    /// Default `label`.
    pub label: Option<String>,
    /// Default `query_id`.
    pub query: Option<String>,
    /// What a list is; default `list_id` where there is one, else the query.
    pub group: Option<String>,
    /// [`render`] shows every feature, not only the first 20.
    pub all_features: bool,
}

/// What a training dataset holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InspectReport {
    pub path: PathBuf,
    pub layout: LayoutReport,
    pub rows: u64,
    /// The column that lists are told apart by.
    pub group: String,
    pub lists: u64,
    /// Different queries, where there is a query column.
    pub queries: Option<u64>,
    pub list_length: Lengths,
    pub labels: Vec<LabelCount>,
    pub features: Vec<FeatureReport>,
    /// Columns with a role: label, query, list, document, weight; then those that are none of these.
    pub columns: Vec<ColumnReport>,
    /// Sentences about what looks wrong, the gravest first.
    pub odd: Vec<String>,
    #[serde(skip)]
    pub all_features: bool,
}

/// How the files are laid out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayoutReport {
    pub files: Vec<FileReport>,
    pub bytes: u64,
    /// `wide` or `vector`.
    pub features: String,
    /// Encodings of the feature columns.
    pub encodings: Vec<String>,
    pub compressions: Vec<String>,
    pub row_groups: u64,
    /// Rows of the smallest and the largest row group.
    pub row_group_rows: (u64, u64),
    /// Every feature chunk has an offset index.
    pub offset_index: bool,
    /// Every file carries Lockstep's footer.
    pub lockstep: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FileReport {
    pub path: PathBuf,
    pub rows: u64,
    pub bytes: u64,
    pub row_groups: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Lengths {
    pub min: u64,
    pub median: u64,
    pub max: u64,
    pub mean: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ColumnReport {
    pub name: String,
    pub role: String,
    pub kind: String,
    pub nulls: u64,
}

/// One feature over all rows; min, mean, standard deviation and max are of its finite values.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FeatureReport {
    pub name: String,
    pub min: f64,
    pub mean: f64,
    pub std: f64,
    pub max: f64,
    pub zeros: u64,
    pub nulls: u64,
    pub nonfinite: u64,
}

/// Reads the whole dataset, a Parquet file or a folder of them.
pub fn inspect(path: &Path, options: &InspectOptions) -> Result<InspectReport, PipelineError> {
    let InspectOptions { label, query, group, all_features } = options.clone();
    let mut reader = TrainingReader::open(path, &ReadOptions { label, query, group })?;
    let mut gathered = Gathered::new(&reader);
    while let Some(chunk) = reader.next_chunk()? {
        gathered.add(&chunk, &reader);
    }
    gathered.finish();

    let schema = reader.schema();
    let (min, median, max, mean) = gathered.lists.lengths();
    let columns = schema.columns().iter().zip(&gathered.nulls).filter(|(column, _)| column.kind != Kind::Feature);
    let mut columns: Vec<ColumnReport> = columns.map(|(column, &nulls)| describe(column, nulls)).collect();
    columns.sort_by_key(|column| column.role == OTHER);
    let has_query = schema.find(|kind| matches!(kind, Kind::Query(_))).is_some();
    Ok(InspectReport {
        path: path.to_owned(),
        layout: layout(&reader)?,
        rows: reader.files().iter().map(|file| file.rows()).sum(),
        group: schema.columns()[schema.group()].name.clone(),
        lists: gathered.list_ids.count,
        queries: has_query.then_some(gathered.queries.count),
        list_length: Lengths { min, median, max, mean },
        labels: gathered.labels.counts(),
        features: gathered.features.iter().map(|(name, statistics)| statistics.report(name)).collect(),
        columns,
        odd: odd::sentences(&reader, &gathered),
        all_features,
    })
}

const OTHER: &str = "other";

fn describe(column: &Column, nulls: u64) -> ColumnReport {
    let role = match column.kind {
        Kind::List(_) => "list",
        Kind::Query(_) => "query",
        Kind::Document(_) => "document",
        Kind::Label => "label",
        Kind::Weight => "weight",
        Kind::Feature => "feature",
        Kind::Other(_) => OTHER,
    };
    let kind = column.data_type().to_string().to_lowercase();
    ColumnReport { name: column.name.clone(), role: role.into(), kind, nulls }
}

fn layout(reader: &TrainingReader) -> Result<LayoutReport, PipelineError> {
    let names: BTreeSet<String> = reader.schema().feature_names().into_iter().collect();
    let vector = reader.layout() == dataset::writer::Layout::Vector;
    let (mut encodings, mut compressions) = (BTreeSet::new(), BTreeSet::new());
    let (mut least, mut most, mut offset_index) = (u64::MAX, 0, true);
    let mut files = Vec::with_capacity(reader.files().len());
    for file in reader.files() {
        let metadata = file.metadata.metadata();
        for group in metadata.row_groups() {
            let rows = group.num_rows() as u64;
            (least, most) = (least.min(rows), most.max(rows));
            for chunk in group.columns() {
                let Some(root) = chunk.column_path().parts().first() else { continue };
                if names.contains(root) || (vector && root == dataset::layout::FEATURES) {
                    // Levels are always RLE: it says nothing about the values.
                    let of_values = chunk.encodings().filter(|encoding| *encoding != parquet::basic::Encoding::RLE);
                    encodings.extend(of_values.map(|encoding| encoding.to_string()));
                    let codec = chunk.compression().to_string();
                    compressions.insert(codec.split('(').next().unwrap_or_default().to_owned());
                    offset_index &= chunk.offset_index_offset().is_some();
                }
            }
        }
        let bytes = fs::metadata(&file.path).map_err(|error| PipelineError::io("read", &file.path, error))?.len();
        let row_groups = metadata.num_row_groups() as u64;
        files.push(FileReport { path: file.path.clone(), rows: file.rows(), bytes, row_groups });
    }
    let row_groups = files.iter().map(|file| file.row_groups).sum();
    Ok(LayoutReport {
        bytes: files.iter().map(|file| file.bytes).sum(),
        files,
        features: reader.layout().to_string(),
        encodings: encodings.into_iter().collect(),
        compressions: compressions.into_iter().collect(),
        row_groups,
        row_group_rows: (least.min(most), most),
        offset_index: offset_index && row_groups > 0,
        lockstep: reader.files().iter().all(|file| file.footer.is_some()),
    })
}

/// Everything that one pass over the rows collects.
struct Gathered {
    labels: Labels,
    lists: Lists,
    list_ids: Distinct,
    queries: Distinct,
    label: Statistics,
    weights: Option<Statistics>,
    features: Vec<(String, Statistics)>,
    duplicates: Option<Duplicates>,
    /// By column.
    nulls: Vec<u64>,
    /// Id columns with nulls.
    null_ids: Vec<(String, u64)>,
    /// Runs of a list that had rows before.
    scattered: u64,
    first_scattered: Option<Place>,
    /// A query that begins within a list.
    first_torn: Option<Place>,
    /// What all footers together say, if they all speak of these lists.
    footer_lists: Option<u64>,
    list_starts: Vec<usize>,
}

impl Gathered {
    fn new(reader: &TrainingReader) -> Self {
        let schema = reader.schema();
        let group = &schema.columns()[schema.group()].name;
        let footers = reader.files().iter().map(|file| file.footer.as_ref().filter(|footer| footer.group == *group));
        let has = |is: fn(&Kind) -> bool| schema.find(is).is_some();
        Self {
            labels: Labels::default(),
            lists: Lists::default(),
            list_ids: Distinct::default(),
            queries: Distinct::default(),
            label: Statistics::default(),
            weights: has(|kind| *kind == Kind::Weight).then(Statistics::default),
            features: schema.feature_names().into_iter().map(|name| (name, Statistics::default())).collect(),
            duplicates: has(|kind| matches!(kind, Kind::Document(_))).then(Duplicates::default),
            nulls: vec![0; schema.columns().len()],
            null_ids: Vec::new(),
            scattered: 0,
            first_scattered: None,
            first_torn: None,
            footer_lists: footers.map(|footer| footer.map(|footer| footer.lists)).sum(),
            list_starts: Vec::new(),
        }
    }

    fn add(&mut self, chunk: &Chunk, reader: &TrainingReader) {
        let schema = reader.schema();
        let place = |row: usize| (chunk.file, chunk.row + row as u64);
        self.list_starts.clear();
        self.list_ids.add(&chunk.columns[schema.group()], |row, new| {
            self.list_starts.push(row);
            if !new {
                self.scattered += 1;
                self.first_scattered.get_or_insert(place(row));
            }
        });
        let mut features = self.features.iter_mut();
        for ((column, array), nulls) in schema.columns().iter().zip(&chunk.columns).zip(&mut self.nulls) {
            *nulls += array.null_count() as u64;
            let statistics = match column.kind {
                Kind::Feature => features.next().map(|(_, statistics)| statistics),
                Kind::Label => Some(&mut self.label),
                Kind::Weight => self.weights.as_mut(),
                Kind::Query(_) => {
                    self.queries.add(array, |row, _| {
                        if self.list_starts.binary_search(&row).is_err() {
                            self.first_torn.get_or_insert(place(row));
                        }
                    });
                    None
                }
                Kind::Document(_) => {
                    if let Some(duplicates) = &mut self.duplicates {
                        duplicates.add(array, &self.list_starts, chunk.file, chunk.row);
                    }
                    None
                }
                Kind::List(_) | Kind::Other(_) => None,
            };
            if let (Some(statistics), Some(values)) = (statistics, array.as_primitive_opt::<Float32Type>()) {
                statistics.add(values, chunk.file, chunk.row);
            }
            if matches!(column.kind, Kind::List(_) | Kind::Query(_)) && array.null_count() > 0 {
                match self.null_ids.iter_mut().find(|(name, _)| *name == column.name) {
                    Some((_, count)) => *count += array.null_count() as u64,
                    None => self.null_ids.push((column.name.clone(), array.null_count() as u64)),
                }
            }
            if column.kind == Kind::Label
                && let Some(labels) = array.as_primitive_opt::<Float32Type>()
            {
                match labels.null_count() {
                    0 => self.labels.add(labels.values()),
                    _ => self.labels.add(&labels.iter().flatten().collect::<Vec<f32>>()),
                }
                self.lists.add(&chunk.columns[schema.group()], labels.values());
            }
        }
    }

    fn finish(&mut self) {
        self.lists.finish();
        if let Some(duplicates) = &mut self.duplicates {
            duplicates.close();
        }
    }

    /// Every column of numbers by name: the label, the weights, the features.
    fn numbers<'a>(&'a self, schema: &'a TrainingSchema) -> impl Iterator<Item = (&'a str, &'a Statistics)> {
        let name = |is: fn(&Kind) -> bool| schema.find(is).map_or("", |column| &schema.columns()[column].name);
        let weights = self.weights.iter().map(move |statistics| (name(|kind| *kind == Kind::Weight), statistics));
        let features = self.features.iter().map(|(name, statistics)| (name.as_str(), statistics));
        std::iter::once((name(|kind| *kind == Kind::Label), &self.label)).chain(weights).chain(features)
    }
}
