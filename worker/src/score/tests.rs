use proto::spec::{Activation, Model, ModelKind, Normalize};

use super::*;

fn models() -> Vec<Model> {
    let mlp = |hidden: &[usize]| Model { hidden: hidden.to_vec(), ..Default::default() };
    vec![
        Model { kind: ModelKind::Linear, normalize: Normalize::Standard, ..Default::default() },
        mlp(&[64, 32]),
        mlp(&[7, 5]),
        Model { normalize: Normalize::Log1p, activation: Some(Activation::Gelu), ..mlp(&[33]) },
        Model { layer_norm: Some(true), activation: Some(Activation::Silu), ..mlp(&[48, 17]) },
        Model { activation: Some(Activation::Tanh), ..mlp(&[256, 128, 64]) },
        Model { kind: ModelKind::DcnV2, cross_layers: Some(3), ..Default::default() },
        Model { kind: ModelKind::DcnV2, cross_rank: Some(4), layer_norm: Some(true), ..mlp(&[64, 32]) },
    ]
}

/// Features of every size and sign, the same for the same seed.
fn features(rows: usize, width: usize, seed: u64) -> Vec<f32> {
    let mut stream = dataset::seeded::Stream::new(&[seed]);
    (0..rows * width).map(|_| ((2.0 * stream.unit() - 1.0) * 10f64.powf(4.0 * stream.unit() - 2.0)) as f32).collect()
}

fn score(network: &Network, features: &[f32]) -> Vec<f32> {
    let mut scores = vec![0.0; features.len() / network.features()];
    on_threads(network, 1, |_| ());
    let scored = on_threads(network, 1, |scorer| {
        let mut scores = scores.clone();
        scorer.score(features, &mut scores);
        scores
    });
    scores.copy_from_slice(&scored[0]);
    scores
}

#[test]
fn what_a_row_scores_does_not_depend_on_where_it_lies_and_among_which_others() {
    for width in [1, 3, 10, 16, 31, 136, 300] {
        for model in models() {
            let network = Network::new(&model, width, 3, Device::Cpu);
            let rows = 2 * piece_rows(&network) + 77;
            let all = features(rows, width, 9);
            let expected = score(&network, &all);
            for skip in [1, 2, 3, 5, 8, 13, 31, 64, rows - 1] {
                let shifted = score(&network, &all[skip * width..]);
                let moved = expected[skip..].iter().zip(&shifted).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
                assert_eq!(moved, 0, "{moved} of {} rows, {model:?}, {width} features, {skip} rows less", shifted.len());
            }
        }
    }
}
