//! Means and intervals over lists as they come.

use ranking::metrics::{Mean, Metric};

use super::{
    EvaluateOptions, EvaluateReport, Value, Walked, bootstrap::Replicates, lists::Judged, per_query::PerQueryFile,
};
use crate::PipelineError;

pub(super) struct Summary<'a> {
    options: &'a EvaluateOptions,
    means: Vec<Mean>,
    replicates: Option<Replicates>,
    per_query: Option<PerQueryFile>,
    queries: u64,
    without_relevant: u64,
}

impl<'a> Summary<'a> {
    pub fn new(options: &'a EvaluateOptions) -> Result<Self, PipelineError> {
        let metrics = &options.metrics;
        let per_query = options.per_query.as_ref().map(|target| PerQueryFile::begin(target, metrics)).transpose()?;
        Ok(Self {
            options,
            means: vec![Mean::default(); metrics.len()],
            replicates: options.intervals.map(|bootstrap| Replicates::new(bootstrap, metrics.len())),
            per_query,
            queries: 0,
            without_relevant: 0,
        })
    }

    pub fn add(&mut self, judged: Judged<'_>) -> Result<(), PipelineError> {
        self.means.iter_mut().zip(judged.values).for_each(|(mean, value)| mean.add(*value));
        self.queries += 1;
        self.without_relevant += u64::from(!judged.relevant);
        if let Some(replicates) = &mut self.replicates {
            replicates.add(&judged.query.to_string(), judged.values);
        }
        match &mut self.per_query {
            Some(file) => file.add(&judged),
            None => Ok(()),
        }
    }

    pub fn finish(self, walked: Walked) -> Result<EvaluateReport, PipelineError> {
        let EvaluateOptions { metrics, convention, profile, .. } = self.options;
        let intervals = self.replicates.map_or_else(|| vec![None; metrics.len()], |replicates| replicates.intervals());
        let values = metrics.iter().zip(&self.means).zip(intervals).map(|((metric, mean), interval)| Value {
            name: *metric,
            value: (mean.lists > 0).then(|| mean.value()),
            queries: mean.lists,
            interval,
            convention: convention.words(*metric),
        });
        let mut notes = walked.notes;
        notes.extend(not_of_the_profile(self.options));
        let report = EvaluateReport {
            input: walked.input,
            rows: walked.rows,
            queries: self.queries,
            queries_without_relevant: self.without_relevant,
            profile: *profile,
            profile_is_whole: profile.convention() == *convention,
            convention: *convention,
            convention_words: convention.sentence(metrics),
            metrics: values.collect(),
            intervals: self.options.intervals,
            per_query: self.options.per_query.as_ref().map(|target| target.path.clone()),
            notes,
        };
        if let Some(file) = self.per_query {
            file.finish()?;
        }
        Ok(report)
    }
}

/// Which metrics the tool does not have.
pub(super) fn not_of_the_profile(options: &EvaluateOptions) -> Option<String> {
    let profile = options.profile;
    let missing: Vec<String> =
        options.metrics.iter().filter(|metric| !profile.has(**metric)).map(Metric::to_string).collect();
    let own = profile == ranking::metrics::Profile::Reference;
    (!own && !missing.is_empty())
        .then(|| format!("{profile} itself has no {}: its conventions are carried over", missing.join(", ")))
}
