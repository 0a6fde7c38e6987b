//! `runs fetch`: the best checkpoint of a run as a folder of its own, whole or not at all.

use std::{path::Path, process::ExitCode};

use coordinator::{
    checkpoints::{self, Arrival},
    kept::Kept,
};
use serde_json::json;

use super::{keeper::Keeper, the_best};
use crate::{args::RunsFetch, document::absolute_path, errors::Fault, json, print};

pub async fn fetch(args: RunsFetch) -> Result<ExitCode, Fault> {
    let out = absolute_path(&args.out)?;
    if out.exists() {
        return Err(
            Fault::words(format!("`{}` exists already", out.display())).hint("name a folder that is to be made")
        );
    }
    let mut keeper = Keeper::find(&args.keeper).await?;
    let run = match &args.best {
        Some(metric) => {
            let runs = keeper.runs(std::slice::from_ref(metric)).await?;
            the_best(&runs, metric, args.lowest)?.clone()
        }
        None => keeper.whole(args.run.as_deref()).await?.kept,
    };
    let what = match keeper {
        Keeper::Mlflow(..) => download(&keeper, &run, &out).await?,
        _ => copy(&run, &out)?,
    };
    if args.keeper.json {
        json::print(&json!({ "run_id": run.run_id, "what": what, "path": out }));
    } else {
        print::line(format_args!("{what} of run {} is in {}", run.run_id, out.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn copy(run: &Kept, out: &Path) -> Result<&'static str, Fault> {
    if run.checkpoint.is_empty() {
        return Err(Fault::run(format!("run `{}` has left no checkpoint", run.run_id)));
    }
    let from = Path::new(&run.checkpoint);
    if !from.exists() {
        let fault = Fault::run(format!(
            "the best checkpoint of run `{}` is not on this machine: `{}`",
            run.run_id,
            from.display()
        ));
        return Err(fault.hint("if the run was tracked, MLflow has it: `--mlflow URL --experiment NAME`"));
    }
    checkpoints::copy(from, out).map_err(|error| {
        let fault = Fault::run(error.message.clone());
        fault.hint(error.hint.unwrap_or_default())
    })?;
    Ok("the best checkpoint")
}

async fn download(keeper: &Keeper, run: &Kept, out: &Path) -> Result<&'static str, Fault> {
    let parent = out.parent().unwrap_or(Path::new("."));
    let cannot = |error: &std::io::Error| Fault::run(format!("cannot write to `{}`", parent.display())).because(error);
    let arrival = Arrival::begin(out).map_err(|error| cannot(&error))?;
    let what = match keeper.download(run, arrival.path()).await? {
        Some("checkpoint") => {
            // It is sent last.
            if !arrival.path().join(proto::checkpoint::MANIFEST).exists() {
                let fault =
                    Fault::run(format!("the checkpoint of run `{}` has not arrived there altogether", run.run_id));
                return Err(fault.hint("wait, or send the rest with `lockstep runs sync` where the run was trained"));
            }
            checkpoints::verify(arrival.path()).map_err(|why| {
                Fault::run(format!("the checkpoint that MLflow has of run `{}` is damaged", run.run_id)).caused_by(why)
            })?;
            "the best checkpoint"
        }
        Some(_) => "the MLflow model",
        None => {
            return Err(Fault::run(format!("run `{}` has neither a checkpoint nor a model there", run.run_id)).hint(
                "it may not have ended, or not have been sent: `lockstep runs show` says how its tracking stands",
            ));
        }
    };
    arrival.commit().map_err(|error| cannot(&error))?;
    Ok(what)
}
