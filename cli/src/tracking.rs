//! What a process that runs a coordinator does for its tracker: models to export, and the wait at the end.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use coordinator::{
    Coordinator, Leftover,
    tracking::{Credentials, ExportModel, Settings},
};

use crate::{children, signals::Interrupts, words};

/// How long the end of a process waits for the next thing that its tracker takes.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Lines of a failed export that are kept.
const LAST_LINES: usize = 3;

/// As the environment has it.
pub fn settings() -> Settings {
    let export = children::find().ok().map(|binary| Arc::new(exporter(binary)) as Arc<ExportModel>);
    Settings { credentials: Credentials::from_environment(), export }
}

/// Makes an MLflow model of a checkpoint, by the one binary that knows models.
fn exporter(binary: PathBuf) -> impl Fn(&Path, &Path) -> Result<(), String> {
    move |checkpoint, out| {
        let mut command = Command::new(&binary);
        command.args(["export", "--format", "mlflow", "--model"]).arg(checkpoint).arg("--out").arg(out);
        let output =
            command.stdin(Stdio::null()).output().map_err(|error| format!("`{}`: {error}", binary.display()))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).take(LAST_LINES).collect();
        Err(if lines.is_empty() {
            format!("`lockstep-worker export` ended with {}", output.status)
        } else {
            lines.join("; ")
        })
    }
}

/// Waits for what is on its way to a tracker, as long as something arrives and nobody interrupts. What a person should know then; `when`: how what
/// is left will be sent.
pub async fn settle(coordinator: &Coordinator, interrupts: &mut Interrupts, state: &Path, when: &str) -> Vec<String> {
    tokio::select! {
        settled = coordinator.settle_tracking(PATIENCE) => {
            let kept = |left: &Leftover| format!("{}; what is left is kept in {}, and sent {when}", in_words(left), state.display());
            settled.remarks.iter().cloned().chain(settled.left.iter().map(kept)).collect()
        }
        () = interrupts.next() => vec![format!("what was not sent yet is kept in {}, and sent {when}", state.display())],
    }
}

/// `run r-1: 120 points wait for http://…: connection refused`.
pub fn in_words(left: &Leftover) -> String {
    let what = if left.points == 0 { "its end waits".to_owned() } else { waits(left.points) };
    let why = if left.trouble.is_empty() { String::new() } else { format!(": {}", left.trouble) };
    format!("run {}: {what} for {}{why}", left.run, left.url)
}

fn waits(points: u64) -> String {
    let verb = if points == 1 { "waits" } else { "wait" };
    format!("{} {verb}", words::counted(points, "point"))
}
