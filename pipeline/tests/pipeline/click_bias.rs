//! What the simulated world is for: raw clicks teach a model the logging rankers' mistakes, clicks weighted by inverse propensity do not.

use std::collections::HashMap;

use pipeline::simulate::{Candidate, EXAMINATION, Log, SimulateOptions, World, document_id, query_id};

const WIDTH: usize = 8;

/// What the relevance is made of, each about as large as the others; a linear model of these can come near the truth.
fn inputs(features: &[f32; 10]) -> [f32; WIDTH] {
    let [bm25, similarity, title, popularity, freshness, quality, length, _, _, price] = *features;
    let long = (length - 1.0) / 7.0;
    let matched = bm25 / length.sqrt() / 6.0;
    [
        (popularity / 50.0).ln(),
        (1.0 - long) * matched,
        long * similarity,
        if similarity > 0.45 { title } else { 0.0 },
        if length < 2.5 { freshness } else { 0.0 },
        if quality < 0.3 { 1.0 } else { 0.0 },
        price,
        matched,
    ]
}

fn score(weights: &[f32; WIDTH], inputs: &[f32; WIDTH]) -> f32 {
    weights.iter().zip(inputs).map(|(weight, value)| weight * value).sum()
}

/// One list: what each result is like, and its target, which is 0 where nothing was clicked.
type List = Vec<([f32; WIDTH], f32)>;

/// Listwise cross-entropy (ListNet with weighted clicks as the target), by Adam.
fn listnet(lists: &[List]) -> [f32; WIDTH] {
    let (mut weights, mut first, mut second) = ([0f32; WIDTH], [0f32; WIDTH], [0f32; WIDTH]);
    let mut step = 0;
    for epoch in 0..4 {
        let rate = 0.03 * 0.4f32.powi(epoch);
        for batch in lists.chunks(512) {
            let (mut gradient, mut denominator) = ([0f32; WIDTH], 0f32);
            for list in batch {
                let mass: f32 = list.iter().map(|(_, target)| target).sum();
                let exponentials: Vec<f32> = list.iter().map(|(inputs, _)| score(&weights, inputs).exp()).collect();
                let sum: f32 = exponentials.iter().sum();
                for ((inputs, target), exponential) in list.iter().zip(&exponentials) {
                    let slope = mass * exponential / sum - target;
                    gradient.iter_mut().zip(inputs).for_each(|(cell, value)| *cell += slope * value);
                }
                denominator += mass;
            }
            step += 1;
            for (at, slope) in gradient.iter().enumerate() {
                let slope = slope / denominator;
                first[at] = 0.9 * first[at] + 0.1 * slope;
                second[at] = 0.99 * second[at] + 0.01 * slope * slope;
                let (mean, spread) = (first[at] / (1.0 - 0.9f32.powi(step)), second[at] / (1.0 - 0.99f32.powi(step)));
                weights[at] -= rate * mean / (spread.sqrt() + 1e-8);
            }
        }
    }
    weights
}

/// Mean NDCG@10 with gains 2^grade - 1 over all candidates of the queries that have a relevant one.
fn true_ndcg(world: &World, queries: u64, score: impl Fn(&Candidate) -> f32) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for number in 0..queries {
        let mut candidates: Vec<Candidate> = world.candidates(&world.query(number), 0).collect();
        let dcg = |candidates: &[Candidate]| -> f64 {
            let gain = |(rank, candidate): (usize, &Candidate)| {
                (f64::from(candidate.grade).exp2() - 1.0) / (rank as f64 + 2.0).log2()
            };
            candidates.iter().take(10).enumerate().map(gain).sum()
        };
        candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.grade));
        let ideal = dcg(&candidates);
        candidates.sort_by(|a, b| score(b).total_cmp(&score(a)));
        if ideal > 0.0 {
            sum += dcg(&candidates) / ideal;
            count += 1.0;
        }
    }
    sum / count
}

#[test]
fn weighting_clicks_by_inverse_propensity_brings_a_model_nearer_to_the_truth_for_every_seed() {
    for seed in 0..3 {
        let options =
            SimulateOptions { seed, queries: 2000, documents: 20_000, events: 60_000, ..SimulateOptions::default() };
        let mut log = Log::new(&options);
        let world = log.world().clone();
        let mut known = HashMap::new();
        for number in 0..options.queries {
            for candidate in world.candidates(&world.query(number), 0) {
                known.insert(
                    (query_id(number), document_id(candidate.document)),
                    (inputs(&candidate.features), candidate.grade),
                );
            }
        }
        let (mut naive, mut debiased, mut honest) = (Vec::new(), Vec::new(), Vec::new());
        let mut event = Log::blank();
        while log.fill(&mut event) {
            let list = |target: &dyn Fn(usize, bool, u8) -> f32| -> List {
                let of = event.results.iter().enumerate();
                of.map(|(at, result)| {
                    let (inputs, grade) = known[&(event.query_id.clone(), result.document_id.clone())];
                    (inputs, target(at, result.clicked, grade))
                })
                .collect()
            };
            naive.push(list(&|_, clicked, _| f32::from(u8::from(clicked))));
            debiased.push(list(&|at, clicked, _| if clicked { 1.0 / EXAMINATION[at] as f32 } else { 0.0 }));
            honest.push(list(&|_, _, grade| options.attractiveness[usize::from(grade)] as f32));
        }
        let models = [naive, debiased, honest].map(|lists| listnet(&lists));
        let [naive, debiased, honest] = models
            .map(|model| true_ndcg(&world, options.queries, |candidate| score(&model, &inputs(&candidate.features))));
        let ranker = true_ndcg(&world, options.queries, |candidate| candidate.score(0));
        eprintln!(
            "seed {seed}: true ndcg@10 of the ranker {ranker:.3}, naive {naive:.3}, debiased {debiased:.3}, of true grades {honest:.3}"
        );
        eprintln!("  {models:.2?}");
        assert!(debiased > naive + 0.03, "seed {seed}: naive {naive}, debiased {debiased}");
        assert!(debiased > honest - 0.03, "seed {seed}: debiased {debiased}, from true grades {honest}");
    }
}
