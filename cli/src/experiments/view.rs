//! What a person reads of an estimate or a test.

use std::fmt::Write as _;

use pipeline::{
    abtest::{AbTestReport, Unit, WithoutUser},
    counterfactual::{ActionsOptions, ClicksOptions, ClicksReport, ListWeights, Reward},
};
use ranking::{
    counterfactual::{Conclusion, Estimates, Gain, SelfNormalized, Value},
    online::{Effect, Interval, LEVEL, Metric, Reading, Verdict},
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
        "           largest {:.2}, effective sample size {} of {} ({:.1} %)",
        weights.largest,
        count(weights.effective as u64),
        count(weights.rows),
        100.0 * weights.effective / weights.rows.max(1) as f64
    );
    if rewarded.rows != weights.rows {
        let _ = write!(lines, ", of rewarded ones {} of {}", count(rewarded.effective as u64), count(rewarded.rows));
    }
    let _ = writeln!(lines, "; one reward carries up to {:.2} %", 100.0 * rewarded.largest_share);
    if let Some(Value { value, low, high }) = estimates.mean_weight {
        let _ = writeln!(lines, "           {value:.4} on average ({low:.4} to {high:.4}), 1 is expected");
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
        let _ = write!(lines, "{name:<34} {value:>9.5}  {:>20}", format!("{low:.5} to {high:.5}"));
        if let Some(Value { value, low, high }) = difference {
            let _ = write!(lines, "  {value:>+9.5}  {:>20}", format!("{low:+.5} to {high:+.5}"));
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
    let apart = format!("{value:+.5} ({low:+.5} to {high:+.5}), by {by}");
    match conclusion {
        Conclusion::Better => format!("the new ranker is better than what was logged: {apart}"),
        Conclusion::Worse => format!("the new ranker is worse than what was logged: {apart}"),
        Conclusion::NotApart => format!("the new ranker and what was logged cannot be told apart: {apart}"),
    }
}

pub fn abtest(report: &AbTestReport) -> String {
    let Reading { arms, control, ratio_check, against_control, .. } = &report.reading;
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
    if report.without_user > 0 {
        let what = match report.without_user_policy {
            WithoutUser::Session => "have no user: their sessions count as users",
            _ => "have no user, and were left out",
        };
        let _ = writeln!(lines, "           {} searches {what}", count(report.without_user));
    }
    if report.reading.users_in_several > 0 {
        let _ = writeln!(
            lines,
            "           {} saw several arms, and were left out with their {} searches",
            counted(report.reading.users_in_several, unit),
            count(report.reading.searches_in_several)
        );
    }
    let width = arms.iter().map(|arm| arm.arm.len()).max().unwrap_or(0).max(9);
    let all: u64 = arms.iter().map(|arm| arm.users).sum();
    let _ = writeln!(lines, "\n{:width$}  {:>12}  {:>8}  {:>8}  {:>12}", "arm", units, "share", "planned", "searches");
    for arm in arms {
        let _ = writeln!(
            lines,
            "{:width$}  {:>12}  {:>6.2} %  {:>6.2} %  {:>12}",
            arm.arm,
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
        let _ = writeln!(
            lines,
            "\n{:<24} {:>10}  {:>10}  {:>10}  {:>22}  {:>8}  {:>20}",
            format!("{} against {control}", against.arm),
            control,
            against.arm,
            "difference",
            "95 % interval",
            "lift",
            "95 % interval"
        );
        against.effects.iter().for_each(|effect| lines += &line(effect));
    }
    let _ = write!(lines, "\n{units} resampled {} times, seed {}; ", count(report.resamples as u64), report.seed);
    let mixed = report.reading.users_are_mixed();
    if mixed {
        let _ = write!(
            lines,
            "no conclusion: {:.1} % of the {units} saw several arms, and {:.1} % is the most; those who search much are left out first, so that those who are \
             left are others\nwhat to do: keep a {unit} in its arm; where sessions were divided between the arms, say `--unit session`",
            100.0 * report.reading.share_in_several(),
            100.0 * ranking::online::MAX_IN_SEVERAL
        );
    } else if ratio_check.mismatch {
        lines += "no conclusion: the arms do not have the users that they were to have, so that something loses users of one arm more than of \
            another, and what is left cannot be compared\nwhat to do: find where users are lost (redirects, crashes, late logging, bots), or give \
            the planned split with `--split`";
    } else {
        let chances = Metric::ALL.len() * against_control.len();
        let _ = write!(
            lines,
            "each interval holds the truth in {:.0} % of tests by itself, and there are {chances} of them",
            100.0 * LEVEL
        );
    }
    lines
}

fn line(effect: &Effect) -> String {
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
        "{:<24} {:>10.5}  {:>10.5}  {:>+10.5}  {:>22}  {:>8}  {:>20}{verdict}\n",
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
