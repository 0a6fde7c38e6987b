//! A real MLflow server for tests: its database and artifacts in the sandbox, on one port for as long as the fixture lives, killed and started
//! again as a test likes. And its Python client, which says what is there independently of Lockstep.

#![expect(clippy::expect_used, reason = "a test without its server cannot go on")]

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use crate::{Sandbox, skip};

/// Its first start makes a database: a quarter of a minute on an idle machine.
const START_WITHIN: Duration = Duration::from_secs(300);
const ASK_EVERY: Duration = Duration::from_millis(100);

/// A server; killed when dropped.
pub struct Mlflow {
    python: PathBuf,
    folder: PathBuf,
    address: String,
    child: Option<Child>,
}

impl Mlflow {
    /// `None`, said loudly, where MLflow is not installed.
    #[track_caller]
    pub fn start(sandbox: &Sandbox) -> Option<Self> {
        let address = sandbox.free_address();
        Self::start_at(sandbox, address)
    }

    /// On a port where something else was before.
    #[track_caller]
    pub fn start_at(sandbox: &Sandbox, address: String) -> Option<Self> {
        let Some(python) = std::env::var_os("LOCKSTEP_MLFLOW_PYTHON") else {
            skip(
                "LOCKSTEP_MLFLOW_PYTHON is not set: scripts/test.sh sets it to the Python that scripts/venv.sh mlflow makes",
            );
            return None;
        };
        let folder = sandbox.path(format!("mlflow-{}", address.replace(':', "-")));
        fs::create_dir_all(folder.join("artifacts")).expect("a folder for the server");
        let mut server = Self { python: python.into(), folder, address, child: None };
        server.restart();
        Some(server)
    }

    /// `http://127.0.0.1:…`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// SIGKILL to the server and all that it started.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if let Some(group) = Pid::from_raw(child.id() as i32) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = child.wait();
    }

    /// On the same port, with the same database; answers when this returns.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        let (_, port) = self.address.rsplit_once(':').expect("an address has a port");
        let log = File::options().create(true).append(true).open(self.folder.join("log")).expect("a log");
        let database = format!("sqlite:///{}", self.folder.join("mlflow.db").display());
        let mut command = Command::new(&self.python);
        command
            .args(["-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1", "--port", port])
            .args(["--backend-store-uri", &database, "--artifacts-destination"])
            .arg(self.folder.join("artifacts"))
            .current_dir(&self.folder)
            .env("MLFLOW_DISABLE_TELEMETRY", "true")
            .env("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log, again"))
            .stderr(log)
            .process_group(0);
        let child = self.child.insert(command.spawn().expect("mlflow starts"));
        let began = Instant::now();
        while !is_healthy(&self.address) {
            let ended = child.try_wait().expect("the server can be waited for");
            if ended.is_some() || began.elapsed() > START_WITHIN {
                let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                panic!("MLflow does not answer ({ended:?}):\n{log}");
            }
            thread::sleep(ASK_EVERY);
        }
    }

    /// Runs Python with MLflow's client pointed at this server; what it prints must be JSON.
    #[track_caller]
    pub fn client(&self, script: &str, arguments: &[&str]) -> Value {
        self.ask(Command::new(&self.python).arg("-c").arg(script).args(arguments))
    }

    /// The same, where scripts can import torch too: that of the peers' Python, behind all that MLflow's own has. `None`, said loudly, where
    /// there are no peers.
    #[track_caller]
    pub fn client_with_torch(&self, script: &str, arguments: &[&str]) -> Option<Value> {
        let Some(peers) = std::env::var_os("LOCKSTEP_PEERS_PYTHON") else {
            skip("LOCKSTEP_PEERS_PYTHON is not set: scripts/test.sh sets it to the Python that scripts/peers.sh makes");
            return None;
        };
        let paths = "import json, sysconfig; print(json.dumps(sysconfig.get_paths()['purelib']))";
        let output = Command::new(peers).args(["-c", paths]).output().expect("the peers' python starts");
        let site: Value = serde_json::from_slice(&output.stdout).expect("a path");
        let behind = format!("import sys\nsys.path.append({site})\n{script}");
        Some(self.ask(Command::new(&self.python).arg("-c").arg(behind).args(arguments)))
    }

    #[track_caller]
    fn ask(&self, command: &mut Command) -> Value {
        command
            .env("MLFLOW_TRACKING_URI", self.url())
            .env("MLFLOW_DISABLE_TELEMETRY", "true")
            .current_dir(&self.folder);
        let output = command.stdin(Stdio::null()).output().expect("python starts");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{out}\n{err}");
        serde_json::from_str(out.trim()).unwrap_or_else(|error| panic!("{error} in:\n{out}\n{err}"))
    }

    /// Where the run's artifacts lie as files.
    pub fn artifacts(&self, experiment_id: &str, run: &str) -> PathBuf {
        self.folder.join("artifacts").join(experiment_id).join(run).join("artifacts")
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Mlflow {
    fn drop(&mut self) {
        self.kill();
    }
}

fn is_healthy(address: &str) -> bool {
    let asked = || {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let request = format!("GET /health HTTP/1.0\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer.split(' ').nth(1) == Some("200"))
    };
    asked().unwrap_or(false)
}
