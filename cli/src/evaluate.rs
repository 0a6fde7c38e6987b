//! `lockstep evaluate` and `lockstep compare`: arguments become the pipeline's options, its reports become lines.

use std::process::ExitCode;

use pipeline::evaluate::{
    Bootstrap, ColumnNames, CompareOptions, EvaluateOptions, EvaluateReport, PerQuery, Rankings, render,
    render_comparison,
};
use ranking::metrics::{Convention, Empty, Gain, MapDenominator, Negative, PrecisionDenominator, Ties};
use serde::Serialize;

use crate::{
    args::{
        ColumnArgs, CompareArgs, ConventionArgs, EmptyWord, EvaluateArgs, GainWord, MapDenominatorWord, ModelArgs,
        NegativeWord, PrecisionDenominatorWord, TiesWord,
    },
    errors::Fault,
    json, print, score,
};

pub fn evaluate(args: EvaluateArgs, log: &str) -> Result<ExitCode, Fault> {
    let options = EvaluateOptions {
        intervals: args.intervals.then_some(Bootstrap { resamples: args.resamples.get(), seed: args.seed }),
        per_query: args.per_query.map(|path| PerQuery { path, overwrite: args.overwrite }),
        ..options(args.convention)
    };
    if let (Some(model), Some(data)) = (args.model, args.data) {
        let model = ModelArgs { model, checkpoint: args.checkpoint, features: args.features };
        return match score::evaluate(&model, &data, &columns(args.columns), &options, log)? {
            Ok(report) => show(&report, args.json),
            Err(code) => Ok(code),
        };
    }
    let columns = columns(args.columns);
    let rankings = match (args.predictions, args.qrels, args.run) {
        (Some(path), ..) => Rankings::Predictions { path, columns },
        (None, Some(qrels), Some(run)) => Rankings::Trec { qrels, run, complete: args.complete },
        _ => {
            return Err(Fault::words("there is nothing to evaluate")
                .hint("name a file of predictions, or --qrels and --run, or --model and --data"));
        }
    };
    show(&pipeline::evaluate::evaluate(&rankings, &options)?, args.json)
}

fn show(report: &EvaluateReport, as_json: bool) -> Result<ExitCode, Fault> {
    if as_json {
        return print_json(report);
    }
    print::line(render(report));
    Ok(ExitCode::SUCCESS)
}

pub fn compare(args: CompareArgs) -> Result<ExitCode, Fault> {
    let options = CompareOptions {
        evaluate: options(args.convention),
        bootstrap: Bootstrap { resamples: args.resamples.get(), seed: args.seed },
        rounds: args.rounds.get(),
        common: args.common,
        top: args.top,
    };
    let columns = columns(args.columns);
    let rankings = |path| match &args.qrels {
        Some(qrels) => Rankings::Trec { qrels: qrels.clone(), run: path, complete: args.complete },
        None => Rankings::Predictions { path, columns: columns.clone() },
    };
    let report = pipeline::evaluate::compare(&rankings(args.a), &rankings(args.b), &options)?;
    match args.json {
        true => print_json(&report),
        false => {
            print::line(render_comparison(&report));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn options(args: ConventionArgs) -> EvaluateOptions {
    EvaluateOptions {
        convention: convention(&args),
        profile: args.profile,
        metrics: unique(args.metrics),
        ..EvaluateOptions::default()
    }
}

/// Each metric once, in the order asked for.
fn unique<T: PartialEq>(items: Vec<T>) -> Vec<T> {
    let mut kept = Vec::with_capacity(items.len());
    for item in items {
        if !kept.contains(&item) {
            kept.push(item);
        }
    }
    kept
}

/// The profile's, and what was said over it.
fn convention(args: &ConventionArgs) -> Convention {
    let of_profile = args.profile.convention();
    let gain = args.gain.map(|word| match word {
        GainWord::Exponential => Gain::Exponential,
        GainWord::Linear => Gain::Linear,
    });
    let ties = args.ties.map(|word| match word {
        TiesWord::RowOrder => Ties::RowOrder,
        TiesWord::Averaged => Ties::Averaged,
        TiesWord::DocumentDescending => Ties::DocumentDescending,
    });
    let empty = args.empty.map(|word| match word {
        EmptyWord::Zero => Empty::Zero,
        EmptyWord::One => Empty::One,
        EmptyWord::Skip => Empty::Skip,
    });
    let map_denominator = args.map_denominator.map(|word| match word {
        MapDenominatorWord::Relevant => MapDenominator::Relevant,
        MapDenominatorWord::RelevantWithinCut => MapDenominator::RelevantWithinCut,
    });
    let precision_denominator = args.precision_denominator.map(|word| match word {
        PrecisionDenominatorWord::Cut => PrecisionDenominator::Cut,
        PrecisionDenominatorWord::CutOrLength => PrecisionDenominator::CutOrLength,
    });
    let negative = args.negative.map(|word| match word {
        NegativeWord::Refused => Negative::Refused,
        NegativeWord::Zero => Negative::Zero,
    });
    Convention {
        gain: gain.unwrap_or(of_profile.gain),
        ties: ties.unwrap_or(of_profile.ties),
        empty: empty.unwrap_or(of_profile.empty),
        relevant_at: args.relevant_at.unwrap_or(of_profile.relevant_at),
        map_denominator: map_denominator.unwrap_or(of_profile.map_denominator),
        precision_denominator: precision_denominator.unwrap_or(of_profile.precision_denominator),
        negative: negative.unwrap_or(of_profile.negative),
        largest_grade: args.largest_grade.unwrap_or(of_profile.largest_grade),
        ..of_profile
    }
}

fn columns(args: ColumnArgs) -> ColumnNames {
    ColumnNames { query: args.query, label: args.label, score: args.score, document: args.document }
}

fn print_json(report: &impl Serialize) -> Result<ExitCode, Fault> {
    let value = serde_json::to_value(report)
        .map_err(|error| Fault::run("the report cannot be written as JSON").because(&error))?;
    json::print(&value);
    Ok(ExitCode::SUCCESS)
}
