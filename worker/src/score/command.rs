//! `lockstep-worker score`: a model's scores of a dataset, as a Parquet file or as a stream of Arrow batches on stdout.

use std::{
    io::{self, Write as _},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use arrow::{array::RecordBatch, datatypes::DataType, ipc::writer::StreamWriter};
use clap::{Args, ValueEnum};
use dataset::{
    layout,
    scorable::{Scorable, Wanted, Wish},
    whole_file::{WholeFile, check_apart},
    write_behind::WriteBehind,
};
use parquet::{
    arrow::ArrowWriter,
    basic::Encoding,
    file::{
        metadata::KeyValue,
        properties::{EnabledStatistics, WriterProperties},
    },
    schema::types::ColumnPath,
};
use proto::{checkpoint::MODEL, spec::Data};
use serde_json::json;

use super::stream::{SCORE, schema, stream};
use crate::{
    fault::Fault,
    model::load::{self, Loaded, Which},
};

/// What to score with what.
#[derive(Clone, Debug, Args)]
pub struct ScoreArgs {
    /// The folder of a checkpoint, of a run or of an MLflow model; or a file of TorchScript
    #[arg(long, value_name = "MODEL")]
    pub model: PathBuf,
    /// What a module takes that does not say so itself, in its order
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub features: Option<Vec<String>>,
    /// Which checkpoint of a run's folder
    #[arg(long, value_enum, default_value_t = WhichArg::Best)]
    pub checkpoint: WhichArg,
    /// A Parquet file or a folder of them
    #[arg(long, value_name = "PATH")]
    pub data: PathBuf,
    /// The Parquet file to write, or `-` for an Arrow stream on stdout
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Replace what is there
    #[arg(long)]
    pub overwrite: bool,
    /// Threads that score [default: one a core]
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// The column of query ids [default: the one that the model was trained with, where the data has it]
    #[arg(long, value_name = "COLUMN")]
    pub query: Option<String>,
    /// The column of what a list is [default: the run's data.group, or list_id, where the data has it]
    #[arg(long, value_name = "COLUMN")]
    pub list: Option<String>,
    /// The column of document ids [default: document_id, where the data has it]
    #[arg(long, value_name = "COLUMN")]
    pub document: Option<String>,
    /// The column of labels [default: the one that the model was trained with, where the data has it]
    #[arg(long, value_name = "COLUMN")]
    pub label: Option<String>,
}

/// [`Which`], as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WhichArg {
    Best,
    Latest,
}

impl From<WhichArg> for Which {
    fn from(which: WhichArg) -> Self {
        match which {
            WhichArg::Best => Self::Best,
            WhichArg::Latest => Self::Latest,
        }
    }
}

/// Key of a file of scores that says which model they are of.
const ABOUT: &str = "lockstep.scores";
/// Rows of a row group: it is held in memory until it is full, and what of the last one is left when the scores end is waited for.
const ROW_GROUP: usize = 1 << 17;
/// Progress is told at most this often.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Carries the verb out. Progress and the report are JSON lines on stdout, unless that holds the scores.
pub fn score(args: &ScoreArgs) -> Result<(), Fault> {
    let to_stdout = args.out.as_os_str() == "-";
    if !to_stdout {
        check_apart(&args.out, &[&args.data, &args.model])?;
    }
    // Before anything takes long.
    let whole = (!to_stdout).then(|| WholeFile::begin(&args.out, args.overwrite)).transpose()?;
    let model = load::load(&args.model, args.checkpoint.into(), args.features.as_deref())?;
    let data = Scorable::open(&args.data, wish(args, &model))?;
    let threads = args.threads.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    let (rows, began) = (data.rows(), Instant::now());
    let columns = schema(&data)?;
    match whole {
        None => to_stream(&model, data, threads)?,
        Some(whole) => {
            let names: Vec<&String> = columns.fields().iter().map(|field| field.name()).collect();
            to_parquet(&model, data, threads, &args.out, whole)?;
            tell(&json!({
                "event": "scored",
                "rows": rows,
                "seconds": began.elapsed().as_secs_f64(),
                "out": args.out,
                "columns": names,
                "model": model.path,
                "run_id": model.trained.as_ref().map(|trained| &trained.manifest.run_id),
                "run_name": model.trained.as_ref().map(|trained| &trained.manifest.run_name),
                "step": model.trained.as_ref().map(|trained| trained.manifest.step),
            }));
        }
    }
    Ok(())
}

fn wish(args: &ScoreArgs, model: &Loaded) -> Wish {
    let defaults = Data::default();
    let trained = model.trained.as_ref().map_or(&defaults, |trained| &trained.spec.data);
    Wish {
        features: model.features.clone(),
        query: Wanted::or(args.query.clone(), &trained.query),
        list: Wanted::or(args.list.clone(), trained.group.as_deref().unwrap_or(layout::LIST)),
        document: Wanted::or(args.document.clone(), layout::DOCUMENT),
        label: Wanted::or(args.label.clone(), &trained.label),
    }
}

fn to_parquet(model: &Loaded, data: Scorable, threads: usize, out: &Path, whole: WholeFile) -> Result<(), Fault> {
    let unwritable = |error: &dyn std::fmt::Display| {
        Fault::failed(format!("cannot write `{}`: {error}", out.display()), "is there space, and may you write there?")
    };
    let (schema, total) = (schema(&data)?, data.rows());
    let trained = model.trained.as_ref().map(|trained| &trained.manifest);
    let weights = trained.and_then(|manifest| manifest.files.iter().find(|file| file.name == MODEL));
    let about = json!({
        "lockstep": proto::VERSION,
        "run_id": trained.map(|manifest| &manifest.run_id),
        "run_name": trained.map(|manifest| &manifest.run_name),
        "step": trained.map(|manifest| manifest.step),
        "model": weights.map(|file| &file.blake3),
    });
    let mut properties = WriterProperties::builder()
        .set_created_by(format!("lockstep {}", proto::VERSION))
        .set_key_value_metadata(Some(vec![KeyValue::new(ABOUT.to_owned(), about.to_string())]))
        .set_encoding(Encoding::PLAIN)
        .set_dictionary_enabled(false)
        .set_max_row_group_row_count(Some(ROW_GROUP));
    // Nobody looks for a range of scores or of documents' names: the extremes of each page would be found for nothing.
    for name in [SCORE, layout::DOCUMENT] {
        let column = ColumnPath::new(vec![name.to_owned()]);
        properties = properties.set_column_statistics_enabled(column, EnabledStatistics::None);
    }
    // Text that repeats is worth a dictionary; numbers are not.
    for field in schema.fields().iter().filter(|field| !field.data_type().is_primitive()) {
        if field.data_type() != &DataType::Boolean && field.name() != layout::DOCUMENT {
            properties = properties.set_column_dictionary_enabled(ColumnPath::new(vec![field.name().clone()]), true);
        }
    }
    let file = whole.file().and_then(WriteBehind::new).map_err(|error| unwritable(&error))?;
    let mut writer =
        ArrowWriter::try_new(file, schema, Some(properties.build())).map_err(|error| unwritable(&error))?;
    let (mut done, mut told) = (0, Instant::now());
    stream(&model.network, data, threads, &mut |batch: RecordBatch| {
        writer.write(&batch).map_err(|error| unwritable(&error))?;
        done += batch.num_rows() as u64;
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            tell(&json!({ "event": "progress", "rows": done, "of": total }));
        }
        Ok(())
    })?;
    let file = writer.into_inner().map_err(|error| unwritable(&error))?;
    file.finish().map_err(|error| unwritable(&error))?;
    if done != total {
        return Err(Fault::failed(
            format!("{done} rows were scored of the {total} that the data has by its footers"),
            "was the data written anew meanwhile? Score it again",
        ));
    }
    Ok(whole.commit()?)
}

fn to_stream(model: &Loaded, data: Scorable, threads: usize) -> Result<(), Fault> {
    let gone = |error: &dyn std::fmt::Display| {
        Fault::failed(format!("the scores cannot be written to stdout: {error}"), "is what reads them still there?")
    };
    let schema = schema(&data)?;
    let stdout = io::BufWriter::with_capacity(1 << 20, io::stdout().lock());
    let mut writer = StreamWriter::try_new(stdout, &schema).map_err(|error| gone(&error))?;
    stream(&model.network, data, threads, &mut |batch| writer.write(&batch).map_err(|error| gone(&error)))?;
    writer.finish().map_err(|error| gone(&error))?;
    writer.get_mut().flush().map_err(|error| gone(&error))
}

fn tell(line: &serde_json::Value) {
    let mut stdout = io::stdout().lock();
    // Who has gone away needs no telling.
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}
