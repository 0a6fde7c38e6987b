//! `score` beside the bare forward pass: from Parquet to a Parquet file of scores, and from features that lie in memory to scores.
//!
//! `cargo bench --profile dev -p benches --bench score -- MODEL DATA [--threads N] [--rounds N]`. The forward pass is taken in the
//! faster of two ways: in the scorer's own pieces, one thread each, and in calls of many rows that libtorch shares among its threads.
//! Prints one line of JSON; rates are medians over rounds taken in turns, and the share once more of the best round of each: what is
//! left of a machine that others use too.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use dataset::scorable::{Scorable, Wanted, Wish};
use worker::{
    memory,
    model::load::{self, Which},
    score::{
        Scorer,
        command::{ScoreArgs, WhichArg, score},
        on_threads,
    },
};

/// Rows of one call in which libtorch's threads share.
const CALL: usize = 16384;
/// Pieces that a thread takes at a time.
const RUN: usize = 32;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let number = |flag: &str, default: usize| {
        let at = arguments.iter().position(|word| word == flag);
        at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    let [model, data, ..] = &arguments[..] else {
        eprintln!("no model and data named: nothing to measure");
        return Ok(());
    };
    let threads = number("--threads", 1);
    let loaded = load::load(Path::new(model), Which::Latest, None)?;
    let width = loaded.network.features();
    let features = in_memory(Path::new(data), &loaded.features)?;
    let rows = features.len() / width;
    let out = tempfile::tempdir()?;
    let args = ScoreArgs {
        model: model.into(),
        checkpoint: WhichArg::Latest,
        features: None,
        data: data.into(),
        out: PathBuf::from(out.path()).join("scores.parquet"),
        overwrite: true,
        threads: NonZeroUsize::new(threads),
        query: None,
        list: None,
        document: None,
        label: None,
    };
    let _no_graph = tch::no_grad_guard();
    let (mut pieces, mut calls, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..number("--rounds", 5) {
        pieces.push(rate(rows, || {
            let next = AtomicUsize::new(0);
            let work = |scorer: &mut Scorer| {
                let run = RUN * scorer.piece_rows();
                let mut scores = vec![0.0; run];
                loop {
                    let first = next.fetch_add(run, Ordering::Relaxed);
                    if first >= rows {
                        return;
                    }
                    let end = rows.min(first + run);
                    scorer.score(&features[first * width..end * width], &mut scores[..end - first]);
                    std::hint::black_box(&scores);
                }
            };
            on_threads(&loaded.network, threads, work, || ());
        }));
        tch::set_num_threads(threads as i32);
        calls.push(rate(rows, || {
            for part in features.chunks(CALL * width) {
                let _ = std::hint::black_box(loaded.network.score(&memory::rows(part, part.len() / width)));
            }
        }));
        let began = Instant::now();
        score(&args)?;
        whole.push(rows as f64 / began.elapsed().as_secs_f64());
    }
    let best = |rates: &[f64]| rates.iter().copied().fold(0.0, f64::max);
    let best_share = best(&whole) / best(&pieces).max(best(&calls));
    let (pieces, calls, whole) = (median(pieces), median(calls), median(whole));
    println!(
        r#"{{"way":"score","rows":{rows},"features":{width},"hidden":{:?},"threads":{threads},"rows_per_second":{whole:.0},"forward_in_pieces":{pieces:.0},"forward_in_calls":{calls:.0},"share_of_the_faster":{:.3},"share_of_best_rounds":{best_share:.3}}}"#,
        loaded.trained.as_ref().map(|trained| &trained.spec.model.hidden),
        whole / pieces.max(calls)
    );
    Ok(())
}

fn rate(rows: usize, work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    rows as f64 / began.elapsed().as_secs_f64()
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// All features, row-major.
fn in_memory(data: &Path, names: &[String]) -> Result<Vec<f32>, Box<dyn std::error::Error>> {
    let none = Wanted { name: String::new(), must_be_there: false };
    let wish =
        Wish { features: names.to_vec(), query: none.clone(), list: none.clone(), document: none.clone(), label: none };
    let mut features = Vec::new();
    for chunk in Scorable::open(data, wish)?.chunks(1 << 16) {
        let chunk = chunk?;
        let first = features.len();
        features.resize(first + chunk.rows() * names.len(), 0.0);
        chunk.features()?.copy(0..chunk.rows(), &mut features[first..]);
    }
    Ok(features)
}
