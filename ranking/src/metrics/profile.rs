//! The conventions of other tools, each as observed by running it (tests/tests/system/evaluation.rs runs them again).

use std::{fmt, num::NonZeroUsize, str::FromStr};

use serde::Serialize;

use super::{Convention, Empty, Gain, MapDenominator, Metric, Negative, Precision, PrecisionDenominator, Ties};

/// A tool whose convention can be asked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// The reference pipeline's Python, and Lockstep's own default.
    Reference,
    /// NIST's trec_eval 9, also inside pytrec_eval and ir_measures.
    TrecEval,
    LightGbm,
    XgBoost,
    /// scikit-learn's `ndcg_score` and `dcg_score`.
    Sklearn,
    Ranx,
}

impl Profile {
    pub const ALL: [Self; 6] =
        [Self::Reference, Self::TrecEval, Self::LightGbm, Self::XgBoost, Self::Sklearn, Self::Ranx];

    pub fn name(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::TrecEval => "trec_eval",
            Self::LightGbm => "lightgbm",
            Self::XgBoost => "xgboost",
            Self::Sklearn => "sklearn",
            Self::Ranx => "ranx",
        }
    }

    pub fn convention(self) -> Convention {
        let reference = Convention::default();
        match self {
            Self::Reference => reference,
            Self::TrecEval => Convention {
                gain: Gain::Linear,
                ties: Ties::DocumentDescending,
                negative: Negative::Zero,
                precision: Precision::Single,
                ..reference
            },
            Self::LightGbm => Convention {
                empty: Empty::One,
                map_denominator: MapDenominator::RelevantWithinCut,
                // Its default `label_gain` has 31 entries.
                largest_label: 30.0,
                ..reference
            },
            Self::XgBoost => Convention {
                empty: Empty::One,
                map_denominator: MapDenominator::RelevantWithinCut,
                precision_denominator: PrecisionDenominator::CutOrLength,
                uncut: NonZeroUsize::new(32),
                precision: Precision::Single,
                ..reference
            },
            Self::Sklearn => Convention { gain: Gain::Linear, ties: Ties::Averaged, ..reference },
            Self::Ranx => Convention { gain: Gain::Linear, negative: Negative::Zero, ..reference },
        }
    }

    /// Whether the tool computes this metric at all. Where it does not, its conventions are carried over.
    pub fn has(self, metric: Metric) -> bool {
        match self {
            Self::Reference => matches!(metric, Metric::Ndcg(_) | Metric::Map(None) | Metric::Mrr(None)),
            Self::TrecEval => match metric {
                Metric::Ndcg(_) | Metric::Map(_) | Metric::Precision(_) | Metric::Recall(_) => true,
                Metric::Mrr(cut) => cut.is_none(),
                Metric::Dcg(_) | Metric::Err(_) => false,
            },
            Self::LightGbm => matches!(metric, Metric::Ndcg(Some(_)) | Metric::Map(Some(_))),
            Self::XgBoost => matches!(metric, Metric::Ndcg(_) | Metric::Map(_) | Metric::Precision(_)),
            Self::Sklearn => metric.is_of_gains(),
            Self::Ranx => !matches!(metric, Metric::Err(_)),
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A word that is no profile's name.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a profile: known are reference, trec_eval, lightgbm, xgboost, sklearn and ranx")]
pub struct UnknownProfile(String);

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(text: &str) -> Result<Self, UnknownProfile> {
        Self::ALL.into_iter().find(|profile| profile.name() == text).ok_or_else(|| UnknownProfile(text.to_owned()))
    }
}
