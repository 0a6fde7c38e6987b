//! Who trains: losses and recoveries, a line each, whoever tells of them first.

use std::collections::BTreeMap;

use proto::v1;

use crate::words;

/// Losses that a recovery may still follow; older ones are forgotten.
const LOSSES_KEPT: usize = 256;

/// The members of the newest generation, and what was said of those who are gone.
#[derive(Debug, Default)]
pub struct Members {
    present: Vec<String>,
    gone: BTreeMap<String, String>,
}

impl Members {
    /// A line about a worker that is gone; none where as much was said already.
    pub fn lost(&mut self, worker: &str, why: &str) -> Option<String> {
        let told = self.gone.get(worker).is_some_and(|told| told.contains(why) || why.contains(told.as_str()));
        if told {
            return None;
        }
        if self.gone.len() >= LOSSES_KEPT {
            self.gone.clear();
        }
        self.gone.insert(worker.to_owned(), why.to_owned());
        // What a process's end reads like.
        let ended = ["killed by ", "exited with ", "answered no more"].iter().any(|end| why.starts_with(end));
        Some(if ended { format!("worker {worker} {why}") } else { format!("worker {worker} lost: {why}") })
    }

    /// A line about a generation that takes over from another.
    pub fn seated(&mut self, seated: &v1::Seated) -> Option<String> {
        let before = std::mem::replace(&mut self.present, seated.workers.clone());
        if seated.generation <= 1 {
            return None;
        }
        let new: Vec<&str> = seated.workers.iter().filter(|w| !before.contains(w)).map(String::as_str).collect();
        let all = || seated.workers.iter().map(String::as_str).collect();
        // Of a watcher that has seen nothing before, everybody would be new.
        let named: Vec<&str> = if new.is_empty() || before.is_empty() { all() } else { new };
        let world = seated.workers.len() as u64;
        let now = match before.len() == seated.workers.len() || before.is_empty() {
            true => String::new(),
            false => format!(", {} now", words::counted(world, "worker")),
        };
        let left: Vec<&str> = before
            .iter()
            .filter(|w| !seated.workers.contains(w) && !self.gone.contains_key(*w))
            .map(String::as_str)
            .collect();
        let left = if left.is_empty() { String::new() } else { format!("{} left; ", left.join(", ")) };
        Some(format!(
            "{left}going on from step {} with {} after {}{now}",
            words::count(seated.first_step),
            named.join(", "),
            words::moments(seated.stood_seconds),
        ))
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn seated(generation: u64, workers: &[&str], first_step: u64, stood_seconds: f64) -> v1::Seated {
        let workers = workers.iter().map(ToString::to_string).collect();
        v1::Seated { generation, workers, first_step, stood_seconds }
    }

    #[test]
    fn a_loss_and_a_recovery_are_a_line_each() {
        let mut members = Members::default();
        let mut lines: Vec<String> = Vec::new();
        lines.extend(members.seated(&seated(1, &["w0:1", "w1:1"], 0, 0.0)));
        lines.extend(members.lost("w1:1", "killed by signal 9 (SIGKILL)"));
        // The coordinator's event of what the launcher has said.
        lines.extend(members.lost("w1:1", "killed by signal 9 (SIGKILL); its last words: none"));
        lines.extend(members.seated(&seated(2, &["w0:1", "w1:2"], 1240, 0.3137)));
        lines.extend(members.lost("w0:1", "silent for 5 s"));
        lines.extend(members.seated(&seated(3, &["w1:2"], 1300, 12.0)));
        lines.extend(members.lost("w0:1", "answered no more, and was killed"));
        lines.extend(members.seated(&seated(4, &["w1:2", "w0:2"], 1310, 0.02)));
        // In peace: nobody called it lost.
        lines.extend(members.seated(&seated(5, &["w0:2"], 1320, 0.01)));
        expect![[r"
            worker w1:1 killed by signal 9 (SIGKILL)
            going on from step 1,240 with w1:2 after 0.31 s
            worker w0:1 lost: silent for 5 s
            going on from step 1,300 with w1:2 after 12 s, 1 worker now
            worker w0:1 answered no more, and was killed
            going on from step 1,310 with w0:2 after 0.02 s, 2 workers now
            w1:2 left; going on from step 1,320 with w0:2 after 0.01 s, 1 worker now"]]
        .assert_eq(&lines.join("\n"));
    }

    #[test]
    fn who_comes_late_is_told_of_all_members() {
        let line = Members::default().seated(&seated(7, &["w0:1", "w1:4"], 50, 0.5)).unwrap();
        assert_eq!(line, "going on from step 50 with w0:1, w1:4 after 0.50 s");
    }
}
