//! One worker process: started with a log of its own, its end in words.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Seek as _, SeekFrom},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use tokio::process::{Child, ChildStdin, Command};

use super::Post;
use crate::errors::Fault;

/// Lines of a log that go with the cause of an end, and how long each may be.
const TELLING: usize = 3;
const TELLING_CHARACTERS: usize = 160;

/// A worker process, killed when dropped. It ends when its stdin does, so it does not outlive us however we die.
pub struct Process {
    pub child: Child,
    pub stdin: Option<ChildStdin>,
    pub log: PathBuf,
}

impl Process {
    pub fn start(post: &Post, slot: u32, life: u32) -> Result<Self, Fault> {
        let log = post.logs.join(log_name(slot, life));
        let unwritable = |error: io::Error| {
            Fault::run(format!("cannot write `{}`", log.display()))
                .because(&error)
                .hint("name a folder that can be written to with `--state DIR`")
        };
        let stderr = File::create(&log).map_err(unwritable)?;
        let stdout = stderr.try_clone().map_err(unwritable)?;
        let mut child = Command::new(&post.binary)
            .args(["--coordinator", &post.coordinator, "--device", post.device.word()])
            .args(["--slot", &slot.to_string(), "--life", &life.to_string()])
            .env("LOCKSTEP_LOG", &post.filter)
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(stderr)
            // A Ctrl-C at the terminal is for us; workers are told by the coordinator.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Fault::run(format!("`{}` does not start", post.binary.display())).because(&error))?;
        // Waiting for a child would close it.
        let stdin = child.stdin.take();
        Ok(Self { child, stdin, log })
    }
}

/// `w1.log`, of its second life `w1.2.log`.
fn log_name(slot: u32, life: u32) -> String {
    if life == super::FIRST_LIFE { format!("w{slot}.log") } else { format!("w{slot}.{life}.log") }
}

pub fn cause(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => match signal_name(signal) {
            Some(name) => format!("killed by signal {signal} ({name})"),
            None => format!("killed by signal {signal}"),
        },
        (None, None) => status.to_string(),
    }
}

fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        _ => return None,
    })
}

/// The last lines that a worker logged.
pub fn last_lines(log: &Path, lines: usize) -> Vec<String> {
    let mut all = tail(log);
    all.split_off(all.len().saturating_sub(lines))
}

/// What a worker wrote last that may say why it ended: few lines, short ones, none of the course of its work.
pub fn last_words(log: &Path) -> Vec<String> {
    let telling = |line: &String| !is_routine(line);
    let mut lines: Vec<String> = tail(log).into_iter().rev().filter(telling).take(TELLING).collect();
    lines.reverse();
    let short = |line: String| {
        let line = line.trim();
        match line.char_indices().nth(TELLING_CHARACTERS) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None => line.to_owned(),
        }
    };
    lines.into_iter().map(short).collect()
}

/// `2026-11-25T13:00:00.000000Z  INFO …`.
fn is_routine(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let stamped =
        words.next().is_some_and(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.ends_with('Z'));
    stamped && matches!(words.next(), Some("INFO" | "DEBUG" | "TRACE"))
}

/// The lines at the end of a log.
fn tail(log: &Path) -> Vec<String> {
    const ENOUGH: u64 = 16 << 10;
    let Ok(mut file) = File::open(log) else { return Vec::new() };
    let length = file.metadata().map_or(0, |about| about.len());
    let start = length.saturating_sub(ENOUGH);
    if file.seek(SeekFrom::Start(start)).is_err() {
        return Vec::new();
    }
    let read = BufReader::new(file).split(b'\n').map_while(Result::ok);
    // The first one may have lost its beginning.
    let read = read.skip(usize::from(start > 0)).map(|line| String::from_utf8_lossy(&line).into_owned());
    read.filter(|line| !line.trim().is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_few_and_short_and_not_those_of_its_routine() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("w1.log");
        let long = "x".repeat(400);
        let text = format!(
            "2026-11-25T13:00:00.000000Z  INFO worker::session: joined worker=\"w1:1\"\n\
             error: one\n\n  caused by: two\n{long}\n2026-11-25T13:00:01.000000Z  WARN worker: three\n\
             2026-11-25T13:00:02.000000Z DEBUG worker: four\n"
        );
        std::fs::write(&log, text).unwrap();
        let words = last_words(&log);
        assert_eq!(words.len(), 3, "{words:?}");
        assert_eq!(words[0], "caused by: two");
        assert_eq!(words[1].chars().count(), TELLING_CHARACTERS + 1);
        assert!(words[2].ends_with("WARN worker: three"), "{words:?}");
        assert!(last_lines(&log, 1)[0].ends_with("four"));
        assert!(last_words(&folder.path().join("none.log")).is_empty());
    }
}
