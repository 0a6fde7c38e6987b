//! An [`AggregateReport`] as text, for 100 columns.

use std::fmt::{self, Display};

use super::{AggregateReport, Method, WhyUndecided};

/// Undecided pairs shown; all are in the file beside the result.
const SHOWN: usize = 20;

impl Display for AggregateReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pairs, raters) = (counted(self.pairs, "pair"), counted(self.raters.len(), "rater"));
        let queries = if self.queries == 1 { "query" } else { "queries" };
        let ratings = format!("{} of {pairs} of {} {queries}, by {raters}", self.ratings, self.queries);
        line(f, "ratings", &ratings)?;
        if self.skipped > 0 {
            line(f, "skipped", &format!("{} without a grade", counted(self.skipped, "line")))?;
        }
        if self.repeated > 0 {
            line(
                f,
                "repeated",
                &format!("{} of a pair by the same rater again; they count", counted(self.repeated, "rating")),
            )?;
        }
        let how = match self.method {
            Method::Majority => format!("by majority, agreement at least {}", self.min_agreement),
            Method::DawidSkene => format!("by Dawid-Skene, probability at least {}", self.min_agreement),
        };
        let enough = if self.min_raters > 1 {
            format!(", {} or more", counted(self.min_raters, "rater"))
        } else {
            String::new()
        };
        line(f, "accepted", &format!("{} of {pairs} {how}{enough}", self.accepted))?;
        if self.accepted > 0 {
            let share = |(grade, count): (usize, &usize)| {
                format!("{grade} {:.1} %", 100.0 * *count as f64 / self.accepted as f64)
            };
            line(f, "labels", &self.labels.iter().enumerate().map(share).collect::<Vec<_>>().join(", "))?;
        }
        let mut why = vec![counted(self.ties, "tie"), format!("{} under agreement", self.under_agreement)];
        if self.min_raters > 1 {
            why.push(format!("{} with too few raters", self.too_few_raters));
        }
        line(f, "undecided", &format!("{}: {}", self.undecided.len(), why.join(", ")))?;
        if self.rated_once > 0 && self.min_raters < 2 {
            line(
                f,
                "rated once",
                &format!("{}: one rater agrees with nobody but themselves", counted(self.rated_once, "pair")),
            )?;
        }
        if let Some(fit) = &self.dawid_skene {
            let end = if fit.converged { "converged after" } else { "NOT converged after" };
            line(f, "estimation", &format!("{end} {}", counted(fit.iterations, "iteration")))?;
        }
        match &self.fleiss_kappa {
            Some(kappa) => {
                let equal = if kappa.equal_raters { "" } else { ", generalised: their numbers of ratings differ" };
                let over = format!("{} with two ratings or more{equal}", counted(kappa.items, "pair"));
                line(f, "kappa", &format!("{} (Fleiss, over {over})", value(kappa.kappa)))?;
            }
            None => line(f, "kappa", "- (no pair has two ratings)")?,
        }
        let alpha = &self.krippendorff_alpha;
        let (nominal, ordinal, interval) = (value(alpha.nominal), value(alpha.ordinal), value(alpha.interval));
        line(f, "alpha", &format!("{nominal} nominal, {ordinal} ordinal, {interval} interval (Krippendorff)"))?;
        writeln!(f)?;
        self.table_of_raters(f)?;
        if !self.undecided.is_empty() {
            writeln!(f)?;
            self.table_of_undecided(f)?;
        }
        writeln!(f)?;
        write!(f, "wrote        {}\n             {}", self.out.display(), self.undecided_out.display())
    }
}

impl AggregateReport {
    fn table_of_raters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.raters.iter().map(|rater| rater.rater.chars().count()).max().unwrap_or(0).max(5);
        let estimated = if self.dawid_skene.is_some() { "  accuracy" } else { "" };
        writeln!(f, "{:<width$}  ratings   agrees    bias{estimated}", "rater")?;
        for rater in &self.raters {
            let agrees = rater.agreement.map_or_else(|| "-".into(), |share| format!("{:.1} %", 100.0 * share));
            let bias = rater.bias.map_or_else(|| "-".into(), |bias| format!("{bias:+.2}"));
            write!(f, "{:<width$}  {:>7}  {agrees:>7}  {bias:>6}", rater.rater, rater.ratings)?;
            match (self.dawid_skene.is_some(), rater.accuracy) {
                (true, Some(accuracy)) => writeln!(f, "  {:>6.1} %", 100.0 * accuracy)?,
                (true, None) => writeln!(f, "  {:>8}", "-")?,
                (false, _) => writeln!(f)?,
            }
        }
        Ok(())
    }

    fn table_of_undecided(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.undecided[..self.undecided.len().min(SHOWN)];
        let width = |of: fn(&super::Undecided) -> &str, head: usize| {
            shown.iter().map(|pair| of(pair).chars().count()).max().unwrap_or(0).max(head)
        };
        let query = width(|pair| &pair.pair.query_id, 9);
        let document = width(|pair| &pair.pair.document_id, 8);
        writeln!(f, "{:<query$}  {:<document$}  {:<15}  ratings 0/1/2/3/4", "undecided", "document", "why")?;
        for pair in shown {
            let why = match pair.why {
                WhyUndecided::Tie => "tie",
                WhyUndecided::UnderAgreement => "under agreement",
                WhyUndecided::TooFewRaters => "too few raters",
            };
            let counts: Vec<String> = pair.counts.iter().map(usize::to_string).collect();
            let (query_id, document_id) = (&pair.pair.query_id, &pair.pair.document_id);
            writeln!(f, "{query_id:<query$}  {document_id:<document$}  {why:<15}  {}", counts.join("/"))?;
        }
        match self.undecided.len() - shown.len() {
            0 => Ok(()),
            more => writeln!(f, "… and {more} more"),
        }
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, value: &str) -> fmt::Result {
    writeln!(f, "{name:<13}{value}")
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn value(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.3}"))
}
