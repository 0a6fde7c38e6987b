//! Reports as text.

use std::fmt::Write as _;

use super::{Change, CompareReport, Compared, EvaluateReport, Interval, printable};
use crate::inspect::thousands;

/// A metric a line, and the convention once.
pub fn render(report: &EvaluateReport) -> String {
    let mut text = format!(
        "{}\n{} of {}",
        report.input,
        counted(report.rows, "row", "rows"),
        counted(report.queries, "query", "queries")
    );
    let without = report.queries_without_relevant;
    if without > 0 {
        let _ = write!(text, ", {} without relevant documents", thousands(without));
    }
    text += "\n\n";
    let width = report.metrics.iter().map(|metric| metric.name.to_string().len()).max().unwrap_or(0).max(6);
    let some_skipped = report.metrics.iter().any(|metric| metric.queries != report.queries);
    let heads = [
        Some(format!("{:<width$}  {:>9}", "metric", "mean")),
        report.intervals.map(|_| format!("  {:<20}", "95 % interval")),
        some_skipped.then(|| format!("  {:>10}", "queries")),
    ];
    text += heads.into_iter().flatten().collect::<String>().trim_end();
    for metric in &report.metrics {
        let mut line = format!("{:<width$}  {:>9}", metric.name, number(metric.value));
        if report.intervals.is_some() {
            let _ = write!(line, "  {:<20}", interval(metric.interval, false));
        }
        if some_skipped {
            let _ = write!(line, "  {:>10}", thousands(metric.queries));
        }
        let _ = write!(text, "\n{}", line.trim_end());
    }
    let _ = write!(
        text,
        "\n\n{}",
        wrapped(
            "convention",
            &spell_convention(report.profile.name(), report.profile_is_whole, &report.convention_words)
        )
    );
    if let Some(bootstrap) = report.intervals {
        let words = format!(
            "Poisson bootstrap over queries, {} resamples, seed {}, percentiles",
            thousands(bootstrap.resamples as u64),
            bootstrap.seed
        );
        let _ = write!(text, "\n{}", wrapped("intervals", &words));
    }
    if let Some(path) = &report.per_query {
        let _ = write!(text, "\n{}", wrapped("by query", &path.display().to_string()));
    }
    for note in &report.notes {
        let _ = write!(text, "\n{}", wrapped("note", note));
    }
    text
}

/// A metric a line, then the queries that changed most by the first of them.
pub fn render_comparison(report: &CompareReport) -> String {
    let mut text =
        format!("A  {}\nB  {}\n{} compared\n\n", report.a, report.b, counted(report.queries, "query", "queries"));
    let width = report.metrics.iter().map(|metric| metric.name.to_string().len()).max().unwrap_or(0).max(6);
    let _ = write!(
        text,
        "{:<width$}  {:>9}  {:>9}  {:>9}  {:<20}  {:>7}  better, equal, worse",
        "metric", "A", "B", "B - A", "95 % interval", "p"
    );
    for metric in &report.metrics {
        let _ = write!(
            text,
            "\n{:<width$}  {:>9}  {:>9}  {:>9}  {:<20}  {:>7}  {}, {}, {}",
            metric.name,
            number(metric.a),
            number(metric.b),
            metric.difference.map_or_else(|| "-".into(), |by| format!("{by:+.5}")),
            interval(metric.interval, true),
            metric.p.map_or_else(|| "-".into(), |p| format!("{p:.4}")),
            thousands(metric.wins),
            thousands(metric.ties),
            thousands(metric.losses)
        );
    }
    if let Some(first) = report.metrics.first() {
        text += &changes(first);
    }
    let _ = write!(
        text,
        "\n\n{}",
        wrapped(
            "convention",
            &spell_convention(report.profile.name(), report.profile_is_whole, &report.convention_words)
        )
    );
    let test = format!(
        "p: two-sided randomisation test over queries, {} rounds; intervals: Poisson bootstrap over queries, {} resamples, percentiles; seed {}",
        thousands(report.rounds as u64),
        thousands(report.bootstrap.resamples as u64),
        report.bootstrap.seed
    );
    let _ = write!(text, "\n{}", wrapped("chance", &test));
    for note in &report.notes {
        let _ = write!(text, "\n{}", wrapped("note", note));
    }
    text
}

fn changes(metric: &Compared) -> String {
    let mut text = String::new();
    let all = metric.most_gained.iter().chain(&metric.most_lost);
    let width = all.map(|change| printable(&change.query).chars().count()).max().unwrap_or(0);
    for (title, changes) in [("gained", &metric.most_gained), ("lost", &metric.most_lost)] {
        if changes.is_empty() {
            continue;
        }
        let _ = write!(text, "\n\nmost {title} in {}", metric.name);
        for change in changes {
            let Change { query, a, b } = change;
            let query = printable(query);
            let _ = write!(text, "\n  {query:<width$}  {a:.4} -> {b:.4}  {:+.4}", change.by());
        }
    }
    text
}

fn spell_convention(profile: &str, whole: bool, words: &str) -> String {
    if whole { format!("{profile}: {words}") } else { format!("{profile}, changed: {words}") }
}

fn number(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(value) if value.abs() >= 1000.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.5}"),
    }
}

fn interval(interval: Option<Interval>, signed: bool) -> String {
    match interval {
        None => "-".into(),
        Some(Interval { low, high }) if signed => format!("{low:+.5} to {high:+.5}"),
        Some(Interval { low, high }) => format!("{low:.5} to {high:.5}"),
    }
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", thousands(count), if count == 1 { one } else { many })
}

/// A name and words behind it, over as many lines as 100 columns need.
fn wrapped(name: &str, words: &str) -> String {
    let mut text = format!("{name:<12}");
    let mut column = 12;
    for word in words.split(' ') {
        let length = word.chars().count();
        if column > 12 && column + 1 + length > 100 {
            let _ = write!(text, "\n{:12}", "");
            column = 12;
        } else if column > 12 {
            text.push(' ');
            column += 1;
        }
        text += word;
        column += length;
    }
    text
}
