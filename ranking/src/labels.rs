//! What a shown result is worth: labels from what a person did with it.
//!
//! The rules of [`LabelKind::Binary`] and [`LabelKind::Graded`] are the reference pipeline's (`generate_binary_labels`,
//! `_compute_graded_label`); [`LabelKind::Weighted`] makes use of the weights that it configures and never reads.

use serde::{Deserialize, Serialize};

use crate::events::ResultImpression;

/// Which rule turns behaviour into a label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LabelKind {
    /// 1 where it was clicked, else 0.
    Binary,
    /// The first that holds: purchased 4, added to the cart 3, clicked and read for longer than the threshold 2, clicked 1, else 0.
    /// A click without a dwell time is a short one.
    #[default]
    Graded,
    /// The sum of the weights of all that was done: `click_weight` for a click, `dwell_weight` for one that was read for longer than
    /// the threshold, `cart_weight`, `purchase_weight`. With the defaults from 0 to 9.
    Weighted,
}

/// A rule with its threshold and weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LabelOptions {
    pub kind: LabelKind,
    /// Seconds; a dwell time must be strictly greater to count as long. The reference's is 30.
    pub dwell_threshold: f64,
    /// Of `weighted` only, as those below. The reference's is 1.
    pub click_weight: f64,
    /// On top of the click's. 1: reading on is worth a second click.
    pub dwell_weight: f64,
    /// 2: above a click that was read, below a purchase, which mostly passes through a cart and earns this too.
    pub cart_weight: f64,
    /// The reference's is 5.
    pub purchase_weight: f64,
}

impl Default for LabelOptions {
    fn default() -> Self {
        Self {
            kind: LabelKind::default(),
            dwell_threshold: 30.0,
            click_weight: 1.0,
            dwell_weight: 1.0,
            cart_weight: 2.0,
            purchase_weight: 5.0,
        }
    }
}

/// An option that no label can be made with.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("`{option}` is {value}: it must be finite and not negative")]
pub struct BadLabelOption {
    pub option: &'static str,
    pub value: f64,
}

impl LabelOptions {
    /// Refuses a threshold or weight that is negative or not finite.
    pub fn check(&self) -> Result<(), BadLabelOption> {
        let all = [
            ("dwell_threshold", self.dwell_threshold),
            ("click_weight", self.click_weight),
            ("dwell_weight", self.dwell_weight),
            ("cart_weight", self.cart_weight),
            ("purchase_weight", self.purchase_weight),
        ];
        match all.into_iter().find(|(_, value)| !value.is_finite() || *value < 0.0) {
            Some((option, value)) => Err(BadLabelOption { option, value }),
            None => Ok(()),
        }
    }

    /// The label of one result. Sums are taken in f64, in the order click, dwell, cart, purchase, and rounded once.
    pub fn label(&self, result: &ResultImpression) -> f32 {
        let read = result.clicked && result.dwell_time_seconds.is_some_and(|dwell| dwell > self.dwell_threshold);
        match self.kind {
            LabelKind::Binary => f32::from(u8::from(result.clicked)),
            LabelKind::Graded if result.purchased => 4.0,
            LabelKind::Graded if result.added_to_cart => 3.0,
            LabelKind::Graded if read => 2.0,
            LabelKind::Graded => f32::from(u8::from(result.clicked)),
            LabelKind::Weighted => {
                let worth = |done: bool, weight: f64| if done { weight } else { 0.0 };
                let sum = worth(result.clicked, self.click_weight)
                    + worth(read, self.dwell_weight)
                    + worth(result.added_to_cart, self.cart_weight)
                    + worth(result.purchased, self.purchase_weight);
                sum as f32
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(clicked: bool, dwell: Option<f64>, cart: bool, purchased: bool) -> ResultImpression {
        ResultImpression {
            position: 1,
            document_id: "d".into(),
            score: 0.0,
            clicked,
            click_timestamp: None,
            dwell_time_seconds: dwell,
            added_to_cart: cart,
            purchased,
            propensity: None,
            features: Vec::new(),
        }
    }

    fn labels(kind: LabelKind, options: LabelOptions) -> Vec<f32> {
        let options = LabelOptions { kind, ..options };
        let results = [
            result(false, None, false, false),
            result(true, None, false, false),
            result(true, Some(0.0), false, false),
            result(true, Some(30.0), false, false),
            result(true, Some(30.5), false, false),
            result(true, Some(3.0), true, false),
            result(true, Some(90.0), true, true),
            // What a log may hold though it makes little sense: the reference asks for the purchase first, then the cart.
            result(false, Some(90.0), false, false),
            result(false, None, true, false),
            result(false, None, false, true),
        ];
        results.iter().map(|result| options.label(result)).collect()
    }

    #[test]
    fn grades_follow_the_reference_in_its_order_and_a_dwell_at_the_threshold_is_short() {
        let grades = labels(LabelKind::Graded, LabelOptions::default());
        assert_eq!(grades, [0.0, 1.0, 1.0, 1.0, 2.0, 3.0, 4.0, 0.0, 3.0, 4.0]);
        let patient = LabelOptions { dwell_threshold: 0.0, ..LabelOptions::default() };
        assert_eq!(labels(LabelKind::Graded, patient)[..5], [0.0, 1.0, 1.0, 2.0, 2.0]);
    }

    #[test]
    fn binary_labels_are_clicks() {
        let clicks = labels(LabelKind::Binary, LabelOptions::default());
        assert_eq!(clicks, [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn weights_add_up() {
        let sums = labels(LabelKind::Weighted, LabelOptions::default());
        assert_eq!(sums, [0.0, 1.0, 1.0, 1.0, 2.0, 3.0, 9.0, 0.0, 2.0, 5.0]);
        let own = LabelOptions {
            click_weight: 0.1,
            dwell_weight: 0.2,
            cart_weight: 0.0,
            purchase_weight: 7.0,
            ..LabelOptions::default()
        };
        assert_eq!(labels(LabelKind::Weighted, own)[6], (0.1f64 + 0.2 + 7.0) as f32);
    }

    #[test]
    fn options_without_meaning_are_refused_by_name() {
        let bad = LabelOptions { cart_weight: f64::NAN, ..LabelOptions::default() };
        assert_eq!(bad.check().unwrap_err().to_string(), "`cart_weight` is NaN: it must be finite and not negative");
        assert!(LabelOptions { dwell_threshold: -1.0, ..LabelOptions::default() }.check().is_err());
        assert!(LabelOptions::default().check().is_ok());
        assert!(serde_json::from_str::<LabelOptions>(r#"{"kind": "weighted", "dwell": 3}"#).is_err());
        let read: LabelOptions = serde_json::from_str(r#"{"kind": "weighted", "cart_weight": 3}"#).unwrap();
        assert_eq!(read, LabelOptions { kind: LabelKind::Weighted, cart_weight: 3.0, ..LabelOptions::default() });
    }
}
