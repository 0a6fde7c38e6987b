//! `lockstep collect`: arguments become the collector's options, what it tells becomes lines.

use std::{
    io::IsTerminal as _,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pipeline::collect::{self, CollectOptions, CollectReport, Happening, KafkaSettings, Mode, Standing};
use ranking::events::LogSchema;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{args::CollectArgs, errors::Fault, json, print, signals::Interrupts, words};

/// How often a line says how far it is, where there is no terminal to draw on.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// How often JSON does.
const JSON_EVERY: Duration = Duration::from_secs(1);
/// Rates are taken over about this long.
const RATE_OVER: Duration = Duration::from_secs(2);

pub async fn collect(args: CollectArgs) -> Result<ExitCode, Fault> {
    let as_json = args.json;
    let options = options(args)?;
    let mut interrupts = Interrupts::listen()?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut work = tokio::task::spawn_blocking({
        let stop = Arc::clone(&stop);
        move || {
            let mut screen = Screen::new(as_json, options.follow);
            let report = collect::collect(&options, &stop, &mut |happening| screen.show(&happening));
            screen.clear();
            report
        }
    });
    let report = loop {
        tokio::select! {
            report = &mut work => break report,
            () = interrupts.next() => {
                if stop.swap(true, Ordering::Relaxed) {
                    return Err(Fault::run("left at once; what was not committed will be read again"));
                }
                print::note("committing what was read; once more to leave at once");
            }
        }
    };
    let report = report.map_err(|error| Fault::run("the collector broke").because(&error))??;
    if as_json {
        json::print(&event("collected", &report)?);
    } else {
        print::line(lines(&report));
    }
    Ok(ExitCode::SUCCESS)
}

fn options(args: CollectArgs) -> Result<CollectOptions, Fault> {
    let mut settings = KafkaSettings::default();
    if let Some(path) = &args.kafka_config {
        settings.add_file(path)?;
    }
    for setting in &args.kafka {
        settings.add(setting)?;
    }
    let default = CollectOptions::new(args.brokers, args.topic, args.lake);
    Ok(CollectOptions {
        mode: args.date.map_or(Mode::All, Mode::Date),
        follow: args.follow,
        schema: LogSchema::with_features(args.log_features),
        settings,
        roll_bytes: args.roll_size.as_u64(),
        roll_every: args.roll_every,
        memory: args.memory.as_u64() as usize,
        threads: args.threads.unwrap_or(default.threads),
        patience: args.patience,
        ..default
    })
}

/// `{"event": name, …}`.
fn event(name: &str, body: &impl Serialize) -> Result<Value, Fault> {
    let mut value =
        serde_json::to_value(body).map_err(|error| Fault::run("a report cannot be written as JSON").because(&error))?;
    if let Value::Object(fields) = &mut value {
        fields.insert("event".into(), name.into());
    }
    Ok(value)
}

/// The report for people.
fn lines(report: &CollectReport) -> String {
    let tally = &report.tally;
    let rate = words::rate(tally.events, report.seconds);
    let date = report.date.map(|date| format!(" of {date}")).unwrap_or_default();
    let mut lines = format!(
        "{}{date} from `{}`, {} ({rate} events/s)\n",
        words::counted(tally.events, "event"),
        report.topic,
        words::span(report.seconds),
    );
    lines += &format!(
        "wrote   {} ({}, {}; {}, {})",
        report.lake,
        words::counted(report.files, "file"),
        ByteSize(report.bytes),
        words::counted(report.partitions as u64, "partition"),
        words::counted(report.commits, "commit"),
    );
    let mut say = |count: u64, what: &str| {
        if count > 0 {
            lines += &format!("\n{:>7} {what}", words::count(count));
        }
    };
    say(tally.malformed, "malformed messages, in the dead letters");
    say(tally.malformed_elsewhere, "malformed messages were sent on other dates, and are left to the runs of these");
    let left = tally.other_dates.values().sum();
    let dates = match (tally.other_dates.first_key_value(), tally.other_dates.last_key_value()) {
        (Some((first, _)), Some((last, _))) => format!("{first} to {last}"),
        _ => String::new(),
    };
    say(left, &format!("events of other dates ({dates}) are left to their own runs"));
    say(tally.repeats, "repeats of an event by its producer, kept as they came");
    say(tally.naive_timestamps, "timestamps without a zone, taken as UTC");
    for path in &report.dead_letters {
        lines += &format!("\ndead    {path}");
    }
    for notice in &report.notices {
        lines += &format!("\nnote    {notice}");
    }
    if report.stopped {
        lines += "\nstopped; the next run goes on from here";
    }
    lines
}

/// Shows what happens: a line that is drawn anew on a terminal, lines now and then elsewhere, JSON where that is wanted.
struct Screen {
    json: bool,
    follow: bool,
    bar: Option<ProgressBar>,
    told: Option<Instant>,
    /// An earlier standing, to take rates from.
    earlier: Standing,
    later: Standing,
}

impl Screen {
    fn new(json: bool, follow: bool) -> Self {
        let draws = !json && std::io::stderr().is_terminal();
        let bar = draws.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
            bar.set_style(
                ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar
        });
        Self { json, follow, bar, told: None, earlier: Standing::default(), later: Standing::default() }
    }

    fn show(&mut self, happening: &Happening<'_>) {
        let (name, body) = match happening {
            Happening::Started { partitions } => {
                ("started", Ok(json!({ "event": "started", "partitions": partitions })))
            }
            Happening::Committed(committed) => ("committed", event("committed", committed)),
            Happening::Notice(words) => {
                self.note(words);
                ("notice", Ok(json!({ "event": "notice", "words": words })))
            }
            Happening::Progress(standing) => {
                self.progress(standing);
                ("progress", event("progress", standing))
            }
        };
        let due = name != "progress" || self.told.is_none_or(|told| told.elapsed() >= JSON_EVERY);
        if let (true, true, Ok(body)) = (self.json, due, body) {
            json::print(&body);
            if name == "progress" {
                self.told = Some(Instant::now());
            }
        }
    }

    fn note(&self, words: &str) {
        match &self.bar {
            Some(bar) => bar.println(format!("note: {words}")),
            None => print::note(format!("note: {words}")),
        }
    }

    fn progress(&mut self, standing: &Standing) {
        if standing.seconds - self.later.seconds >= RATE_OVER.as_secs_f64() {
            self.earlier = std::mem::replace(&mut self.later, *standing);
        }
        let seconds = standing.seconds - self.earlier.seconds;
        let rate = words::rate(standing.messages - self.earlier.messages, seconds);
        let bytes = (standing.payload_bytes - self.earlier.payload_bytes) as f64 / seconds.max(1e-3);
        let mut line = format!(
            "{}  {rate}/s  {}/s  lag {}",
            words::counted(standing.events, "event"),
            ByteSize(bytes as u64),
            words::count(standing.lag)
        );
        if standing.malformed > 0 {
            line += &format!("  {} malformed", words::count(standing.malformed));
        }
        if let Some(bar) = &self.bar {
            bar.set_message(line);
            bar.tick();
        } else if !self.json && self.told.is_none_or(|told| told.elapsed() >= LINE_EVERY) {
            // The first look comes before there is anything to see.
            if self.told.is_some() || self.follow {
                print::note(line);
            }
            self.told = Some(Instant::now());
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn the_report_tells_what_was_written_and_what_was_odd() {
        let mut report = CollectReport::new(&CollectOptions::new("b:9092", "search_events", "data/lake"), 3);
        (report.commits, report.files, report.bytes, report.seconds) = (4, 5, 3 << 20, 2.5);
        (report.tally.events, report.tally.malformed, report.tally.repeats) = (250_000, 2, 1);
        report.dead_letters.push("_dead_letters/x.jsonl".into());
        report.notices.push("search_events p1: 3 messages are missing".into());
        expect![[r#"
            250,000 events from `search_events`, 2.5 s (100.0 k events/s)
            wrote   data/lake (5 files, 3.0 MiB; 3 partitions, 4 commits)
                  2 malformed messages, in the dead letters
                  1 repeats of an event by its producer, kept as they came
            dead    _dead_letters/x.jsonl
            note    search_events p1: 3 messages are missing"#]]
        .assert_eq(&lines(&report));
    }
}
