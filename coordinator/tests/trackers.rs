//! Runs that are told to several trackers at once: one that hangs holds up its own runs alone.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fake;

use std::io::{self, Read as _};

use fake::{cluster, config, spec, within};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpListener,
};

/// More than may be at work at one server at a time.
const RUNS: usize = 40;

#[tokio::test]
async fn a_tracker_that_hangs_does_not_hold_up_runs_that_go_to_another() {
    let (hanging, other) = (listener().await, listener().await);
    let address = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
    let (url_of_hanging, url_of_other) = (address(&hanging), address(&other));
    let mut cluster = cluster(config()).await;
    let tracked =
        |name: &str, url: &str| format!("{}[tracking]\nmlflow = \"{url}\"\n", spec(cluster.dir.path(), name, 1));
    let specs: Vec<String> = (0..RUNS).map(|run| tracked(&format!("run{run}"), &url_of_hanging)).collect();
    let last = tracked("other", &url_of_other);
    for spec in specs {
        cluster.submit(spec, "").await.unwrap();
    }
    // It takes connections, as many as come at once, and never answers.
    let mut unanswered = Vec::new();
    for _ in 0..32 {
        unanswered.push(within("a courier at the hanging tracker", hanging.accept()).await.unwrap().0);
    }
    cluster.submit(last, "").await.unwrap();
    let (asked, _) = within("a courier at the other tracker", other.accept()).await.unwrap();
    let mut line = String::new();
    within("what it asks", BufReader::new(asked).read_line(&mut line)).await.unwrap();
    assert!(line.starts_with("GET /api/2.0/mlflow/experiments/get-by-name"), "{line}");
    // While all the others still wait: none has given up to make room.
    for waiting in unanswered {
        let mut waiting = waiting.into_std().unwrap();
        let mut request = [0; 4096];
        let end = loop {
            match waiting.read(&mut request) {
                Ok(0) => break "it hung up".to_owned(),
                Ok(_) => {}
                Err(error) => break error.kind().to_string(),
            }
        };
        assert_eq!(end, io::ErrorKind::WouldBlock.to_string());
    }
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}
