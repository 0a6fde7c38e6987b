//! Everything that moves a metric's value besides labels and scores, and its words.

use std::num::NonZeroUsize;

use serde::Serialize;

use super::Metric;

/// How a value is computed. Every field changes some value of some metric; [`words`](Self::words) says all that changed this one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Convention {
    /// What a label is worth to ndcg and dcg.
    pub gain: Gain,
    pub ties: Ties,
    /// What a list without relevant documents counts in ndcg, map, mrr and recall, which have no answer for it. To precision, dcg
    /// and err it is 0 whatever this says, unless such lists are skipped, which holds for every metric.
    pub empty: Empty,
    /// The smallest label that is relevant to map, mrr, precision and recall.
    pub relevant_at: f32,
    pub map_denominator: MapDenominator,
    pub precision_denominator: PrecisionDenominator,
    /// How many ranks a metric without `@k` looks at; `None` is all.
    pub uncut: Option<NonZeroUsize>,
    pub negative: Negative,
    /// The greatest label that an exponential gain takes; a linear one takes [`LINEAR_LIMIT`](Self::LINEAR_LIMIT).
    pub largest_label: f32,
    /// The grade that err takes for perfect: a document of grade g satisfies with probability (2^g - 1) / 2^largest_grade.
    pub largest_grade: u8,
    pub precision: Precision,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Gain {
    /// `2^label - 1` (Burges et al. 2005).
    Exponential,
    /// The label itself (Järvelin & Kekäläinen 2002).
    Linear,
}

/// In which order documents of equal score stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ties {
    /// As their rows do.
    RowOrder,
    /// In every order at once: the value is the mean over all of them (for dcg and ndcg: McSherry & Najork 2008).
    Averaged,
    /// By document id, the greater first (bytewise). An [`Evaluator`](super::Evaluator) does not see ids: whoever calls it hands over
    /// the rows of a list in this order.
    DocumentDescending,
}

/// What a list without relevant documents counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Empty {
    Zero,
    One,
    /// Nothing: the mean is over the other lists.
    Skip,
}

/// What average precision divides the sum of precisions by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MapDenominator {
    /// All relevant documents of the list, shown or not.
    Relevant,
    /// All relevant documents, but at most as many as the cut has ranks.
    RelevantWithinCut,
}

/// What precision@k divides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PrecisionDenominator {
    /// k, also where the list is shorter.
    Cut,
    /// k, or the list's length where that is less.
    CutOrLength,
}

/// What a label below 0 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Negative {
    /// A fault of the data.
    Refused,
    /// Not relevant, as 0 is (TREC's mark of spam and the like).
    Zero,
}

/// In which precision scores are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    AsGiven,
    /// Rounded to f32 first: what then is equal, is a tie.
    Single,
}

/// The labels that a convention has values for, ends included; a label must also be finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LabelRange {
    pub least: f32,
    pub most: f32,
    /// Whose limit `most` is.
    pub why: &'static str,
}

impl LabelRange {
    #[inline]
    pub fn contains(&self, label: f32) -> bool {
        // NaN is in no range.
        (self.least..=self.most).contains(&label)
    }
}

impl Default for Convention {
    fn default() -> Self {
        Self {
            gain: Gain::Exponential,
            ties: Ties::RowOrder,
            empty: Empty::Zero,
            relevant_at: 1.0,
            map_denominator: MapDenominator::Relevant,
            precision_denominator: PrecisionDenominator::Cut,
            uncut: None,
            negative: Negative::Refused,
            largest_label: Self::EXPONENT_LIMIT,
            largest_grade: 4,
            precision: Precision::AsGiven,
        }
    }
}

impl Convention {
    /// Beyond it an exponential gain drowns all others in rounding; what the other tools take, too.
    pub const EXPONENT_LIMIT: f32 = 31.0;

    /// 2^31, as an exponential gain's largest: sums of larger ones would not be exact.
    pub const LINEAR_LIMIT: f32 = (1u32 << 31) as f32;

    /// The labels that these metrics have values for.
    pub fn labels(&self, metrics: &[Metric]) -> LabelRange {
        let least = match self.negative {
            Negative::Refused => 0.0,
            Negative::Zero => f32::MIN,
        };
        let mut range = LabelRange { least, most: f32::MAX, why: "a number" };
        if metrics.iter().any(|metric| metric.is_of_gains()) {
            (range.most, range.why) = match self.gain {
                Gain::Exponential => (self.largest_label, "the exponential gain's largest label"),
                Gain::Linear => (Self::LINEAR_LIMIT, "the linear gain's largest label"),
            };
        }
        let grade = f32::from(self.largest_grade);
        if metrics.iter().any(|metric| matches!(metric, Metric::Err(_))) && grade < range.most {
            (range.most, range.why) = (grade, "err's largest grade");
        }
        range
    }

    /// What `metric` looks at under this convention: its own cut, else the convention's.
    pub fn cut(&self, metric: Metric) -> Option<NonZeroUsize> {
        metric.cut().or(self.uncut)
    }

    /// The convention as far as it moves this metric, to stand beside its value.
    pub fn words(&self, metric: Metric) -> String {
        let mut words = match metric {
            Metric::Ndcg(_) | Metric::Dcg(_) => vec![self.gain_words(), DISCOUNT.to_owned()],
            Metric::Map(_) => vec![self.relevance_words(), self.map_words().to_owned()],
            Metric::Mrr(_) | Metric::Recall(_) => vec![self.relevance_words()],
            Metric::Precision(_) => vec![self.relevance_words(), self.precision_words().to_owned()],
            Metric::Err(_) => vec![self.grade_words()],
        };
        words.extend(metric.cut().is_none().then(|| self.uncut_words()).flatten());
        words.push(self.tie_words().to_owned());
        words.extend(self.empty_words(&[metric]));
        words.join(", ")
    }

    /// The convention as far as it moves any of these metrics, in one sentence.
    pub fn sentence(&self, metrics: &[Metric]) -> String {
        let any = |is: fn(Metric) -> bool| metrics.iter().any(|metric| is(*metric));
        let mut words = Vec::new();
        if any(Metric::is_of_gains) {
            words.extend([self.gain_words(), DISCOUNT.to_owned()]);
        }
        if any(Metric::is_of_relevance) {
            words.push(self.relevance_words());
        }
        if any(|metric| matches!(metric, Metric::Map(_))) {
            words.push(format!("map {}", self.map_words()));
        }
        if any(|metric| matches!(metric, Metric::Precision(_))) {
            words.push(format!("precision {}", self.precision_words()));
        }
        if any(|metric| matches!(metric, Metric::Err(_))) {
            words.push(format!("err: {}", self.grade_words()));
        }
        if any(|metric| metric.cut().is_none()) {
            words.extend(self.uncut_words());
        }
        words.push(self.tie_words().to_owned());
        words.extend(self.empty_words(metrics));
        words.join(", ")
    }

    fn gain_words(&self) -> String {
        let gain = match self.gain {
            Gain::Exponential => "gain 2^label-1",
            Gain::Linear => "gain label",
        };
        self.with_negative(gain.to_owned())
    }

    fn relevance_words(&self) -> String {
        format!("relevant: label >= {}", self.relevant_at)
    }

    fn grade_words(&self) -> String {
        self.with_negative(format!("satisfied with (2^label-1)/2^{}", self.largest_grade))
    }

    fn with_negative(&self, words: String) -> String {
        match self.negative {
            Negative::Refused => words,
            Negative::Zero => words + " (0 for labels below 0)",
        }
    }

    fn map_words(&self) -> &'static str {
        match self.map_denominator {
            MapDenominator::Relevant => "divided by all relevant",
            MapDenominator::RelevantWithinCut => "divided by all relevant but at most k",
        }
    }

    fn precision_words(&self) -> &'static str {
        match self.precision_denominator {
            PrecisionDenominator::Cut => "divided by k",
            PrecisionDenominator::CutOrLength => "divided by k or the list's length",
        }
    }

    fn uncut_words(&self) -> Option<String> {
        self.uncut.map(|ranks| format!("without @k the first {ranks} ranks"))
    }

    fn tie_words(&self) -> &'static str {
        match (self.ties, self.precision) {
            (Ties::RowOrder, Precision::AsGiven) => "ties in row order",
            (Ties::RowOrder, Precision::Single) => "ties (as f32) in row order",
            (Ties::Averaged, Precision::AsGiven) => "ties averaged over their orders",
            (Ties::Averaged, Precision::Single) => "ties (as f32) averaged over their orders",
            (Ties::DocumentDescending, Precision::AsGiven) => "ties by document id descending",
            (Ties::DocumentDescending, Precision::Single) => "ties (as f32) by document id descending",
        }
    }

    fn empty_words(&self, metrics: &[Metric]) -> Option<String> {
        let has_no_answer =
            |metric: &Metric| matches!(metric, Metric::Ndcg(_) | Metric::Map(_) | Metric::Mrr(_) | Metric::Recall(_));
        let natural = || metrics.iter().find(|metric| !has_no_answer(metric));
        Some(match self.empty {
            Empty::Skip => "lists without relevant documents are skipped".to_owned(),
            Empty::Zero => "lists without relevant documents count 0".to_owned(),
            Empty::One if !metrics.iter().any(has_no_answer) => "lists without relevant documents count 0".to_owned(),
            Empty::One => match natural() {
                Some(metric) => format!("lists without relevant documents count 1 (0 in {})", metric.name()),
                None => "lists without relevant documents count 1".to_owned(),
            },
        })
    }
}

const DISCOUNT: &str = "discount 1/log2(rank+1)";
