//! The whole collector in this process, against librdkafka's own broker: it keeps the last 5 MB of a partition in memory.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use rdkafka::{
    ClientConfig,
    config::FromClientConfig as _,
    mocking::MockCluster,
    producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _},
};

use super::*;
use crate::ErrorKind;

const TOPIC: &str = "searches";
const NOON: i64 = 1_769_860_800_000; // 2026-01-31T12:00:00Z, in milliseconds

struct Here {
    folder: tempfile::TempDir,
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl Here {
    fn new(partitions: i32) -> Self {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, partitions, 1).unwrap();
        Self { folder: tempfile::tempdir().unwrap(), cluster }
    }

    fn options(&self) -> CollectOptions {
        let options =
            CollectOptions::new(self.cluster.bootstrap_servers(), TOPIC, self.folder.path().to_str().unwrap());
        CollectOptions { patience: Duration::from_secs(10), ..options }
    }

    fn send<P: AsRef<[u8]>>(&self, partition: i32, messages: impl IntoIterator<Item = P>) {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.cluster.bootstrap_servers());
        let producer = BaseProducer::from_config(&config).unwrap();
        for message in messages {
            let record = BaseRecord::<(), [u8]>::to(TOPIC).partition(partition).payload(message.as_ref());
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(Duration::from_secs(20)).unwrap();
    }

    /// The sessions that readers of the lake find, with how often, and the dead letters that commits list.
    fn contents(&self) -> (BTreeMap<String, usize>, usize) {
        use arrow::array::AsArray as _;
        let table = self.folder.path().join("click_logs");
        let lake = Lake::open(self.folder.path().to_str().unwrap()).unwrap();
        let runtime = runtime().unwrap();
        let mut sessions = BTreeMap::new();
        for file in runtime.block_on(lake.files(NaiveDate::MIN..=NaiveDate::MAX)).unwrap() {
            let file = std::fs::File::open(std::path::Path::new("/").join(file.path.as_ref())).unwrap();
            let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
            for batch in reader.build().unwrap() {
                for session in batch.unwrap().column(0).as_string::<i32>().iter().flatten() {
                    *sessions.entry(session.to_owned()).or_default() += 1;
                }
            }
        }
        let mut dead = 0;
        for partition in 0..3 {
            let source = Mode::All.source(TOPIC, partition);
            for name in runtime.block_on(lake.commit_names(&source)).unwrap() {
                for letters in runtime.block_on(lake.commit(&source, &name)).unwrap().dead_letters {
                    dead += std::fs::read_to_string(table.join(letters.path)).unwrap().lines().count();
                }
            }
        }
        (sessions, dead)
    }

    /// Events that readers of the lake find.
    fn rows(&self) -> u64 {
        let lake = Lake::open(self.folder.path().to_str().unwrap()).unwrap();
        let all = NaiveDate::MIN..=NaiveDate::MAX;
        let files = runtime().unwrap().block_on(lake.files(all)).unwrap();
        files.iter().filter_map(|file| file.rows).sum()
    }
}

fn events(numbers: std::ops::Range<i64>) -> impl Iterator<Item = String> {
    numbers.map(|n| {
        let at = NOON + n % 3 * 86_400_000;
        format!(
            r#"{{"session_id": "s{n}", "query_id": "q", "query": "red shoes", "query_timestamp": {at}, "device": "tv", "location": "DE",
            "results": [{{"position": 1, "document_id": "d1", "score": 1, "clicked": false, "added_to_cart": false, "purchased": false}}]}}"#
        )
    })
}

fn quietly(options: &CollectOptions) -> Result<CollectReport, PipelineError> {
    collect(options, &AtomicBool::new(false), &mut |_| {})
}

#[test]
fn partitions_are_dealt_to_no_more_threads_than_there_are() {
    assert_eq!(shares(&[0, 1, 2, 3, 4], 2), [vec![0, 2, 4], vec![1, 3]]);
    assert_eq!(shares(&[0, 1], 8), [vec![0], vec![1]]);
    assert!(shares(&[], 8).is_empty());
}

#[test]
fn a_logged_feature_that_is_a_results_own_field_is_refused_before_anything_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let options = CollectOptions::new("nobody", TOPIC, folder.path().to_str().unwrap());
    let options = CollectOptions { schema: LogSchema::with_features(["price", "clicked"]), ..options };
    let error = quietly(&options).unwrap_err();
    assert!(error.kind == ErrorKind::Options && error.message.contains("`clicked`"), "{error}");
}

#[test]
fn a_topic_that_was_cut_and_grew_again_is_read_from_the_last_commit_that_it_still_holds() {
    let here = Here::new(1);
    for numbers in [0..40, 40..60, 60..100] {
        here.send(0, events(numbers));
        quietly(&here.options()).unwrap();
    }
    // The same topic without what came after its offset 70.
    let cut = Here::new(1);
    cut.send(0, events(0..70).chain(events(1000..1050)));
    let options = CollectOptions { lake: here.options().lake, ..cut.options() };
    let report = quietly(&options).unwrap();
    assert!(report.notices[0].contains("read again from offset 60"), "{:?}", report.notices);
    assert_eq!(here.rows(), 100 + 10 + 50);
    assert_eq!(quietly(&options).unwrap().tally.messages, 0);
}

#[test]
fn a_topic_is_gathered_in_one_way() {
    let folder = tempfile::tempdir().unwrap();
    let all = CollectOptions::new("b", TOPIC, folder.path().to_str().unwrap());
    let dated = CollectOptions { mode: Mode::Date(NaiveDate::from_ymd_opt(2026, 1, 31).unwrap()), ..all.clone() };
    let other = CollectOptions { topic: "others".into(), ..dated.clone() };
    let lake = Lake::open(&all.lake).unwrap();
    let settle = |options: &CollectOptions| runtime().unwrap().block_on(settle_mode(&lake, options));
    settle(&all).unwrap();
    settle(&all).unwrap();
    let error = settle(&dated).unwrap_err();
    assert!(error.message.contains("all dates at once"), "{error}");
    settle(&other).unwrap();
}

#[test]
fn reading_resumes_where_the_lake_ends_and_malformed_messages_and_repeats_are_told() {
    let here = Here::new(2);
    let options = here.options();
    here.send(0, events(0..500));
    here.send(1, events(500..600));
    here.send(1, [b"not JSON".as_slice(), &[0xFF, 0xFE]]);
    let report = quietly(&options).unwrap();
    assert_eq!((report.tally.events, report.tally.malformed, report.commits, report.lag), (600, 2, 2, 0));
    assert_eq!((report.files, report.dead_letters.len(), report.stopped), (6, 1, false));
    let letters = here.folder.path().join("click_logs").join(&report.dead_letters[0]);
    assert_eq!(std::fs::read_to_string(letters).unwrap().lines().count(), 2);
    assert_eq!(here.rows(), 600);
    here.send(0, events(490..510));
    let report = quietly(&options).unwrap();
    assert_eq!((report.tally.events, report.commits, report.notices.len()), (20, 1, 0));
    assert_eq!(here.rows(), 620);
    let report = quietly(&options).unwrap();
    assert_eq!((report.tally.messages, report.commits), (0, 0));
    here.send(0, events(700..710).chain(events(700..705)));
    assert_eq!(quietly(&options).unwrap().tally.repeats, 5);
}

#[test]
fn small_rolls_and_two_collectors_at_once_write_nothing_twice() {
    let here = Here::new(2);
    let options = CollectOptions { roll_every: Duration::ZERO, ..here.options() };
    here.send(0, events(0..6000));
    here.send(1, events(6000..9000));
    let ends = std::thread::scope(|scope| {
        let one = scope.spawn(|| quietly(&options));
        let other = scope.spawn(|| quietly(&options));
        [one.join().unwrap(), other.join().unwrap()]
    });
    for error in ends.into_iter().filter_map(Result::err) {
        assert!(error.message.contains("another writer"), "{error}");
    }
    quietly(&options).unwrap();
    assert_eq!(here.rows(), 9000);
    let lake = Lake::open(&options.lake).unwrap();
    let data = |name: &&String| name.ends_with(".parquet");
    let named = runtime().unwrap().block_on(lake.sweep()).unwrap().files.iter().filter(data).count();
    let all = NaiveDate::MIN..=NaiveDate::MAX;
    assert_eq!(named, runtime().unwrap().block_on(lake.files(all)).unwrap().len(), "the losers' files are gone");
}

#[test]
fn a_date_leaves_the_others_to_their_own_runs() {
    let here = Here::new(1);
    here.send(0, events(0..300));
    for (day, left) in [(31, 200), (1, 200), (2, 200)] {
        let date = NaiveDate::from_ymd_opt(2026, if day == 31 { 1 } else { 2 }, day).unwrap();
        let options = CollectOptions { mode: Mode::Date(date), ..here.options() };
        let report = quietly(&options).unwrap();
        assert_eq!((report.tally.events, report.tally.left()), (100, left));
    }
    assert_eq!(here.rows(), 300);
    assert_eq!(quietly(&here.options()).unwrap_err().kind, ErrorKind::Options);
}

#[test]
fn following_goes_on_until_it_is_told_to_stop_and_then_commits() {
    let here = Here::new(1);
    here.send(0, events(0..50));
    let options = CollectOptions { follow: true, ..here.options() };
    let stop = AtomicBool::new(false);
    let mut sent = false;
    let report = collect(&options, &stop, &mut |happening| {
        let Happening::Progress(standing) = happening else { return };
        if standing.events == 50 && !sent {
            here.send(0, events(50..80));
            sent = true;
        }
        stop.store(standing.events == 80, Ordering::Relaxed);
    });
    let report = report.unwrap();
    assert_eq!((report.tally.events, report.commits, report.stopped), (80, 1, true));
    assert_eq!(here.rows(), 80);
}

#[test]
fn what_retention_took_is_told_and_a_topic_made_anew_is_read_from_its_beginning() {
    let here = Here::new(1);
    here.send(0, events(0..100));
    quietly(&here.options()).unwrap();
    // More than the broker keeps.
    here.send(0, events(100..30_000));
    let report = quietly(&here.options()).unwrap();
    let missing = 29_900 - report.tally.messages;
    assert!(missing > 0);
    let expected = format!("searches p0: {missing} messages are missing, offsets 100 to {}", 99 + missing);
    assert!(report.notices[0].starts_with(&expected), "{:?}", report.notices);
    let before = here.rows();
    // Another broker has a topic of that name: a shorter one, and then one that is another only by its content.
    for (events_sent, total) in [(events(0..40), 40), (events(1000..1100), 140)] {
        let anew = Here::new(1);
        anew.send(0, events_sent);
        let options = CollectOptions { lake: here.options().lake, ..anew.options() };
        let report = quietly(&options).unwrap();
        assert!(report.notices[0].contains("made anew"), "{:?}", report.notices);
        assert_eq!(here.rows(), before + total);
    }
}

#[test]
fn a_broker_that_is_not_there_and_a_topic_that_it_does_not_have_end_clearly() {
    let here = Here::new(1);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let options = CollectOptions { brokers: nobody, patience: Duration::from_secs(1), ..here.options() };
    let error = quietly(&options).unwrap_err();
    assert!(error.kind == ErrorKind::Network && error.message.contains("cannot be reached"), "{error}");
    let unknown = rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
    here.cluster.topic_error(TOPIC, unknown).unwrap();
    let error = quietly(&here.options()).unwrap_err();
    assert!(error.message.contains("has no topic `searches`") && error.hint().is_some(), "{error}");
    assert!(std::fs::read_dir(here.folder.path()).unwrap().next().is_none(), "nothing was written");
}

/// Where the process of the test below, killed again and again, is told what to collect.
const CHILD: &str = "LOCKSTEP_TEST_COLLECT";

#[test]
fn as_a_child_it_collects_until_it_is_killed() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let (brokers, lake) = told.split_once(' ').unwrap();
    let options = CollectOptions::new(brokers, TOPIC, lake);
    // A commit each 512 messages: moments between any two steps of one come up.
    let options = CollectOptions { follow: true, roll_every: Duration::ZERO, ..options };
    let tell = &mut |happening: Happening<'_>| {
        if let Happening::Committed(_) = happening {
            println!("committed");
        }
    };
    collect(&options, &AtomicBool::new(false), tell).unwrap();
}

#[test]
fn killed_at_twenty_random_moments_the_lake_holds_each_event_exactly_once() {
    let here = Here::new(3);
    let seed = std::env::var("LOCKSTEP_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(rand::random::<u64>);
    println!("LOCKSTEP_TEST_SEED={seed}");
    let mut draw = <rand_chacha::ChaCha8Rng as rand::SeedableRng>::seed_from_u64(seed);
    let told = format!("{} {}", here.cluster.bootstrap_servers(), here.folder.path().display());
    let (mut made, mut cut_off) = (0, 0);
    for _ in 0..20 {
        for partition in 0..3 {
            here.send(partition, events(made..made + 600));
            here.send(partition, [format!("not JSON, after {made}")]);
            made += 600;
        }
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "collect::tests::as_a_child_it_collects_until_it_is_killed", "--nocapture"])
            .env(CHILD, &told)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for _ in 0..1 + rand::Rng::random_range(&mut draw, 0..3) {
            lines.by_ref().map(Result::unwrap).find(|line| line.ends_with("committed")).expect("it is at work");
        }
        let (pause, begun) = (Duration::from_micros(rand::Rng::random_range(&mut draw, 0..15_000)), Instant::now());
        while begun.elapsed() < pause {
            std::hint::spin_loop();
        }
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
        child.kill().unwrap();
        child.wait().unwrap();
        cut_off += u32::from(here.rows() < made as u64);
    }
    assert!(cut_off >= 10, "only {cut_off} kills fell within the work");
    let report = quietly(&here.options()).unwrap();
    assert!(report.notices.is_empty() && report.lag == 0, "{report:?}");
    let (sessions, dead) = here.contents();
    let expected: Vec<String> = (0..made).map(|n| format!("s{n}")).collect();
    let found: Vec<&String> =
        sessions.iter().flat_map(|(session, count)| std::iter::repeat_n(session, *count)).collect();
    assert_eq!(found.len(), expected.len());
    assert!(expected.iter().all(|session| sessions.get(session) == Some(&1)), "each once");
    assert_eq!(dead, 60, "dead letters, each once");
}
