//! Worker processes of this machine: found, started, tended, and gone before we are.
//!
//! A worker ends when its stdin reaches its end, so none outlives us however we die.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Seek as _, SeekFrom},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use proto::addresses::coordinators;
use tokio::{
    process::{Child, ChildStdin, Command},
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    args::{Device, WorkerArgs},
    errors::Fault,
};

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
    let addresses = match coordinators(&args.at.coordinator) {
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

/// What all workers of a run have in common.
pub struct Post<'a> {
    pub binary: &'a Path,
    /// `http://…`
    pub coordinator: &'a str,
    pub device: Device,
    /// Holds one log a worker.
    pub logs: &'a Path,
    /// What they log.
    pub filter: &'a str,
}

/// How a worker process ended.
#[derive(Debug)]
pub struct Exit {
    pub slot: u32,
    /// "exited with code 3", "killed by signal 9 (SIGKILL)".
    pub cause: String,
    /// By itself and well, or because it was told to.
    pub clean: bool,
    pub log: PathBuf,
}

/// From mild to grave.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    Stay,
    Leave,
    Kill,
}

/// The worker processes of a run. Dropping it kills those that are left.
pub struct Crew {
    tending: JoinSet<Exit>,
    orders: watch::Sender<Order>,
}

pub struct Killer(watch::Sender<Order>);

impl Killer {
    pub fn kill(&self) {
        self.0.send_replace(Order::Kill);
    }
}

/// The first process in a slot.
pub const LIFE: u32 = 1;

impl Crew {
    pub fn muster(post: &Post<'_>, workers: u32) -> Result<Self, Fault> {
        let mut crew = Self { tending: JoinSet::new(), orders: watch::Sender::new(Order::Stay) };
        for slot in 0..workers {
            let log = post.logs.join(format!("w{slot}.log"));
            let (child, stdin) = start(post, slot, &log)?;
            crew.tending.spawn(tend(child, stdin, crew.orders.subscribe(), slot, log));
        }
        Ok(crew)
    }

    /// Kills the crew from where the crew itself is not at hand.
    pub fn killer(&self) -> Killer {
        Killer(self.orders.clone())
    }

    /// The next one that ends; none when all have.
    pub async fn next_exit(&mut self) -> Option<Exit> {
        loop {
            // A tending task neither panics nor is cancelled; if it were, its child is killed with it.
            if let Ok(exit) = self.tending.join_next().await? {
                return Some(exit);
            }
        }
    }

    pub fn kill(&self) {
        self.killer().kill();
    }

    /// Waits for all that are left to go by themselves, then tells them to, then kills them. Says how each ended.
    pub async fn dismiss(mut self, by_themselves: Duration, told: Duration) -> Vec<Exit> {
        let mut exits = Vec::new();
        for (order, patience) in [(Order::Stay, by_themselves), (Order::Leave, told), (Order::Kill, told)] {
            // A crew that was ordered to be killed is not told to leave.
            self.orders.send_if_modified(|standing| {
                let graver = order > *standing;
                *standing = order.max(*standing);
                graver
            });
            let deadline = Instant::now() + patience;
            while let Ok(next) = timeout_at(deadline, self.next_exit()).await {
                match next {
                    Some(exit) => exits.push(exit),
                    None => return exits,
                }
            }
        }
        tracing::error!("a worker process cannot be killed");
        exits
    }
}

fn start(post: &Post<'_>, slot: u32, log: &Path) -> Result<(Child, Option<ChildStdin>), Fault> {
    let unwritable = |error: io::Error| {
        Fault::run(format!("cannot write `{}`", log.display()))
            .because(&error)
            .hint("name a folder that can be written to with `--state DIR`")
    };
    let stderr = File::create(log).map_err(unwritable)?;
    let stdout = stderr.try_clone().map_err(unwritable)?;
    let mut child = Command::new(post.binary)
        .args(["--coordinator", post.coordinator, "--device", post.device.word()])
        .args(["--slot", &slot.to_string(), "--life", &LIFE.to_string()])
        .env("LOCKSTEP_LOG", post.filter)
        .env("NO_COLOR", "1")
        .stdin(Stdio::piped())
        .stdout(stdout)
        .stderr(stderr)
        // A Ctrl-C at the terminal is for us; workers are told by the coordinator.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Fault::run(format!("`{}` does not start", post.binary.display())).because(&error))?;
    // Waiting for a child would close it.
    let stdin = child.stdin.take();
    Ok((child, stdin))
}

async fn tend(
    mut child: Child,
    mut stdin: Option<ChildStdin>,
    mut orders: watch::Receiver<Order>,
    slot: u32,
    log: PathBuf,
) -> Exit {
    let mut told = Order::Stay;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            changed = orders.changed() => {
                told = if changed.is_ok() { *orders.borrow_and_update() } else { Order::Kill };
                match told {
                    Order::Stay => {}
                    Order::Leave => drop(stdin.take()),
                    Order::Kill => {
                        let _ = child.start_kill();
                        break child.wait().await;
                    }
                }
            }
        }
    };
    match status {
        Ok(status) => {
            let as_told = match told {
                Order::Stay => false,
                Order::Leave => status.code().is_some(),
                Order::Kill => true,
            };
            Exit { slot, cause: cause(status), clean: status.success() || as_told, log }
        }
        Err(error) => Exit { slot, cause: format!("its end is not known: {error}"), clean: false, log },
    }
}

fn cause(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => match signal_name(signal) {
            Some(name) => format!("killed by signal {signal} ({name})"),
            None => format!("killed by signal {signal}"),
        },
        (None, None) => status.to_string(),
    }
}

fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        _ => return None,
    })
}

/// The last lines that a worker logged.
pub fn last_lines(log: &Path, lines: usize) -> Vec<String> {
    const ENOUGH: u64 = 16 << 10;
    let Ok(mut file) = File::open(log) else { return Vec::new() };
    let length = file.metadata().map_or(0, |about| about.len());
    let start = length.saturating_sub(ENOUGH);
    if file.seek(SeekFrom::Start(start)).is_err() {
        return Vec::new();
    }
    let read = BufReader::new(file).split(b'\n').map_while(Result::ok);
    // The first one may have lost its beginning.
    let read = read.skip(usize::from(start > 0)).map(|line| String::from_utf8_lossy(&line).into_owned());
    let mut all: Vec<String> = read.filter(|line| !line.trim().is_empty()).collect();
    all.split_off(all.len().saturating_sub(lines))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A worker binary that is a shell script.
    fn script(folder: &Path, body: &str) -> PathBuf {
        let path = folder.join(BINARY);
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn muster(folder: &Path, body: &str, workers: u32) -> Crew {
        let binary = script(folder, body);
        let post = Post { binary: &binary, coordinator: "http://x", device: Device::Cpu, logs: folder, filter: "info" };
        Crew::muster(&post, workers).unwrap()
    }

    #[tokio::test]
    async fn workers_leave_when_their_stdin_ends() {
        let folder = tempfile::tempdir().unwrap();
        let crew = muster(folder.path(), "echo \"$@\" >&2; cat; exit 3", 2);
        let exits = crew.dismiss(Duration::ZERO, Duration::from_secs(20)).await;
        assert_eq!(exits.len(), 2);
        assert!(exits.iter().all(|exit| exit.clean), "{exits:?}");
        let said = last_lines(&folder.path().join("w1.log"), 5);
        assert_eq!(said, ["--coordinator http://x --device cpu --slot 1 --life 1"]);
    }

    #[tokio::test]
    async fn a_worker_that_does_not_leave_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let crew = muster(folder.path(), "exec sleep 1000", 1);
        let exits = crew.dismiss(Duration::ZERO, Duration::from_millis(200)).await;
        assert_eq!(exits[0].cause, "killed by signal 9 (SIGKILL)");
    }

    #[tokio::test]
    async fn the_cause_of_a_workers_end_and_its_last_words_are_known() {
        let folder = tempfile::tempdir().unwrap();
        let mut crew = muster(folder.path(), "echo one >&2; echo two >&2; echo three >&2; exit 3", 1);
        let exit = crew.next_exit().await.unwrap();
        assert_eq!((exit.slot, exit.cause.as_str(), exit.clean), (0, "exited with code 3", false));
        assert_eq!(last_lines(&exit.log, 2), ["two", "three"]);
        assert!(crew.next_exit().await.is_none());
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
