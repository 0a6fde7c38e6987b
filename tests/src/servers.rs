//! Real servers for tests: a broker that speaks Kafka's protocol (tansu), S3 over a folder (s3s-fs) and etcd, each on a free port, gone with its
//! fixture.
//! scripts/test.sh says where they are.

#![expect(clippy::expect_used, reason = "a test without its server cannot go on")]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    config::FromClientConfig as _,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, BaseRecord, Producer as _},
};

use crate::Sandbox;

/// Servers answer within this, or the test fails.
const UP_WITHIN: Duration = Duration::from_secs(30);

/// A server process; killed when dropped.
struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    fn start(command: &mut Command, log: PathBuf) -> Self {
        let file = File::create(&log).expect("a log in the sandbox");
        let again = file.try_clone().expect("the log again");
        let child = command.stdin(Stdio::null()).stdout(file).stderr(again).spawn();
        Self { child: child.expect("the server starts"), log }
    }

    /// Asks until the answer is yes; each question takes its time.
    #[track_caller]
    fn until(&mut self, is_up: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is_up() {
            let ended = self.child.try_wait().ok().flatten();
            assert!(
                ended.is_none() && begun.elapsed() < UP_WITHIN,
                "the server does not answer ({ended:?}):\n{}",
                fs::read_to_string(&self.log).unwrap_or_default()
            );
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A broker, empty at first; forgets all when dropped.
pub struct Broker {
    _server: Server,
    program: PathBuf,
    /// `127.0.0.1:port`.
    pub address: String,
}

impl Broker {
    /// None, said loudly, where there is no tansu.
    pub fn start(sandbox: &Sandbox) -> Option<Self> {
        let program = program("LOCKSTEP_TANSU")?;
        let address = sandbox.free_address();
        let url = format!("tcp://{address}");
        let mut command = Command::new(&program);
        command.args(["broker", "--listener-url", &url, "--advertised-listener-url", &url]);
        command.args(["--storage-engine", "memory://tansu/"]).current_dir(sandbox.path(""));
        let mut server = Server::start(&mut command, sandbox.path(format!("tansu-{}.log", port(&address))));
        let client: BaseConsumer = client(&address);
        server.until(|| client.fetch_metadata(None, Duration::from_millis(500)).is_ok());
        Some(Self { _server: server, program, address })
    }

    #[track_caller]
    pub fn create_topic(&self, topic: &str, partitions: u32) {
        let url = format!("tcp://{}", self.address);
        let partitions = partitions.to_string();
        let created = Command::new(&self.program)
            .args(["topic", "create", topic, "--broker", &url, "--partitions", &partitions])
            .output()
            .expect("tansu starts");
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    }

    /// Sends payloads to partitions, in order, and waits until all have arrived.
    pub fn send<'a>(&self, topic: &str, messages: impl IntoIterator<Item = (i32, &'a [u8])>) {
        send(&self.address, topic, messages);
    }
}

/// What a producer to tansu sets. tansu 0.6 answers a fetch from within a batch with the batch after it, and lists an end within the last one;
/// batches of one message have no within.
pub const ONE_A_BATCH: (&str, &str) = ("batch.num.messages", "1");

/// Sends payloads to partitions of any broker, in order, and waits until all have arrived.
#[track_caller]
pub fn send<'a>(brokers: &str, topic: &str, messages: impl IntoIterator<Item = (i32, &'a [u8])>) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("message.timeout.ms", "30000").set(ONE_A_BATCH.0, ONE_A_BATCH.1);
    let producer = BaseProducer::from_config(&config).expect("a producer");
    for (partition, payload) in messages {
        let mut record = BaseRecord::<(), [u8]>::to(topic).partition(partition).payload(payload);
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    producer.poll(Duration::from_millis(20));
                }
                Err((error, _)) => panic!("a message was not sent: {error}"),
            }
        }
        producer.poll(Duration::ZERO);
    }
    producer.flush(Duration::from_secs(30)).expect("all messages arrive");
}

fn client(address: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address).set("reconnect.backoff.max.ms", "100").set("log_level", "0");
    BaseConsumer::from_config(&config).expect("a client")
}

fn port(address: &str) -> &str {
    address.rsplit(':').next().unwrap_or(address)
}

/// An S3 server with one bucket; its objects are files of a folder.
pub struct S3 {
    _server: Server,
    folder: PathBuf,
    /// `http://127.0.0.1:port`.
    pub endpoint: String,
}

impl S3 {
    pub const BUCKET: &'static str = "lake";
    const KEYS: (&'static str, &'static str) = ("lockstep-test", "not-a-secret-at-all");

    /// None, said loudly, where there is no s3s-fs.
    pub fn start(sandbox: &Sandbox) -> Option<Self> {
        let program = program("LOCKSTEP_S3S")?;
        let address = sandbox.free_address();
        let folder = sandbox.path(format!("s3-{}", port(&address)));
        fs::create_dir_all(folder.join(Self::BUCKET)).expect("a bucket");
        let mut command = Command::new(program);
        command.args(["--host", "127.0.0.1", "--port", port(&address)]);
        command.args(["--access-key", Self::KEYS.0, "--secret-key", Self::KEYS.1]).arg(&folder);
        let mut server = Server::start(&mut command, sandbox.path(format!("s3-{}.log", port(&address))));
        server.until(|| {
            let target = address.parse().expect("an address");
            std::net::TcpStream::connect_timeout(&target, Duration::from_millis(200)).is_ok()
        });
        Some(Self { _server: server, folder, endpoint: format!("http://{address}") })
    }

    /// What a client of it needs in its environment.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL", self.endpoint.clone()),
            ("AWS_ACCESS_KEY_ID", Self::KEYS.0.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", Self::KEYS.1.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
        ]
    }

    /// Where an object of the bucket lies as a file.
    pub fn file(&self, key: impl AsRef<Path>) -> PathBuf {
        self.folder.join(Self::BUCKET).join(key)
    }
}

/// A store of one member.
pub struct Etcd {
    program: PathBuf,
    data: PathBuf,
    log: PathBuf,
    peers: String,
    /// None: it is down.
    server: Option<Server>,
    /// `127.0.0.1:port`, over all its lives.
    pub address: String,
}

impl Etcd {
    /// None, said loudly, where there is no etcd.
    pub fn start(sandbox: &Sandbox) -> Option<Self> {
        let program = program("LOCKSTEP_ETCD")?;
        let (address, peers) = (sandbox.free_address(), sandbox.free_address());
        let data = sandbox.path(format!("etcd-{}", port(&address)));
        let log = sandbox.path(format!("etcd-{}.log", port(&address)));
        let mut etcd = Self { program, data, log, peers: format!("http://{peers}"), server: None, address };
        etcd.revive();
        Some(etcd)
    }

    /// By SIGKILL.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// With what it had; returns when it answers.
    #[track_caller]
    pub fn revive(&mut self) {
        let url = format!("http://{}", self.address);
        let mut command = Command::new(&self.program);
        command.arg("--data-dir").arg(&self.data).args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", &self.peers, "--initial-advertise-peer-urls", &self.peers]);
        command.args(["--initial-cluster", &format!("default={}", self.peers)]);
        let mut server = Server::start(&mut command, self.log.clone());
        server.until(|| is_healthy(&self.address));
        self.server = Some(server);
    }
}

/// It listens before it has a leader of its own, without which it answers nobody.
fn is_healthy(address: &str) -> bool {
    use std::io::{Read as _, Write as _};
    let ask = || {
        let mut stream = std::net::TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        stream.write_all(format!("GET /health HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        std::io::Result::Ok(answer)
    };
    let healthy = ask().is_ok_and(|answer| answer.contains("\"health\":\"true\""));
    if !healthy {
        // One that refuses does so at once.
        std::thread::sleep(Duration::from_millis(20));
    }
    healthy
}

fn program(variable: &str) -> Option<PathBuf> {
    let program = std::env::var_os(variable).map(PathBuf::from);
    if program.is_none() {
        crate::skip(&format!("{variable} is not set: scripts/test.sh brings the server and sets it"));
    }
    program
}
