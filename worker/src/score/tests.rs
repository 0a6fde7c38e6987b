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
    let work = |scorer: &mut Scorer| {
        let mut scores = vec![0.0; features.len() / network_width(scorer)];
        scorer.score(features, &mut scores);
        scores
    };
    on_threads(network, 1, work, || ()).0.remove(0)
}

fn network_width(scorer: &Scorer) -> usize {
    scorer.features
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
                assert_eq!(
                    moved,
                    0,
                    "{moved} of {} rows, {model:?}, {width} features, {skip} rows less",
                    shifted.len()
                );
            }
        }
    }
}

#[test]
fn scores_are_the_networks_own() {
    let _no_graph = tch::no_grad_guard();
    for model in models() {
        let network = Network::new(&model, 10, 3, Device::Cpu);
        let all = features(700, 10, 9);
        let at_once = Vec::<f32>::try_from(network.score(&memory::rows(&all, 700))).unwrap();
        let apart = score(&network, &all).into_iter().zip(at_once).map(|(a, b)| (a - b).abs() / b.abs().max(1.0));
        assert!(apart.clone().all(|apart| apart < 1e-4), "{model:?}: {:?}", apart.fold(0.0, f32::max));
    }
}

#[test]
fn a_replica_follows_what_the_network_learns_and_its_caller_keeps_its_threads() {
    let mut network = Network::new(&models()[1], 10, 3, Device::Cpu);
    let all = features(100, 10, 9);
    let before = score(&network, &all);
    let threads = tch::get_num_threads();
    let (scored, ()) = on_threads(
        &network,
        3,
        |scorer| {
            assert_eq!(tch::get_num_threads(), 1);
            let mut scores = vec![0.0; 100];
            scorer.score(&all, &mut scores);
            scores
        },
        || (),
    );
    assert_eq!(tch::get_num_threads(), threads);
    assert!(scored.len() == 3 && scored.iter().all(|scores| *scores == before));
    network.parameters.slices().0.iter_mut().for_each(|value| *value *= 2.0);
    assert_ne!(score(&network, &all), before);
}
