//! `lockstep chaos`.

use std::{path::PathBuf, time::Duration};

use super::TrainArgs;

#[derive(Debug, clap::Args)]
pub struct ChaosArgs {
    #[command(flatten)]
    pub train: TrainArgs,
    /// Kill a worker, whichever, this often.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, required_unless_present_any = ["pause_every", "plan"])]
    pub kill_every: Option<Duration>,
    /// Stop a worker in its tracks, whichever, this often.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub pause_every: Option<Duration>,
    /// How long it is stopped then [default: 8s, longer than it takes to be given up].
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, requires = "pause_every")]
    pub pause_for: Option<Duration>,
    /// What to do to whom and when, in TOML: `[[fault]]`, `do = "kill"`, `worker = "rank 0"`, `at_step = 100`.
    #[arg(long, value_name = "FILE")]
    pub plan: Option<PathBuf>,
    /// Decides whom `any` means.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}
