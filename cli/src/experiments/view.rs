//! What a person reads of an estimate or a test.

use std::fmt::Write as _;

use pipeline::{
    abtest::{AbTestReport, MISMATCH_HINT, Unit, mixed_hint},
    counterfactual::{ActionsOptions, ClicksOptions, ClicksReport, ListWeights, Reward},
};
use ranking::{
    counterfactual::{Conclusion, Estimates, Gain, SelfNormalized, Value},
    online::{Effect, Interval, LEVEL, Reading, Verdict},
};

use crate::words::{count, counted};

pub fn clicks(report: &ClicksReport, options: &ClicksOptions) -> String {
    let ClicksReport { estimates, scored_by, .. } = report;
    let mut lines = String::new();
    let scored = estimates.samples;
    let _ = writeln!(
        lines,
        "log        {} searches{}, {} with all results scored, by {}",
        count(report.searches),
        report.window.map_or_else(String::new, |window| format!(" of {} to {}", window.from, window.to)),
        count(scored),
        scored_by.column()
    );
    for (number, what) in [
        (report.showed_nothing, "showed nothing, and were left out"),
        (report.unscored, "with no score were left out"),
        (report.partly_scored, "with scores of some results only were left out"),
        (report.repeated, "stand in the log again, and counted once"),
    ] {
        if number > 0 {
            let _ = writeln!(lines, "           {} {what}", count(number));
        }
    }
    let reward = match options.reward {
        Reward::Click => "clicks",
        Reward::Cart => "results in the cart",
        Reward::Purchase => "purchases",
    };
    let (how, unit) = match &options.weights {
        ListWeights::Examination { table, gain: Gain::Clicks } => (
            format!("looks at the new position / looks at the logged one, propensities `{}`", table.method().name()),
            format!("{reward} a search"),
        ),
        ListWeights::Examination { table, gain: Gain::Dcg } => (
            format!("gain of the new position / looks at the logged one, propensities `{}`", table.method().name()),
            "DCG of what is wanted, a search".into(),
        ),
        ListWeights::Placement => (
            "1 / logged probability of standing where the new ranker puts it, 0 elsewhere".into(),
            format!("{reward} a search"),
        ),
    };
    let _ = writeln!(lines, "weights    {how}");
    lines + &table(estimates, &unit, options.clip)
}

pub fn actions(estimates: &Estimates, options: &ActionsOptions) -> String {
    let units = options.unit.as_ref().map_or_else(|| "independent rows".into(), |unit| format!("by `{unit}`"));
    let head = format!(
        "log        {}, {units}\nweights    `{}` / `{}`\n",
        counted(estimates.samples, "action"),
        options.target,
        options.propensity
    );
    head + &table(estimates, &format!("`{}` an action", options.reward), options.clip)
}

fn table(estimates: &Estimates, unit: &str, clip: Option<f64>) -> String {
    let mut lines = String::new();
    let (weights, rewarded) = (estimates.weights, estimates.rewarded);
    let _ = write!(
        lines,
        "           largest {}, effective sample size {} of {} ({:.1} %)",
        plain(weights.largest, 2),
        count(weights.effective as u64),
        count(weights.rows),
        100.0 * weights.effective / weights.rows.max(1) as f64
    );
    if rewarded.rows != weights.rows {
        let _ = write!(lines, ", of rewarded ones {} of {}", count(rewarded.effective as u64), count(rewarded.rows));
    }
    let _ = writeln!(lines, "; one reward carries up to {:.2} %", 100.0 * rewarded.largest_share);
    if let Some(Value { value, low, high }) = estimates.mean_weight {
        let _ = writeln!(
            lines,
            "           {} on average ({} to {}), 1 is expected",
            plain(value, 4),
            plain(low, 4),
            plain(high, 4)
        );
    }
    if estimates.unsupported > 0.0 {
        let _ = writeln!(
            lines,
            "support    {:.1} % of the searches could never have been logged so",
            100.0 * estimates.unsupported
        );
    }
    let _ =
        writeln!(lines, "\n{unit:<34} {:>9}  {:>20}  {:>9}  {:>20}", "", "95 % interval", "new - old", "95 % interval");
    let mut row = |name: &str, value: Option<Value>, difference: Option<Value>| {
        let Some(Value { value, low, high }) = value else { return };
        let _ = write!(
            lines,
            "{name:<34} {:>9}  {:>20}",
            plain(value, 5),
            format!("{} to {}", plain(low, 5), plain(high, 5))
        );
        if let Some(Value { value, low, high }) = difference {
            let _ = write!(lines, "  {:>9}  {:>20}", signed(value), format!("{} to {}", signed(low), signed(high)));
        }
        lines.push('\n');
    };
    row("as logged", Some(estimates.logged), None);
    row("new, IPS", Some(estimates.ips), Some(estimates.ips_difference));
    let clipped = clip
        .map_or_else(String::new, |clip| format!("new, clipped at {clip} ({} were)", count(estimates.clipped_rows)));
    row(&clipped, estimates.clipped, estimates.clipped_difference);
    match estimates.self_normalized {
        SelfNormalized::ByWeights => row("new, SNIPS", estimates.snips, estimates.snips_difference),
        SelfNormalized::ByWanted => {
            row("as logged, a wanted result", estimates.snips_logged, None);
            row("new, a wanted result (SNIPS)", estimates.snips, estimates.snips_difference);
        }
    }
    lines.push('\n');
    lines += &conclusion(estimates);
    lines
}

fn conclusion(estimates: &Estimates) -> String {
    let by = match (estimates.self_normalized, estimates.snips) {
        (SelfNormalized::ByWeights, Some(_)) => "SNIPS",
        _ => "IPS",
    };
    let Some(conclusion) = estimates.conclusion else {
        let mut lines = "no conclusion:".to_owned();
        let mut hints: Vec<&str> = Vec::new();
        for doubt in &estimates.doubts {
            let _ = write!(lines, "\n  - {doubt}");
            if !hints.contains(&doubt.hint()) {
                hints.push(doubt.hint());
            }
        }
        for hint in hints {
            let _ = write!(lines, "\nwhat to do: {hint}");
        }
        return lines;
    };
    let Value { value, low, high } = estimates.decisive();
    let apart = format!("{} ({} to {}), by {by}", signed(value), signed(low), signed(high));
    match conclusion {
        Conclusion::Better => format!("the new ranker is better than what was logged: {apart}"),
        Conclusion::Worse => format!("the new ranker is worse than what was logged: {apart}"),
        Conclusion::NotApart => format!("the new ranker and what was logged cannot be told apart: {apart}"),
    }
}

/// With so many digits, or an exponent where the number is long.
fn plain(value: f64, digits: usize) -> String {
    if value.abs() < 1e9 || !value.is_finite() { format!("{value:.digits$}") } else { format!("{value:.3e}") }
}

/// A difference.
fn signed(value: f64) -> String {
    if value.abs() < 1e9 || !value.is_finite() { format!("{value:+.5}") } else { format!("{value:+.3e}") }
}

/// A name out of a log, without what moves a terminal.
fn shown(name: &str) -> String {
    name.chars().flat_map(|c| if c.is_control() { c.escape_debug().collect() } else { vec![c] }).collect()
}

pub fn abtest(report: &AbTestReport) -> String {
    let Reading { arms, control, ratio_check, against_control, .. } = &report.reading;
    let control = shown(control);
    let mut lines = String::new();
    let unit = match report.unit {
        Unit::User => "user",
        Unit::Session => "session",
    };
    let units = format!("{unit}s");
    let _ = writeln!(
        lines,
        "log        {} searches{}, {} of the test; arms by `{}`",
        count(report.searches),
        report.window.map_or_else(String::new, |window| format!(" of {} to {}", window.from, window.to)),
        count(report.searches - report.outside),
        report.arm_column
    );
    if report.repeated > 0 {
        let _ = writeln!(lines, "           {} stand in the log again, and counted once", count(report.repeated));
    }
    for (number, what) in [
        (report.without_user - report.left_out, "have no user: their sessions count as users".to_owned()),
        (report.left_out, format!("have no {unit}, and were left out")),
    ] {
        if number > 0 {
            let _ = writeln!(lines, "           {} searches {what}", count(number));
        }
    }
    if report.reading.users_in_several > 0 {
        let _ = writeln!(
            lines,
            "           {} saw several arms, and were left out with their {} searches",
            counted(report.reading.users_in_several, unit),
            count(report.reading.searches_in_several)
        );
    }
    if report.reading.users_also_elsewhere > 0 {
        let _ = writeln!(
            lines,
            "           {} also saw an arm that is not read, and were left out with their {} searches",
            counted(report.reading.users_also_elsewhere, unit),
            count(report.reading.searches_also_elsewhere)
        );
    }
    for metric in &report.not_logged {
        let _ = writeln!(lines, "           {} is not read: the log does not say what it counts", metric.name());
    }
    let names: Vec<String> = arms.iter().map(|arm| shown(&arm.arm)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(9);
    let all: u64 = arms.iter().map(|arm| arm.users).sum();
    let _ = writeln!(lines, "\n{:width$}  {:>12}  {:>8}  {:>8}  {:>12}", "arm", units, "share", "planned", "searches");
    for (arm, name) in arms.iter().zip(&names) {
        let _ = writeln!(
            lines,
            "{:width$}  {:>12}  {:>6.2} %  {:>6.2} %  {:>12}",
            name,
            count(arm.users),
            100.0 * arm.users as f64 / all.max(1) as f64,
            100.0 * arm.planned_share,
            count(arm.searches)
        );
    }
    let found = if ratio_check.mismatch { "MISMATCH" } else { "as planned" };
    let _ = writeln!(
        lines,
        "sample ratio: {found} (chi-square {:.2}, p = {:.2}, a mismatch is below {})",
        ratio_check.chi_square,
        Small(ratio_check.p_value),
        ranking::online::MISMATCH_BELOW
    );
    for against in against_control {
        let arm = shown(&against.arm);
        let title = format!("{arm} against {control}");
        let longest = against.effects.iter().map(|effect| effect.metric.name().len()).max().unwrap_or(0);
        let first = title.chars().count().max(longest).max(24);
        let width = control.chars().count().max(arm.chars().count()).max(10);
        let _ = writeln!(
            lines,
            "\n{title:<first$} {control:>width$}  {arm:>width$}  {:>10}  {:>22}  {:>8}  {:>20}",
            "difference", "95 % interval", "lift", "95 % interval"
        );
        against.effects.iter().for_each(|effect| lines += &line(effect, first, width));
    }
    lines.push('\n');
    for metric in &report.reading.metrics {
        let definition = metric.definition().replace("users", &units);
        let _ = writeln!(lines, "{:<24} {definition}", metric.name());
    }
    let _ = write!(lines, "\n{units} resampled {} times, seed {}; ", count(report.resamples as u64), report.seed);
    let mixed = report.reading.users_are_mixed();
    if mixed {
        let _ = write!(
            lines,
            "no conclusion: {:.1} % of the {units} saw several arms, and {:.1} % is the most; those who search much are left out first, so that those who are \
             left are others\nwhat to do: {}",
            100.0 * report.reading.share_in_several(),
            100.0 * ranking::online::MAX_IN_SEVERAL,
            mixed_hint(report.unit)
        );
    } else if ratio_check.mismatch {
        let _ = write!(
            lines,
            "no conclusion: the arms do not have the {units} that they were to have, so that something loses {units} of one arm more than of \
             another, and what is left cannot be compared\nwhat to do: {MISMATCH_HINT}"
        );
    } else {
        let chances = report.reading.metrics.len() * against_control.len();
        let _ = write!(
            lines,
            "each interval holds the truth in {:.0} % of tests by itself, and there are {chances} of them",
            100.0 * LEVEL
        );
    }
    lines
}

fn line(effect: &Effect, first: usize, width: usize) -> String {
    let interval = |interval: &Interval, scale: f64, digits: usize, sign: &str| match (interval.low, interval.high) {
        (Some(low), Some(high)) => format!("{:+.digits$} to {:+.digits$}{sign}", scale * low, scale * high),
        _ => "too rare".into(),
    };
    let verdict = match effect.verdict {
        Verdict::Higher => "  higher",
        Verdict::Lower => "  lower",
        Verdict::NotApart | Verdict::TooRare | Verdict::RatioMismatch | Verdict::UsersMixed => "",
    };
    let lift = effect.lift.map_or_else(
        || ("-".into(), "-".into()),
        |lift| (format!("{:+.2} %", 100.0 * lift.value), interval(&lift, 100.0, 2, " %")),
    );
    format!(
        "{:<first$} {:>width$.5}  {:>width$.5}  {:>+10.5}  {:>22}  {:>8}  {:>20}{verdict}\n",
        effect.metric.name(),
        effect.control,
        effect.value,
        effect.difference.value,
        interval(&effect.difference, 1.0, 5, ""),
        lift.0,
        lift.1
    )
}

/// A probability: as it is, or with an exponent where it is small.
struct Small(f64);

impl std::fmt::Display for Small {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = f.precision().unwrap_or(2);
        if self.0 == 0.0 {
            f.write_str("0")
        } else if self.0 < 0.01 {
            write!(f, "{:.digits$e}", self.0)
        } else {
            write!(f, "{:.digits$}", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_out_of_a_log_do_not_move_the_terminal_and_long_numbers_get_an_exponent() {
        assert_eq!(shown("grün \u{1b}[31mred\nline"), "grün \\u{1b}[31mred\\nline");
        assert_eq!([plain(9.618, 2), plain(5e199, 2), plain(f64::NAN, 2)], ["9.62", "5.000e199", "NaN"]);
        assert_eq!([signed(0.25), signed(-1e12)], ["+0.25000", "-1.000e12"]);
    }
}
