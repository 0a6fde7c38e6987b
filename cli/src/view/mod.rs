//! What a person sees of a run: a live line, a table that grows, a summary. Takes the events that any watcher gets; knows nothing of
//! how the run came to be.
//!
//! The table and the summary are data and go to stdout; the live line, warnings and notices go to stderr.

mod counted;
mod members;
mod story;
mod summary;
mod table;
mod throttle;

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use proto::v1::{self, run_event::Event};

use crate::{json, print};
use members::Members;
pub use story::Story;
use table::EpochTable;
use throttle::Throttle;

/// How a run is shown.
pub struct View {
    screen: Screen,
    story: Story,
    members: Members,
    table: EpochTable,
    standing: String,
}

enum Screen {
    /// One line that changes, below everything that stays.
    Live(ProgressBar),
    /// Lines that stay, not many of them.
    Plain(Throttle),
    /// The events themselves.
    Json,
}

impl View {
    /// `metric` is the one that decides which epoch is the best.
    pub fn new(json: bool, metric: Option<String>) -> Self {
        let screen = if json {
            Screen::Json
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
            bar.set_style(waiting());
            bar.enable_steady_tick(std::time::Duration::from_millis(125));
            Screen::Live(bar)
        } else {
            Screen::Plain(Throttle::default())
        };
        Self {
            screen,
            story: Story::new(metric),
            members: Members::default(),
            table: EpochTable::default(),
            standing: String::new(),
        }
    }

    pub fn show(&mut self, message: &v1::RunEvent) {
        self.story.take(message);
        if matches!(self.screen, Screen::Json) {
            return json::print(&json::event(message));
        }
        match &message.event {
            Some(Event::Standing(standing)) => self.stand(standing),
            Some(Event::Seated(seated)) => {
                if let Some(line) = self.members.seated(seated) {
                    self.notice(&line);
                }
            }
            Some(Event::Lost(lost)) => self.gone(&lost.worker, &lost.why),
            Some(Event::Progress(progress)) => self.progress(progress),
            Some(Event::Epoch(epoch)) => {
                let lines = self.table.row(epoch);
                self.data(&lines);
                if let Some(mismatch) = epoch.audit.as_ref().and_then(|audit| story::mismatch(epoch.epoch, audit)) {
                    self.notice(&format!("warning: {mismatch}"));
                }
            }
            Some(Event::Warning(warning)) => self.notice(&format!("warning: {}", warning.message)),
            Some(Event::Ended(_)) => self.clear(),
            Some(Event::Checkpoint(_) | Event::System(_)) | None => {}
        }
    }

    fn stand(&mut self, standing: &v1::Standing) {
        // While it trains the progress says more.
        let trains = standing.phase() == v1::Phase::Training && self.story.trains();
        match &mut self.screen {
            Screen::Live(bar) if !trains => bar.set_message(standing.words.clone()),
            Screen::Plain(throttle) if !trains && standing.words != self.standing && throttle.due() => {
                print::note(&standing.words);
            }
            _ => {}
        }
        self.standing.clone_from(&standing.words);
    }

    fn progress(&mut self, progress: &v1::Progress) {
        let line = self.story.line(progress);
        let total = progress.epochs * progress.steps_per_epoch;
        match &mut self.screen {
            Screen::Live(bar) => {
                if bar.length() != Some(total) {
                    bar.set_length(total);
                    bar.set_style(running());
                }
                bar.set_position(progress.step);
                bar.set_message(line);
            }
            Screen::Plain(throttle) if throttle.due() => print::note(line),
            _ => {}
        }
    }

    /// A worker is gone. Said once, whoever knows first.
    pub fn gone(&mut self, worker: &str, why: &str) {
        if let Some(line) = self.members.lost(worker, why) {
            self.notice(&line);
        }
    }

    /// A line for people, above the live one.
    pub fn notice(&self, line: &str) {
        match &self.screen {
            Screen::Live(bar) => bar.suspend(|| print::note(line)),
            _ => print::note(line),
        }
    }

    fn data(&self, lines: &str) {
        match &self.screen {
            Screen::Live(bar) => bar.suspend(|| print::data(lines)),
            _ => print::data(lines),
        }
    }

    /// Takes the live line away.
    pub fn clear(&self) {
        if let Screen::Live(bar) = &self.screen {
            bar.finish_and_clear();
        }
    }

    /// After the last event: how it went.
    pub fn summarise(&self) {
        self.clear();
        if !matches!(self.screen, Screen::Json) {
            print::data(&summary::render(&self.story));
        }
    }

    /// What is said of a run after its summary.
    pub fn conclude(&self, words: &str, event: &serde_json::Value) {
        match self.screen {
            Screen::Json => json::print(event),
            _ => print::data(words),
        }
    }

    pub fn story(&self) -> &Story {
        &self.story
    }
}

fn waiting() -> ProgressStyle {
    style("{spinner} {wide_msg}")
}

fn running() -> ProgressStyle {
    style("{bar:12} {wide_msg}").progress_chars("━╸ ")
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
