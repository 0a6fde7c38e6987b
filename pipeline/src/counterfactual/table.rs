//! Some columns of a Parquet file, a folder of them, or a CSV file, batch by batch.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, AsArray as _, Float64Array, StringArray, StringBuilder},
    compute::cast,
    datatypes::{DataType, Float64Type},
};
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};

use crate::{PipelineError, reader::list_files};

/// Rows decoded at once.
const BATCH: usize = 8192;

/// A table on disk.
pub(super) struct Table {
    files: Vec<PathBuf>,
    /// CSV fields are divided by this; none for Parquet.
    delimiter: Option<u8>,
    names: Vec<String>,
}

/// Rows of one file.
pub(super) struct Rows<'a> {
    file: &'a Path,
    names: &'a [&'a str],
    /// The first row's number in its file, from 0; where the file is CSV, the header does not count.
    first: u64,
    /// In the order of the names.
    columns: Vec<ArrayRef>,
}

impl Table {
    pub fn open(path: &Path) -> Result<Self, PipelineError> {
        let files = list_files(path).map_err(|error| only_csv(path).unwrap_or(error))?;
        let extension = files[0].extension().unwrap_or_default().to_string_lossy().to_lowercase();
        let delimiter = match &*extension {
            "csv" => Some(b','),
            "tsv" => Some(b'\t'),
            _ => None,
        };
        let names = match delimiter {
            Some(delimiter) => {
                let header = csv_reader(&files[0], delimiter)?.headers().cloned();
                let header = header.map_err(|error| broken(&files[0], error))?;
                header.iter().map(|name| name.trim().to_owned()).collect()
            }
            None => {
                let builder = parquet_reader(&files[0])?;
                builder.schema().fields().iter().map(|field| field.name().clone()).collect()
            }
        };
        Ok(Self { files, delimiter, names })
    }

    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }

    /// Refuses a column that is not there; `flag` names another one.
    pub fn check(&self, name: &str, flag: Option<&str>) -> Result<(), PipelineError> {
        if self.has(name) {
            return Ok(());
        }
        let message = format!("`{}` has no column `{name}`", self.files[0].display());
        let known = format!("its columns are {}", self.names.join(", "));
        Err(PipelineError::data(message).with_hint(match flag {
            Some(flag) => format!("{known}; name another one with `{flag}`"),
            None => known,
        }))
    }

    /// Hands on every row once, in the order of the files.
    pub fn for_each(
        &self,
        names: &[&str],
        mut each: impl FnMut(Rows<'_>) -> Result<(), PipelineError>,
    ) -> Result<(), PipelineError> {
        for file in &self.files {
            match self.delimiter {
                Some(delimiter) => from_csv(file, delimiter, names, &mut each)?,
                None => from_parquet(file, names, &mut each)?,
            }
        }
        Ok(())
    }
}

/// Where a folder holds CSV files and is refused for it: a folder is read as Parquet.
fn only_csv(folder: &Path) -> Option<PipelineError> {
    let is_csv = |path: &Path| path.extension().is_some_and(|kind| kind == "csv" || kind == "tsv");
    let mut entries = std::fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let csv = entries.find(|path| is_csv(path))?;
    let message = format!("`{}` holds CSV, and of folders Parquet is read", folder.display());
    Some(PipelineError::data(message).with_hint(format!("CSV goes in as one file: `{}`", csv.display())))
}

fn from_parquet(
    file: &Path,
    names: &[&str],
    each: &mut impl FnMut(Rows<'_>) -> Result<(), PipelineError>,
) -> Result<(), PipelineError> {
    let builder = parquet_reader(file)?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), names.iter().copied());
    let reader = builder.with_projection(mask).with_batch_size(BATCH).build().map_err(|error| broken(file, error))?;
    let mut first = 0;
    for batch in reader {
        let batch = batch.map_err(|error| broken(file, error))?;
        let column = |name: &&str| {
            batch.column_by_name(name).cloned().ok_or_else(|| {
                PipelineError::data(format!("`{}` has no column `{name}`, the first file has it", file.display()))
            })
        };
        let columns = names.iter().map(column).collect::<Result<_, _>>()?;
        each(Rows { file, names, first, columns })?;
        first += batch.num_rows() as u64;
    }
    Ok(())
}

fn from_csv(
    file: &Path,
    delimiter: u8,
    names: &[&str],
    each: &mut impl FnMut(Rows<'_>) -> Result<(), PipelineError>,
) -> Result<(), PipelineError> {
    let mut reader = csv_reader(file, delimiter)?;
    let header = reader.headers().map_err(|error| broken(file, error))?.clone();
    let place = |name: &&str| {
        header.iter().position(|known| known.trim() == *name).ok_or_else(|| {
            PipelineError::data(format!("`{}` has no column `{name}`, the first file has it", file.display()))
        })
    };
    let places: Vec<usize> = names.iter().map(place).collect::<Result<_, _>>()?;
    let mut columns: Vec<StringBuilder> = names.iter().map(|_| StringBuilder::new()).collect();
    let (mut first, mut gathered) = (0, 0);
    let mut record = csv::StringRecord::new();
    loop {
        // A row with another number of fields than the header is refused with its line.
        let more = reader.read_record(&mut record).map_err(|error| broken(file, error))?;
        if more {
            for (column, place) in columns.iter_mut().zip(&places) {
                column.append_option(record.get(*place).map(str::trim).filter(|text| !text.is_empty()));
            }
            gathered += 1;
        }
        if gathered == BATCH || !more && gathered > 0 {
            let columns = columns.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef).collect();
            each(Rows { file, names, first, columns })?;
            first += gathered as u64;
            gathered = 0;
        }
        if !more {
            return Ok(());
        }
    }
}

fn csv_reader(file: &Path, delimiter: u8) -> Result<csv::Reader<File>, PipelineError> {
    let handle = File::open(file).map_err(|error| PipelineError::io("open", file, error))?;
    Ok(csv::ReaderBuilder::new().delimiter(delimiter).from_reader(handle))
}

fn parquet_reader(file: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>, PipelineError> {
    let handle = File::open(file).map_err(|error| PipelineError::io("open", file, error))?;
    ParquetRecordBatchReaderBuilder::try_new(handle).map_err(|error| {
        broken(file, error).with_hint("tables are Parquet, or CSV in a file that ends in .csv or .tsv")
    })
}

fn broken(file: &Path, error: impl std::error::Error + Send + Sync + 'static) -> PipelineError {
    PipelineError::data(format!("cannot read `{}`", file.display())).because(error)
}

impl Rows<'_> {
    pub fn len(&self) -> usize {
        self.columns.first().map_or(0, |column| column.len())
    }

    /// An error about one row.
    pub fn wrong(&self, row: usize, what: impl std::fmt::Display) -> PipelineError {
        PipelineError::data(format!("`{}`, row {}: {what}", self.file.display(), self.first + row as u64))
    }

    /// An error about one cell.
    pub fn wrong_in(&self, row: usize, column: usize, what: impl std::fmt::Display) -> PipelineError {
        self.wrong(row, format!("column `{}`: {what}", self.names[column]))
    }

    /// A column of numbers without nulls.
    pub fn numbers(&self, column: usize) -> Result<Float64Array, PipelineError> {
        let (name, found) = (self.names[column], self.whole(column)?);
        if is_text(found.data_type()) {
            let texts = self.ids(column)?;
            let number = |row: usize| {
                let text = texts.value(row);
                text.parse().map_err(|_| self.wrong(row, format!("column `{name}` is `{text}`, which is no number")))
            };
            return (0..texts.len()).map(number).collect::<Result<Vec<f64>, _>>().map(Float64Array::from);
        }
        if !found.data_type().is_numeric() {
            return Err(self.wrong(0, format!("column `{name}` is {}, not a number", found.data_type())));
        }
        let numbers = cast(found, &DataType::Float64)
            .map_err(|error| self.wrong(0, format!("column `{name}` is not readable as numbers")).because(error))?;
        Ok(numbers.as_primitive::<Float64Type>().clone())
    }

    /// A column of ids without nulls, as text.
    pub fn ids(&self, column: usize) -> Result<StringArray, PipelineError> {
        let (name, found) = (self.names[column], self.whole(column)?);
        let kind = found.data_type();
        if !is_text(kind) && !kind.is_integer() {
            return Err(self.wrong(0, format!("column `{name}` is {kind}, and ids are text or whole numbers")));
        }
        let texts = cast(found, &DataType::Utf8)
            .map_err(|error| self.wrong(0, format!("column `{name}` is not readable as text")).because(error))?;
        Ok(texts.as_string::<i32>().clone())
    }

    fn whole(&self, column: usize) -> Result<&ArrayRef, PipelineError> {
        let found = &self.columns[column];
        match (0..found.len()).find(|row| found.is_null(*row)) {
            Some(row) => Err(self.wrong(row, format!("column `{}` is empty", self.names[column]))),
            None => Ok(found),
        }
    }
}

fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}
