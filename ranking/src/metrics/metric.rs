//! What is measured, and how it is written: `ndcg@10`.

use std::{fmt, num::NonZeroUsize, str::FromStr};

use serde::{Deserialize, Serialize};

/// A metric of a ranked list; higher is better. `Some(k)` looks at the first k ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Metric {
    /// Normalised discounted cumulative gain (Järvelin & Kekäläinen 2002), in [0, 1].
    Ndcg(Option<NonZeroUsize>),
    /// Discounted cumulative gain, from 0 upwards.
    Dcg(Option<NonZeroUsize>),
    /// Average precision; its mean over lists is MAP.
    Map(Option<NonZeroUsize>),
    /// Reciprocal rank of the first relevant document.
    Mrr(Option<NonZeroUsize>),
    /// The share of the first ranks that is relevant.
    Precision(Option<NonZeroUsize>),
    /// The share of the relevant documents that is among the first ranks.
    Recall(Option<NonZeroUsize>),
    /// Expected reciprocal rank (Chapelle, Metzler, Zhang & Grinspan 2009).
    Err(Option<NonZeroUsize>),
}

type Cut = Option<NonZeroUsize>;
type OfCut = fn(Cut) -> Metric;

/// Each metric's name, and how it is made of a cut.
const NAMES: [(&str, OfCut); 7] = [
    ("ndcg", Metric::Ndcg),
    ("dcg", Metric::Dcg),
    ("map", Metric::Map),
    ("mrr", Metric::Mrr),
    ("precision", Metric::Precision),
    ("recall", Metric::Recall),
    ("err", Metric::Err),
];

impl Metric {
    /// What a validation reports: ndcg@1, ndcg@5, ndcg@10, map, mrr.
    pub const REPORTED: [Self; 5] =
        [Self::ndcg_at(1), Self::ndcg_at(5), Self::ndcg_at(10), Self::Map(None), Self::Mrr(None)];

    const fn ndcg_at(k: usize) -> Self {
        Self::Ndcg(NonZeroUsize::new(k))
    }

    /// The name without its cut.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ndcg(_) => "ndcg",
            Self::Dcg(_) => "dcg",
            Self::Map(_) => "map",
            Self::Mrr(_) => "mrr",
            Self::Precision(_) => "precision",
            Self::Recall(_) => "recall",
            Self::Err(_) => "err",
        }
    }

    /// How many ranks it looks at; `None` is all.
    pub fn cut(self) -> Option<NonZeroUsize> {
        match self {
            Self::Ndcg(cut)
            | Self::Dcg(cut)
            | Self::Map(cut)
            | Self::Mrr(cut)
            | Self::Precision(cut)
            | Self::Recall(cut)
            | Self::Err(cut) => cut,
        }
    }

    /// Whether it is made of gains, so that the convention's gain moves it.
    pub fn is_of_gains(self) -> bool {
        matches!(self, Self::Ndcg(_) | Self::Dcg(_))
    }

    /// Whether documents are relevant to it or not, so that the convention's threshold moves it.
    pub fn is_of_relevance(self) -> bool {
        matches!(self, Self::Map(_) | Self::Mrr(_) | Self::Precision(_) | Self::Recall(_))
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cut() {
            // As one text, so that widths are kept.
            Some(k) => f.pad(&format!("{}@{k}", self.name())),
            None => f.pad(self.name()),
        }
    }
}

/// A word that is no metric's name.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is not a metric: known are ndcg, dcg, map, mrr, precision, recall and err, each also as ndcg@k with k from 1"
)]
pub struct UnknownMetric(String);

impl FromStr for Metric {
    type Err = UnknownMetric;

    fn from_str(text: &str) -> Result<Self, UnknownMetric> {
        let unknown = || UnknownMetric(text.to_owned());
        let (name, cut) = match text.split_once('@') {
            Some((name, k)) => (name, Some(k.parse().map_err(|_| unknown())?)),
            None => (text, None),
        };
        let (_, of) = NAMES.iter().find(|(known, _)| *known == name).ok_or_else(unknown)?;
        Ok(of(cut))
    }
}

impl From<Metric> for String {
    fn from(metric: Metric) -> Self {
        metric.to_string()
    }
}

impl TryFrom<String> for Metric {
    type Error = UnknownMetric;

    fn try_from(text: String) -> Result<Self, UnknownMetric> {
        text.parse()
    }
}
