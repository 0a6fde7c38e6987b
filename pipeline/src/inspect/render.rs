//! An [`InspectReport`] as text, for 100 columns.

use std::fmt::{self, Display, Write};

use super::{FeatureReport, InspectReport};
use crate::tally::spell_labels;

/// Features shown unless all were asked for.
const SHOWN: usize = 20;
const WIDTH: usize = 100;

/// What a person reads. Rows count from 0.
pub fn render(report: &InspectReport) -> String {
    report.to_string()
}

impl Display for InspectReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layout = &self.layout;
        let files = layout.files.len();
        writeln!(f, "{}", self.path.display())?;
        writeln!(f)?;
        let marked = if layout.lockstep { ", written by lockstep" } else { "" };
        line(f, "files", &format!("{} of {}{marked}", files, bytes(layout.bytes)))?;
        line(f, "rows", &thousands(self.rows))?;
        let queries = match self.queries {
            Some(queries) if queries != self.lists => format!(", {} queries", thousands(queries)),
            _ => String::new(),
        };
        line(f, "lists", &format!("{} by `{}`{queries}", thousands(self.lists), self.group))?;
        let lengths = &self.list_length;
        let (min, median, max) = (thousands(lengths.min), thousands(lengths.median), thousands(lengths.max));
        line(f, "list length", &format!("{min} to {max}, median {median}, mean {:.1}", lengths.mean))?;
        line(f, "labels", &spell_labels(&self.labels))?;
        let (least, most) = layout.row_group_rows;
        let groups = match layout.row_groups {
            1 => format!("1 of {} rows", thousands(most)),
            groups if least == most => format!("{} of {} rows each", thousands(groups), thousands(most)),
            groups => format!("{} of {} to {} rows", thousands(groups), thousands(least), thousands(most)),
        };
        line(f, "row groups", &groups)?;
        let index = if layout.offset_index { "with" } else { "without" };
        let stored = format!(
            "{}, {}, {}, {index} page index",
            layout.features,
            layout.encodings.join(" + ").to_lowercase(),
            layout.compressions.join(" + ").to_lowercase()
        );
        line(f, "features", &format!("{} ({stored})", thousands(self.features.len() as u64)))?;
        let columns: Vec<String> =
            self.columns.iter().map(|column| format!("{} {} ({})", column.role, column.name, column.kind)).collect();
        line(f, "columns", &columns.join(", "))?;

        writeln!(f)?;
        table(f, &self.features, self.all_features)?;
        writeln!(f)?;
        if self.odd.is_empty() {
            return write!(f, "nothing is odd");
        }
        write!(f, "what is odd (rows count from 0)")?;
        for sentence in &self.odd {
            write!(f, "\n  - {}", wrap(sentence, 4))?;
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, value: &str) -> fmt::Result {
    writeln!(f, "{name:<13}{}", wrap(value, 13))
}

fn table(f: &mut fmt::Formatter<'_>, features: &[FeatureReport], all: bool) -> fmt::Result {
    let shown = if all { features } else { &features[..features.len().min(SHOWN)] };
    let name_width = shown.iter().map(|feature| feature.name.chars().count()).max().unwrap_or(0).clamp(7, 28);
    let faulty = shown.iter().any(|feature| feature.nulls > 0 || feature.nonfinite > 0);
    write!(f, "{:<name_width$}", "feature")?;
    for head in ["min", "mean", "std", "max", "zeros"] {
        write!(f, "{head:>11}")?;
    }
    writeln!(f, "{}", if faulty { format!("{:>8}{:>8}", "nulls", "nan/inf") } else { String::new() })?;
    for feature in shown {
        write!(f, "{:<name_width$}", shorten(&feature.name, name_width))?;
        for value in [feature.min, feature.mean, feature.std, feature.max] {
            write!(f, "{:>11}", number(value))?;
        }
        write!(f, "{:>11}", short_count(feature.zeros))?;
        let faults = |count| if count == 0 { "-".to_owned() } else { short_count(count) };
        let faults = (faults(feature.nulls), faults(feature.nonfinite));
        writeln!(f, "{}", if faulty { format!("{:>8}{:>8}", faults.0, faults.1) } else { String::new() })?;
    }
    match features.len() - shown.len() {
        0 => Ok(()),
        more => writeln!(f, "… and {more} more"),
    }
}

/// Breaks a text where a line would pass the width; further lines begin with `indent` blanks.
fn wrap(text: &str, indent: usize) -> String {
    let mut wrapped = String::with_capacity(text.len());
    let mut column = indent;
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > indent && column + 1 + length > WIDTH {
            // Writing to a String cannot fail.
            let _ = write!(wrapped, "\n{:indent$}", "");
            column = indent;
        } else if column > indent {
            wrapped.push(' ');
            column += 1;
        }
        wrapped.push_str(word);
        column += length;
    }
    wrapped
}

fn shorten(name: &str, width: usize) -> String {
    if name.chars().count() <= width {
        return name.to_owned();
    }
    let mut short: String = name.chars().take(width - 1).collect();
    short.push('…');
    short
}

/// Four significant digits, at most 10 characters.
fn number(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 || !value.is_finite() {
        format!("{value}").to_lowercase()
    } else if !(1e-3..1e6).contains(&size) {
        format!("{value:.2e}")
    } else {
        let whole_digits = size.log10().floor().max(0.0) as usize + 1;
        format!("{value:.*}", 4usize.saturating_sub(whole_digits))
    }
}

fn short_count(count: u64) -> String {
    match count {
        0..1_000_000 => count.to_string(),
        1_000_000..1_000_000_000 => format!("{:.2} M", count as f64 / 1e6),
        _ => format!("{:.2} G", count as f64 / 1e9),
    }
}

/// 1,234,567
pub(crate) fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut spelled = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            spelled.push(',');
        }
        spelled.push(digit);
    }
    spelled
}

fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = count as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < units.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{size:.1} {}", units[unit]) }
}
