//! A coordinator in this process, workers that follow a script, real gRPC between them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fake;

use std::sync::Arc;

use coordinator::{Config, Coordinator, StartError, failure_of};
use fake::{Cluster, FakeWorker, cluster, config, join_as, lists, manifest, spec, within, write_checkpoint};
use proto::{
    Deadlines,
    v1::{self, coordinator_message, job_ended, run_event, worker_message},
};

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

#[tokio::test]
async fn a_run_goes_from_submission_to_its_end() {
    let mut cluster = cluster(config()).await;
    let run = cluster.submit(cluster.spec(2), "").await.unwrap();
    let waiting = cluster.get("").await;
    assert_eq!((waiting.phase(), waiting.run_id.as_str()), (v1::Phase::Gathering, run.as_str()));
    assert!(waiting.standing.starts_with("waiting for 2 of 2 workers"), "{}", waiting.standing);

    // Ranks follow slots, not arrival.
    let mut second = FakeWorker::join(&cluster, 7).await;
    let mut first = FakeWorker::join(&cluster, 3).await;
    let (seat, other) = (first.sit_down().await, second.sit_down().await);
    assert_eq!((seat.rank, other.rank, seat.world, seat.generation), (0, 1, 2, 1));
    assert_eq!((seat.secret, seat.threads), (other.secret, other.threads));
    assert_ne!(seat.secret, 0);
    assert_eq!(seat.peers.iter().map(|peer| peer.worker.as_str()).collect::<Vec<_>>(), ["w3:1", "w7:1"]);
    assert_eq!(seat.peers[1].address, "127.0.0.1:5007");
    assert_eq!((seat.train.unwrap().lists, seat.validation.unwrap().lists), (100, 100));
    assert_eq!(seat.spec_toml, cluster.spec(2));

    first.progress(10).await;
    second.progress(10).await;
    first.progress(20).await;
    first.epoch(0, 20, 0.4).await;
    let staged = first.stage(20, 0.4).await;
    let published = first.published().await;
    assert_eq!(
        (published.staged_path, published.path.as_str()),
        (staged.to_string_lossy().into_owned(), cluster.folder().join("step-00000020").to_str().unwrap())
    );
    assert!(!staged.exists());
    assert_eq!(std::fs::read_link(cluster.folder().join("best")).unwrap().to_str(), Some("step-00000020"));
    assert_eq!(std::fs::read_link(cluster.folder().join("latest")).unwrap().to_str(), Some("step-00000020"));

    let training = cluster.get(&run).await;
    assert_eq!(
        (training.phase(), training.standing.as_str()),
        (v1::Phase::Training, "training: epoch 1 of 2, step 20")
    );
    assert_eq!(training.workers.iter().map(|w| w.state.as_str()).collect::<Vec<_>>(), ["training", "training"]);

    first.finish(40).await;
    second.finish(40).await;
    let (events, ended) = cluster.watch_to_the_end(&run).await;
    assert_eq!((ended.phase(), ended.reason.as_str()), (v1::Phase::Succeeded, "all 2 epochs, step 40"));
    assert_eq!((ended.best.unwrap().step, ended.last.unwrap().step), (20, 20));
    let numbers: Vec<u64> = events.iter().map(|event| event.sequence).collect();
    assert_eq!(numbers, (1..=events.len() as u64).collect::<Vec<_>>());
    // From the middle, the same tail again.
    let mut rest = cluster.watch(&run, numbers.len() as u64 - 1).await;
    assert_eq!(rest.message().await.unwrap().unwrap(), *events.last().unwrap());
    // From its end, nothing.
    assert!(cluster.watch(&run, numbers.len() as u64).await.message().await.unwrap().is_none());

    let request =
        v1::MetricsRequest { run_id: String::new(), names: vec!["train/loss".into(), "validation/ndcg@10".into()] };
    let series = cluster.runs.metrics(request).await.unwrap().into_inner().series;
    let curves: Vec<_> =
        series.iter().map(|s| (s.name.as_str(), s.points.iter().map(|p| p.step).collect::<Vec<_>>())).collect();
    assert_eq!(curves, [("train/loss", vec![10, 20]), ("validation/ndcg@10", vec![20])]);
    let checkpoints =
        cluster.runs.checkpoints(v1::CheckpointsRequest::default()).await.unwrap().into_inner().checkpoints;
    assert_eq!(checkpoints.iter().map(|c| (c.step, c.best)).collect::<Vec<_>>(), [(20, true)]);
    assert_eq!(checkpoints[0].metrics[0].convention, "gain 2^label - 1");
    let listed = cluster.runs.list(v1::ListRunsRequest {}).await.unwrap().into_inner().runs;
    assert_eq!(listed.iter().map(|run| run.phase()).collect::<Vec<_>>(), [v1::Phase::Succeeded]);

    // The workers are idle again and take the next run.
    let next = cluster.submit(spec(cluster.dir.path(), "second", 1), "").await.unwrap();
    assert_eq!(first.sit_down().await.run_id, next);
    cluster.coordinator.shutdown().await;
    let aborted = first.order().await;
    assert_eq!(aborted, v1::OrderKind::Abort);
    // Behind word of the checkpoint, and of the run's end.
    for worker in [&mut first, &mut second] {
        while !matches!(worker.next("dismissal").await, coordinator_message::Message::Dismiss(_)) {}
    }
}

#[tokio::test]
async fn a_stop_saves_and_ends_resumable_and_a_resumed_run_goes_on_there() {
    let mut cluster = cluster(config()).await;
    let (run, mut workers) = seated(&mut cluster, 1).await;
    let mut worker = workers.remove(0);
    worker.progress(30).await;
    cluster.until(&run, "step 30", |event| matches!(event, run_event::Event::Progress(_))).await;
    cluster.runs.stop(v1::StopRunRequest { run_id: run.clone(), now: false }).await.unwrap();
    assert_eq!(worker.order().await, v1::OrderKind::Stop);
    worker.stage(31, 0.3).await;
    worker.end(31, job_ended::Outcome::Ordered(v1::OrderKind::Stop.into())).await;
    assert!(worker.published().await.path.ends_with("step-00000031"));
    let (_, ended) = cluster.watch_to_the_end(&run).await;
    assert_eq!((ended.phase(), ended.reason.as_str()), (v1::Phase::Stopped, "stopped on request at step 31"));

    let again = cluster.submit(cluster.spec(1), "").await.unwrap_err();
    assert_eq!(again.code(), tonic::Code::FailedPrecondition);
    let failure = failure_of(&again);
    assert!(
        failure.message.contains("holds checkpoints of an earlier run named `baseline`, up to step 31"),
        "{failure:?}"
    );
    assert!(failure.hint.contains("--resume") && failure.input_is_wrong, "{failure:?}");

    let resumed = cluster.submit(cluster.spec(1), "latest").await.unwrap();
    let seat = worker.sit_down().await;
    assert_eq!(seat.run_id, resumed);
    assert!(seat.resume_from.ends_with("baseline/step-00000031"), "{}", seat.resume_from);
    // The same step again takes the old folder's place.
    worker.stage(31, 0.35).await;
    assert!(worker.published().await.path.ends_with("step-00000031"));
    let text = std::fs::read_to_string(cluster.folder().join("step-00000031/manifest.json")).unwrap();
    assert!(text.contains(&resumed));
    worker.finish(40).await;
    let (_, ended) = cluster.watch_to_the_end(&resumed).await;
    assert_eq!(ended.phase(), v1::Phase::Succeeded);
}

/// Until a worker is listed as wanted.
async fn until_listed(cluster: &Cluster, what: &str, wanted: impl Fn(&v1::WorkerStatus) -> bool) {
    let mut workers = cluster.workers.clone();
    within(what, async {
        loop {
            let listed = workers.list(v1::ListWorkersRequest {}).await.unwrap().into_inner().workers;
            if listed.iter().any(&wanted) {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_vanished_worker_is_replaced_and_the_newest_state_goes_on() {
    let mut cluster = cluster(config()).await;
    let (run, mut workers) = seated(&mut cluster, 2).await;
    let (gone, mut left) = (workers.remove(1), workers.remove(0));
    gone.progress(123).await;
    until_listed(&cluster, "step 123", |worker| worker.worker == "w1:1" && worker.step == 123).await;
    drop(gone);
    assert_eq!(left.order().await, v1::OrderKind::Abort);
    left.end(122, job_ended::Outcome::PeerLost("`w1:1`".into())).await;
    cluster.coordinator.worker_exited(1, 1, "killed by signal 9".into(), true).await;
    let wanted = "worker `w1:1` left at step 123: killed by signal 9";
    cluster
        .until(
            &run,
            "the cause",
            |event| matches!(event, run_event::Event::Standing(standing) if standing.words.contains(wanted)),
        )
        .await;
    let (mut successor, _) = FakeWorker::open(cluster.workers.clone(), join_as(1, 2)).await;
    let (seat, other) = (left.sit_down().await, successor.sit_down().await);
    assert_eq!((seat.generation, seat.first_step, seat.source, &*seat.lacking), (2, 122, Some(0), &[1][..]));
    assert_eq!((seat.rank, other.rank), (0, 1));
    assert_ne!(seat.secret, 0);
    left.window(0, 130).await;
    left.finish(200).await;
    successor.finish(200).await;
    let (seen, ended) = cluster.watch_to_the_end(&run).await;
    assert_eq!(ended.phase(), v1::Phase::Succeeded, "{ended:?}");
    let lost = seen.iter().find_map(|event| match &event.event {
        Some(run_event::Event::Lost(lost)) => Some((lost.worker.clone(), lost.step)),
        _ => None,
    });
    assert_eq!(lost, Some(("w1:1".into(), 123)));
    // Tidying up goes on behind the end; a shutdown waits for it.
    let folder = cluster.folder();
    cluster.coordinator.shutdown().await;
    assert!(!folder.exists(), "nothing is left of a run without checkpoints");
}

#[tokio::test]
async fn a_silent_worker_is_suspect_then_gone() {
    let heartbeat = std::time::Duration::from_millis(20);
    let deadlines = Deadlines { heartbeat, ..Deadlines::default() };
    let mut cluster = cluster(Config { deadlines, ..config() }).await;
    let (run, _worker) = seated(&mut cluster, 1).await;
    let wanted = "worker `w0:1` left at step 0: no heartbeat for 0.1 s";
    cluster
        .until(
            &run,
            "the silence",
            |event| matches!(event, run_event::Event::Standing(standing) if standing.words.contains(wanted)),
        )
        .await;
    let listed = cluster.workers.list(v1::ListWorkersRequest {}).await.unwrap().into_inner().workers;
    assert_eq!(listed[0].state, "left: no heartbeat for 0.1 s");
}

#[tokio::test]
async fn a_worker_that_misses_one_heartbeat_is_shown_as_suspect() {
    // So long that it cannot be given up while the test looks.
    let heartbeat = std::time::Duration::from_millis(400);
    let deadlines = Deadlines { heartbeat, ..Deadlines::default() };
    let mut cluster = cluster(Config { deadlines, ..config() }).await;
    let (_run, _worker) = seated(&mut cluster, 1).await;
    until_listed(&cluster, "suspicion", |worker| worker.state.starts_with("suspect: no heartbeat for 0.")).await;
}

#[tokio::test]
async fn a_worker_that_is_told_to_go_hands_over_and_is_dismissed() {
    let mut cluster = cluster(config()).await;
    let elastic = cluster.spec(2).replace("workers = 2", "workers = 2\nmin_workers = 1");
    let run = cluster.submit(elastic, "").await.unwrap();
    let mut goes = FakeWorker::join(&cluster, 0).await;
    let mut stays = FakeWorker::join(&cluster, 1).await;
    goes.sit_down().await;
    stays.sit_down().await;
    goes.say(worker_message::Message::Drain(v1::Drain { why: "SIGTERM".into() })).await;
    assert_eq!((goes.order().await, stays.order().await), (v1::OrderKind::Yield, v1::OrderKind::Yield));
    for worker in [&goes, &stays] {
        worker.end(7, job_ended::Outcome::Ordered(v1::OrderKind::Yield.into())).await;
    }
    let answer = goes.next("its dismissal").await;
    assert!(matches!(answer, coordinator_message::Message::Dismiss(_)), "{answer:?}");
    let seat = stays.sit_down().await;
    assert_eq!((seat.world, seat.first_step, seat.lacking.len()), (1, 7, 0));
    stays.finish(200).await;
    let (_, ended) = cluster.watch_to_the_end(&run).await;
    assert_eq!(ended.phase(), v1::Phase::Succeeded, "{ended:?}");
}

#[tokio::test]
async fn a_coordinator_that_died_takes_its_run_up_again_where_its_members_are() {
    let state = tempfile::tempdir().unwrap();
    let config = Config { state_dir: Some(state.path().to_owned()), ..config() };
    let mut cluster = cluster(config.clone()).await;
    let (run, mut workers) = seated(&mut cluster, 2).await;
    let (second, mut first) = (workers.remove(1), workers.remove(0));
    first.window(0, 10).await;
    first.stage(10, 0.5).await;
    first.published().await;
    // The process dies: no farewell, no records.
    drop(cluster.coordinator);
    let coordinator = again(&config).await;
    let (runs, workers) = fake::clients(&coordinator).await;
    let mut cluster = Cluster { coordinator, runs, workers, dir: cluster.dir };
    let status = cluster.get(&run).await;
    assert_eq!(status.phase(), v1::Phase::Training);
    assert!(status.standing.contains("2 of 2 members not heard of"), "{}", status.standing);

    // One that holds a seat of another time has none.
    let mut stranger = join_as(7, 1);
    stranger.holding = Some(v1::Holding { run_id: run.clone(), generation: 9, step: 3, epoch_closed: true });
    let (_stranger, answer) = FakeWorker::open(cluster.workers.clone(), stranger).await;
    assert!(matches!(&answer, coordinator_message::Message::Welcome(welcome) if !welcome.carry_on), "{answer:?}");

    let (first, welcome) = first.find_again(cluster.workers.clone(), 1, 25).await;
    assert_eq!((welcome.carry_on, welcome.worker.as_str()), (true, "w0:1"));
    // Told again, as it may have been missed.
    first.window(0, 10).await;
    let (second, welcome) = second.find_again(cluster.workers.clone(), 1, 25).await;
    assert!(welcome.carry_on);
    first.window(10, 25).await;
    first.finish(200).await;
    second.finish(200).await;
    let (seen, ended) = cluster.watch_to_the_end(&run).await;
    assert_eq!((ended.phase(), ended.last.map(|last| last.step)), (v1::Phase::Succeeded, Some(10)));
    let windows: Vec<_> = seen
        .iter()
        .filter_map(|event| match &event.event {
            Some(run_event::Event::Progress(progress)) => Some((progress.first_step, progress.step)),
            _ => None,
        })
        .collect();
    assert_eq!(windows, [(0, 10), (10, 25)], "what both lives were told, once");
    assert!(seen.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));
}

#[tokio::test]
async fn members_that_do_not_find_a_coordinator_again_that_came_back_are_replaced() {
    let state = tempfile::tempdir().unwrap();
    let heartbeat = std::time::Duration::from_millis(50);
    let deadlines = Deadlines { heartbeat, ..Deadlines::default() };
    let config = Config { state_dir: Some(state.path().to_owned()), deadlines, ..config() };
    let mut cluster = cluster(config.clone()).await;
    let (run, mut workers) = seated(&mut cluster, 1).await;
    workers[0].stage(10, 0.5).await;
    workers[0].published().await;
    drop((cluster.coordinator, workers));
    let coordinator = again(&config).await;
    let (runs, workers) = fake::clients(&coordinator).await;
    let mut cluster = Cluster { coordinator, runs, workers, dir: cluster.dir };
    let wanted = "it did not find the coordinator again within 0.5 s";
    cluster
        .until(
            &run,
            "the missing",
            |event| matches!(event, run_event::Event::Standing(standing) if standing.words.contains(wanted)),
        )
        .await;
    let (mut other, _) = FakeWorker::open(cluster.workers.clone(), join_as(3, 1)).await;
    let seat = other.sit_down().await;
    assert_eq!((seat.first_step, seat.source), (10, None));
    assert!(seat.resume_from.ends_with("baseline/step-00000010"), "{}", seat.resume_from);
}

/// Another life of a coordinator that was dropped.
async fn again(config: &Config) -> Coordinator {
    within("the lock of the former life", async {
        loop {
            match Coordinator::start(config.clone()).await {
                Ok(coordinator) => return coordinator,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await
}

#[tokio::test]
async fn another_version_and_a_former_life_are_refused_with_a_hint() {
    let mut cluster = cluster(Config { own_workers: true, ..config() }).await;
    let _second_life = FakeWorker::open(cluster.workers.clone(), join_as(0, 2)).await;
    let (_, answer) = FakeWorker::open(cluster.workers.clone(), join_as(0, 1)).await;
    let coordinator_message::Message::Refused(refused) = answer else { panic!("{answer:?}") };
    assert_eq!(refused.reason, "worker `w0:1` cannot join: slot 0 is in its life 2 already");

    let run = cluster.submit(cluster.spec(2), "").await.unwrap();
    let old = v1::Join { version: "0.0.9".into(), ..join_as(1, 1) };
    let (_, answer) = FakeWorker::open(cluster.workers.clone(), old).await;
    let coordinator_message::Message::Refused(refused) = answer else { panic!("{answer:?}") };
    let reason = format!("worker `w1:1` is of version 0.0.9, the coordinator of {}", proto::VERSION);
    assert_eq!(
        (refused.reason.as_str(), refused.hint.as_str()),
        (reason.as_str(), "install the same version of lockstep everywhere")
    );
    // Nobody starts another one: the run does not wait for its time to be up.
    let (_, ended) = cluster.watch_to_the_end(&run).await;
    assert_eq!(ended.failure.unwrap().causes, [reason]);
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let cluster = cluster(config()).await;
    let address = cluster.coordinator.address();
    let error = Coordinator::start(Config { listen: address, ..config() }).await.err().unwrap();
    assert!(matches!(error, StartError::InUse { .. }));
    assert_eq!(error.to_string(), format!("address {address} is in use"));
    assert!(error.hint().contains("another port"));
}

#[tokio::test]
async fn a_state_folder_has_one_coordinator_and_remembers_its_runs() {
    let state = tempfile::tempdir().unwrap();
    let config = Config { state_dir: Some(state.path().to_owned()), ..config() };
    let mut cluster = cluster(config.clone()).await;
    let error = Coordinator::start(config.clone()).await.err().unwrap();
    assert!(error.to_string().contains("is in use by another coordinator"), "{error}");

    let (first, mut workers) = seated(&mut cluster, 1).await;
    let mut worker = workers.remove(0);
    worker.finish(4).await;
    cluster.watch_to_the_end(&first).await;
    let second = cluster.submit(spec(cluster.dir.path(), "second", 1), "").await.unwrap();
    worker.sit_down().await;
    worker.stage(5, 0.2).await;
    worker.published().await;
    // The process dies: no farewell, no records.
    drop(cluster.coordinator);

    // One that starts its workers itself has nobody left to go on with.
    let coordinator = again(&Config { own_workers: true, ..config.clone() }).await;
    let (mut runs, _) = fake::clients(&coordinator).await;
    let listed = runs.list(v1::ListRunsRequest {}).await.unwrap().into_inner().runs;
    let phases: Vec<_> = listed.iter().map(|run| (run.run_id.as_str(), run.phase())).collect();
    assert_eq!(phases, [(second.as_str(), v1::Phase::Failed), (first.as_str(), v1::Phase::Succeeded)]);
    let failure = listed[0].failure.clone().unwrap();
    assert!(failure.message.starts_with("interrupted: the coordinator ended while the run trained"), "{failure:?}");
    assert!(failure.hint.contains("--resume"));
    // A watcher that comes back hears of the end too.
    let mut events = runs.watch(v1::WatchRequest { run_id: second, after_sequence: 0 }).await.unwrap().into_inner();
    let mut last = None;
    while let Some(event) = within("the end", events.message()).await.unwrap() {
        last = event.event;
    }
    assert!(matches!(last, Some(run_event::Event::Ended(_))), "{last:?}");
    coordinator.shutdown().await;
}

#[tokio::test]
async fn datasets_that_cannot_be_trained_on_are_refused_by_what_is_wrong() {
    let features = Arc::new(|path: &std::path::Path, _: &proto::spec::Data, _| {
        let mut manifest = manifest(100);
        if path.ends_with("validation") {
            manifest.columns = Some(v1::Columns { features: vec!["f0".into()], ..Default::default() });
        }
        Ok(manifest)
    });
    let broken = Arc::new(|path: &std::path::Path, _: &proto::spec::Data, _| {
        let message = format!("`{}` is not a Parquet file", path.display());
        Err(dataset::manifest::DatasetError { path: path.to_owned(), message, hint: Some("convert it".into()) })
    });
    let cases: [(Arc<coordinator::BuildManifest>, &str); 4] = [
        (lists(1), "dataset `data/train` has 1 list, 2 workers need at least 2"),
        (lists(0), "dataset `data/train` is empty: it has no rows"),
        (
            features,
            "validation data `data/validation` does not have the features of the training data `data/train`: it lacks `f1`",
        ),
        (broken, "`data/train` is not a Parquet file"),
    ];
    for (build_manifest, message) in cases {
        let mut cluster = cluster(Config { build_manifest, ..config() }).await;
        let run = cluster.submit(cluster.spec(2), "").await.unwrap();
        let (_, ended) = cluster.watch_to_the_end(&run).await;
        let failure = ended.failure.unwrap();
        assert_eq!((failure.message.as_str(), failure.input_is_wrong), (message, true));
        assert!(!failure.hint.is_empty());
    }
}

#[tokio::test]
async fn half_written_checkpoints_are_never_seen_and_the_run_goes_on() {
    let mut cluster = cluster(config()).await;
    let (run, mut workers) = seated(&mut cluster, 1).await;
    let mut worker = workers.remove(0);
    // A file shorter than its manifest says.
    let staged = std::path::PathBuf::from(&worker.seat.staging).join("cut");
    write_checkpoint(&staged, &run, &cluster.spec(1), 10, None);
    std::fs::write(staged.join("model.safetensors"), b"short").unwrap();
    worker.report_staged(&staged, 10).await;
    assert_eq!(worker.published().await.path, "");
    assert!(!staged.exists());
    // No manifest at all, and one outside the staging folder.
    let bare = std::path::PathBuf::from(&worker.seat.staging).join("bare");
    std::fs::create_dir(&bare).unwrap();
    worker.report_staged(&bare, 11).await;
    assert_eq!(worker.published().await.path, "");
    let outside = cluster.dir.path().join("outside");
    write_checkpoint(&outside, &run, &cluster.spec(1), 12, None);
    worker.report_staged(&outside, 12).await;
    assert_eq!(worker.published().await.path, "");
    assert!(outside.exists(), "what is not in the staging folder is not ours to remove");
    // Something else that is half-written when the run ends.
    std::fs::create_dir(std::path::PathBuf::from(&worker.seat.staging).join("unfinished")).unwrap();
    worker.stage(13, 0.1).await;
    assert!(worker.published().await.path.ends_with("step-00000013"));
    worker.finish(13).await;
    let (events, ended) = cluster.watch_to_the_end(&run).await;
    assert_eq!(ended.phase(), v1::Phase::Succeeded);
    let warnings: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.event {
            Some(run_event::Event::Warning(warning)) => Some(warning.message.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert_eq!(
        warnings[0],
        "checkpoint of step 10 was not published: `model.safetensors` has 5 bytes, its manifest says 1000"
    );
    let folder = cluster.folder();
    cluster.coordinator.shutdown().await;
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["best", "latest", "step-00000013"]);
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let mut cluster = cluster(config()).await;
    let unknown = cluster.runs.get(v1::GetRunRequest { run_id: "r-nothing".into() }).await.unwrap_err();
    assert_eq!((unknown.code(), unknown.message()), (tonic::Code::NotFound, "there is no run `r-nothing`"));
    let none = cluster.runs.stop(v1::StopRunRequest::default()).await.unwrap_err();
    assert_eq!((none.code(), none.message()), (tonic::Code::NotFound, "there is no run yet"));
    let wrong = cluster.submit("name = 3".into(), "").await.unwrap_err();
    assert_eq!(wrong.code(), tonic::Code::InvalidArgument);
    assert!(!failure_of(&wrong).causes.is_empty());
    let long = cluster.submit(format!("{}# {}\n", cluster.spec(1), "x".repeat(600_000)), "").await.unwrap_err();
    assert!(long.message().ends_with("524288 are the most"), "{}", long.message());
    cluster.submit(cluster.spec(1), "").await.unwrap();
    let twice = cluster.submit(cluster.spec(1), "").await.unwrap_err();
    assert!(twice.message().ends_with("named `baseline` too, has not ended"), "{}", twice.message());
}

#[tokio::test]
async fn health_and_reflection_answer() {
    let cluster = cluster(config()).await;
    let uri = format!("http://{}", cluster.coordinator.address());
    let channel = tonic::transport::Channel::from_shared(uri).unwrap().connect().await.unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    let request = tonic_health::pb::HealthCheckRequest { service: "lockstep.v1.Runs".into() };
    let status = health.check(request).await.unwrap().into_inner().status();
    assert_eq!(status, tonic_health::pb::health_check_response::ServingStatus::Serving);

    use tonic_reflection::pb::v1 as reflection;
    let mut client = reflection::server_reflection_client::ServerReflectionClient::new(channel);
    let message_request =
        Some(reflection::server_reflection_request::MessageRequest::FileContainingSymbol("lockstep.v1.Runs".into()));
    let request = reflection::ServerReflectionRequest { host: String::new(), message_request };
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let reflection::server_reflection_response::MessageResponse::FileDescriptorResponse(files) = answer else {
        panic!("{answer:?}")
    };
    assert!(!files.file_descriptor_proto.is_empty());
}

#[tokio::test]
async fn the_newest_the_best_and_the_initial_checkpoint_stay() {
    let mut cluster = cluster(config()).await;
    let text = cluster.spec(1).replace("keep = 2", "keep = 2\ninitial = true");
    let run = cluster.submit(text, "").await.unwrap();
    let mut worker = FakeWorker::join(&cluster, 0).await;
    worker.sit_down().await;
    let listed = |cluster: &Cluster| {
        let entries = std::fs::read_dir(cluster.folder()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name.starts_with("step-"));
        names.sort();
        names
    };
    for (step, ndcg) in [(0, 0.0), (10, 0.2), (20, 0.9), (30, 0.3), (40, 0.4), (50, 0.1)] {
        worker.stage(step, ndcg).await;
        assert!(worker.published().await.path.ends_with(&format!("step-{step:08}")));
    }
    assert_eq!(listed(&cluster), ["step-00000000", "step-00000020", "step-00000040", "step-00000050"]);
    let best = std::fs::read_link(cluster.folder().join("best")).unwrap();
    assert_eq!(best.to_str(), Some("step-00000020"));
    let request = v1::CheckpointsRequest { run_id: run.clone() };
    let checkpoints = cluster.runs.checkpoints(request).await.unwrap().into_inner().checkpoints;
    let steps: Vec<_> = checkpoints.iter().map(|checkpoint| (checkpoint.step, checkpoint.best)).collect();
    assert_eq!(steps, [(0, false), (20, true), (40, false), (50, false)]);
    assert_eq!(cluster.get(&run).await.best.unwrap().step, 20);
}

#[tokio::test]
async fn runs_take_their_turn() {
    let mut cluster = cluster(config()).await;
    let (first, mut workers) = seated(&mut cluster, 1).await;
    let mut worker = workers.remove(0);
    let second = cluster.submit(spec(cluster.dir.path(), "second", 1), "").await.unwrap();
    let waiting = cluster.get(&second).await.standing;
    assert_eq!(waiting, format!("waiting for 1 of 1 workers, behind run `{first}`"));
    worker.finish(4).await;
    assert_eq!(worker.sit_down().await.run_id, second);
    cluster.runs.stop(v1::StopRunRequest { run_id: String::new(), now: true }).await.unwrap();
    assert_eq!(worker.order().await, v1::OrderKind::Abort);
    worker.end(0, job_ended::Outcome::Ordered(v1::OrderKind::Abort.into())).await;
    let (_, ended) = cluster.watch_to_the_end(&second).await;
    assert_eq!(
        (ended.phase(), ended.reason.as_str()),
        (v1::Phase::Stopped, "stopped at once on request, after step 0")
    );
}

#[tokio::test]
async fn a_resumed_run_finds_the_best_checkpoint_again_whatever_a_crash_left_of_the_links() {
    let mut cluster = cluster(config()).await;
    let text = cluster.spec(1);
    for (step, ndcg) in [(10, 0.2), (20, 0.9), (30, 0.9), (40, 0.3)] {
        write_checkpoint(&cluster.folder().join(format!("step-{step:08}")), "r-old", &text, step, Some(ndcg));
    }
    // Killed between a rename and its links.
    std::os::unix::fs::symlink("step-00000010", cluster.folder().join("best")).unwrap();
    std::os::unix::fs::symlink("step-00000030", cluster.folder().join("latest")).unwrap();
    let run = cluster.submit(text, "latest").await.unwrap();
    let mut worker = FakeWorker::join(&cluster, 0).await;
    assert!(worker.sit_down().await.resume_from.ends_with("step-00000040"));
    let link = |name: &str| std::fs::read_link(cluster.folder().join(name)).unwrap();
    assert_eq!((link("best").to_str(), link("latest").to_str()), (Some("step-00000020"), Some("step-00000040")));
    for (step, ndcg) in [(50, 0.1), (60, 0.2), (70, 0.3)] {
        worker.stage(step, ndcg).await;
        assert!(worker.published().await.path.ends_with(&format!("step-{step:08}")));
    }
    worker.finish(70).await;
    let (_, ended) = cluster.watch_to_the_end(&run).await;
    let best = ended.best.unwrap();
    assert_eq!((best.step, best.best, best.metrics[0].value), (20, true, 0.9));
    assert!(std::path::Path::new(&best.path).join("manifest.json").exists(), "the best one is not pruned");
    assert!(!cluster.folder().join("step-00000010").exists(), "others are");
    assert_eq!(ended.last.unwrap().step, 70);
}

#[tokio::test]
async fn a_warm_start_is_in_the_seat_and_a_resumed_run_does_not_look_for_it() {
    let mut cluster = cluster(config()).await;
    let old = cluster.dir.path().join("old/step-00000005");
    write_checkpoint(&old, "r-old", &cluster.spec(1), 5, Some(0.1));
    let text = cluster.spec(1).replace("[model]", &format!("[model]\nstart_from = \"{}\"", old.display()));
    let run = cluster.submit(text.clone(), "").await.unwrap();
    let mut worker = FakeWorker::join(&cluster, 0).await;
    let seat = worker.sit_down().await;
    let old = old.canonicalize().unwrap();
    assert_eq!((seat.start_from.as_str(), seat.resume_from.as_str()), (old.to_str().unwrap(), ""));
    worker.stage(10, 0.2).await;
    worker.published().await;
    worker.finish(10).await;
    cluster.watch_to_the_end(&run).await;

    std::fs::remove_dir_all(&old).unwrap();
    cluster.submit(text, "latest").await.unwrap();
    let seat = worker.sit_down().await;
    assert_eq!(seat.start_from, "");
    assert!(seat.resume_from.ends_with("step-00000010"));
}

#[tokio::test]
async fn a_stop_that_names_no_run_means_the_one_that_trains() {
    let mut cluster = cluster(config()).await;
    let (run, mut workers) = seated(&mut cluster, 1).await;
    let second = cluster.submit(spec(cluster.dir.path(), "second", 1), "").await.unwrap();
    cluster.runs.stop(v1::StopRunRequest { run_id: String::new(), now: true }).await.unwrap();
    let worker = &mut workers[0];
    assert_eq!(worker.order().await, v1::OrderKind::Abort);
    worker.end(0, job_ended::Outcome::Ordered(v1::OrderKind::Abort.into())).await;
    let (_, ended) = cluster.watch_to_the_end(&run).await;
    assert_eq!(ended.phase(), v1::Phase::Stopped);
    assert_eq!(worker.sit_down().await.run_id, second);
}
