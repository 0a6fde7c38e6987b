//! The loader alone: from a folder of training Parquet to tensors in the order of an epoch, as a worker's step gets them.
//!
//! `cargo bench --profile dev -p benches --bench loader -- DATA [--json]`. Nothing is kept between epochs. Prints rows/s of wall time
//! and of CPU time: reading ahead and handing out are two threads, so the rate of one core is the latter.

use std::{path::Path, sync::Arc, time::Instant};

use dataset::{
    lanes::{Atom, Blocks},
    manifest,
    reader::{Batch, LaneReader, Plan},
    source::ParquetSource,
};
use rustix::time::{ClockId, clock_gettime};

const BATCH: u64 = 8192;
const EPOCHS: u64 = 6;

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let Some(data) = arguments.iter().find(|word| !word.starts_with("--")) else {
        eprintln!("no dataset named: nothing to measure");
        return Ok(());
    };
    let spec = proto::spec::Data::default();
    let manifest = manifest::build(Path::new(data), &spec, false)?;
    let (rows, lanes) = (manifest.rows, 64);
    let blocks = Arc::new(Blocks::cut(&manifest, Atom::Row, lanes, spec.block_bytes.as_u64()));
    let source = Arc::new(ParquetSource::new(manifest, &blocks, 0));
    let plan = Plan {
        features: source.features(),
        blocks,
        lanes,
        seed: 1,
        rank: 0,
        world: 1,
        batch: BATCH,
        epochs: EPOCHS,
        epoch: 0,
        step: 0,
        read_ahead: spec.read_ahead.as_u64() as usize,
        readers: 1,
    };
    // One core: libtorch must not split its copies.
    tch::set_num_threads(1);
    let features = plan.features;
    let mut reader = LaneReader::open(plan, source);
    let (mut batch, mut rates) = (Batch::default(), Vec::new());
    for epoch in 0..EPOCHS {
        let (wall, cpu) = (Instant::now(), cpu_seconds());
        for step in 0..reader.steps_per_epoch() {
            reader.next(epoch, step, &mut batch)?;
            std::hint::black_box(&*worker::memory::rows(&batch.features, batch.rows()));
        }
        rates.push((rows as f64 / wall.elapsed().as_secs_f64(), rows as f64 / (cpu_seconds() - cpu)));
    }
    // The first epoch warms the page cache and the allocator.
    rates.remove(0);
    rates.sort_by(|a, b| a.1.total_cmp(&b.1));
    let ((wall, cpu), (_, best)) = (rates[rates.len() / 2], rates[rates.len() - 1]);
    if arguments.iter().any(|word| word == "--json") {
        println!(
            r#"{{"way":"lanes","rows":{rows},"features":{features},"rows_per_second":{cpu:.0},"best_rows_per_second":{best:.0},"wall_rows_per_second":{wall:.0}}}"#
        );
    } else {
        println!(
            "{rows} rows of {features} features: {:.1} M rows/s a core, {:.1} M rows/s of wall time",
            cpu / 1e6,
            wall / 1e6
        );
    }
    Ok(())
}
