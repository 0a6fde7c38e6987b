//! `prepare` on a Ballista cluster of real processes: the rows are those of one process, also when an executor is killed.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use parquet::file::reader::{FileReader as _, SerializedFileReader};
use tests::Sandbox;

/// A process of the cluster; killed, and waited for, when dropped.
struct Member {
    child: Child,
    address: String,
}

impl Member {
    fn start(sandbox: &Sandbox, arguments: &[&str]) -> Self {
        let mut command = sandbox.command();
        let log = File::create(sandbox.path(format!("{}.log", arguments.join("-").replace(['/', ':'], "_")))).unwrap();
        let mut child = command.arg("engine").args(arguments).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit(' ').next().unwrap().to_owned();
        assert!(!address.is_empty(), "the engine did not start: {arguments:?}");
        Self { child, address }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A scheduler with two executors of one slot each.
fn cluster(sandbox: &Sandbox) -> (Member, [Member; 2]) {
    let scheduler = Member::start(sandbox, &["scheduler", "--listen", "127.0.0.1:0"]);
    let executor = |work: &str| {
        let at = ["executor", "--scheduler", &scheduler.address, "--slots", "1", "--memory", "1GiB", "--work", work];
        Member::start(sandbox, &at)
    };
    let executors = [executor("work-a"), executor("work-b")];
    (scheduler, executors)
}

fn logs(sandbox: &Sandbox, events: &str) {
    let simulate = [
        "logs",
        "simulate",
        "--out-lake",
        "lake",
        "--features",
        "world",
        "--events",
        events,
        "--queries",
        "400",
        "--documents",
        "4000",
        "--users",
        "500",
        "--days",
        "6",
        "--seed",
        "11",
    ];
    sandbox.lockstep(&simulate).ok();
}

const PREPARE: [&str; 21] = [
    "prepare",
    "--logs",
    "lake",
    "--from",
    "2026-01-01",
    "--to",
    "2026-01-06",
    "--query-features",
    "world/query_features",
    "--document-features",
    "world/document_features",
    "--pair-features",
    "world/pair_features",
    "--user-features",
    "world/user_features",
    "--labels",
    "graded",
    "--weights",
    "ipw",
    "--threads",
    "6",
];

fn prepare(sandbox: &Sandbox, out: &str, more: &[&str]) -> Command {
    let mut command = sandbox.command();
    command.args(PREPARE).args(["--out", out, "--json"]).args(more);
    command
}

/// Every row as text, and how often it is there; lists must lie together.
fn rows(folder: &Path) -> BTreeMap<String, u32> {
    let (mut rows, mut lists) = (BTreeMap::new(), BTreeMap::new());
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "parquet") {
            continue;
        }
        let mut last = String::new();
        for row in SerializedFileReader::new(File::open(&path).unwrap()).unwrap().get_row_iter(None).unwrap() {
            let row = row.unwrap();
            let list = row.get_column_iter().next().unwrap().1.to_string();
            if list != last {
                *lists.entry(list.clone()).or_insert(0) += 1;
                last = list;
            }
            *rows.entry(row.to_string()).or_insert(0) += 1;
        }
    }
    assert!(!rows.is_empty());
    assert!(lists.values().all(|runs| *runs == 1), "a list was torn apart");
    rows
}

#[test]
fn a_cluster_prepares_the_rows_of_one_process_also_when_an_executor_is_killed_in_mid_job() {
    let sandbox = Sandbox::new();
    logs(&sandbox, "60000");
    sandbox.run(&mut prepare(&sandbox, "local", &[])).ok();
    let expected = rows(&sandbox.path("local"));

    let (scheduler, [mut victim, _survivor]) = cluster(&sandbox);
    sandbox.run(&mut prepare(&sandbox, "cluster", &["--engine", &scheduler.address])).ok();
    assert!(rows(&sandbox.path("cluster")) == expected, "the cluster's rows differ");

    let mut job = prepare(&sandbox, "killed", &["--engine", &scheduler.address]).stdout(Stdio::null()).spawn().unwrap();
    // The victim has staged something of this very job: it is at work.
    let staged = |work: &str| count_files(&sandbox.path(work));
    let before = staged("work-a");
    while staged("work-a") == before {
        assert!(job.try_wait().unwrap().is_none(), "the job ended before the executor could be killed");
    }
    victim.child.kill().unwrap();
    victim.child.wait().unwrap();
    assert!(job.try_wait().unwrap().is_none(), "the job had ended when the executor was killed");
    assert!(job.wait().unwrap().success());
    assert!(rows(&sandbox.path("killed")) == expected, "the rows differ after a kill");
}

fn count_files(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let count = |entry: fs::DirEntry| if entry.path().is_dir() { count_files(&entry.path()) } else { 1 };
    entries.flatten().map(count).sum()
}

#[test]
fn a_scheduler_that_is_not_there_is_named() {
    let sandbox = Sandbox::new();
    logs(&sandbox, "200");
    let nobody = format!("ballista://{}", sandbox.free_address());
    let ended = sandbox.run(&mut prepare(&sandbox, "out", &["--engine", &nobody]));
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    assert!(ended.err.contains(&nobody) && ended.err.contains("hint:"), "{}", ended.err);
    assert!(!sandbox.path("out").exists());
}
