//! The last lines of a run: how it ended and where what it made lies.

use std::fmt::Write as _;

use proto::v1;

use super::Story;
use crate::words;

/// One fact a line, its name in the first column.
pub fn render(story: &Story) -> String {
    let mut text = String::from("\n");
    let mut fact = |name: &str, words: &str| {
        let _ = writeln!(text, "{name:<12}{words}");
    };
    let Some(ended) = &story.ended else {
        fact("run", &format!("{}: its end was not seen", story.run_id));
        return text;
    };
    let how = match ended.phase() {
        v1::Phase::Succeeded => "finished",
        v1::Phase::Stopped => "stopped",
        _ => "failed",
    };
    // Why it failed is the error's to say.
    let told = ended.failure.is_some() || ended.reason.is_empty();
    let reason = if told { String::new() } else { format!(": {}", ended.reason) };
    fact("run", &format!("{} {how}{reason}", story.run_id));
    if let Some(best) = &ended.best {
        if let Some(metric) = decisive(story, best) {
            fact("best", &format!("{} {:.4} after {}", metric.name, metric.value, words::counted(best.epoch, "epoch")));
            fact("", &format!("({})", metric.convention));
        }
        fact("checkpoint", &best.path);
    }
    if let Some(last) = ended.last.as_ref().filter(|last| ended.best.as_ref().is_none_or(|best| best.path != last.path))
    {
        fact(if ended.best.is_some() { "last" } else { "checkpoint" }, &last.path);
    }
    let rows = story.counted.rows();
    if rows > 0 {
        let rate = words::rate(rows, story.counted.seconds());
        fact(
            "speed",
            &format!("{rate} rows/s in training, {} rows, {} in all", words::count(rows), words::span(story.seconds())),
        );
    }
    if story.recoveries > 0 {
        fact(
            "recovered",
            &format!(
                "{}, {} lost, {} without training",
                times(story.recoveries),
                words::counted(story.losses, "worker"),
                words::moments(story.stood_seconds),
            ),
        );
    }
    if story.skipped_nonfinite > 0 {
        fact(
            "skipped",
            &format!("{} with a loss or gradient that was not finite", words::counted(story.skipped_nonfinite, "step")),
        );
    }
    if story.skipped_empty > 0 {
        fact("skipped", &format!("{} without a single term", words::counted(story.skipped_empty, "step")));
    }
    let epochs = &story.epochs;
    if epochs.whole > 0 && epochs.mismatches.is_empty() {
        let (rows, whole) = (words::counted(epochs.rows, "row"), words::counted(epochs.whole, "epoch"));
        fact("audit", &format!("every row counted once: {rows} × {whole}"));
    }
    for mismatch in &epochs.mismatches {
        fact("audit", mismatch);
    }
    text
}

fn times(n: u64) -> String {
    if n == 1 { "once".to_owned() } else { format!("{} times", words::count(n)) }
}

/// The value that made a checkpoint the best one.
fn decisive<'a>(story: &Story, best: &'a v1::Checkpoint) -> Option<&'a v1::Metric> {
    let wanted = story.metric.as_deref()?;
    best.metrics.iter().find(|metric| metric.name == wanted)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use proto::v1::run_event::Event;

    use super::*;
    use crate::view::table::tests::epoch;

    fn story(events: Vec<Event>) -> Story {
        let mut story = Story::new(Some("ndcg@10".into()));
        for (at, event) in events.into_iter().enumerate() {
            story.take(&v1::RunEvent {
                sequence: at as u64 + 1,
                unix_micros: 1_000_000 * at as u64,
                run_id: "r-01jdk3".into(),
                event: Some(event),
            });
        }
        story
    }

    fn progress(step: u64) -> v1::Progress {
        v1::Progress {
            epochs: 20,
            step,
            steps_per_epoch: 400,
            loss: 0.61,
            rows: 3005,
            seconds: 0.001,
            ..v1::Progress::default()
        }
    }

    fn checkpoint(step: u64) -> v1::Checkpoint {
        v1::Checkpoint {
            path: format!("/c/baseline/step-{step:08}"),
            epoch: 17,
            metrics: epoch(0, 0.5, Some(0.5312)).validation,
            ..v1::Checkpoint::default()
        }
    }

    #[test]
    fn a_finished_run_says_where_everything_is() {
        let ended = v1::Ended {
            phase: v1::Phase::Succeeded.into(),
            best: Some(checkpoint(340)),
            last: Some(checkpoint(400)),
            reason: "all 20 epochs".into(),
            failure: None,
        };
        let epochs = [Event::Epoch(epoch(0, 0.5, Some(0.5))), Event::Epoch(epoch(1, 0.4, Some(0.6)))];
        let mut events = vec![Event::Progress(progress(100))];
        events.extend(epochs);
        events.push(Event::Ended(ended));
        expect![[r#"

            run         r-01jdk3 finished: all 20 epochs
            best        ndcg@10 0.5312 after 17 epochs
                        (gain 2^label - 1, ties in row order, queries without relevant documents count 0)
            checkpoint  /c/baseline/step-00000340
            last        /c/baseline/step-00000400
            speed       3.00 M rows/s in training, 3,005 rows, 3.0 s in all
            audit       every row counted once: 3,005 rows × 2 epochs
        "#]]
        .assert_eq(&render(&story(events)));
    }

    #[test]
    fn a_mismatch_of_the_audit_is_loud() {
        let wrong = |number, change: fn(&mut v1::Audit)| {
            let mut epoch = epoch(number, 0.5, None);
            epoch.audit.iter_mut().for_each(change);
            Event::Epoch(epoch)
        };
        let events = vec![
            Event::Epoch(epoch(0, 0.5, None)),
            wrong(2, |audit| audit.rows -= 1),
            wrong(3, |audit| audit.atoms += 1),
            wrong(4, |audit| audit.hash_low += 1),
            Event::Progress(v1::Progress { skipped_nonfinite: 1, skipped_empty: 2, ..progress(5) }),
            Event::Ended(v1::Ended {
                phase: v1::Phase::Stopped.into(),
                last: Some(checkpoint(5)),
                reason: "on request".into(),
                ..v1::Ended::default()
            }),
        ];
        expect![[r#"

            run         r-01jdk3 stopped: on request
            checkpoint  /c/baseline/step-00000005
            speed       3.00 M rows/s in training, 3,005 rows, 5.0 s in all
            skipped     1 step with a loss or gradient that was not finite
            skipped     2 steps without a single term
            audit       AUDIT MISMATCH in epoch 3: 3,004 of 3,005 rows were counted
            audit       AUDIT MISMATCH in epoch 4: 202 of 201 lists or rows were counted
            audit       AUDIT MISMATCH in epoch 5: the right number of rows, but not each of them once
        "#]]
        .assert_eq(&render(&story(events)));
    }

    #[test]
    fn rows_and_epochs_that_a_recovery_did_again_are_counted_once_and_the_recovery_is_told() {
        let window = |first_step, step| Event::Progress(v1::Progress { first_step, ..progress(step) });
        let seated = |generation, first_step, stood_seconds| {
            Event::Seated(v1::Seated { generation, first_step, stood_seconds, ..v1::Seated::default() })
        };
        let ended = v1::Ended { phase: v1::Phase::Succeeded.into(), ..v1::Ended::default() };
        let lost = || Event::Lost(v1::Lost::default());
        let events = vec![
            seated(1, 0, 0.0),
            window(0, 400),
            Event::Epoch(epoch(0, 0.5, None)),
            window(400, 500),
            lost(),
            seated(2, 500, 0.31),
            // Told again by the new rank 0.
            Event::Epoch(epoch(0, 0.5, None)),
            lost(),
            // From a checkpoint: everybody was lost.
            seated(3, 300, 1.19),
            window(300, 400),
            Event::Epoch(epoch(0, 0.5, None)),
            Event::Ended(ended),
        ];
        let story = story(events);
        assert_eq!((story.step, story.epochs.whole), (400, 1));
        expect![[r#"

            run         r-01jdk3 finished
            speed       3.01 M rows/s in training, 5,259 rows, 11 s in all
            recovered   2 times, 2 workers lost, 1.50 s without training
            audit       every row counted once: 3,005 rows × 1 epoch
        "#]]
        .assert_eq(&render(&story));
    }

    #[test]
    fn the_line_tells_the_time_left_by_the_pace_so_far() {
        let story = story(vec![Event::Progress(progress(100)), Event::Progress(progress(500))]);
        expect!["epoch 1/20  step 500/8,000  loss 0.61000  3.00 M rows/s  19 s left"]
            .assert_eq(&story.line(&progress(500)));
    }
}
