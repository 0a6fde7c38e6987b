//! Worker processes of this machine: found, started, tended, replaced, and gone before we are.

mod crew;
mod process;
mod restarts;

use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use crate::{args::WorkerArgs, errors::Fault};
pub use crew::{Commander, Crew, Exit, FIRST_LIFE, Post};
use process::cause;
pub use process::last_lines;

const BINARY: &str = "lockstep-worker";

/// It was loaded a moment ago, so its disk is warm.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// The worker binary: `$LOCKSTEP_WORKER`, else beside this one, else on the `PATH`.
pub fn find() -> Result<PathBuf, Fault> {
    if let Some(named) = std::env::var_os("LOCKSTEP_WORKER").filter(|named| !named.is_empty()) {
        let path = PathBuf::from(named);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(Fault::words(format!("LOCKSTEP_WORKER names `{}`, which is not a file", path.display()))
                .hint(format!("set it to the `{BINARY}` to run, or unset it")))
        };
    }
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(BINARY)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join(BINARY));
    beside.into_iter().chain(on_path).find(|candidate| candidate.is_file()).ok_or_else(|| {
        Fault::run(format!("`{BINARY}` is neither beside `lockstep` nor on the PATH"))
            .hint("build it with `scripts/setup.sh && cargo build -p worker`, or set LOCKSTEP_WORKER to where it is")
    })
}

/// Says what is wrong with a worker binary that does not start or is not of this version. It loads libtorch: asked only where a worker
/// has ended before it trained.
pub async fn verify_version(binary: &Path) -> Result<(), Fault> {
    let asking = Command::new(binary).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
    let does_not_start = || {
        Fault::run(format!("`{}` does not start", binary.display()))
            .hint("`scripts/setup.sh` brings the libtorch that it needs; LOCKSTEP_WORKER names another binary")
    };
    let output = match timeout(ANSWERS_WITHIN, asking).await {
        Ok(output) => output.map_err(|error| does_not_start().because(&error))?,
        Err(_) => {
            let words = format!("`--version` was not answered within {} s", ANSWERS_WITHIN.as_secs());
            return Err(does_not_start().caused_by(words));
        }
    };
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let why = if stderr.is_empty() { cause(output.status) } else { stderr };
        return Err(does_not_start().caused_by(why));
    }
    let wanted = format!("{BINARY} {}", proto::VERSION);
    if said != wanted {
        return Err(Fault::run(format!("`{}` is a worker binary of another version", binary.display()))
            .caused_by(format!("it says `{said}`, this `lockstep` needs `{wanted}`"))
            .hint("build both from the same checkout, or set LOCKSTEP_WORKER to the one that belongs to this binary"));
    }
    Ok(())
}

/// Becomes `lockstep-worker`; returns only if that fails.
pub fn become_worker(args: &WorkerArgs) -> Fault {
    let binary = match find() {
        Ok(binary) => binary,
        Err(fault) => return fault,
    };
    let addresses = match proto::addresses::coordinators(&args.at.coordinator) {
        Ok(addresses) => addresses.join(","),
        Err(error) => return Fault::words(error.to_string()).hint("write `--coordinator http://HOST:7070`"),
    };
    let mut command = std::process::Command::new(&binary);
    command.arg("--coordinator").arg(addresses);
    if let Some(slot) = args.slot {
        command.arg("--slot").arg(slot.to_string());
    }
    if let Some(device) = args.device {
        command.arg("--device").arg(device.word());
    }
    let error = command.exec();
    Fault::run(format!("`{}` does not start", binary.display())).because(&error)
}

#[cfg(test)]
pub mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A worker binary that is a shell script.
    pub fn script(folder: &Path, body: &str) -> PathBuf {
        let path = folder.join(BINARY);
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn a_binary_of_another_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        verify_version(&script(folder.path(), &format!("echo {BINARY} {}", proto::VERSION))).await.unwrap();
        let other = verify_version(&script(folder.path(), "echo lockstep-worker 0.0.9")).await.unwrap_err().render();
        assert!(other.contains("of another version") && other.contains("`lockstep-worker 0.0.9`"), "{other}");
        let broken = script(folder.path(), "echo 'libtorch_cpu.so: cannot open' >&2; exit 127");
        let broken = verify_version(&broken).await.unwrap_err().render();
        assert!(broken.contains("does not start\n  caused by: libtorch_cpu.so: cannot open\n"), "{broken}");
    }
}
