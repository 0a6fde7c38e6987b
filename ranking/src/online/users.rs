//! What each user did, in which arm.

use std::collections::HashMap;

use super::{Metric, Outcome};
use crate::clusters::Clusters;

/// More values than this in a column of arms say that it holds something else.
pub const MAX_ARMS: usize = 16;

/// The arm of a user who was seen in several.
const SEVERAL: u8 = u8::MAX;
/// The arm of a user who was seen in none that is read.
const NONE: u8 = u8::MAX - 1;

/// Sums by user: about 80 bytes each, and so many users are known exactly. Merging none: one reader sees all searches.
#[derive(Clone, Debug, Default)]
pub struct Users {
    users: HashMap<u64, User>,
}

#[derive(Clone, Copy, Debug)]
struct User {
    arm: u8,
    /// Was seen in an arm that is not read.
    elsewhere: bool,
    searches: u32,
    impressions: u32,
    clicks: u32,
    clicked_searches: u32,
    carted_searches: u32,
    purchased_searches: u32,
    reciprocal_ranks: f64,
}

/// Users, searches, impressions, the numerator of each of [`Metric::ALL`], and users with a click and with something in the cart.
pub(super) const WIDTH: usize = 11;
const SEARCHES: usize = 1;
const IMPRESSIONS: usize = 2;
const BUYERS: usize = 8;
const CLICKERS: usize = 9;
const CARTERS: usize = 10;
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
        let found = self.users.entry(user).or_default();
        found.arm = if found.arm == NONE || found.arm == arm { arm } else { SEVERAL };
        found.searches += 1;
        found.impressions += outcome.impressions;
        found.clicks += outcome.clicks;
        found.clicked_searches += u32::from(outcome.clicks > 0);
        found.carted_searches += u32::from(outcome.carted);
        found.purchased_searches += u32::from(outcome.purchased);
        found.reciprocal_ranks += outcome.first_click.map_or(0.0, |position| 1.0 / f64::from(position));
    }

    /// Notes that a user was seen in an arm that is not read.
    pub fn seen_elsewhere(&mut self, user: u64) {
        self.users.entry(user).or_default().elsewhere = true;
    }

    /// Users who were seen in several of the arms that are read, and their searches in these.
    pub fn in_several(&self) -> (u64, u64) {
        self.count(|user| user.arm == SEVERAL)
    }

    /// Users who were seen in one of the arms that are read, and in one that is not; and their searches in the first.
    pub fn also_elsewhere(&self) -> (u64, u64) {
        self.count(|user| user.elsewhere && user.arm < NONE)
    }

    fn count(&self, counts: impl Fn(&User) -> bool) -> (u64, u64) {
        let users = self.users.values().filter(|user| counts(user));
        users.fold((0, 0), |(users, searches), user| (users + 1, searches + u64::from(user.searches)))
    }

    /// Of each of so many arms, the users who were seen in no other, read or not.
    pub(super) fn by_arm(&self, arms: usize) -> Vec<ArmUsers> {
        let mut found = vec![ArmUsers::default(); arms];
        // In the order of their hashes: sums of fractions depend on the order, and a hash map's is another each time.
        let mut order: Vec<(&u64, &User)> = self.users.iter().collect();
        order.sort_unstable_by_key(|(id, _)| **id);
        for (id, user) in order {
            if let Some(arm) = found.get_mut(usize::from(user.arm)).filter(|_| !user.elsewhere) {
                arm.users += 1;
                arm.searches += u64::from(user.searches);
                arm.groups.add(*id, &user.sums());
            }
        }
        found
    }
}

impl Default for User {
    fn default() -> Self {
        Self {
            arm: NONE,
            elsewhere: false,
            searches: 0,
            impressions: 0,
            clicks: 0,
            clicked_searches: 0,
            carted_searches: 0,
            purchased_searches: 0,
            reciprocal_ranks: 0.0,
        }
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
            f64::from(u8::from(self.clicked_searches > 0)),
            f64::from(u8::from(self.carted_searches > 0)),
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
            Self::BuyerRate => (BUYERS, 0),
        }
    }

    pub(super) fn of(self, sums: &Sums) -> f64 {
        let (above, below) = self.places();
        sums[above] / sums[below]
    }

    /// How many users did what it counts. One who did it often is one: resamples have him or not.
    pub(super) fn users_of_event(self, sums: &Sums) -> u64 {
        let place = match self {
            Self::ClickThrough | Self::ClicksPerImpression | Self::ClickedReciprocalRank => CLICKERS,
            Self::CartRate => CARTERS,
            Self::PurchaseRate | Self::BuyerRate => BUYERS,
        };
        sums[place] as u64
    }
}
