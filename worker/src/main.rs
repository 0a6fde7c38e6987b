//! `lockstep-worker`: joins a coordinator and trains what it is seated for, or carries out a verb that needs libtorch. Started by
//! `lockstep`, rarely by hand.

use std::{
    io::Read as _,
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
    thread,
};

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use worker::{
    export::command::{ExportArgs, export},
    fault::Fault,
    score::command::{ScoreArgs, score},
    session::{self, Identity, SessionError},
};

#[derive(Parser)]
#[command(
    name = "lockstep-worker",
    version,
    about = "Joins a coordinator and trains what it is seated for",
    args_conflicts_with_subcommands = true
)]
struct Args {
    /// Instead of joining a coordinator
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    join: JoinArgs,
    /// What to log, as in RUST_LOG
    #[arg(long, global = true, env = "LOCKSTEP_LOG", default_value = "info")]
    log: String,
}

#[derive(Subcommand)]
enum Verb {
    /// Write a trained model as a file that serves elsewhere
    Export(ExportArgs),
    /// Score a dataset with a model
    Score(ScoreArgs),
}

#[derive(clap::Args)]
struct JoinArgs {
    /// Where the coordinator is; several places, separated by commas, where one takes over from another
    #[arg(long, env = "LOCKSTEP_COORDINATOR", default_value = "http://127.0.0.1:7070")]
    coordinator: String,
    /// This worker's number on its machine: its name over restarts
    #[arg(long, default_value_t = 1)]
    slot: u32,
    /// Which process in that slot this is, from 1
    #[arg(long, default_value_t = 1)]
    life: u32,
    /// cpu, cuda or auto
    #[arg(long, default_value = "auto", value_parser = ["auto", "cpu", "cuda"])]
    device: String,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_new(&args.log).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    leave_with_parent();
    match args.verb {
        Some(Verb::Export(args)) => carry_out(|| export(&args)),
        Some(Verb::Score(args)) => carry_out(|| score(&args)),
        None => join(args.join),
    }
}

/// Runs a verb to its end: its error is written down as `lockstep` writes its own.
fn carry_out(verb: impl FnOnce() -> Result<(), Fault>) -> ExitCode {
    // What libtorch throws arrives as a panic; its words are the error's, without a backtrace that says nothing to a reader.
    panic::set_hook(Box::new(|_| {}));
    let outcome = panic::catch_unwind(AssertUnwindSafe(verb)).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no words");
        Err(Fault::failed(words.to_owned(), "if the model is one of lockstep's own, please report this"))
    });
    let Err(fault) = outcome else { return ExitCode::SUCCESS };
    eprintln!("error: {fault}");
    if let Some(hint) = &fault.hint {
        eprintln!("hint: {hint}");
    }
    ExitCode::from(if fault.input_is_wrong { 2 } else { 1 })
}

fn join(args: JoinArgs) -> ExitCode {
    if args.device == "cuda" {
        eprintln!("error: this worker has no CUDA: its libtorch was built for CPUs");
        eprintln!("hint: use `--device cpu`, or leave it at `auto`");
        return ExitCode::from(2);
    }
    // One thread is enough for a session; the rest of the machine is for training.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no async runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let identity = Identity { coordinator: args.coordinator, slot: args.slot, life: args.life };
    match runtime.block_on(session::serve(identity)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(inner) = cause {
                eprintln!("  caused by: {inner}");
                cause = inner.source();
            }
            if let SessionError::Refused { hint, .. } = &error
                && !hint.is_empty()
            {
                eprintln!("hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

/// A worker started with a pipe as its standard input lives as long as whoever holds the other end.
fn leave_with_parent() {
    let is_pipe = rustix::fs::fstat(std::io::stdin())
        .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo);
    if !is_pipe {
        return;
    }
    thread::spawn(|| {
        let mut sink = [0; 64];
        while std::io::stdin().read(&mut sink).is_ok_and(|read| read > 0) {}
        tracing::warn!("the process that started this worker is gone");
        // Not `exit`: libtorch is at work on other threads, and its destructors would run under it.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    });
}
