//! What a user does with a list: who is looked at, who is clicked, and what follows a click.

use dataset::seeded::mix;
use ranking::events::{ResultImpression, Timestamp};
use serde::Serialize;

use crate::generate::random::{bell, draw, one, two};

/// The examination probabilities of the reference pipeline's table (`PositionBiasHandler.position_propensity`), by position from 1.
pub const EXAMINATION: [f64; 10] = [1.0, 0.65, 0.45, 0.35, 0.28, 0.22, 0.18, 0.15, 0.12, 0.10];
/// The probability that a result of this grade is clicked when it is looked at; grade 0 is clicked by mistake.
pub const ATTRACTIVENESS: [f64; 5] = [0.05, 0.15, 0.35, 0.60, 0.85];

/// Median seconds that a clicked result holds its reader, by grade, and the spread of their logarithm.
const DWELL: [f32; 5] = [7.0, 16.0, 60.0, 95.0, 140.0];
const DWELL_SPREAD: f32 = 0.6;
/// Share of the clicks whose dwell nobody saw: the tab was left open.
const UNSEEN: f32 = 0.03;
/// Of the clicks of a grade, how many end in the cart; of these, how many in a purchase.
const CART: [f32; 5] = [0.002, 0.01, 0.06, 0.20, 0.40];
const PURCHASE: [f32; 5] = [0.2, 0.3, 0.4, 0.5, 0.6];

/// How users come to click.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClickModel {
    /// The position-based model: clicked where examined, which depends on the position alone, and attractive, which depends on
    /// the grade alone (Richardson et al. 2007; Craswell et al. 2008).
    #[default]
    Pbm,
    /// The cascade model: read from the top, until the first attractive result is clicked (Craswell et al. 2008).
    Cascade,
}

/// A click model with its probabilities.
#[derive(Clone, Debug)]
pub(super) struct Users {
    model: ClickModel,
    examination: Vec<f32>,
    attractiveness: [f32; 5],
}

impl Users {
    pub fn new(model: ClickModel, examination: &[f64], attractiveness: &[f64; 5]) -> Self {
        let examination = examination.iter().map(|&p| p as f32).collect();
        Self { model, examination, attractiveness: attractiveness.map(|p| p as f32) }
    }

    /// Fills in what happened to the results of a list, which stand in the order of their positions; randomness from `key`.
    pub fn browse(
        &self,
        results: &mut [ResultImpression],
        grades: impl Fn(usize) -> u8,
        shown_at: Timestamp,
        key: u64,
    ) {
        let mut reading = true;
        // A reader needs a while for each result, and comes to the lower ones later.
        let mut now = shown_at.0;
        for (at, result) in results.iter_mut().enumerate() {
            let key = mix(key.wrapping_add(at as u64));
            let grade = usize::from(grades(at));
            let (looks, likes) = two(key);
            let examined = match self.model {
                ClickModel::Pbm => looks < self.examination[at.min(self.examination.len() - 1)],
                ClickModel::Cascade => reading,
            };
            now += 800_000 + (key & 0xf_ffff) as i64;
            if examined && likes < self.attractiveness[grade] {
                reading = false;
                click(result, grade, Timestamp(now), key);
            } else {
                (result.clicked, result.added_to_cart, result.purchased) = (false, false, false);
                (result.click_timestamp, result.dwell_time_seconds) = (None, None);
            }
        }
    }
}

fn click(result: &mut ResultImpression, grade: usize, at: Timestamp, key: u64) {
    let (cart, purchase) = two(draw(key, 1));
    let dwell = DWELL[grade] * (DWELL_SPREAD * bell(draw(key, 2))).exp();
    let seen = one(draw(key, 3)) >= UNSEEN;
    result.clicked = true;
    result.click_timestamp = Some(at);
    // To the tenth of a second, as pages measure it.
    result.dwell_time_seconds = seen.then(|| f64::from((10.0 * dwell).round()) / 10.0);
    result.added_to_cart = cart < CART[grade];
    result.purchased = result.added_to_cart && purchase < PURCHASE[grade];
}
