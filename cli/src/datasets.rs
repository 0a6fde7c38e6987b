//! The verbs that make and look at datasets: arguments become the pipeline's options, its reports become lines.

use std::{fmt::Display, process::ExitCode};

use bytesize::ByteSize;
use pipeline::{
    Output, Written,
    generate::{GenerateOptions, LabelKind},
    import::{self, CsvOptions, Delimiter, SvmrankOptions},
    inspect::InspectOptions,
    split::{Parts, SplitOptions},
};
use serde::Serialize;

use crate::{
    args::{self, GenerateArgs, Import, InspectArgs, Labels, OutputArgs, SplitArgs},
    errors::Fault,
    json, print, progress, words,
};

pub fn import(import: Import) -> Result<ExitCode, Fault> {
    let (report, as_json) = match import {
        Import::Svmrank(args) => {
            let options = SvmrankOptions {
                inputs: args.inputs,
                counts: args.counts,
                base: match args.base {
                    args::Base::Auto => import::Base::Auto,
                    args::Base::Zero => import::Base::Zero,
                    args::Base::One => import::Base::One,
                },
                features: args.features,
                output: output(&args.output),
            };
            (import::svmrank(&options)?, args.output.json)
        }
        Import::Csv(args) => {
            let options = CsvOptions {
                inputs: args.inputs,
                delimiter: args.delimiter.map_or(Delimiter::Auto, Delimiter::Byte),
                label: args.label,
                query: args.query,
                list: args.list,
                document: args.document,
                weight: args.weight,
                features: args.features,
                fill: args.fill,
                output: output(&args.output),
            };
            (import::csv(&options)?, args.output.json)
        }
    };
    report_as(as_json, &report, &report)
}

pub fn generate(args: GenerateArgs) -> Result<ExitCode, Fault> {
    let options = GenerateOptions {
        queries: args.queries,
        documents: args.documents,
        features: args.features,
        seed: args.seed,
        noise: args.noise,
        weights: args.weights,
        labels: match args.labels {
            Labels::Graded => LabelKind::Graded,
            Labels::Binary => LabelKind::Binary,
        },
        truth: args.truth,
        list_id: args.list_id,
        corpus: args.corpus,
        output: output(&args.output),
    };
    let bar = progress::counted("rows");
    let report = pipeline::generate::generate(&options, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let report = report?;
    let lines = format!(
        "{} rows, {} queries, {} features\n{}",
        words::count(report.rows),
        words::count(report.queries),
        report.features.len(),
        wrote(&report.written)
    );
    report_as(args.output.json, &report, &lines)
}

pub fn split(args: SplitArgs) -> Result<ExitCode, Fault> {
    let options = SplitOptions {
        parts: args.parts.parse::<Parts>()?,
        output: output(&args.output),
        input: args.input,
        seed: args.seed,
        query: args.query,
        label: args.label,
    };
    let report = pipeline::split::split(&options)?;
    let mut lines = format!("{} rows, {} queries", words::count(report.rows), words::count(report.queries));
    let width = report.parts.iter().map(|part| part.name.len()).max().unwrap_or(0);
    for part in &report.parts {
        lines += &format!(
            "\n{:width$}  {:>12} queries  {:>14} rows  {}",
            part.name,
            words::count(part.queries),
            words::count(part.written.rows),
            part.written.path.display()
        );
    }
    report_as(args.output.json, &report, &lines)
}

pub fn inspect(args: InspectArgs) -> Result<ExitCode, Fault> {
    let options =
        InspectOptions { label: args.label, query: args.query, group: args.group, all_features: args.all_features };
    let report = pipeline::inspect::inspect(&args.data, &options)?;
    let lines = pipeline::inspect::render(&report);
    report_as(args.json, &report, &lines.trim_end())
}

pub fn output(args: &OutputArgs) -> Output {
    let default = Output::default();
    Output {
        path: args.out.clone(),
        overwrite: args.overwrite,
        layout: args.layout.map(|layout| match layout {
            args::Layout::Wide => pipeline::Layout::Wide,
            args::Layout::Vector => pipeline::Layout::Vector,
        }),
        compression: match args.compression {
            args::Compression::None => pipeline::Compression::None,
            args::Compression::Zstd => pipeline::Compression::Zstd,
        },
        rows_per_file: args.rows_per_file.unwrap_or(default.rows_per_file),
    }
}

pub fn report_as(as_json: bool, report: &impl Serialize, lines: &impl Display) -> Result<ExitCode, Fault> {
    if as_json {
        let value = serde_json::to_value(report)
            .map_err(|error| Fault::run("the report cannot be written as JSON").because(&error))?;
        json::print(&value);
    } else {
        print::line(lines);
    }
    Ok(ExitCode::SUCCESS)
}

fn wrote(written: &Written) -> String {
    let files = words::counted(written.files as u64, "file");
    format!("wrote   {} ({files}, {})", written.path.display(), ByteSize(written.bytes))
}
