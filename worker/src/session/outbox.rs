//! What a worker has to tell its coordinator, in order, whether there is one at the moment or not.
//!
//! Nobody acknowledges a report, and what was given to a connection that then broke may or may not have arrived. So what must not be
//! lost is kept a while after it was sent, and sent again to a coordinator that comes back: it drops what it knows.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use proto::v1::{Progress, WorkerMessage, worker_message::Message};

/// Messages that may wait for the network before the job is made to wait too.
const QUEUE: usize = 256;

/// Beyond so many, windows of steps are merged.
const UNMERGED: usize = 4096;

/// How long, and how many, of what was sent is kept.
const MEMORY: Duration = Duration::from_secs(60);
const REMEMBERED: usize = 2048;

#[derive(Debug, Default)]
pub struct Outbox {
    waiting: VecDeque<WorkerMessage>,
    sent: VecDeque<(Instant, WorkerMessage)>,
}

impl Outbox {
    /// Adds a message; never waits. While no one listens, windows of steps grow longer rather than more and more.
    pub fn push(&mut self, message: WorkerMessage) {
        if self.waiting.len() >= UNMERGED
            && let (Some(Message::Progress(next)), Some(last)) = (&message.message, self.waiting.back_mut())
            && last.generation == message.generation
            && let Some(Message::Progress(window)) = &mut last.message
            && window.step == next.first_step
            && window.epoch == next.epoch
        {
            *window = merged(window, next);
            return;
        }
        self.waiting.push_back(message);
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether reports may wait where they are made: there is someone to tell, and enough to tell.
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= QUEUE
    }

    /// The next message, for a connection that takes it now.
    pub fn next(&mut self, now: Instant) -> Option<WorkerMessage> {
        let message = self.waiting.pop_front()?;
        while self.sent.front().is_some_and(|(at, _)| now - *at > MEMORY) || self.sent.len() >= REMEMBERED {
            self.sent.pop_front();
        }
        if let Some(Message::Progress(_) | Message::Epoch(_) | Message::Staged(_) | Message::Ended(_)) = message.message
        {
            self.sent.push_back((now, message.clone()));
        }
        Some(message)
    }

    /// A coordinator is back that goes on with what it had: it may have missed the newest of what was sent.
    pub fn send_again(&mut self) {
        for (_, message) in self.sent.drain(..).rev() {
            self.waiting.push_front(message);
        }
    }

    /// A new seat: the coordinator knows how the one before ended.
    pub fn forget_sent(&mut self) {
        self.sent.clear();
    }

    /// Nobody wants to hear of it any more.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.sent.clear();
    }
}

/// Two windows as one. The loss is weighed by rows: the denominators are not told.
fn merged(first: &Progress, next: &Progress) -> Progress {
    let hash = |window: &Progress| u128::from(window.hash_high) << 64 | u128::from(window.hash_low);
    let sum = hash(first) + hash(next);
    let rows = first.rows + next.rows;
    let share = |window: &Progress| window.loss * window.rows as f64 / rows.max(1) as f64;
    Progress {
        first_step: first.first_step,
        loss: share(first) + share(next),
        rows,
        lists: first.lists + next.lists,
        atoms: first.atoms + next.atoms,
        hash_high: (sum >> 64) as u64,
        hash_low: sum as u64,
        seconds: first.seconds + next.seconds,
        wait_data_seconds: first.wait_data_seconds + next.wait_data_seconds,
        wait_reduce_seconds: first.wait_reduce_seconds + next.wait_reduce_seconds,
        ..*next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(first_step: u64, step: u64, epoch: u64) -> WorkerMessage {
        let progress = Progress {
            first_step,
            step,
            epoch,
            rows: 10 * (step - first_step),
            loss: step as f64,
            hash_low: u64::MAX,
            ..Progress::default()
        };
        WorkerMessage { message: Some(Message::Progress(progress)), generation: 3, ..WorkerMessage::default() }
    }

    fn steps(outbox: &mut Outbox) -> Vec<(u64, u64)> {
        let mut steps = Vec::new();
        while let Some(message) = outbox.next(Instant::now()) {
            if let Some(Message::Progress(window)) = message.message {
                steps.push((window.first_step, window.step));
            }
        }
        steps
    }

    #[test]
    fn what_was_sent_lately_is_sent_again_before_what_waits() {
        let mut outbox = Outbox::default();
        outbox.push(window(0, 1, 0));
        outbox.push(window(1, 2, 0));
        assert_eq!(steps(&mut outbox), [(0, 1), (1, 2)]);
        outbox.push(window(2, 3, 0));
        outbox.send_again();
        assert_eq!(steps(&mut outbox), [(0, 1), (1, 2), (2, 3)]);
        outbox.forget_sent();
        outbox.send_again();
        assert!(outbox.is_empty());
    }

    #[test]
    fn what_was_sent_long_ago_is_not_sent_again() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        outbox.push(window(0, 1, 0));
        outbox.push(window(1, 2, 0));
        outbox.next(now);
        outbox.next(now + MEMORY * 2);
        outbox.send_again();
        assert_eq!(steps(&mut outbox), [(1, 2)]);
    }

    #[test]
    fn a_long_silence_makes_windows_longer_not_more_and_they_never_span_epochs() {
        let mut outbox = Outbox::default();
        let many = UNMERGED as u64;
        for step in 0..2 * many {
            outbox.push(window(step, step + 1, step / (many + 100)));
        }
        assert_eq!(outbox.waiting.len(), UNMERGED + 1);
        let last = outbox.waiting.back().unwrap();
        let Some(Message::Progress(window)) = &last.message else { panic!("{last:?}") };
        assert_eq!((window.first_step, window.step, window.epoch), (many + 100, 2 * many, 1));
        let steps = many - 100;
        assert_eq!(
            (window.rows, window.loss),
            (10 * steps, (many + 101..=2 * many).sum::<u64>() as f64 / steps as f64)
        );
        let hash = u128::from(window.hash_high) << 64 | u128::from(window.hash_low);
        assert_eq!(hash, u128::from(u64::MAX) * u128::from(steps));
    }
}
