//! How far a verb is with what it reads or makes: a bar on a terminal; elsewhere nothing is drawn.

use std::io::IsTerminal as _;

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// Bytes read of all.
pub fn bytes() -> ProgressBar {
    bar("{bar:24} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left")
}

/// Of things that are counted: `rows`, `events`.
pub fn counted(things: &str) -> ProgressBar {
    bar(&format!("{{bar:24}} {{count}} {things}  {{per_sec}}  {{eta}} left"))
}

fn bar(template: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("━╸ ").with_key(
        "count",
        |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = write!(out, "{}/{}", HumanCount(state.pos()), HumanCount(state.len().unwrap_or(0)));
        },
    ));
    bar
}
