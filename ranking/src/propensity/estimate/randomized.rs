//! Propensities from lists whose first results were shuffled.

use statrs::distribution::{ContinuousCDF as _, Normal};

use super::{Estimate, Insufficient, LEVEL, MIN_CLICKS, PositionEstimate};
use crate::propensity::Method;

/// Counts of explored lists: where every order of the first results is equally likely, what stands at position k is as relevant as what
/// stands at position 1, so that the ratio of their clicks is that of looks (Wang et al., "Learning to Rank with Selection
/// Bias in Personal Search", SIGIR 2016; Joachims, Swaminathan & Schnabel, WSDM 2017).
///
/// A position is compared with position 1 over the lists that reach it, since short lists may be another kind of search. The
/// interval is normal in the logarithm of the ratio, by the delta method; clicks of one list may depend on each other, lists may not,
/// given what was to be shown: over lists of the same query, user or session the deviations are uncorrelated, for each was shuffled anew.
#[derive(Clone, Debug, PartialEq)]
pub struct Randomized {
    lists: u64,
    explored: u64,
    places: Vec<Place>,
    /// Clicks of the list being added.
    row: Vec<Option<bool>>,
}

/// Lists in which a position and the first were both shown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Place {
    lists: u64,
    clicked: u64,
    first_clicked: u64,
    both_clicked: u64,
}

impl Randomized {
    /// Of the first so many positions, all of which the exploration shuffled.
    pub fn new(positions: usize) -> Self {
        Self { lists: 0, explored: 0, places: vec![Place::default(); positions], row: Vec::new() }
    }

    /// Takes in a list: position from 1, and whether it was clicked. Lists that were not explored are only counted.
    pub fn add(&mut self, explored: bool, results: impl IntoIterator<Item = (u32, bool)>) {
        self.lists += 1;
        if !explored {
            return;
        }
        self.explored += 1;
        self.row.clear();
        self.row.resize(self.places.len(), None);
        for (position, clicked) in results {
            if let Some(place) = (position as usize).checked_sub(1).and_then(|index| self.row.get_mut(index)) {
                *place = Some(clicked);
            }
        }
        let Some(Some(first)) = self.row.first().copied() else { return };
        for (place, clicked) in self.places.iter_mut().zip(&self.row) {
            if let Some(clicked) = *clicked {
                place.lists += 1;
                place.clicked += u64::from(clicked);
                place.first_clicked += u64::from(first);
                place.both_clicked += u64::from(first && clicked);
            }
        }
    }

    /// Takes in what another has counted, of as many positions.
    pub fn merge(&mut self, other: &Self) {
        self.lists += other.lists;
        self.explored += other.explored;
        for (place, other) in self.places.iter_mut().zip(&other.places) {
            place.lists += other.lists;
            place.clicked += other.clicked;
            place.first_clicked += other.first_clicked;
            place.both_clicked += other.both_clicked;
        }
    }

    pub fn estimate(&self) -> Result<Estimate, Insufficient> {
        if self.explored == 0 {
            return Err(Insufficient::NothingExplored { lists: self.lists });
        }
        let deviations = Normal::standard().inverse_cdf((1.0 + LEVEL) / 2.0);
        let positions = self.places.iter().zip(1..).map(|(place, position)| {
            let Place { lists: impressions, clicked: clicks, first_clicked, both_clicked } = *place;
            if clicks < MIN_CLICKS || first_clicked < MIN_CLICKS {
                return Err(Insufficient::FewClicks { position, impressions, clicks: clicks.min(first_clicked) });
            }
            let (here, first) = (clicks as f64, first_clicked as f64);
            // Σ over lists of (clicked here / clicks here - clicked first / clicks first)²; 0 at position 1 itself.
            let variance = 1.0 / here + 1.0 / first - 2.0 * both_clicked as f64 / (here * first);
            let (ratio, factor) = (here / first, (deviations * variance.max(0.0).sqrt()).exp());
            Ok(PositionEstimate { position, ratio, low: ratio / factor, high: ratio * factor, impressions, clicks })
        });
        Ok(Estimate {
            method: Method::Randomized,
            positions: positions.collect::<Result<_, _>>()?,
            units: self.explored,
        })
    }
}
