//! Two coordinators in this process, a real etcd, workers that follow a script.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fake;

use std::{process::Command, time::Duration};

use coordinator::{Config, Coordinator, EtcdStore, Standby, StartError, failure_of};
use fake::{Cluster, FakeWorker, clients, clients_at, config, within};
use proto::{
    Deadlines,
    addresses::leader_of,
    v1::{self, run_event},
};
use tests::{Sandbox, servers::Etcd};

/// etcd, and what several coordinators have in common.
struct Place {
    etcd: Etcd,
    config: Config,
    sandbox: Sandbox,
}

impl Place {
    fn new() -> Option<Self> {
        let sandbox = Sandbox::new();
        let etcd = Etcd::start(&sandbox)?;
        // A leader may be out of touch for 2 s, the least that etcd knows; workers have time enough.
        let deadlines = Deadlines { heartbeat: Duration::from_millis(400), ..Deadlines::default() };
        Some(Self { etcd, config: Config { deadlines, ..config() }, sandbox })
    }

    fn store(&self) -> EtcdStore {
        format!("etcd://{}/test", self.etcd.address).parse().unwrap()
    }

    async fn standby(&self) -> Standby {
        Standby::start(self.config.clone(), self.store(), None).await.unwrap()
    }

    async fn leader(&self) -> Coordinator {
        within("leadership", self.standby().await.lead()).await.unwrap()
    }

    async fn cluster(&self) -> Cluster {
        led_by(self.leader().await, tempfile::tempdir().unwrap()).await
    }

    /// By a hand that is no coordinator's.
    fn etcdctl(&self, words: &[&str]) -> String {
        // Beside the server, as packages lay them.
        let program = std::path::PathBuf::from(std::env::var_os("LOCKSTEP_ETCD").unwrap()).with_file_name("etcdctl");
        let mut command = Command::new(program);
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.etcd.address]).args(words);
        let ended = self.sandbox.run(&mut command).ok();
        ended.out
    }
}

async fn seated(cluster: &mut Cluster, workers: u32) -> (String, Vec<FakeWorker>) {
    let run = cluster.submit(cluster.spec(workers), "").await.unwrap();
    let mut sessions = Vec::new();
    for slot in 0..workers {
        sessions.push(FakeWorker::join(cluster, slot).await);
    }
    for worker in &mut sessions {
        worker.sit_down().await;
    }
    (run, sessions)
}

async fn led_by(coordinator: Coordinator, dir: tempfile::TempDir) -> Cluster {
    let (runs, workers) = clients(&coordinator).await;
    Cluster { coordinator, runs, workers, dir }
}

/// The members find the new leader, and the run goes to its end as if nothing had been.
async fn goes_on_to_the_end(cluster: &mut Cluster, run: &str, [first, second]: [FakeWorker; 2]) {
    let status = cluster.get(run).await;
    assert!(status.standing.contains("2 of 2 members not heard of"), "{}", status.standing);
    let (first, welcome) = first.find_again(cluster.workers.clone(), 1, 25).await;
    assert_eq!((welcome.carry_on, welcome.worker.as_str()), (true, "w0:1"));
    let (second, welcome) = second.find_again(cluster.workers.clone(), 1, 25).await;
    assert!(welcome.carry_on);
    first.window(10, 25).await;
    first.finish(200).await;
    second.finish(200).await;
    let (seen, ended) = cluster.watch_to_the_end(run).await;
    assert_eq!((ended.phase(), ended.last.map(|last| last.step)), (v1::Phase::Succeeded, Some(10)));
    let windows: Vec<_> = seen
        .iter()
        .filter_map(|event| match &event.event {
            Some(run_event::Event::Progress(progress)) => Some((progress.first_step, progress.step)),
            _ => None,
        })
        .collect();
    assert_eq!(windows, [(0, 10), (10, 25)], "what both leaders were told, once");
    assert!(seen.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));
    assert!(seen.iter().filter(|event| matches!(event.event, Some(run_event::Event::Seated(_)))).count() == 1);
}

/// A run of two members that have come to step 10, where there is a checkpoint.
async fn at_step_10(cluster: &mut Cluster) -> (String, [FakeWorker; 2]) {
    let (run, mut workers) = seated(cluster, 2).await;
    let (second, mut first) = (workers.remove(1), workers.remove(0));
    first.window(0, 10).await;
    first.stage(10, 0.5).await;
    first.published().await;
    (run, [first, second])
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_stands_by_names_the_leader_and_takes_its_run_up_when_it_dies() {
    let Some(place) = Place::new() else { return };
    let mut cluster = place.cluster().await;
    let leads = format!("http://{}", cluster.coordinator.address());
    let (run, members) = at_step_10(&mut cluster).await;

    let standby = place.standby().await;
    let address = standby.address();
    let waiting = tokio::spawn(standby.lead());
    let (mut runs, mut workers) = clients_at(address).await;
    let refused = within("the leader's name", async {
        loop {
            let refused = runs.list(v1::ListRunsRequest {}).await.unwrap_err();
            if leader_of(&refused).is_some() {
                return refused;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!((refused.code(), leader_of(&refused)), (tonic::Code::Unavailable, Some(leads.clone())));
    assert_eq!(failure_of(&refused).message, format!("standby: the leader is {leads}"));
    let session = workers.session(tokio_stream::empty()).await.unwrap_err();
    assert_eq!(leader_of(&session), Some(leads), "workers hear of it too");

    // The process dies: no farewell, no records.
    let dir = cluster.dir;
    drop(cluster.coordinator);
    let coordinator = within("the successor", waiting).await.unwrap().unwrap();
    assert_eq!(coordinator.address(), address, "the port is the same");
    let mut cluster = led_by(coordinator, dir).await;
    goes_on_to_the_end(&mut cluster, &run, members).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_lock_is_lost_says_so_stops_and_its_successor_goes_on() {
    let Some(place) = Place::new() else { return };
    for how in ["key", "lease"] {
        let mut cluster = place.cluster().await;
        let (run, members) = at_step_10(&mut cluster).await;
        match how {
            "key" => drop(place.etcdctl(&["del", "test/leader"])),
            _ => {
                let leases = place.etcdctl(&["lease", "list"]);
                let lease = leases.lines().rfind(|line| !line.contains("found")).unwrap().to_owned();
                place.etcdctl(&["lease", "revoke", lease.trim()]);
            }
        }
        within("the end of its term", cluster.coordinator.broken()).await;
        assert_eq!(cluster.coordinator.deposed(), Some("its leader key is gone from etcd"), "{how}");
        let failure = cluster.coordinator.fault().unwrap();
        assert_eq!(failure.message, "deposed: its leader key is gone from etcd");
        // Nobody is told to go: members are the next leader's.
        let Cluster { coordinator, dir, .. } = cluster;
        let coordinator = within("another term", coordinator.stand_by().unwrap().lead()).await.unwrap();
        let mut cluster = led_by(coordinator, dir).await;
        goes_on_to_the_end(&mut cluster, &run, members).await;
        cluster.coordinator.hand_over().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_etcd_has_lost_is_replaced_while_the_leader_key_stands() {
    let Some(place) = Place::new() else { return };
    let mut cluster = place.cluster().await;
    let lease = |place: &Place| {
        let fields = place.etcdctl(&["get", "test/leader", "--write-out", "fields"]);
        let lease = fields.lines().find_map(|line| line.strip_prefix("\"Lease\" : ")).unwrap().to_owned();
        lease.parse::<i64>().unwrap()
    };
    let first = lease(&place);
    // Written again without a lease the key outlives it.
    let url = place.etcdctl(&["get", "test/leader", "--print-value-only"]);
    place.etcdctl(&["put", "test/leader", url.trim()]);
    place.etcdctl(&["lease", "revoke", &format!("{first:x}")]);
    within("another lease", async {
        while lease(&place) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_ne!(lease(&place), first);
    cluster.submit(cluster.spec(1), "").await.unwrap();
    assert_eq!(cluster.coordinator.deposed(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_does_not_know_yet_that_it_was_deposed_confirms_nothing() {
    let Some(place) = Place::new() else { return };
    let mut cluster = place.cluster().await;
    // Put in another's name, so that its own check of once in 0.4 s is the only other way to learn of it.
    place.etcdctl(&["del", "test/leader"]);
    place.etcdctl(&["put", "test/leader", "http://other:7070"]);
    let refused = cluster.submit(cluster.spec(1), "").await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused:?}");
    within("the end of its term", cluster.coordinator.broken()).await;
    assert_eq!(cluster.coordinator.deposed(), Some("http://other:7070 leads now"));
    assert_eq!(place.etcdctl(&["get", "--prefix", "test/runs/", "--keys-only"]).trim(), "", "nothing was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_that_is_killed_and_comes_back_loses_nothing() {
    let Some(mut place) = Place::new() else { return };
    let mut cluster = place.cluster().await;
    let (run, [first, second]) = at_step_10(&mut cluster).await;
    place.etcd.kill();
    // What must be durable waits, and with it what would leave behind it.
    first.epoch(0, 20, 0.4).await;
    place.etcd.revive();
    cluster.until(&run, "the epoch", |event| matches!(event, run_event::Event::Epoch(_))).await;
    assert_eq!(cluster.coordinator.deposed(), None, "it was away for less than a leader may be out of touch");
    first.finish(200).await;
    second.finish(200).await;
    let (_, ended) = cluster.watch_to_the_end(&run).await;
    assert_eq!(ended.phase(), v1::Phase::Succeeded);
    cluster.coordinator.hand_over().await;
    let next = place.leader().await;
    let (mut runs, _) = clients(&next).await;
    let listed = runs.list(v1::ListRunsRequest {}).await.unwrap().into_inner().runs;
    assert_eq!(listed.iter().map(|run| run.phase()).collect::<Vec<_>>(), [v1::Phase::Succeeded]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_out_of_touch_for_too_long_stands_by_and_leads_again_when_etcd_is_back() {
    let Some(mut place) = Place::new() else { return };
    let mut cluster = place.cluster().await;
    let (run, members) = at_step_10(&mut cluster).await;
    place.etcd.kill();
    within("the end of its term", cluster.coordinator.broken()).await;
    let why = "it was out of touch with etcd for 2 s, and another may lead by now";
    assert_eq!(cluster.coordinator.deposed(), Some(why));
    let Cluster { coordinator, dir, .. } = cluster;
    let waiting = tokio::spawn(coordinator.stand_by().unwrap().lead());
    place.etcd.revive();
    let coordinator = within("another term", waiting).await.unwrap().unwrap();
    let mut cluster = led_by(coordinator, dir).await;
    goes_on_to_the_end(&mut cluster, &run, members).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_hands_over_is_followed_at_once_and_dismisses_nobody() {
    let Some(place) = Place::new() else { return };
    let mut cluster = place.cluster().await;
    let (run, members) = at_step_10(&mut cluster).await;
    let waiting = tokio::spawn(place.standby().await.lead());
    let Cluster { coordinator, dir, .. } = cluster;
    coordinator.hand_over().await;
    let begun = std::time::Instant::now();
    let coordinator = within("the successor", waiting).await.unwrap().unwrap();
    assert!(begun.elapsed() < place.config.deadlines.out_of_touch(), "it did not wait for the lease to run out");
    let mut cluster = led_by(coordinator, dir).await;
    goes_on_to_the_end(&mut cluster, &run, members).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_is_not_there_and_a_place_that_nobody_can_reach_are_told_at_once() {
    let sandbox = Sandbox::new();
    let store: EtcdStore = format!("etcd://{}/test", sandbox.free_address()).parse().unwrap();
    let error = Standby::start(config(), store.clone(), None).await.err().unwrap();
    assert!(error.to_string().starts_with(&format!("etcd at {}: ", store.endpoints()[0])), "{error}");
    assert!(error.hint().contains("etcdctl endpoint health"));
    let everywhere = Config { listen: ([0, 0, 0, 0], 0).into(), ..config() };
    let error = Standby::start(everywhere, store, None).await.err().unwrap();
    assert!(matches!(error, StartError::Unreachable(_)) && error.hint().contains("--advertise"), "{error}");
}
