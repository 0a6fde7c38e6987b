//! Data on stdout, words about it on stderr. A reader that has gone away (`lockstep inspect … | head`) ends neither a run nor us.
//! Data that cannot be written for another reason does not end a run either, but is said once, and the exit code tells.

use std::{
    fmt::Display,
    io::{self, Write as _},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

static LOST: AtomicBool = AtomicBool::new(false);

/// Lines as they are.
pub fn data(lines: &str) {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(lines.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if matters(&error) && !LOST.swap(true, Ordering::Relaxed) => {
            note(format_args!("error: cannot write to stdout: {error}\nhint: is there space where it goes to?"));
        }
        _ => {}
    }
}

fn matters(error: &io::Error) -> bool {
    error.kind() != io::ErrorKind::BrokenPipe
}

/// The exit code of a verb that went well: not where its data is lost.
pub fn verdict(code: ExitCode) -> ExitCode {
    if code == ExitCode::SUCCESS && LOST.load(Ordering::Relaxed) { ExitCode::FAILURE } else { code }
}

/// One more line of data.
pub fn line(line: impl Display) {
    data(&format!("{line}\n"));
}

/// A line for people.
pub fn note(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
