//! `lockstep propensity`: arguments become the pipeline's options, tables become lines.

use std::{fmt::Write as _, process::ExitCode};

use pipeline::propensity::{EstimateOptions, EstimateReport, Estimator, estimate, interval_words, read_table};
use ranking::propensity::PropensityTable;
use serde::Serialize;

use crate::{
    args::{self, Propensity, PropensityEstimateArgs, PropensityShowArgs},
    errors::Fault,
    json, print, progress, words,
};

pub async fn carry_out(verb: Propensity) -> Result<ExitCode, Fault> {
    match verb {
        Propensity::Estimate(args) => Box::pin(estimate_from_logs(args)).await,
        Propensity::Show(args) => show(&args),
    }
}

async fn estimate_from_logs(args: PropensityEstimateArgs) -> Result<ExitCode, Fault> {
    let options = EstimateOptions {
        logs: args.lake.logs,
        from: args.lake.from,
        to: args.lake.to,
        estimator: match args.method {
            args::Estimator::Randomized => Estimator::Randomized,
            args::Estimator::Pairs => Estimator::Pairs,
            args::Estimator::Em => Estimator::Em,
        },
        positions: args.positions,
        seed: args.seed,
        replicates: args.bootstrap,
        out: args.out,
        overwrite: args.overwrite,
        ..EstimateOptions::default()
    };
    let bar = progress::bytes();
    let report = estimate(&options, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })
    .await;
    bar.finish_and_clear();
    let report = report?;
    if args.json {
        return print_json(&report);
    }
    print::line(render(&report));
    report.warnings.iter().for_each(|warning| print::note(format!("warning: {warning}")));
    Ok(ExitCode::SUCCESS)
}

fn show(args: &PropensityShowArgs) -> Result<ExitCode, Fault> {
    let table = read_table(&args.file)?;
    if args.json {
        return print_json(&table);
    }
    print::line(render_table(&table));
    Ok(ExitCode::SUCCESS)
}

fn print_json(value: &impl Serialize) -> Result<ExitCode, Fault> {
    let value = serde_json::to_value(value)
        .map_err(|error| Fault::run("the report cannot be written as JSON").because(&error))?;
    json::print(&value);
    Ok(ExitCode::SUCCESS)
}

fn render(report: &EstimateReport) -> String {
    let unit = if report.table.method() == ranking::propensity::Method::Randomized { "list" } else { "query" };
    let units = match (unit, report.units) {
        ("list", units) => format!("{} explored", words::counted(units, "list")),
        (_, 1) => "1 query with documents that moved".into(),
        (_, units) => format!("{} queries with documents that moved", words::count(units)),
    };
    format!(
        "read    {} of {}, {} clicked, from {}; {units}\n\n{}\n\nwrote   {}",
        words::counted(report.impressions, "result"),
        words::counted(report.events, "search event"),
        words::count(report.clicks),
        words::counted(report.files, "file"),
        render_table(&report.table),
        report.out.display()
    )
}

/// Where the numbers come from, then a line a position.
fn render_table(table: &PropensityTable) -> String {
    let mut lines = table.method().name().to_owned();
    if let Some(window) = table.window() {
        let _ = write!(lines, ", logs of {} to {}", window.from, window.to);
    }
    if let Some(intervals) = interval_words(table) {
        let _ = write!(lines, ", {intervals}");
    }
    let _ = write!(
        lines,
        "\n{:>8}  {:>10}  {:>14}  {:>8}  {:>14}  {:>12}",
        "position", "propensity", "interval", "weight", "impressions", "clicks"
    );
    for entry in table.positions() {
        let interval =
            entry.low.zip(entry.high).map_or_else(|| "-".into(), |(low, high)| format!("{low:.3} to {high:.3}"));
        let count = |count: Option<u64>| count.map_or_else(|| "-".into(), words::count);
        let _ = write!(
            lines,
            "\n{:>8}  {:>10.4}  {interval:>14}  {:>8.2}  {:>14}  {:>12}",
            entry.position,
            entry.propensity,
            table.weight(entry.position),
            count(entry.impressions),
            count(entry.clicks)
        );
    }
    let last = table.positions().len();
    let _ = write!(lines, "\n{:>8}  {:>10.4}", format!("> {last}"), table.past_end());
    lines
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_table_reads_well_with_and_without_intervals() {
        let text = r#"{"version": 1, "method": "pairs", "window": {"from": "2026-01-01", "to": "2026-01-31"}, "level": 0.95, "positions": [
            {"position": 1, "propensity": 1, "low": 1, "high": 1, "impressions": 1234567, "clicks": 54321},
            {"position": 2, "propensity": 0.65, "low": 0.6123, "high": 0.69}]}"#;
        let table = PropensityTable::from_json(text.as_bytes()).unwrap();
        expect![[r#"
            pairs, logs of 2026-01-01 to 2026-01-31, 95 % intervals, by a bootstrap over queries
            position  propensity        interval    weight     impressions        clicks
                   1      1.0000  1.000 to 1.000      1.00       1,234,567        54,321
                   2      0.6500  0.612 to 0.690      1.54               -             -
                 > 2      0.1000
        "#]]
        .assert_eq(&(render_table(&table) + "\n"));
    }
}
