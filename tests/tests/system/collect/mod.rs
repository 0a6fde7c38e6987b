//! The collector against real brokers: whatever is killed whenever, the lake holds each event exactly once.

mod lake;
mod world;

use std::{
    collections::BTreeMap,
    process::Stdio,
    time::{Duration, Instant},
};

use rdkafka::mocking::MockCluster;
use rustix::process::Signal;
use serde_json::Value;
use tests::{
    Sandbox,
    servers::{self, Broker, S3},
};

use self::{
    lake::LakeOnDisk,
    world::{Chance, World},
};

const TOPIC: &str = "search_events";

fn arguments<'a>(brokers: &'a str, lake: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut all =
        vec!["collect", "--brokers", brokers, "--topic", TOPIC, "--lake", lake, "--json", "--patience", "10s"];
    all.extend_from_slice(more);
    all
}

/// Collects to the end of the topic.
#[track_caller]
fn collect(sandbox: &Sandbox, brokers: &str, more: &[&str]) -> Value {
    sandbox.lockstep(&arguments(brokers, "lake", more)).ok().event("collected")
}

#[test]
fn killed_at_twenty_random_moments_the_lake_holds_each_event_exactly_once_and_each_malformed_message_too() {
    let sandbox = Sandbox::new();
    let Some(broker) = Broker::start(&sandbox) else { return };
    broker.create_topic(TOPIC, 3);
    let mut chance = Chance::seeded();
    let mut world = World::new(3);
    let lake = sandbox.path("lake");
    // A commit each 512 messages of a partition: moments between any two steps of it come up.
    let follow = arguments(&broker.address, "lake", &["--follow", "--roll-every", "1ms"]);
    let mut kills = BTreeMap::<&str, u32>::new();
    for _ in 0..20 {
        world.send(&broker, TOPIC, 2400);
        let mut collector = sandbox.start(&follow);
        let commits = chance.below(6);
        for _ in 0..commits {
            collector.until(|event| event["event"] == "committed");
        }
        let moment = if chance.below(2) == 0 {
            collector.until(|event| event["event"] == "started" || event["event"] == "committed");
            let pause = Duration::from_micros(u64::from(chance.below(20_000)));
            let begun = Instant::now();
            while begun.elapsed() < pause {
                std::hint::spin_loop();
            }
            "at a random time after a commit"
        } else {
            // A data file is there that is not the last commit's: most likely its own commit is not.
            let seen = LakeOnDisk::data_files(&lake).len();
            let begun = Instant::now();
            while LakeOnDisk::data_files(&lake).len() <= seen && begun.elapsed() < Duration::from_secs(20) {
                std::hint::spin_loop();
            }
            "just as a file appeared"
        };
        assert!(collector.is_running(), "the collector ended before it was killed");
        collector.kill_everything();
        *kills.entry(moment).or_default() += 1;
    }
    assert_eq!(kills.values().sum::<u32>(), 20, "{kills:?}");
    let committed = LakeOnDisk::read(&lake);
    assert!(
        !committed.events.is_empty() && committed.events.len() < world.events().len(),
        "the kills fell within the work"
    );
    let report = collect(&sandbox, &broker.address, &[]);
    assert_eq!(report["lag"], 0);
    let found = LakeOnDisk::read(&lake);
    found.assert_holds(&world);
    // Those of killed collectors are gone; only a kill after the last start could leave one.
    assert_eq!(LakeOnDisk::data_files(&lake).len(), found.files, "no file but those that commits list");
    // And a run with nothing to do does nothing.
    let report = collect(&sandbox, &broker.address, &[]);
    assert_eq!((report["commits"].as_u64(), report["events"].as_u64()), (Some(0), Some(0)), "{report}");
    LakeOnDisk::read(&lake).assert_holds(&world);
}

#[test]
fn simulated_events_come_to_the_same_lake_by_way_of_a_broker_and_straight() {
    let sandbox = Sandbox::new();
    let Some(broker) = Broker::start(&sandbox) else { return };
    broker.create_topic(TOPIC, 3);
    let simulate = |more: &[&str]| {
        let world = ["logs", "simulate", "--events", "3000", "--queries", "50", "--documents", "400", "--seed", "7"];
        sandbox.lockstep(&[&world[..], more].concat()).ok()
    };
    simulate(&["--out-lake", "straight", "--features", "world"]);
    let setting = servers::ONE_A_BATCH;
    let setting = format!("{}={}", setting.0, setting.1);
    simulate(&["--brokers", &broker.address, "--topic", TOPIC, "--kafka", &setting, "--features", "again"]);
    let report = collect(&sandbox, &broker.address, &[]);
    assert_eq!((report["events"].as_u64(), report["malformed"].as_u64()), (Some(3000), Some(0)), "{report}");
    let straight = LakeOnDisk::read(&sandbox.path("straight"));
    LakeOnDisk::read(&sandbox.path("lake")).assert_same_events(&straight.events);
}

#[test]
fn two_collectors_at_once_do_not_write_anything_twice() {
    let sandbox = Sandbox::new();
    let Some(broker) = Broker::start(&sandbox) else { return };
    broker.create_topic(TOPIC, 2);
    let mut world = World::new(2);
    world.send(&broker, TOPIC, 12_000);
    let arguments = arguments(&broker.address, "lake", &["--roll-every", "1ms"]);
    let (one, other) = std::thread::scope(|scope| {
        let run = || scope.spawn(|| sandbox.lockstep(&arguments));
        let (one, other) = (run(), run());
        (one.join().unwrap(), other.join().unwrap())
    });
    for ended in [&one, &other] {
        let lost = ended.code == Some(1) && ended.err.contains("another writer has committed");
        assert!(ended.code == Some(0) || lost, "{}", ended.err);
    }
    collect(&sandbox, &broker.address, &[]);
    LakeOnDisk::read(&sandbox.path("lake")).assert_holds(&world);
}

#[test]
fn a_lake_on_s3_holds_each_event_exactly_once_too() {
    let sandbox = Sandbox::new();
    let Some(broker) = Broker::start(&sandbox) else { return };
    let Some(s3) = S3::start(&sandbox) else { return };
    broker.create_topic(TOPIC, 2);
    let mut world = World::new(2);
    let lake = format!("s3://{}/logs", S3::BUCKET);
    let mut run = |more: &[&str], kill: bool| {
        world.send(&broker, TOPIC, 4000);
        let mut command = sandbox.command();
        command.args(arguments(&broker.address, &lake, more)).envs(s3.environment());
        if !kill {
            return sandbox.run(&mut command).ok();
        }
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        let objects = s3.file("logs/click_logs");
        let seen = LakeOnDisk::data_files(&objects).len();
        while LakeOnDisk::data_files(&objects).len() <= seen + 2 {
            assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        tests::Ended { code: None, out: String::new(), err: String::new() }
    };
    for _ in 0..3 {
        run(&["--follow", "--roll-every", "1ms"], true);
    }
    run(&[], false);
    LakeOnDisk::read(&s3.file("logs")).assert_holds(&world);
}

#[test]
fn a_date_is_gathered_alone_and_the_others_are_counted_and_left_to_their_runs() {
    let sandbox = Sandbox::new();
    let Some(broker) = Broker::start(&sandbox) else { return };
    broker.create_topic(TOPIC, 2);
    let mut world = World::new(2);
    world.send(&broker, TOPIC, 3000);
    let dates = world.dates();
    assert!(dates.len() > 2, "{dates:?}");
    let mut gathered = 0;
    for (date, events) in &dates {
        let report = collect(&sandbox, &broker.address, &["--date", &date.to_string()]);
        assert_eq!(report["events"].as_u64(), Some(*events), "{date}");
        let left: u64 = report["other_dates"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
        assert_eq!(left, world.events().len() as u64 - events);
        gathered += events;
    }
    assert_eq!(gathered, world.events().len() as u64);
    let again = collect(&sandbox, &broker.address, &["--date", &dates.keys().next().unwrap().to_string()]);
    assert_eq!(again["messages"].as_u64(), Some(0), "what was read is not read again");
    LakeOnDisk::read(&sandbox.path("lake")).assert_holds_events(&world);
    let mixed = sandbox.lockstep(&arguments(&broker.address, "lake", &[]));
    assert_eq!(mixed.code, Some(2), "{}", mixed.err);
    assert!(mixed.err.contains("date by date") && mixed.err.contains("hint:"), "{}", mixed.err);
}

#[test]
fn told_to_stop_it_commits_what_it_read_and_leaves() {
    let sandbox = Sandbox::new();
    let Some(broker) = Broker::start(&sandbox) else { return };
    broker.create_topic(TOPIC, 1);
    let mut world = World::new(1);
    world.send(&broker, TOPIC, 1000);
    let mut collector = sandbox.start(&arguments(&broker.address, "lake", &["--follow"]));
    let all = world.messages();
    collector.until(|event| event["event"] == "progress" && event["messages"].as_u64() == Some(all));
    assert_eq!(LakeOnDisk::read(&sandbox.path("lake")).files, 0, "nothing was due yet");
    collector.signal(Signal::TERM);
    let report = collector.until(|event| event["event"] == "collected");
    assert_eq!((report["stopped"].as_bool(), report["messages"].as_u64()), (Some(true), Some(all)));
    assert_eq!(collector.wait(), Some(0));
    LakeOnDisk::read(&sandbox.path("lake")).assert_holds(&world);
}

#[test]
fn a_topic_made_anew_is_noticed_and_read_from_its_beginning() {
    let sandbox = Sandbox::new();
    let Some(broker) = Broker::start(&sandbox) else { return };
    broker.create_topic(TOPIC, 1);
    let mut world = World::new(1);
    world.send(&broker, TOPIC, 500);
    collect(&sandbox, &broker.address, &[]);
    // Shorter than what was read; then, one that has outgrown it, which only its content tells.
    for events in [300, 900] {
        let Some(broker) = Broker::start(&sandbox) else { return };
        broker.create_topic(TOPIC, 1);
        world.send(&broker, TOPIC, events);
        let report = collect(&sandbox, &broker.address, &[]);
        let notices = report["notices"].to_string();
        assert!(notices.contains("made anew") && notices.contains("search_events p0"), "{notices}");
    }
    LakeOnDisk::read(&sandbox.path("lake")).assert_holds_events(&world);
}

#[test]
fn events_that_retention_took_are_told_with_their_offsets() {
    let sandbox = Sandbox::new();
    // librdkafka's own broker keeps the last 5 MB of a partition.
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, 1, 1).unwrap();
    let brokers = cluster.bootstrap_servers();
    let mut world = World::new(1);
    let first = world.make(200);
    servers::send(&brokers, TOPIC, first.iter().map(|(partition, message)| (*partition, message.as_slice())));
    collect(&sandbox, &brokers, &[]);
    let more = world.make(25_000);
    assert!(more.iter().map(|(_, message)| message.len()).sum::<usize>() > 8 << 20);
    servers::send(&brokers, TOPIC, more.iter().map(|(partition, message)| (*partition, message.as_slice())));
    let report = collect(&sandbox, &brokers, &[]);
    let notices = report["notices"].to_string();
    assert!(notices.contains(&format!("messages are missing, offsets {} to", first.len())), "{notices}");
    let taken = report["messages"].as_u64().unwrap();
    let missing: u64 = notices.split(": ").nth(1).and_then(|words| words.split(' ').next()?.parse().ok()).unwrap();
    assert_eq!(taken + missing, more.len() as u64, "{notices}");
}

#[test]
fn repeats_by_the_producer_are_counted_and_kept() {
    let sandbox = Sandbox::new();
    let Some(broker) = Broker::start(&sandbox) else { return };
    broker.create_topic(TOPIC, 1);
    let mut world = World::new(1);
    let messages = world.make(100);
    for _ in 0..2 {
        broker.send(TOPIC, messages.iter().map(|(partition, message)| (*partition, message.as_slice())));
    }
    let report = collect(&sandbox, &broker.address, &[]);
    let events = world.events().len() as u64;
    assert_eq!((report["repeats"].as_u64(), report["events"].as_u64()), (Some(events), Some(2 * events)));
}

#[test]
fn a_broker_that_is_not_there_and_a_topic_that_it_does_not_have_end_clearly_and_soon() {
    let sandbox = Sandbox::new();
    let nobody = sandbox.free_address();
    let begun = Instant::now();
    let ended = sandbox.lockstep(&["collect", "--brokers", &nobody, "--lake", "lake", "--patience", "2s"]);
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    for word in [&nobody, "cannot be reached", "hint:"] {
        assert!(ended.err.contains(word), "no `{word}` in:\n{}", ended.err);
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "it took {:?}", begun.elapsed());
    let cluster = MockCluster::new(1).unwrap();
    let brokers = cluster.bootstrap_servers();
    let unknown = rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
    cluster.topic_error(TOPIC, unknown).unwrap();
    let ended =
        sandbox.lockstep(&["collect", "--brokers", &brokers, "--topic", TOPIC, "--lake", "lake", "--patience", "5s"]);
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    for word in ["has no topic `search_events`", "hint:"] {
        assert!(ended.err.contains(word), "no `{word}` in:\n{}", ended.err);
    }
    assert!(!sandbox.path("lake").exists(), "nothing was written");
}

#[test]
fn a_setting_that_is_wrong_is_told_without_its_value() {
    let sandbox = Sandbox::new();
    let wrong = ["collect", "--brokers", "localhost:1", "--lake", "lake", "--kafka", "sasl.pasword=hunter2"];
    let ended = sandbox.lockstep(&wrong);
    assert_eq!(ended.code, Some(2), "{}", ended.err);
    assert!(ended.err.contains("sasl.pasword") && !ended.err.contains("hunter2"), "{}", ended.err);
}
