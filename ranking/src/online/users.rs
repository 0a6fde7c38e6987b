//! What each user did, in which arm.

use std::collections::{HashMap, hash_map::Entry};

use super::{Metric, Outcome};
use crate::clusters::Clusters;

/// More values than this in a column of arms say that it holds something else.
pub const MAX_ARMS: usize = 16;

/// The arm of a user who was seen in several.
const SEVERAL: u8 = u8::MAX;

/// Sums by user: about 80 bytes each, and so many users are known exactly. Merging none: one reader sees all searches.
#[derive(Clone, Debug, Default)]
pub struct Users {
    users: HashMap<u64, User>,
}

#[derive(Clone, Copy, Debug)]
struct User {
    arm: u8,
    searches: u32,
    impressions: u32,
    clicks: u32,
    clicked_searches: u32,
    carted_searches: u32,
    purchased_searches: u32,
    reciprocal_ranks: f64,
}

/// Users, searches, impressions, and the numerator of each of [`Metric::ALL`].
pub(super) const WIDTH: usize = 9;
const SEARCHES: usize = 1;
const IMPRESSIONS: usize = 2;
pub(super) type Sums = [f64; WIDTH];

/// An arm's users, dealt to groups.
#[derive(Clone, Debug, Default)]
pub(super) struct ArmUsers {
    pub users: u64,
    pub searches: u64,
    pub groups: Clusters<WIDTH>,
}

impl Users {
    /// Takes in a search: a hash of its user's id, and which arm answered, below [`MAX_ARMS`].
    pub fn add(&mut self, user: u64, arm: u8, outcome: &Outcome) {
        let found = match self.users.entry(user) {
            Entry::Vacant(place) => place.insert(User {
                arm,
                searches: 0,
                impressions: 0,
                clicks: 0,
                clicked_searches: 0,
                carted_searches: 0,
                purchased_searches: 0,
                reciprocal_ranks: 0.0,
            }),
            Entry::Occupied(place) => place.into_mut(),
        };
        if found.arm != arm {
            found.arm = SEVERAL;
        }
        found.searches += 1;
        found.impressions += outcome.impressions;
        found.clicks += outcome.clicks;
        found.clicked_searches += u32::from(outcome.clicks > 0);
        found.carted_searches += u32::from(outcome.carted);
        found.purchased_searches += u32::from(outcome.purchased);
        found.reciprocal_ranks += outcome.first_click.map_or(0.0, |position| 1.0 / f64::from(position));
    }

    pub fn len(&self) -> usize {
        self.users.len()
    }

    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Users who were seen in several arms, and their searches.
    pub fn in_several(&self) -> (u64, u64) {
        let several = self.users.values().filter(|user| user.arm == SEVERAL);
        several.fold((0, 0), |(users, searches), user| (users + 1, searches + u64::from(user.searches)))
    }

    /// Of each of so many arms, the users who were seen in no other.
    pub(super) fn by_arm(&self, arms: usize) -> Vec<ArmUsers> {
        let mut found = vec![ArmUsers::default(); arms];
        // In the order of their hashes: sums of fractions depend on the order, and a hash map's is another each time.
        let mut order: Vec<(&u64, &User)> = self.users.iter().collect();
        order.sort_unstable_by_key(|(id, _)| **id);
        for (id, user) in order {
            if let Some(arm) = found.get_mut(usize::from(user.arm)) {
                arm.users += 1;
                arm.searches += u64::from(user.searches);
                arm.groups.add(*id, &user.sums());
            }
        }
        found
    }
}

impl User {
    fn sums(&self) -> Sums {
        [
            1.0,
            f64::from(self.searches),
            f64::from(self.impressions),
            f64::from(self.clicked_searches),
            f64::from(self.clicks),
            self.reciprocal_ranks,
            f64::from(self.carted_searches),
            f64::from(self.purchased_searches),
            f64::from(u8::from(self.purchased_searches > 0)),
        ]
    }
}

impl Metric {
    /// Where its numerator and its denominator stand.
    fn places(self) -> (usize, usize) {
        match self {
            Self::ClickThrough => (3, SEARCHES),
            Self::ClicksPerImpression => (4, IMPRESSIONS),
            Self::ClickedReciprocalRank => (5, SEARCHES),
            Self::CartRate => (6, SEARCHES),
            Self::PurchaseRate => (7, SEARCHES),
            Self::BuyerRate => (8, 0),
        }
    }

    pub(super) fn of(self, sums: &Sums) -> f64 {
        let (above, below) = self.places();
        sums[above] / sums[below]
    }

    /// How often what it counts has happened: a reciprocal rank is as rare as the clicks that it comes from.
    pub(super) fn events(self, sums: &Sums) -> u64 {
        let above = match self {
            Self::ClickedReciprocalRank => Self::ClickThrough.places().0,
            metric => metric.places().0,
        };
        sums[above] as u64
    }
}
