//! SVMrank and LibSVM rows: `label [qid:N] id:value … [# comment]`, sparse, ids in any order.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use dataset::writer::{Column, IdKind, TrainingSchema};

use super::{
    Base, ImportReport, SvmrankOptions,
    sink::{Ids, Sink, at, floats, integer, number, show},
};
use crate::PipelineError;

/// More features than this are a typo, or no data for a dense model.
const MAX_FEATURES: u64 = 32_768;
const SORT: &str = "all rows of a query must follow each other: sort the rows by it (`sort -s -k2,2`)";
/// Values of a chunk.
const CHUNK_VALUES: usize = 1 << 21;

/// Imports SVMrank rows as `query_id`, `label` and the features `f1`, `f2`, … (`f0`, … where ids count from 0).
///
/// A feature that a row does not name is 0; one that it names twice is refused, for no reader agrees which of the two counts.
/// Without `qid`, queries come from a file of document counts and are numbered from 1 on through all inputs.
pub fn svmrank(options: &SvmrankOptions) -> Result<ImportReport, PipelineError> {
    if options.inputs.is_empty() {
        return Err(PipelineError::options("no input file was named"));
    }
    if !options.counts.is_empty() && options.counts.len() != options.inputs.len() {
        let (inputs, counts) = (options.inputs.len(), options.counts.len());
        let message = format!("{counts} files of counts for {inputs} input files");
        return Err(PipelineError::options(message).with_hint("name one for each input, in the same order"));
    }
    let scan = Scan::over(options)?;
    let mut warnings = Vec::new();
    let queries = scan.queries(options, &mut warnings)?;
    let base = match options.base {
        Base::Zero => 0,
        Base::One => 1,
        Base::Auto if scan.least == Some(0) => 0,
        Base::Auto => 1,
    };
    let width = scan.width(options, base)?;

    let ids = if matches!(queries, Queries::Named) && !scan.integers { IdKind::Utf8 } else { IdKind::Int64 };
    let mut columns = vec![Column::query(ids), Column::label()];
    columns.extend((base..base + width as u64).map(|id| Column::feature(format!("f{id}"))));
    let mut sink = Sink::create(&options.output, TrainingSchema::new(columns)?, SORT)?;
    let mut chunk = Chunk::new(ids, width);
    let mut query = 0;
    for (index, path) in options.inputs.iter().enumerate() {
        let mut counts = match &queries {
            Queries::Named => None,
            Queries::Counted(counts) => Some(counts[index].iter().copied()),
        };
        let mut left = 0;
        let mut lines = Lines::open(path)?;
        while let Some((line, text)) = lines.next()? {
            if let Some(counts) = &mut counts {
                while left == 0 {
                    left = counts.next().ok_or_else(|| changed(path, line))?;
                    query += 1;
                }
                left -= 1;
            }
            let row = chunk.begin_row(line);
            let parsed = parse(text, |id, value, _| {
                let feature = id.checked_sub(base).and_then(|at| chunk.features.get_mut(at as usize));
                feature.map(|column| column[row] = value).ok_or_else(|| format!("feature {id} is out of range"))
            });
            let Some(parsed) = parsed.map_err(|what| refused(path, line, what))? else {
                return Err(changed(path, line));
            };
            chunk.labels.push(parsed.label);
            match parsed.query {
                Some(name) if counts.is_none() => {
                    if !chunk.ids.push(name) {
                        return Err(changed(path, line));
                    }
                }
                _ => chunk.ids.push_number(query),
            }
            if chunk.is_full() {
                chunk.flush(&mut sink, path)?;
            }
        }
        // A chunk's lines are of one file.
        chunk.flush(&mut sink, path)?;
    }
    sink.finish(&options.output.path, warnings)
}

fn refused(path: &Path, line: u64, what: String) -> PipelineError {
    PipelineError::data(format!("{}: {what}", at(path, line)))
}

fn changed(path: &Path, line: u64) -> PipelineError {
    refused(path, line, "the input changed while it was read".into())
}

/// Lines that hold a row.
struct Lines<'a> {
    path: &'a Path,
    reader: BufReader<File>,
    line: u64,
    text: Vec<u8>,
}

impl<'a> Lines<'a> {
    fn open(path: &'a Path) -> Result<Self, PipelineError> {
        let file = File::open(path).map_err(|error| PipelineError::io("open", path, error))?;
        Ok(Self { path, reader: BufReader::with_capacity(1 << 20, file), line: 0, text: Vec::new() })
    }

    /// The next line that is neither blank nor a comment only, without its comment.
    fn next(&mut self) -> Result<Option<(u64, &[u8])>, PipelineError> {
        loop {
            self.text.clear();
            let read = self.reader.read_until(b'\n', &mut self.text);
            if read.map_err(|error| PipelineError::io("read", self.path, error))? == 0 {
                return Ok(None);
            }
            self.line += 1;
            let end = self.text.iter().position(|&byte| byte == b'#').unwrap_or(self.text.len());
            self.text.truncate(end);
            if !self.text.trim_ascii().is_empty() {
                return Ok(Some((self.line, &self.text)));
            }
        }
    }
}

struct Parsed<'a> {
    label: f32,
    query: Option<&'a [u8]>,
}

/// One row; `feature` is told each id, value and their text. `None` for a blank line.
fn parse<'a>(
    line: &'a [u8],
    mut feature: impl FnMut(u64, f32, &'a [u8]) -> Result<(), String>,
) -> Result<Option<Parsed<'a>>, String> {
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let Some(label) = words.next() else { return Ok(None) };
    let label = number(label).map_err(|what| format!("label {what}"))?;
    let mut query = None;
    for word in words {
        let Some(colon) = word.iter().position(|&byte| byte == b':') else {
            return Err(format!("{} is not `id:value`", show(word)));
        };
        let (id, value) = (&word[..colon], &word[colon + 1..]);
        if id == b"qid" {
            if value.is_empty() || query.replace(value).is_some() {
                return Err(format!("{} is empty, or the second of its row", show(word)));
            }
            continue;
        }
        let number_of = std::str::from_utf8(id).ok().and_then(|id| id.parse::<u64>().ok());
        let Some(id) = number_of else {
            return Err(format!("{}: {} is not a feature number", show(word), show(id)));
        };
        feature(id, number(value).map_err(|what| format!("feature {id}: {what}"))?, word)?;
    }
    Ok(Some(Parsed { label, query }))
}

/// What the first pass found.
struct Scan {
    rows: Vec<u64>,
    least: Option<u64>,
    /// The largest id, and where it stands first.
    most: Option<(u64, PathBuf, u64)>,
    named: bool,
    /// Every qid is an integer.
    integers: bool,
}

enum Queries {
    /// By `qid`.
    Named,
    /// Documents of each query, by input.
    Counted(Vec<Vec<u64>>),
}

impl Scan {
    fn over(options: &SvmrankOptions) -> Result<Self, PipelineError> {
        let mut scan = Self { rows: Vec::new(), least: None, most: None, named: false, integers: true };
        let mut first = true;
        // The row that named a feature last: finds repeated ones without clearing anything between rows.
        let mut last_row: Vec<u64> = Vec::new();
        let mut all_rows = 0u64;
        for path in &options.inputs {
            let mut rows = 0;
            let mut lines = Lines::open(path)?;
            while let Some((line, text)) = lines.next()? {
                all_rows += 1;
                let (mut least, mut most) = (u64::MAX, 0);
                let parsed = parse(text, |id, _, _| {
                    if id > MAX_FEATURES {
                        return Err(format!("feature {id} is past {MAX_FEATURES}, the largest that is taken"));
                    }
                    if last_row.len() <= id as usize {
                        last_row.resize(id as usize + 1, 0);
                    }
                    if std::mem::replace(&mut last_row[id as usize], all_rows) == all_rows {
                        return Err(format!("feature {id} appears twice"));
                    }
                    (least, most) = (least.min(id), most.max(id));
                    Ok(())
                });
                let Some(parsed) = parsed.map_err(|what| refused(path, line, what))? else { continue };
                if least == 0 && options.base == Base::One {
                    let error = refused(path, line, "feature 0, where features count from 1".into());
                    return Err(error.with_hint("say --base 0 if they count from 0"));
                }
                if least <= most {
                    scan.least = Some(scan.least.map_or(least, |known| known.min(least)));
                    if scan.most.as_ref().is_none_or(|(known, ..)| most > *known) {
                        scan.most = Some((most, path.clone(), line));
                    }
                }
                if std::mem::take(&mut first) {
                    scan.named = parsed.query.is_some();
                } else if scan.named != parsed.query.is_some() {
                    let what = if scan.named {
                        "no qid, the rows before have one"
                    } else {
                        "a qid, the rows before have none"
                    };
                    return Err(refused(path, line, what.into()));
                }
                if let Some(name) = parsed.query {
                    scan.integers &= integer(name).is_some();
                    if std::str::from_utf8(name).is_err() {
                        return Err(refused(path, line, format!("qid {} is not UTF-8", show(name))));
                    }
                }
                rows += 1;
            }
            if rows == 0 {
                return Err(PipelineError::data(format!("`{}` holds no row", path.display())));
            }
            scan.rows.push(rows);
        }
        Ok(scan)
    }

    /// How many features; refuses ids past what was asked for.
    fn width(&self, options: &SvmrankOptions, base: u64) -> Result<usize, PipelineError> {
        let Some((most, path, line)) = &self.most else {
            return Err(PipelineError::data("no row names a feature"));
        };
        let found = (most + 1 - base) as usize;
        match options.features {
            Some(asked) if asked < found => {
                let what = format!("feature {most}, of {asked} that count from {base}");
                Err(refused(path, *line, what).with_hint(format!("say --features {found}, or leave it away")))
            }
            Some(asked) if asked as u64 > MAX_FEATURES => Err(PipelineError::options(format!(
                "{asked} features were asked for, at most {MAX_FEATURES} are taken"
            ))),
            Some(asked) => Ok(asked),
            None => Ok(found),
        }
    }

    /// Where queries come from, with counts checked against the rows.
    fn queries(&self, options: &SvmrankOptions, warnings: &mut Vec<String>) -> Result<Queries, PipelineError> {
        if self.named {
            if let Some(counts) = options.counts.first() {
                let message = format!("rows have a qid, and `{}` counts them too", counts.display());
                return Err(PipelineError::options(message).with_hint("leave the counts away, or remove the qids"));
            }
            for counts in options.inputs.iter().filter_map(|input| beside(input)) {
                warnings.push(format!("`{}` was not read: the rows have a qid", counts.display()));
            }
            return Ok(Queries::Named);
        }
        let mut counted = Vec::with_capacity(options.inputs.len());
        for (index, input) in options.inputs.iter().enumerate() {
            let path = options.counts.get(index).cloned().or_else(|| beside(input)).ok_or_else(|| {
                PipelineError::data(format!(
                    "the rows of `{0}` have no qid, and there is no `{0}.query`",
                    input.display()
                ))
                .with_hint("name the file that holds one document count a query")
            })?;
            let counts = read_counts(&path)?;
            let (sum, rows) = (counts.iter().sum::<u64>(), self.rows[index]);
            if sum != rows {
                let (path, input) = (path.display(), input.display());
                let message = format!("the counts in `{path}` add up to {sum}, `{input}` has {rows} rows");
                return Err(PipelineError::data(message).with_hint("the two files must be of the same data"));
            }
            counted.push(counts);
        }
        Ok(Queries::Counted(counted))
    }
}

/// `<input>.query` or `<input>.group`.
fn beside(input: &Path) -> Option<PathBuf> {
    ["query", "group"].into_iter().find_map(|extension| {
        let mut name = input.as_os_str().to_owned();
        name.push(".");
        name.push(extension);
        let path = PathBuf::from(name);
        path.is_file().then_some(path)
    })
}

fn read_counts(path: &Path) -> Result<Vec<u64>, PipelineError> {
    let mut counts = Vec::new();
    let mut lines = Lines::open(path)?;
    while let Some((line, text)) = lines.next()? {
        let text = text.trim_ascii();
        let count = std::str::from_utf8(text).ok().and_then(|text| text.parse::<u32>().ok());
        counts.push(u64::from(count.ok_or_else(|| refused(path, line, format!("{} is not a count", show(text))))?));
    }
    Ok(counts)
}

/// Dense rows on their way to the writer.
struct Chunk {
    rows: usize,
    ids: Ids,
    labels: Vec<f32>,
    features: Vec<Vec<f32>>,
    lines: Vec<u64>,
}

impl Chunk {
    fn new(ids: IdKind, width: usize) -> Self {
        let rows = (CHUNK_VALUES / width).clamp(64, 1 << 15);
        let features = vec![vec![0.0; rows]; width];
        Self { rows, ids: Ids::new(ids), labels: Vec::new(), features, lines: Vec::new() }
    }

    /// The index of a new row, all features of it 0.
    fn begin_row(&mut self, line: u64) -> usize {
        self.lines.push(line);
        self.lines.len() - 1
    }

    fn is_full(&self) -> bool {
        self.lines.len() == self.rows
    }

    fn flush(&mut self, sink: &mut Sink, path: &Path) -> Result<(), PipelineError> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let mut columns = vec![self.ids.take(), floats(std::mem::take(&mut self.labels))];
        for feature in &mut self.features {
            let mut values = std::mem::replace(feature, vec![0.0; self.rows]);
            values.truncate(self.lines.len());
            columns.push(floats(values));
        }
        sink.write(&columns, path, &self.lines)?;
        self.lines.clear();
        Ok(())
    }
}
