//! The verb `audit`: whether each epoch of a run counted every row exactly once, whatever happened to its workers.

mod ledger;
mod report;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use crate::{
    args::{AuditArgs, RunsKeeper},
    errors::Fault,
    json, print,
    runs::Keeper,
};
pub use ledger::Ledger;
pub use report::Report;

pub async fn audit(args: AuditArgs) -> Result<ExitCode, Fault> {
    let place = RunsKeeper {
        coordinator: args.coordinator,
        state: args.state,
        mlflow: None,
        experiment: None,
        json: args.json,
    };
    let mut ledger = Ledger::default();
    let status = Keeper::find(&place).await?.replay(args.run.as_deref(), |event| ledger.take(event)).await?;
    if status.ended_unix_micros > 0 {
        ledger.over(status.phase());
    }
    let report = ledger.report();
    if args.json {
        json::print(&report.json());
    } else {
        print::data(&report.render());
    }
    // What cannot be proven is no proof either.
    Ok(if report.is_violated() || report.is_unprovable() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
