//! Human judgments: the scale that raters judge a document on, what they said, and what can be concluded from it.
//!
//! - [`Grade`]: 0 to 4, with the words raters see.
//! - [`Ratings`]: who gave which query-document pair which grade; [`Votes`] is the same without names.
//! - [`majority`] and [`DawidSkene`]: one grade a pair, or the reason why there is none.
//! - [`fleiss_kappa`] and [`krippendorff_alpha`]: how far raters agree beyond chance.
//!
//! All statistics work on classes `0..classes` and do not know the scale.

mod agreement;
mod dawid_skene;
mod majority;
mod ratings;
mod scale;
#[cfg(test)]
mod tests;

pub use agreement::{Alpha, Difference, Kappa, fleiss_kappa, krippendorff_alpha};
pub use dawid_skene::{DawidSkene, EmOptions};
pub use majority::{Outcome, majority};
pub use ratings::{Pair, Ratings, Vote, Votes};
pub use scale::{Choice, Grade, SCALE};
