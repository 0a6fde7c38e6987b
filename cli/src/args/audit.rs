//! `lockstep audit`.

use std::path::PathBuf;

/// Where the run is kept [default: the coordinator at http://127.0.0.1:7070 if one answers, else checkpoints/.state or .lockstep].
#[derive(Debug, clap::Args)]
pub struct AuditArgs {
    /// Which run, by its id or name [default: the newest].
    pub run: Option<String>,
    /// Ask this coordinator.
    #[arg(long, env = "LOCKSTEP_COORDINATOR", value_name = "URL")]
    pub coordinator: Option<String>,
    /// Read the state folder of a coordinator that does not run.
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Print JSON on stdout.
    #[arg(long)]
    pub json: bool,
}
