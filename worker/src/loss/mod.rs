//! The losses: each a sum of terms over a sum of denominators, both over the GLOBAL batch.
//!
//! A rank computes its sum of terms, its sum of denominators, and d(sum of terms)/d(scores); the reduce adds all three over the
//! ranks and the optimizer divides once. So any split of a batch gives one process's gradient. Ragged lists are worked on as they
//! are: nothing is padded. Sums are taken in f64, in row order.
//!
//! With row weights w, labels y, scores s and gains g = 2^y - 1:
//!
//! | loss | terms | denominator |
//! | --- | --- | --- |
//! | `mse` | Σ w (s - y)² | Σ w |
//! | `bce` | Σ w (softplus(s) - y s), y in \[0, 1\] | Σ w |
//! | `ranknet` | Σ over pairs of w_i softplus(-σ (s_i - s_j)), y_i > y_j | Σ over pairs of w_i |
//! | `lambdarank` | as `ranknet`, each pair times its \|ΔNDCG\| at the current scores | Σ over pairs of w_i |
//! | `listnet` | Σ over lists of Σ w g (-log softmax(s)) / Σ g | lists with Σ g > 0 |
//! | `approx_ndcg` | Σ over lists of 1 - smooth DCG of w g / its ideal | lists with Σ w g > 0 |
//!
//! Sources: RankNet, Burges et al. 2005; LambdaRank, Burges et al. 2006; ListNet (top-one, φ the gain), Cao et al. 2007; ApproxNDCG,
//! Qin, Liu & Li 2010. In `listnet` a weight scales its row's part of the cross entropy and is not normalised away, so that inverse
//! propensities on the clicked rows make the loss unbiased.

mod listwise;
mod pairwise;
mod pointwise;

use proto::spec::{Loss, LossKind};

/// What a batch is trained towards. `starts`: first row of each list and the number of rows at the end; unused by pointwise losses.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    pub labels: &'a [f32],
    pub weights: &'a [f32],
    pub starts: &'a [u32],
}

/// One list of a batch.
#[derive(Clone, Copy, Debug)]
struct List<'a> {
    labels: &'a [f32],
    weights: &'a [f32],
    scores: &'a [f32],
}

/// A rank's part of a batch's loss.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Terms {
    pub loss: f64,
    pub denominator: f64,
}

impl std::ops::AddAssign for Terms {
    fn add_assign(&mut self, other: Self) {
        self.loss += other.loss;
        self.denominator += other.denominator;
    }
}

/// A label that the loss has no meaning for.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("loss `{loss}` needs labels {needs}, and met {label}")]
pub struct BadLabel {
    pub loss: &'static str,
    pub needs: &'static str,
    pub label: f32,
}

/// A configured loss with its scratch space.
#[derive(Debug)]
pub struct Objective {
    loss: Loss,
    scratch: listwise::Scratch,
}

impl Objective {
    pub fn new(loss: Loss) -> Self {
        Self { loss, scratch: listwise::Scratch::default() }
    }

    /// Refuses labels outside the loss's domain.
    pub fn check(&self, labels: &[f32]) -> Result<(), BadLabel> {
        let (loss, needs, good): (_, _, fn(f32) -> bool) = match self.loss.kind {
            LossKind::Bce => ("bce", "between 0 and 1", |label| (0.0..=1.0).contains(&label)),
            LossKind::Lambdarank => ("lambdarank", "between 0 and 31", |label| (0.0..=31.0).contains(&label)),
            LossKind::Listnet => ("listnet", "between 0 and 31", |label| (0.0..=31.0).contains(&label)),
            LossKind::ApproxNdcg => ("approx_ndcg", "between 0 and 31", |label| (0.0..=31.0).contains(&label)),
            LossKind::Mse | LossKind::Ranknet => return Ok(()),
        };
        match labels.iter().find(|label| !good(**label)) {
            Some(label) => Err(BadLabel { loss, needs, label: *label }),
            None => Ok(()),
        }
    }

    /// The batch's terms; `gradient` is overwritten with d(terms)/d(scores). All slices are of one length.
    pub fn evaluate(&mut self, scores: &[f32], targets: Targets<'_>, gradient: &mut [f32]) -> Terms {
        let sigma = self.loss.sigma.unwrap_or(1.0) as f32;
        match self.loss.kind {
            LossKind::Mse => return pointwise::mse(scores, targets, gradient),
            LossKind::Bce => return pointwise::bce(scores, targets, gradient),
            _ => gradient.fill(0.0),
        }
        let mut terms = Terms::default();
        for bounds in targets.starts.windows(2) {
            let rows = bounds[0] as usize..bounds[1] as usize;
            let list = List {
                labels: &targets.labels[rows.clone()],
                weights: &targets.weights[rows.clone()],
                scores: &scores[rows.clone()],
            };
            let gradient = &mut gradient[rows];
            terms += match self.loss.kind {
                LossKind::Mse | LossKind::Bce => Terms::default(),
                LossKind::Ranknet => pairwise::ranknet(list, sigma, gradient),
                LossKind::Lambdarank => {
                    pairwise::lambdarank(list, sigma, self.loss.truncation, &mut self.scratch, gradient)
                }
                LossKind::Listnet => listwise::listnet(list, &mut self.scratch, gradient),
                LossKind::ApproxNdcg => {
                    let temperature = self.loss.temperature.unwrap_or(0.1);
                    listwise::approx_ndcg(list, temperature, &mut self.scratch, gradient)
                }
            };
        }
        terms
    }
}

/// ln(1 + e^x) and its derivative, the logistic of x.
#[inline]
fn softplus(x: f32) -> (f32, f32) {
    let e = (-x.abs()).exp();
    let value = x.max(0.0) + e.ln_1p();
    let slope = if x >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) };
    (value, slope)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KINDS: [LossKind; 6] = [
        LossKind::Mse,
        LossKind::Bce,
        LossKind::Ranknet,
        LossKind::Lambdarank,
        LossKind::Listnet,
        LossKind::ApproxNdcg,
    ];

    fn evaluate(kind: LossKind, scores: &[f32], labels: &[f32], weights: &[f32], starts: &[u32]) -> (Terms, Vec<f32>) {
        let mut gradient = vec![9.0; scores.len()];
        let targets = Targets { labels, weights, starts };
        let terms = Objective::new(Loss { kind, ..Default::default() }).evaluate(scores, targets, &mut gradient);
        (terms, gradient)
    }

    fn batch() -> impl Strategy<Value = (Vec<f32>, Vec<f32>, Vec<f32>, Vec<u32>)> {
        prop::collection::vec(prop::collection::vec((-2f32..2.0, 0u8..5, 0.25f32..4.0), 1..9), 1..6).prop_map(|lists| {
            let mut starts = vec![0];
            lists.iter().for_each(|list| starts.push(starts.last().unwrap() + list.len() as u32));
            let rows: Vec<_> = lists.into_iter().flatten().collect();
            let scores = rows.iter().map(|row| row.0).collect();
            let labels = rows.iter().map(|row| f32::from(row.1)).collect();
            (scores, labels, rows.iter().map(|row| row.2).collect(), starts)
        })
    }

    proptest! {
        #[test]
        fn gradients_agree_with_finite_differences((scores, labels, weights, starts) in batch()) {
            for kind in KINDS {
                // LambdaRank's pair weights are constants of the gradient: its value has no derivative to compare with.
                if kind == LossKind::Lambdarank {
                    continue;
                }
                let labels: Vec<f32> = match kind {
                    LossKind::Bce => labels.iter().map(|label| label / 4.0).collect(),
                    _ => labels.clone(),
                };
                let (_, gradient) = evaluate(kind, &scores, &labels, &weights, &starts);
                for row in 0..scores.len() {
                    let step = 1e-3f32;
                    let moved = |by: f32| {
                        let mut scores = scores.clone();
                        scores[row] += by;
                        evaluate(kind, &scores, &labels, &weights, &starts).0.loss
                    };
                    let expected = (moved(step) - moved(-step)) / f64::from(2.0 * step);
                    let found = f64::from(gradient[row]);
                    prop_assert!(
                        (found - expected).abs() <= 0.02 * expected.abs().max(1.0),
                        "{kind:?} row {row}: {found}, by differences {expected}"
                    );
                }
            }
        }

        #[test]
        fn a_batch_in_pieces_gives_the_terms_and_gradients_of_the_whole((scores, labels, weights, starts) in batch()) {
            for kind in KINDS {
                let (whole, gradient) = evaluate(kind, &scores, &labels, &weights, &starts);
                let (mut sum, mut pieces) = (Terms::default(), Vec::new());
                for bounds in starts.windows(2) {
                    let rows = bounds[0] as usize..bounds[1] as usize;
                    let inner = [0, rows.len() as u32];
                    let (terms, part) =
                        evaluate(kind, &scores[rows.clone()], &labels[rows.clone()], &weights[rows], &inner);
                    sum += terms;
                    pieces.extend(part);
                }
                prop_assert!((sum.loss - whole.loss).abs() <= 1e-9 * whole.loss.abs().max(1.0));
                prop_assert!((sum.denominator - whole.denominator).abs() <= 1e-9 * whole.denominator.max(1.0));
                prop_assert_eq!(pieces, gradient);
            }
        }

        #[test]
        fn a_list_that_prefers_nothing_has_no_term(scores in prop::collection::vec(-2f32..2.0, 1..9)) {
            let rows = scores.len();
            for kind in [LossKind::Ranknet, LossKind::Lambdarank, LossKind::Listnet, LossKind::ApproxNdcg] {
                let (terms, gradient) = evaluate(kind, &scores, &vec![0.0; rows], &vec![1.0; rows], &[0, rows as u32]);
                prop_assert_eq!(terms, Terms::default());
                prop_assert!(gradient.iter().all(|value| *value == 0.0));
            }
        }
    }

    #[test]
    fn lambdarank_pushes_up_what_is_relevant_and_more_where_more_is_to_gain() {
        let (terms, gradient) = evaluate(LossKind::Lambdarank, &[2.0, 1.0, 0.0], &[0.0, 0.0, 3.0], &[1.0; 3], &[0, 3]);
        assert_eq!(terms.denominator, 2.0);
        assert!(gradient[2] < 0.0 && gradient[0] > gradient[1] && gradient[1] > 0.0, "{gradient:?}");
        assert!(gradient.iter().sum::<f32>().abs() < 1e-6);
    }

    #[test]
    fn inverse_propensities_are_not_normalised_away_by_listnet() {
        let once = evaluate(LossKind::Listnet, &[0.3, 0.1], &[1.0, 0.0], &[1.0, 1.0], &[0, 2]);
        let thrice = evaluate(LossKind::Listnet, &[0.3, 0.1], &[1.0, 0.0], &[3.0, 1.0], &[0, 2]);
        assert!((thrice.0.loss - 3.0 * once.0.loss).abs() < 1e-9);
        assert_eq!(thrice.0.denominator, 1.0);
    }

    #[test]
    fn a_label_outside_the_losss_domain_is_refused() {
        let check = |kind, label| Objective::new(Loss { kind, ..Default::default() }).check(&[0.0, label]);
        assert!(check(LossKind::Bce, 2.0).is_err());
        assert!(check(LossKind::Listnet, -1.0).is_err());
        assert!(check(LossKind::Lambdarank, 40.0).is_err());
        assert!(check(LossKind::Mse, -7.5).is_ok());
    }
}
