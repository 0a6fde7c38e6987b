//! The points that an event adds to its run's curves. The journal keeps them by name and step, the tracker sends the same ones.

use proto::v1::{self, run_event::Event};

/// One point of one curve.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    pub name: String,
    pub step: u64,
    pub unix_micros: u64,
    pub value: f64,
}

pub fn figures(event: &v1::RunEvent) -> Vec<Figure> {
    let at = |name: String, step, value| Figure { name, step, unix_micros: event.unix_micros, value };
    match &event.event {
        Some(Event::Progress(progress)) => {
            let step = progress.step;
            let mut points = vec![
                at("train/loss".into(), step, progress.loss),
                at("train/learning_rate".into(), step, progress.learning_rate),
                at("train/gradient_norm".into(), step, progress.gradient_norm),
            ];
            if progress.seconds > 0.0 {
                points.push(at("train/rows_per_second".into(), step, progress.rows as f64 / progress.seconds));
            }
            points
        }
        Some(Event::Epoch(epoch)) => {
            let of = |set: &str, metric: &v1::Metric| at(format!("{set}/{}", metric.name), epoch.step, metric.value);
            let validation = epoch.validation.iter().map(|metric| of("validation", metric));
            let judgments = epoch.judgments.iter().map(|metric| of("judgments", metric));
            let mut points: Vec<_> = validation.chain(judgments).collect();
            points.push(at("train/epoch_loss".into(), epoch.step, epoch.train_loss));
            points
        }
        Some(Event::System(seen)) => {
            // A restarted worker goes on with its former life's curve.
            let worker = seen.worker.split(':').next().unwrap_or_default();
            vec![
                at(format!("system/{worker}/cpu_percent"), seen.step, seen.cpu_percent),
                at(format!("system/{worker}/memory_bytes"), seen.step, seen.memory_bytes as f64),
            ]
        }
        Some(Event::Checkpoint(checkpoint)) if checkpoint.best => best(checkpoint),
        // A resumed run's best may be of its former life, whose checkpoints were no events of this one.
        Some(Event::Ended(ended)) => ended.best.as_ref().map(best).unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// What the best checkpoint is worth: the newest point of such a curve is the run's value of that metric. Dated by the checkpoint, so that
/// it is the same point however often it is told.
fn best(checkpoint: &v1::Checkpoint) -> Vec<Figure> {
    let metrics = checkpoint.metrics.iter();
    let figure = |metric: &v1::Metric| Figure {
        name: metric.name.clone(),
        step: checkpoint.step,
        unix_micros: checkpoint.unix_micros,
        value: metric.value,
    };
    metrics.map(figure).collect()
}
