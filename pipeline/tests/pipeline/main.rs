//! What the pipeline promises, tested through its public functions.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod click_bias;
mod experiments;
mod generate;
mod import;
mod inspect;
mod propensity;
mod simulate;
mod split;
mod ubi;
mod writer;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::array::{Array, ArrayRef, AsArray, Float32Array, Int64Array};
use arrow::datatypes::{Float32Type, Int64Type};
use dataset::writer::TrainingSchema;
use pipeline::{Output, ReadOptions, TrainingReader};

/// A whole dataset in memory.
struct Table {
    schema: TrainingSchema,
    columns: Vec<ArrayRef>,
}

impl Table {
    fn read(path: &Path) -> Self {
        let mut reader = TrainingReader::open(path, &ReadOptions::default()).unwrap();
        let mut chunks: Vec<Vec<ArrayRef>> = Vec::new();
        while let Some(chunk) = reader.next_chunk().unwrap() {
            chunks.push(chunk.columns);
        }
        let column = |at: usize| {
            let parts: Vec<&dyn Array> = chunks.iter().map(|chunk| &*chunk[at] as &dyn Array).collect();
            arrow::compute::concat(&parts).unwrap()
        };
        let schema = reader.schema().clone();
        let columns = (0..schema.columns().len()).map(column).collect();
        Self { schema, columns }
    }

    fn names(&self) -> Vec<&str> {
        self.schema.columns().iter().map(|column| column.name.as_str()).collect()
    }

    fn column(&self, name: &str) -> &ArrayRef {
        &self.columns[self.names().iter().position(|known| *known == name).unwrap()]
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.column(name).as_primitive::<Float32Type>().values().to_vec()
    }

    fn ints(&self, name: &str) -> Vec<i64> {
        self.column(name).as_primitive::<Int64Type>().values().to_vec()
    }

    fn texts(&self, name: &str) -> Vec<String> {
        self.column(name).as_string::<i32>().iter().map(|text| text.unwrap().to_owned()).collect()
    }
}

fn floats(values: impl IntoIterator<Item = f32>) -> ArrayRef {
    Arc::new(Float32Array::from_iter_values(values))
}

fn ints(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

fn to(path: PathBuf) -> Output {
    Output { path, ..Output::default() }
}

/// Names in a folder, hidden ones too.
fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Where real data lies; says loudly that a test did not run without it.
fn lightgbm(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/lightgbm").join(name);
    if !path.is_file() {
        eprintln!("SKIPPED: `{}` is absent", path.display());
        return None;
    }
    Some(path)
}
