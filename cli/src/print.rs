//! Data on stdout, words about it on stderr. A reader that has gone away (`lockstep inspect … | head`) ends neither a run nor us.

use std::{
    fmt::Display,
    io::{self, Write as _},
};

/// Lines as they are.
pub fn data(lines: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(lines.as_bytes()).and_then(|()| stdout.flush());
}

/// One more line of data.
pub fn line(line: impl Display) {
    data(&format!("{line}\n"));
}

/// A line for people.
pub fn note(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
