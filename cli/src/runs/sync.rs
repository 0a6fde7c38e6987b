//! `runs sync`: a coordinator that does nothing but send what its journal still holds.

use std::process::ExitCode;

use coordinator::Settled;
use serde_json::json;

use crate::{
    args::RunsSync, document::absolute_path, errors::Fault, json, print, serve, signals::Interrupts, tracking,
};

pub async fn sync(args: RunsSync) -> Result<ExitCode, Fault> {
    let state = absolute_path(&args.state)?;
    if !state.join("journal.redb").exists() {
        return Err(Fault::words(format!("there is no journal in `{}`", state.display()))
            .hint("name a state folder with `--state DIR`; that of `lockstep train` is <checkpoint.dir>/.state"));
    }
    let mut interrupts = Interrupts::listen()?;
    let coordinator = serve::for_one_run(Some(([127, 0, 0, 1], 0).into()), &state).await?;
    let settled = tokio::select! {
        settled = coordinator.settle_tracking(tracking::PATIENCE) => Some(settled),
        () = interrupts.next() => None,
    };
    coordinator.shutdown().await;
    let Some(Settled { left, remarks }) = settled else {
        return Err(Fault::run("interrupted before all was sent"));
    };
    for remark in &remarks {
        print::note(format_args!("tracking: {remark}"));
    }
    if args.json {
        let left: Vec<_> = left
            .iter()
            .map(|one| json!({ "run_id": one.run, "mlflow": one.url, "points": one.points, "trouble": one.trouble }))
            .collect();
        json::print(&json!({ "left": left }));
    }
    if left.is_empty() {
        if !args.json {
            print::line("all runs are tracked");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let count = crate::words::counted(left.len() as u64, "run");
    let fault = Fault::run(format!("{count} could not be sent altogether"));
    let fault = left.iter().fold(fault, |fault, one| fault.caused_by(tracking::in_words(one)));
    Err(fault.hint("what is left is kept; run this again once the server takes it"))
}
