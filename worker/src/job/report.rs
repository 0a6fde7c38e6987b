//! Reports: what leaves a job for the coordinator, through a bounded channel. Windows of steps never wait for it; what must not be
//! lost (epochs, checkpoints) waits where the channel is full.

use std::time::{Duration, Instant};

use proto::v1::{self, worker_message::Message};
use tokio::sync::mpsc;

use super::{Agreed, Job};

/// A window of steps is reported at most this often.
const WINDOW: Duration = Duration::from_millis(200);

/// The way out, and the window under way. All ranks would report the same: rank 0 does.
#[derive(Debug)]
pub struct Reports {
    sender: mpsc::Sender<Message>,
    window: v1::Progress,
    loss: f64,
    denominator: f64,
    began: Instant,
    wait_data: Duration,
    wait_reduce: Duration,
    said_something: bool,
}

impl Reports {
    pub fn new(sender: mpsc::Sender<Message>) -> Self {
        Self {
            sender,
            window: v1::Progress::default(),
            loss: 0.0,
            denominator: 0.0,
            began: Instant::now(),
            wait_data: Duration::ZERO,
            wait_reduce: Duration::ZERO,
            said_something: false,
        }
    }

    /// For what must not be lost; waits where the channel is full.
    pub fn send(&self, message: Message) {
        // A closed channel means that the session is gone, and with it whoever would listen.
        let _ = self.sender.blocking_send(message);
    }

    pub fn waited_for_data(&mut self, time: Duration) {
        self.wait_data += time;
    }

    pub fn waited_for_peers(&mut self, time: Duration) {
        self.wait_reduce += time;
    }

    /// Starts a window: after set-up, and after anything that is not training.
    pub fn restart_clock(&mut self) {
        self.began = Instant::now();
    }
}

impl Job {
    /// Adds a step to the window, its loss where that counts, and reports the window where it is time.
    pub(super) fn report(&mut self, step: u64, agreed: &Agreed, counts: bool) {
        if self.seat.rank != 0 {
            return;
        }
        let position = self.position(step);
        let reports = &mut self.reports;
        if reports.window.rows == 0 && reports.window.lists == 0 {
            reports.window.first_step = step;
        }
        reports.window.rows += agreed.rows;
        reports.window.lists += agreed.lists;
        if counts {
            reports.loss += agreed.terms.loss;
            reports.denominator += agreed.terms.denominator;
        }
        let elapsed = reports.began.elapsed();
        if reports.said_something && elapsed < WINDOW && !position.ends_epoch {
            return;
        }
        let window = v1::Progress {
            generation: self.seat.generation,
            epoch: position.epoch,
            epochs: self.spec.training.epochs,
            step: step + 1,
            steps_per_epoch: self.steps_per_epoch,
            loss: reports.loss / reports.denominator,
            learning_rate: self.schedule.at(position.epoch, step),
            gradient_norm: self.gradient_norm,
            seconds: elapsed.as_secs_f64(),
            skipped_nonfinite: self.state.skipped_nonfinite,
            skipped_empty: self.state.skipped_empty,
            wait_data_seconds: reports.wait_data.as_secs_f64(),
            wait_reduce_seconds: reports.wait_reduce.as_secs_f64(),
            ..reports.window
        };
        // A full channel keeps the window open: the next report says it all.
        if reports.sender.try_send(Message::Progress(window)).is_ok() {
            let sender = reports.sender.clone();
            *reports = Reports { said_something: true, ..Reports::new(sender) };
        }
    }
}
