//! The verb `export`: libtorch's work, so it is `lockstep-worker` that carries it out.

use std::process::{ExitCode, Stdio};

use crate::{
    args::ExportArgs,
    errors::Fault,
    score::{Hand, flag},
};

pub fn export(args: &ExportArgs, log: &str) -> Result<ExitCode, Fault> {
    let mut arguments = vec!["export".into()];
    flag(&mut arguments, "--model", Some(&args.model));
    flag(&mut arguments, "--checkpoint", Some(args.checkpoint.word()));
    flag(&mut arguments, "--format", Some(args.format.word()));
    flag(&mut arguments, "--out", Some(&args.out));
    for (given, name) in [(args.overwrite, "--overwrite"), (args.json, "--json")] {
        if given {
            arguments.push(name.into());
        }
    }
    Ok(Hand::start(arguments, Stdio::inherit(), log)?.finish()?.err().unwrap_or(ExitCode::SUCCESS))
}
