//! A real Label Studio for tests: on a free port, in the sandbox's folder, gone when dropped.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use crate::{Sandbox, skip};

/// Its first start makes a database: half a minute on an idle machine.
const START_WITHIN: Duration = Duration::from_secs(300);
const ASK_EVERY: Duration = Duration::from_millis(200);
/// Of the user it is started with.
const TOKEN: &str = "0123456789abcdef0123456789abcdef01234567";

/// A server with one user, who administrates it.
pub struct LabelStudio {
    child: Child,
    address: String,
}

impl LabelStudio {
    /// `None`, said loudly, where the server is not installed.
    #[track_caller]
    #[expect(clippy::expect_used, reason = "a test without its server cannot go on")]
    pub fn start(sandbox: &Sandbox) -> Option<Self> {
        let Some(python) = std::env::var_os("LOCKSTEP_LABEL_STUDIO_PYTHON") else {
            skip(
                "LOCKSTEP_LABEL_STUDIO_PYTHON is not set: scripts/test.sh sets it to what scripts/venv.sh label-studio makes",
            );
            return None;
        };
        let address = sandbox.free_address();
        let (_, port) = address.rsplit_once(':').expect("an address has a port");
        let log = fs::File::create(sandbox.path("label-studio.log")).expect("a log in the sandbox");
        let mut command = Command::new(Path::new(&python).with_file_name("label-studio"));
        command
            .args(["start", "--no-browser", "--internal-host", "127.0.0.1", "--port", port])
            .current_dir(sandbox.path(""))
            .env("HOME", sandbox.path(""))
            .env("LABEL_STUDIO_BASE_DATA_DIR", sandbox.path("label-studio"))
            .env("LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN", "true")
            .env("LABEL_STUDIO_USERNAME", "admin@example.org")
            .env("LABEL_STUDIO_PASSWORD", "only-for-tests")
            .env("LABEL_STUDIO_USER_TOKEN", TOKEN)
            // It asks no other server for anything.
            .env("COLLECT_ANALYTICS", "False")
            .env("LATEST_VERSION_CHECK", "False")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log, again"))
            .stderr(log)
            .process_group(0);
        let child = command.spawn().expect("label-studio starts");
        let mut server = Self { child, address };
        let began = Instant::now();
        while server.request("GET", "/health", None).is_none_or(|(status, _)| status != 200) {
            let ended = server.child.try_wait().expect("the server can be waited for");
            if ended.is_some() || began.elapsed() > START_WITHIN {
                let log = fs::read_to_string(sandbox.path("label-studio.log")).unwrap_or_default();
                panic!("Label Studio does not answer ({ended:?}):\n{log}");
            }
            thread::sleep(ASK_EVERY);
        }
        Some(server)
    }

    /// `http://127.0.0.1:…`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The administrator's legacy token.
    pub fn token(&self) -> &'static str {
        TOKEN
    }

    /// Sends JSON as the administrator, and takes JSON; panics unless all is well.
    #[track_caller]
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        match self.request(method, path, body) {
            Some((200..300, body)) => body,
            answer => panic!("{method} {path}: {answer:?}"),
        }
    }

    /// Status and body of an answer; a body that is not JSON is null. `None` without an answer.
    fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Option<(u16, Value)> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.0\r\nhost: {}\r\nauthorization: Token {TOKEN}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, serde_json::from_str(body).unwrap_or(Value::Null)))
    }
}

impl Drop for LabelStudio {
    fn drop(&mut self) {
        if let Some(group) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}
