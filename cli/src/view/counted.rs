//! Rows and seconds of the steps that count. What a generation reported past the step that its successor goes on from counts no more.

use std::collections::VecDeque;

use proto::v1;

/// Reports that are told apart. A generation goes back by a report or two; only one that was begun from an old checkpoint goes back
/// further, and is then reckoned from the mean of what has run together.
const REPORTS: usize = 4096;

/// Of the steps (first_step, step].
#[derive(Clone, Copy, Debug)]
struct Window {
    first_step: u64,
    step: u64,
    rows: f64,
    seconds: f64,
}

/// What was reported, each step once.
#[derive(Debug, Default)]
pub struct Counted(VecDeque<Window>);

impl Counted {
    pub fn add(&mut self, report: &v1::Progress) {
        // Told again.
        if report.step <= self.step() {
            return;
        }
        self.0.push_back(Window {
            first_step: report.first_step,
            step: report.step,
            rows: report.rows as f64,
            seconds: report.seconds,
        });
        if self.0.len() > REPORTS
            && let (Some(older), Some(old)) = (self.0.pop_front(), self.0.front_mut())
        {
            old.first_step = older.first_step;
            old.rows += older.rows;
            old.seconds += older.seconds;
        }
    }

    /// Nothing past this step has happened.
    pub fn back_to(&mut self, step: u64) {
        while let Some(last) = self.0.back_mut().filter(|last| last.step > step) {
            if last.first_step >= step {
                self.0.pop_back();
                continue;
            }
            let kept = (step - last.first_step) as f64 / (last.step - last.first_step) as f64;
            (last.rows, last.seconds, last.step) = (last.rows * kept, last.seconds * kept, step);
        }
    }

    /// The newest that counts; 0: none.
    pub fn step(&self) -> u64 {
        self.0.back().map_or(0, |last| last.step)
    }

    pub fn rows(&self) -> u64 {
        self.0.iter().map(|window| window.rows).sum::<f64>().round() as u64
    }

    pub fn seconds(&self) -> f64 {
        self.0.iter().map(|window| window.seconds).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(first_step: u64, step: u64) -> v1::Progress {
        v1::Progress { first_step, step, rows: 10 * (step - first_step), seconds: 1.0, ..Default::default() }
    }

    #[test]
    fn steps_that_are_void_or_told_again_are_not_counted() {
        let mut counted = Counted::default();
        counted.add(&report(0, 10));
        counted.add(&report(10, 20));
        counted.add(&report(10, 20));
        assert_eq!((counted.step(), counted.rows(), counted.seconds()), (20, 200, 2.0));
        counted.back_to(10);
        assert_eq!((counted.step(), counted.rows()), (10, 100));
        counted.add(&report(10, 30));
        assert_eq!((counted.step(), counted.rows(), counted.seconds()), (30, 300, 2.0));
        counted.back_to(25);
        assert_eq!((counted.step(), counted.rows(), counted.seconds()), (25, 250, 1.75));
        counted.back_to(0);
        assert_eq!((counted.step(), counted.rows()), (0, 0));
    }

    #[test]
    fn the_oldest_run_together_and_stay_counted() {
        let mut counted = Counted::default();
        (0..10_000).for_each(|n| counted.add(&report(n, n + 1)));
        assert_eq!((counted.rows(), counted.0.len()), (100_000, REPORTS));
        counted.back_to(100);
        assert_eq!(counted.rows(), 1000);
    }
}
