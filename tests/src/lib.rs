//! A sandbox for suites that run the real binaries: a folder of its own, commands with their output, runs that can be killed.

pub mod chaos;
pub mod label_studio;
pub mod mlflow;
pub mod servers;

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

/// A folder that goes away with it, in which commands run.
pub struct Sandbox {
    folder: tempfile::TempDir,
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ended {
    fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Panics, with what was printed, unless the command went well.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// The JSON lines of stdout.
    pub fn json(&self) -> Vec<Value> {
        self.out.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The last JSON line whose `event` is `name`.
    #[track_caller]
    pub fn event(&self, name: &str) -> Value {
        let found = self.json().into_iter().rfind(|line| line["event"] == name);
        found.unwrap_or_else(|| panic!("no `{name}` event in:\n{}\nstderr:\n{}", self.out, self.err))
    }
}

impl Sandbox {
    #[expect(clippy::new_without_default, reason = "a folder on disk is no default")]
    #[expect(clippy::expect_used, reason = "a test without a folder cannot go on")]
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder for the test") }
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    #[expect(clippy::expect_used, reason = "a test without its files cannot go on")]
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("a file in the sandbox");
        path
    }

    /// Runs `lockstep` with these arguments to its end.
    pub fn lockstep<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Ended {
        self.run(self.command().args(arguments))
    }

    /// A `lockstep` that the caller finishes.
    pub fn command(&self) -> Command {
        let mut command = Command::new(binary("lockstep"));
        command.current_dir(self.folder.path()).stdin(Stdio::null()).env_remove("LOCKSTEP_LOG");
        command
    }

    #[expect(clippy::expect_used, reason = "a test without its command cannot go on")]
    pub fn run(&self, command: &mut Command) -> Ended {
        Ended::of(command.current_dir(self.folder.path()).output().expect("the command starts"))
    }

    /// An address of this machine that nobody listened on a moment ago.
    #[expect(clippy::expect_used, reason = "a test without a port cannot go on")]
    pub fn free_address(&self) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("its address").to_string()
    }

    /// Runs a script of benches/peers with their Python; `None`, said loudly, where there is none.
    pub fn peer<S: AsRef<OsStr>>(&self, script: &str, arguments: &[S]) -> Option<Ended> {
        let python = std::env::var_os("LOCKSTEP_PEERS_PYTHON");
        let Some(python) = python else {
            skip("LOCKSTEP_PEERS_PYTHON is not set: scripts/test.sh sets it to the Python that scripts/peers.sh makes");
            return None;
        };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/peers").join(script);
        Some(self.run(Command::new(python).arg(script).args(arguments)))
    }

    /// Starts `lockstep` in a process group of its own, its JSON events to be read as they come.
    #[expect(clippy::expect_used, reason = "a test without its command cannot go on")]
    pub fn start<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Running {
        let mut command = self.command();
        // Nobody reads stderr as it comes: a pipe could fill, and the run stand still.
        let log = fs::File::create(self.path("stderr.log")).expect("a log in the sandbox");
        command.args(arguments).process_group(0).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().expect("lockstep starts");
        let lines = BufReader::new(child.stdout.take().expect("a piped stdout")).lines();
        Running { child, lines }
    }
}

/// A `lockstep` at work. Killed with its whole group when dropped.
pub struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Running {
    /// Reads events until one satisfies `wanted`.
    #[track_caller]
    pub fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        for line in self.lines.by_ref() {
            let Ok(line) = line else { break };
            if let Ok(event) = serde_json::from_str::<Value>(&line)
                && wanted(&event)
            {
                return event;
            }
        }
        panic!("the run ended before the event came");
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|ended| ended.is_none())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL to every process of the group: the coordinator and its workers, at once.
    pub fn kill_everything(&mut self) {
        if let Some(group) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Waits for the end; the exit code.
    pub fn wait(&mut self) -> Option<i32> {
        self.lines.by_ref().for_each(drop);
        self.child.wait().ok().and_then(|status| status.code())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill_everything();
    }
}

/// Says on stderr, past any capture, that a test did not do its work.
pub fn skip(why: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr().lock(), "\n*** SKIPPED: {why}\n");
    assert!(std::env::var_os("CI").is_none(), "a skip on CI is a failure: {why}");
}

/// Real data for tests, where this machine has it.
pub fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data").join(name);
    if path.exists() {
        return Some(path);
    }
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr().lock(), "\n*** SKIPPED: no {} here\n", path.display());
    None
}

/// A binary of this workspace, beside the tests'.
pub fn binary(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap_or_default();
    let found = tests.parent().and_then(Path::parent).map(|folder| folder.join(name));
    match found {
        Some(path) if path.exists() => path,
        _ => {
            panic!("no `{name}` beside the tests: run `cargo build -p cli -p worker --bins` first, or scripts/test.sh")
        }
    }
}
