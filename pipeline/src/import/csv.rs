//! CSV and TSV with a header row.

use std::{collections::HashMap, fs::File, path::Path};

use arrow::array::ArrayRef;
use csv::{ByteRecord, Reader, ReaderBuilder, Trim};
use dataset::layout::{DOCUMENT, LABEL, LIST, QUERY, RESERVED, WEIGHT};
use dataset::writer::{Column, IdKind, Kind, TrainingSchema};

use super::{
    CsvOptions, Delimiter, ImportReport,
    sink::{Ids, Sink, at, floats, integer, number, show},
};
use crate::PipelineError;

const SORT: &str =
    "all rows of a query must follow each other: sort the rows below the header by it (`sort -s -t, -kN,N`)";
/// Values of a chunk.
const CHUNK_VALUES: usize = 1 << 21;

/// Imports CSV. Columns keep their order; label, query, list, document and weight are written under the layout's own names.
///
/// A column whose first value is a number must hold numbers throughout: a typo does not silently cost a feature.
pub fn csv(options: &CsvOptions) -> Result<ImportReport, PipelineError> {
    let Some(first) = options.inputs.first() else { return Err(PipelineError::options("no input file was named")) };
    if let Some(fill) = options.fill.filter(|fill| !fill.is_finite()) {
        return Err(PipelineError::options(format!("empty features cannot become {fill}")));
    }
    let header = Header::read(first, options.delimiter)?;
    let mut columns = header.assign(options)?;
    let mut warnings = Vec::new();
    scan(options, &header, &mut columns, &mut warnings)?;

    let schema = TrainingSchema::new(columns.iter().filter_map(Source::column).collect()).map_err(|error| {
        PipelineError::from(error).with_hint(format!("the columns of `{}` are {}", first.display(), header.spell()))
    })?;
    let width = schema.columns().len();
    let mut sink = Sink::create(&options.output, schema, SORT)?;
    let chunk_rows = (CHUNK_VALUES / width).clamp(64, 1 << 15);
    let mut cells: Vec<Cells> = columns.iter().map(Cells::of).collect();
    let mut lines = Vec::with_capacity(chunk_rows);
    for path in &options.inputs {
        let mut rows = Rows::open(path, options.delimiter)?;
        while let Some((line, record)) = rows.next(&header)? {
            for ((cell, column), text) in cells.iter_mut().zip(&columns).zip(record) {
                cell.push(text, options.fill).map_err(|what| refused(path, line, column, what))?;
            }
            lines.push(line);
            if lines.len() == chunk_rows {
                flush(&mut sink, &mut cells, path, &mut lines)?;
            }
        }
        // A chunk's lines are of one file.
        flush(&mut sink, &mut cells, path, &mut lines)?;
    }
    sink.finish(&options.output.path, warnings)
}

fn flush(sink: &mut Sink, cells: &mut [Cells], path: &Path, lines: &mut Vec<u64>) -> Result<(), PipelineError> {
    if !lines.is_empty() {
        let columns: Vec<ArrayRef> = cells.iter_mut().filter_map(Cells::take).collect();
        sink.write(&columns, path, lines)?;
        lines.clear();
    }
    Ok(())
}

fn refused(path: &Path, line: u64, column: &Source, what: String) -> PipelineError {
    let message = format!("{}, column `{}`: {what}", at(path, line), column.name);
    let error = PipelineError::data(message);
    match column.role {
        Role::Feature => error.with_hint("fix it, or name the columns that are features"),
        _ => error,
    }
}

/// What a column of the input becomes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    List(IdKind),
    Query(IdKind),
    Document,
    Label,
    Weight,
    Feature,
    /// A feature if its first value is a number.
    Perhaps,
    Dropped,
}

struct Source {
    name: String,
    role: Role,
}

impl Source {
    fn column(&self) -> Option<Column> {
        Some(match self.role {
            Role::List(ids) => Column::list(ids),
            Role::Query(ids) => Column::query(ids),
            Role::Document => Column::document(),
            Role::Label => Column::label(),
            Role::Weight => Column::weight(),
            Role::Feature => Column::new(&self.name, Kind::Feature),
            Role::Perhaps | Role::Dropped => return None,
        })
    }
}

struct Header(Vec<String>);

impl Header {
    fn read(path: &Path, delimiter: Delimiter) -> Result<Self, PipelineError> {
        let mut reader = open(path, delimiter)?;
        let header = reader.byte_headers().map_err(|error| unreadable(path, error))?;
        let mut names = Vec::with_capacity(header.len());
        for name in header {
            let name = std::str::from_utf8(name).map_err(|_| {
                PipelineError::data(format!("{}: column name {} is not UTF-8", at(path, 1), show(name)))
            })?;
            if name.is_empty() || names.iter().any(|known| known == name) {
                let what = if name.is_empty() {
                    "a column has no name".into()
                } else {
                    format!("column `{name}` appears twice")
                };
                return Err(PipelineError::data(format!("{}: {what}", at(path, 1))));
            }
            names.push(name.to_owned());
        }
        if names.is_empty() {
            return Err(PipelineError::data(format!("`{}` has no header row", path.display())));
        }
        Ok(Self(names))
    }

    fn spell(&self) -> String {
        self.0.join(", ")
    }

    fn assign(&self, options: &CsvOptions) -> Result<Vec<Source>, PipelineError> {
        let mut roles: HashMap<&str, Role> = HashMap::new();
        let mut take = |asked: &Option<String>, default: &'static str, role: Role| -> Result<(), PipelineError> {
            let name = asked.as_deref().unwrap_or(default);
            match self.0.iter().find(|known| *known == name) {
                Some(known) => match roles.insert(known, role) {
                    Some(_) => Err(PipelineError::options(format!("column `{name}` cannot be two things at once"))),
                    None => Ok(()),
                },
                None if asked.is_some() || role == Role::Label => {
                    let error = PipelineError::options(format!("there is no column `{name}`"));
                    Err(error.with_hint(format!("the columns are {}", self.spell())))
                }
                None => Ok(()),
            }
        };
        take(&options.label, LABEL, Role::Label)?;
        take(&options.query, QUERY, Role::Query(IdKind::Int64))?;
        take(&options.list, LIST, Role::List(IdKind::Int64))?;
        take(&options.document, DOCUMENT, Role::Document)?;
        take(&options.weight, WEIGHT, Role::Weight)?;
        for name in options.features.iter().flatten() {
            let asked = Some(name.clone());
            take(&asked, "", Role::Feature)?;
        }
        let unnamed = |name: &str| match options.features {
            None if !RESERVED.contains(&name) => Role::Perhaps,
            _ => Role::Dropped,
        };
        let source = |name: &String| Source {
            role: roles.get(name.as_str()).copied().unwrap_or_else(|| unnamed(name)),
            name: name.clone(),
        };
        Ok(self.0.iter().map(source).collect())
    }
}

fn open(path: &Path, delimiter: Delimiter) -> Result<Reader<File>, PipelineError> {
    let delimiter = match delimiter {
        Delimiter::Byte(byte) => byte,
        Delimiter::Auto => match path.extension().and_then(|extension| extension.to_str()) {
            Some("tsv" | "tab") => b'\t',
            _ => b',',
        },
    };
    let file = File::open(path).map_err(|error| PipelineError::io("open", path, error))?;
    let mut builder = ReaderBuilder::new();
    Ok(builder.delimiter(delimiter).trim(Trim::All).buffer_capacity(1 << 20).flexible(true).from_reader(file))
}

fn unreadable(path: &Path, error: csv::Error) -> PipelineError {
    PipelineError::data(format!("cannot read `{}` as CSV", path.display())).because(error)
}

/// The records of one file.
struct Rows<'a> {
    path: &'a Path,
    reader: Reader<File>,
    record: ByteRecord,
}

impl<'a> Rows<'a> {
    fn open(path: &'a Path, delimiter: Delimiter) -> Result<Self, PipelineError> {
        Ok(Self { path, reader: open(path, delimiter)?, record: ByteRecord::new() })
    }

    /// The next record and the line that it starts on.
    fn next(&mut self, header: &Header) -> Result<Option<(u64, &ByteRecord)>, PipelineError> {
        if !self.reader.read_byte_record(&mut self.record).map_err(|error| unreadable(self.path, error))? {
            return Ok(None);
        }
        let line = self.record.position().map_or(0, csv::Position::line);
        let (found, wanted) = (self.record.len(), header.0.len());
        if found != wanted {
            let message = format!("{}: {found} fields, the header has {wanted}", at(self.path, line));
            return Err(PipelineError::data(message).with_hint("is the delimiter right, are texts with it quoted?"));
        }
        Ok(Some((line, &self.record)))
    }
}

/// The first pass: every value is what its column says, ids are integers if all are, and which columns are features.
fn scan(
    options: &CsvOptions,
    header: &Header,
    columns: &mut [Source],
    warnings: &mut Vec<String>,
) -> Result<(), PipelineError> {
    let mut any = false;
    for path in &options.inputs {
        if Header::read(path, options.delimiter)?.0 != header.0 {
            let (path, first) = (path.display(), options.inputs[0].display());
            return Err(PipelineError::data(format!("`{path}` has other columns than `{first}`"))
                .with_hint(format!("the first file has {}", header.spell())));
        }
        let mut rows = Rows::open(path, options.delimiter)?;
        while let Some((line, record)) = rows.next(header)? {
            any = true;
            for (column, text) in columns.iter_mut().zip(record) {
                if let Err(what) = look_at(column, text, options.fill) {
                    return Err(refused(path, line, column, what));
                }
                if column.role == Role::Perhaps && !text.is_empty() {
                    let shown = show(text);
                    column.role = if number_like(text) { Role::Feature } else { Role::Dropped };
                    if column.role == Role::Dropped {
                        warnings.push(format!("column `{}` is left out: {shown} is not a number", column.name));
                    }
                }
            }
        }
    }
    if !any {
        return Err(PipelineError::data(format!("`{}` holds no row", options.inputs[0].display())));
    }
    for column in columns.iter_mut() {
        if column.role == Role::Perhaps {
            column.role = Role::Dropped;
            warnings.push(format!("column `{}` is left out: it is empty", column.name));
        } else if column.role == Role::Dropped && RESERVED.contains(&column.name.as_str()) && options.features.is_none()
        {
            warnings.push(format!("column `{}` is left out: it is not a feature unless named as one", column.name));
        }
    }
    Ok(())
}

/// Whether a column is meant to be numbers: also where this number would be refused.
fn number_like(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| text.parse::<f32>().is_ok())
}

fn look_at(column: &mut Source, text: &[u8], fill: Option<f32>) -> Result<(), String> {
    match &mut column.role {
        Role::List(ids) | Role::Query(ids) => {
            if integer(text).is_none() {
                *ids = IdKind::Utf8;
            }
            readable(text)
        }
        Role::Document => readable(text),
        Role::Label => number(text).map(drop),
        Role::Weight => weight(text).map(drop),
        Role::Feature => feature(text, fill).map(drop),
        // Whether a missing value matters is known after the column's first one: the second pass refuses it.
        Role::Perhaps if number_like(text) => number(text).map(drop),
        Role::Perhaps | Role::Dropped => Ok(()),
    }
}

fn readable(text: &[u8]) -> Result<(), String> {
    match std::str::from_utf8(text) {
        Ok("") => Err("the id is empty".into()),
        Ok(_) => Ok(()),
        Err(_) => Err(format!("{} is not UTF-8", show(text))),
    }
}

fn weight(text: &[u8]) -> Result<f32, String> {
    match number(text)? {
        value if value < 0.0 => Err(format!("{} is below 0", show(text))),
        value => Ok(value),
    }
}

fn feature(text: &[u8], fill: Option<f32>) -> Result<f32, String> {
    match fill {
        Some(value) if text.is_empty() => Ok(value),
        None if text.is_empty() => Err("the value is missing".into()),
        _ => number(text),
    }
}

/// A column of a chunk.
enum Cells {
    Ids(Ids),
    Label(Vec<f32>),
    Weight(Vec<f32>),
    Feature(Vec<f32>),
    None,
}

impl Cells {
    fn of(column: &Source) -> Self {
        match column.role {
            Role::List(ids) | Role::Query(ids) => Self::Ids(Ids::new(ids)),
            Role::Document => Self::Ids(Ids::new(IdKind::Utf8)),
            Role::Label => Self::Label(Vec::new()),
            Role::Weight => Self::Weight(Vec::new()),
            Role::Feature => Self::Feature(Vec::new()),
            Role::Perhaps | Role::Dropped => Self::None,
        }
    }

    fn push(&mut self, text: &[u8], fill: Option<f32>) -> Result<(), String> {
        match self {
            Self::Ids(ids) => match ids.push(text) {
                true => {}
                false => return Err("the input changed while it was read".into()),
            },
            Self::Label(values) => values.push(number(text)?),
            Self::Weight(values) => values.push(weight(text)?),
            Self::Feature(values) => values.push(feature(text, fill)?),
            Self::None => {}
        }
        Ok(())
    }

    fn take(&mut self) -> Option<ArrayRef> {
        match self {
            Self::Ids(ids) => Some(ids.take()),
            Self::Label(values) | Self::Weight(values) | Self::Feature(values) => Some(floats(std::mem::take(values))),
            Self::None => None,
        }
    }
}
