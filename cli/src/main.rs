//! `lockstep`: every verb of the house in one binary. Arguments in, one verb carried out, one exit code out.

mod args;
mod audit;
mod chaos;
mod children;
mod client;
mod collect;
mod datasets;
mod document;
mod errors;
mod evaluate;
mod experiments;
mod export;
mod json;
mod judge;
mod logs;
mod origin;
mod prepare;
mod print;
mod progress;
mod propensity;
mod remote;
mod resume;
mod runs;
mod score;
mod serve;
mod signals;
mod tracking;
mod train;
mod view;
mod words;

use std::{io::IsTerminal as _, process::ExitCode, time::Duration};

use clap::Parser as _;

use args::{Args, Counterfactual, Verb};
use errors::Fault;

/// How long threads that wait for a disk are waited for at the end.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let args = Args::parse();
    match carry_out(args) {
        Ok(code) => print::verdict(code),
        Err(fault) => {
            print::note(fault.render().trim_end());
            fault.exit_code()
        }
    }
}

fn carry_out(args: Args) -> Result<ExitCode, Fault> {
    let quiet = match &args.verb {
        Verb::Coordinator(_) => "info",
        Verb::Train(_) | Verb::Chaos(_) => "error",
        _ => "warn",
    };
    let log = args.log.as_deref().unwrap_or(quiet);
    log_to_stderr(log)?;
    match args.verb {
        Verb::Check(args) => document::check(&args),
        Verb::Import(import) => datasets::import(import),
        Verb::Generate(args) => datasets::generate(args),
        Verb::Split(args) => datasets::split(args),
        Verb::Inspect(args) => datasets::inspect(args),
        Verb::Prepare(args) => prepare::prepare(*args),
        Verb::Counterfactual(Counterfactual::Actions(args)) => experiments::actions(args),
        Verb::Score(args) => score::score(&args, log),
        Verb::Evaluate(args) => evaluate::evaluate(*args, log),
        Verb::Compare(args) => evaluate::compare(*args),
        Verb::Worker(args) => Err(children::become_worker(&args)),
        Verb::Export(export) => export::export(&export, log),
        verb => run_async(async {
            match verb {
                Verb::Train(train) => Box::pin(train::train(train, args.log.as_deref())).await,
                Verb::Coordinator(args) => Box::pin(serve::serve(args)).await,
                Verb::Logs(verb) => Box::pin(logs::logs(verb)).await,
                Verb::Collect(args) => collect::collect(args).await,
                Verb::Judge(verb) => Box::pin(judge::judge(verb)).await,
                Verb::Submit(args) => remote::submit(args).await,
                Verb::List(args) => remote::list(&args).await,
                Verb::Status(args) => remote::status(&args).await,
                Verb::Watch(args) => remote::watch(&args).await,
                Verb::Metrics(args) => remote::metrics(args).await,
                Verb::Checkpoints(args) => remote::checkpoints(&args).await,
                Verb::Workers(args) => remote::workers(&args).await,
                Verb::Counterfactual(Counterfactual::Clicks(args)) => Box::pin(experiments::clicks(*args)).await,
                Verb::Abtest(args) => Box::pin(experiments::abtest(*args)).await,
                Verb::Propensity(verb) => propensity::carry_out(verb).await,
                Verb::Runs(verb) => Box::pin(runs::runs(verb)).await,
                Verb::Chaos(chaos) => Box::pin(chaos::chaos(*chaos, args.log.as_deref())).await,
                Verb::Audit(args) => Box::pin(audit::audit(args)).await,
                Verb::Stop(args) => remote::stop(&args).await,
                Verb::Engine(verb) => Box::pin(prepare::engine(verb)).await,
                Verb::Check(_)
                | Verb::Import(_)
                | Verb::Generate(_)
                | Verb::Split(_)
                | Verb::Inspect(_)
                | Verb::Prepare(_)
                | Verb::Counterfactual(Counterfactual::Actions(_))
                | Verb::Score(_)
                | Verb::Worker(_)
                | Verb::Export(_)
                | Verb::Evaluate(_)
                | Verb::Compare(_) => unreachable!("carried out above, without a runtime"),
            }
        }),
    }
}

fn run_async(verb: impl Future<Output = Result<ExitCode, Fault>>) -> Result<ExitCode, Fault> {
    let runtime = runtime()?;
    let outcome = runtime.block_on(verb);
    // A disk that hangs must not keep a person who wants to leave.
    runtime.shutdown_timeout(LEAVE_WITHIN);
    outcome
}

fn runtime() -> Result<tokio::runtime::Runtime, Fault> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Fault::run("cannot start threads").because(&error))
}

/// Data goes to stdout, so logs never do.
fn log_to_stderr(filter: &str) -> Result<(), Fault> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter).map_err(|error| {
        Fault::words(format!("`{filter}` is not a log filter"))
            .because(&error)
            .hint("write `--log info`, or `--log coordinator=debug,warn`")
    })?;
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(std::io::stderr).init();
    Ok(())
}
