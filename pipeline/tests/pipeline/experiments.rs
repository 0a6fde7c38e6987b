//! Estimates of a new ranker and readings of a test against a world whose truth is known.

use std::{fs, path::Path, sync::Arc};

use arrow::{
    array::{ArrayRef, Float32Array, Int64Array, RecordBatch, StringArray},
    compute::concat_batches,
    datatypes::{DataType, Field, Schema},
};
use parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder};
use pipeline::{
    PipelineError,
    abtest::{self, AbTestOptions, AbTestReport, Unit, WithoutUser},
    counterfactual::{self, ActionsOptions, ClicksOptions, ClicksReport, ListWeights, Reward, ScoredBy},
    prepare::list_id,
    simulate::{
        ATTRACTIVENESS, Candidate, Destination, EXAMINATION, Log, SimulateOptions, SimulatedArm, World, document_id,
        query_id, simulate,
    },
};
use ranking::{
    counterfactual::{ByExamination, Conclusion, Doubt, Estimates, Gain, Limits, Moved, Value, new_positions},
    events::SearchEvent,
    online::{Metric, Outcome, ReadingOptions, Users, Verdict},
    propensity::PropensityTable,
};

use crate::entries;

fn world(seed: u64) -> SimulateOptions {
    SimulateOptions {
        seed,
        queries: 150,
        documents: 2000,
        users: 1500,
        events: 3000,
        days: 2,
        exploration: 0.2,
        ..SimulateOptions::default()
    }
}

fn in_async<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(work)
}

/// The new ranker: it knows the grades. Documents of a query are neighbours, so that no two have one score.
fn score(document: u64, grade: u8) -> f32 {
    f32::from(grade) + (document % 97) as f32 / 200.0
}

/// How likely each query is to be asked: the mass of Zipf's continuous law over its rank.
fn asked(options: &SimulateOptions) -> Vec<f64> {
    let power = 1.0 - options.zipf;
    let below = |rank: u64| (rank as f64).powf(power);
    let all = below(options.queries + 1) - 1.0;
    (1..=options.queries).map(|rank| (below(rank + 1) - below(rank)) / all).collect()
}

/// What a ranker (from 0) shows for a query, in its order.
fn shown(world: &World, number: u64, ranker: u8, results: usize) -> Vec<Candidate> {
    let mut candidates: Vec<Candidate> = world.candidates(&world.query(number), 0).collect();
    candidates.sort_by(|a, b| b.score(ranker).total_cmp(&a.score(ranker)));
    candidates.truncate(results);
    candidates
}

/// What the new ranker truly earns a search, over all that can be asked, if a wanted result is worth this at its position.
fn truth(options: &SimulateOptions, worth: impl Fn(usize) -> f64) -> f64 {
    let world = World::new(options);
    let value = |number: u64, ranker: u8| -> f64 {
        let mut shown = shown(&world, number, ranker, options.results as usize);
        shown.sort_by(|a, b| score(b.document, b.grade).total_cmp(&score(a.document, a.grade)));
        shown.iter().enumerate().map(|(at, shown)| worth(at) * ATTRACTIVENESS[usize::from(shown.grade)]).sum()
    };
    let asked = asked(options).into_iter().zip(0..);
    asked.map(|(share, number)| share * 0.5 * (value(number, 0) + value(number, 1))).sum()
}

fn dcg(at: usize) -> f64 {
    1.0 / (at as f64 + 2.0).log2()
}

fn each_event(options: &SimulateOptions, mut each: impl FnMut(&SearchEvent)) {
    let mut log = Log::new(options);
    let mut event = Log::blank();
    while log.fill(&mut event) {
        each(&event);
    }
}

fn number(id: &str) -> u64 {
    id[1..].parse().unwrap()
}

/// Grades by query and document.
fn grades(options: &SimulateOptions) -> Vec<std::collections::HashMap<u64, u8>> {
    let world = World::new(options);
    let of = |query: u64| world.candidates(&world.query(query), 0).map(|found| (found.document, found.grade)).collect();
    (0..options.queries).map(of).collect()
}

/// The estimate by examination from the events of a world, without a lake.
fn estimated(options: &SimulateOptions, table: &PropensityTable, gain: Gain) -> Estimates {
    let grades = grades(options);
    let mut sums = ByExamination::new(None, table.clone(), gain);
    each_event(options, |event| {
        let grades = &grades[number(&event.query_id) as usize - 1];
        let positions: Vec<u32> = event.results.iter().map(|result| result.position).collect();
        let scores = event.results.iter().map(|result| {
            let document = number(&result.document_id) - 1;
            score(document, grades[&document])
        });
        let new = new_positions(&positions, &scores.collect::<Vec<f32>>());
        let results = event.results.iter().zip(new).map(|(result, new)| Moved {
            logged: result.position,
            new,
            reward: f64::from(u8::from(result.clicked)),
            propensity: result.propensity,
        });
        sums.add(number(event.user_id.as_deref().unwrap()), &results.collect::<Vec<_>>());
    });
    sums.estimates(&Limits::default()).unwrap()
}

#[test]
fn weighted_clicks_hold_the_true_value_of_a_new_ranker_as_often_as_they_say_and_unweighted_ones_never() {
    const SEEDS: u64 = 100;
    let everybody_looks =
        br#"{"version": 1, "method": "given", "past_end": 1.0, "positions": [{"position": 1, "propensity": 1.0}]}"#;
    let naive = PropensityTable::from_json(everybody_looks).unwrap();
    let holds = |value: Value, truth: f64| u32::from(value.low <= truth && truth <= value.high);
    let (mut clicks, mut discounted, mut unweighted, mut better) = (0, 0, 0, 0);
    for seed in 0..SEEDS {
        let options = world(seed);
        let reference = PropensityTable::reference();
        let found = estimated(&options, &reference, Gain::Clicks);
        clicks += holds(found.ips, truth(&options, |at| EXAMINATION[at]));
        better += u32::from(found.conclusion == Some(Conclusion::Better));
        let true_dcg = truth(&options, dcg);
        discounted += holds(estimated(&options, &reference, Gain::Dcg).ips, true_dcg);
        unweighted += holds(estimated(&options, &naive, Gain::Dcg).ips, true_dcg);
    }
    println!(
        "of {SEEDS}: {clicks} of clicks, {discounted} of dcg, {unweighted} without weights; {better} seen to be better"
    );
    // Four standard deviations of 100 draws at 95 % are 8.7.
    assert!((87..=100).contains(&clicks) && (87..=100).contains(&discounted), "{clicks}, {discounted}");
    assert_eq!((unweighted, better), (0, SEEDS as u32));
}

fn two_arms(seed: u64, treatment: u8) -> SimulateOptions {
    let arm = |name: &str, ranker| SimulatedArm { name: name.into(), ranker };
    SimulateOptions {
        arms: vec![arm("control", 1), arm("treatment", treatment)],
        exploration: 0.0,
        events: 6000,
        ..world(seed)
    }
}

/// The share of searches with a click that a ranker (from 1) truly has, where nothing is explored.
fn true_click_through(options: &SimulateOptions, ranker: u8) -> f64 {
    let world = World::new(options);
    let none = |number: u64| -> f64 {
        let shown = shown(&world, number, ranker - 1, options.results as usize);
        let missed =
            shown.iter().zip(EXAMINATION).map(|(at, looks)| 1.0 - looks * ATTRACTIVENESS[usize::from(at.grade)]);
        missed.product()
    };
    asked(options).into_iter().zip(0..).map(|(share, number)| share * (1.0 - none(number))).sum()
}

fn outcome(event: &SearchEvent) -> Outcome {
    let mut outcome = Outcome::default();
    for result in &event.results {
        outcome.add(result.position, result.clicked, result.added_to_cart, result.purchased);
    }
    outcome
}

fn users(options: &SimulateOptions) -> Users {
    let mut users = Users::default();
    each_event(options, |event| {
        let arm = u8::from(event.arm.as_deref() == Some("treatment"));
        users.add(number(event.user_id.as_deref().unwrap()), arm, &outcome(event));
    });
    users
}

fn read_users(users: &Users, seed: u64) -> ranking::online::Reading {
    let read = ReadingOptions {
        arms: vec!["control".into(), "treatment".into()],
        control: 0,
        split: vec![0.5, 0.5],
        resamples: 300,
        seed,
    };
    users.read(&read).unwrap()
}

#[test]
fn a_simulated_tests_true_effect_is_held_and_an_a_a_test_seldom_alarms() {
    const SEEDS: u64 = 60;
    let (mut held, mut alarms, mut mismatches) = (0, 0, 0);
    for seed in 0..SEEDS {
        let options = two_arms(seed, 2);
        let reading = read_users(&users(&options), seed);
        let effect = &reading.against_control[0].effects[0];
        assert_eq!(effect.metric, Metric::ClickThrough);
        let truth = true_click_through(&options, 2) - true_click_through(&options, 1);
        held += u32::from(effect.difference.low.unwrap() <= truth && truth <= effect.difference.high.unwrap());
        let same = read_users(&users(&two_arms(seed, 1)), seed);
        let verdict = same.against_control[0].effects[0].verdict;
        alarms += u32::from(matches!(verdict, Verdict::Higher | Verdict::Lower));
        mismatches += u32::from(reading.ratio_check.mismatch);
    }
    println!("of {SEEDS}: {held} hold the truth, {alarms} alarms of A/A tests, {mismatches} mismatches");
    // Four standard deviations of 60 draws at 95 % are 6.8.
    assert!(held >= 50 && alarms <= 9 && mismatches <= 1, "{held}, {alarms}, {mismatches}");
}

/// A folder with a lake of this world.
struct Here {
    folder: tempfile::TempDir,
    options: SimulateOptions,
}

impl Here {
    fn new(options: SimulateOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let destination = Destination::Lake(folder.path().join("lake").display().to_string());
        let options = SimulateOptions { destination, ..options };
        in_async(simulate(&options, |_, _| {})).unwrap();
        Self { folder, options }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> std::path::PathBuf {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    fn lake(&self) -> String {
        self.path("lake").display().to_string()
    }

    /// The new ranker's scores of all candidates, by query.
    fn by_query(&self) -> std::path::PathBuf {
        let mut text = "query_id,document_id,score\n".to_owned();
        for (query, grades) in grades(&self.options).iter().enumerate() {
            for (&document, &grade) in grades {
                let (query, document) = (query_id(query as u64), (document, document_id(document)));
                text += &format!("{query},{},{}\n", document.1, score(document.0, grade));
            }
        }
        self.write("scores.csv", &text)
    }

    /// The new ranker's scores of what was shown, by list.
    fn by_list(&self) -> std::path::PathBuf {
        let grades = grades(&self.options);
        let (mut lists, mut documents, mut scores) = (Vec::new(), Vec::new(), Vec::new());
        each_event(&self.options, |event| {
            let grades = &grades[number(&event.query_id) as usize - 1];
            for result in &event.results {
                let document = number(&result.document_id) - 1;
                lists.push(list_id(&event.session_id, &event.query_id, event.query_timestamp.0));
                documents.push(result.document_id.clone());
                scores.push(score(document, grades[&document]));
            }
        });
        let schema = Schema::new(vec![
            Field::new("list_id", DataType::Int64, false),
            Field::new("document_id", DataType::Utf8, false),
            Field::new("score", DataType::Float32, false),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(lists)),
            Arc::new(StringArray::from(documents)),
            Arc::new(Float32Array::from(scores)),
        ];
        let path = self.path("scores.parquet");
        write(&path, &RecordBatch::try_new(Arc::new(schema), columns).unwrap());
        path
    }

    fn clicks(&self, change: impl FnOnce(&mut ClicksOptions)) -> Result<ClicksReport, PipelineError> {
        let mut options = ClicksOptions {
            logs: self.lake(),
            from: None,
            to: None,
            scores: self.path("scores.csv"),
            weights: ListWeights::Examination { table: PropensityTable::reference(), gain: Gain::Clicks },
            reward: Reward::Click,
            clip: None,
            limits: Limits::default(),
        };
        change(&mut options);
        in_async(counterfactual::clicks(&options, &mut |_, _| {}))
    }

    fn abtest(&self, change: impl FnOnce(&mut AbTestOptions)) -> Result<AbTestReport, PipelineError> {
        let mut options = AbTestOptions { logs: self.lake(), resamples: 200, ..AbTestOptions::default() };
        change(&mut options);
        in_async(abtest::read(&options, &mut |_, _| {}))
    }
}

fn write(path: &Path, batch: &RecordBatch) {
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn scores_by_list_and_by_query_give_what_the_events_themselves_give() {
    let here = Here::new(world(7));
    let direct = estimated(&here.options, &PropensityTable::reference(), Gain::Clicks);
    here.by_query();
    let by_query = here.clicks(|_| {}).unwrap();
    let lists = here.by_list();
    let by_list = here.clicks(|options| options.scores = lists).unwrap();
    assert_eq!((by_query.scored_by, by_list.scored_by), (ScoredBy::QueryId, ScoredBy::ListId));
    for report in [&by_query, &by_list] {
        assert_eq!((report.searches, report.estimates.samples, report.unscored, report.repeated), (3000, 3000, 0, 0));
        // Users fall into other groups by another hash, so intervals are alike and not the same.
        let close =
            |found: f64, expected: f64, by: f64| assert!((found / expected - 1.0).abs() < by, "{found}, {expected}");
        close(report.estimates.ips.value, direct.ips.value, 1e-12);
        close(report.estimates.logged.value, direct.logged.value, 1e-12);
        close(report.estimates.ips.high - report.estimates.ips.low, direct.ips.high - direct.ips.low, 0.1);
    }
    let carts = here.clicks(|options| options.reward = Reward::Cart).unwrap();
    assert!(carts.estimates.ips.value < by_query.estimates.ips.value / 3.0);
}

#[test]
fn by_placement_a_little_exploration_is_refused_and_much_of_it_agrees_with_the_model() {
    let explored = Here::new(SimulateOptions { exploration: 1.0, events: 12_000, ..world(3) });
    explored.by_query();
    let placement = explored.clicks(|options| options.weights = ListWeights::Placement).unwrap().estimates;
    let truth = truth(&explored.options, |at| EXAMINATION[at]);
    let snips = placement.snips.unwrap();
    assert!(snips.low <= truth && truth <= snips.high, "{snips:?} does not hold {truth}");
    assert_eq!(placement.conclusion, Some(Conclusion::Better), "{placement:?}");

    let none = Here::new(SimulateOptions { exploration: 0.0, ..world(3) });
    none.by_query();
    let refused = none.clicks(|options| options.weights = ListWeights::Placement).unwrap().estimates;
    assert_eq!(refused.conclusion, None);
    assert!(matches!(refused.doubts[0], Doubt::Unsupported { share, .. } if share > 0.99), "{:?}", refused.doubts);
}

#[test]
fn scores_that_do_not_fit_the_log_are_refused_with_their_place() {
    let here = Here::new(world(5));
    let refused = |text: &str| {
        here.write("scores.csv", text);
        let error = here.clicks(|_| {}).unwrap_err();
        (error.message.replace(&here.folder.path().display().to_string(), "."), error.hint.unwrap_or_default())
    };
    let (message, hint) = refused("query_id,document_id,scores\nq1,d1,0.5\n");
    assert_eq!(message, "`./scores.csv` has no column `score`");
    assert_eq!(hint, "its columns are query_id, document_id, scores");
    assert_eq!(
        refused("query_id,document_id,score\nq1,d1,high\n").0,
        "`./scores.csv`, row 0: column `score` is `high`, which is no number"
    );
    assert_eq!(
        refused("query_id,document_id,score\nq1,d1,1\nq1,d2,NaN\n").0,
        "`./scores.csv`, row 1: the score is NaN, which is no place in a ranking"
    );
    let (message, hint) = refused("query_id,document_id,score\nq1,d1,1\nq1,d1,2\n");
    assert_eq!(message, "`./scores.csv`, row 1: document `d1` of query_id `q1` has score 2, and had 1 before");
    assert!(hint.contains("list_id"), "{hint}");
    let (message, hint) = refused("query_id,document_id,score\nnobody,d1,1\n");
    assert_eq!(message, "none of 3000 searches in `./lake` is in `./scores.csv`, by query_id and document_id");
    assert_eq!(hint, "are query_id and document_id those of the log?");
    assert_eq!(refused("query_id,document_id,score\n").0, "`./scores.csv` holds no scores");
    assert!(refused("query_id,document_id,score\nq1,d1\n").0.contains("cannot read `./scores.csv`"));
    assert_eq!(
        refused("list_id,document_id,score\nq1,d1,1\n").0,
        "`./scores.csv`, row 0: `q1` is no list_id: those of `lockstep prepare` are whole numbers"
    );
    assert!(here.clicks(|options| options.clip = Some(0.0)).unwrap_err().message.contains("clipped at 0"));

    // Every query without a document that one of the rankers shows last: lists that showed it are left out, and what is left is doubted.
    let text = fs::read_to_string(here.by_query()).unwrap();
    let world = World::new(&here.options);
    let last = |query: u64| {
        let dropped = shown(&world, query, 0, 10)[9].document;
        format!("{},{},", query_id(query), document_id(dropped))
    };
    let dropped: Vec<String> = (0..here.options.queries).map(last).collect();
    let kept = text.lines().filter(|line| !dropped.iter().any(|dropped| line.starts_with(dropped)));
    here.write("scores.csv", &kept.map(|line| format!("{line}\n")).collect::<String>());
    let report = here.clicks(|_| {}).unwrap();
    assert!(report.partly_scored > 1000, "{report:?}");
    assert!(matches!(report.estimates.doubts[..], [Doubt::PartlyScored { .. }]), "{:?}", report.estimates.doubts);
    assert_eq!(report.estimates.conclusion, None);
}

#[test]
fn actions_are_read_from_csv_and_parquet_and_refused_by_row_and_column() {
    let folder = tempfile::tempdir().unwrap();
    let options = |name: &str| ActionsOptions {
        table: folder.path().join(name),
        reward: "reward".into(),
        propensity: "propensity".into(),
        target: "target".into(),
        unit: None,
        clip: Some(2.0),
        limits: Limits::default(),
    };
    let csv = |text: &str| {
        fs::write(folder.path().join("actions.csv"), text).unwrap();
        counterfactual::actions(&options("actions.csv"))
    };
    let found = csv("target,reward,propensity,who\n0.2,1,0.5,a\n0.4,0,0.5,a\n0.6,1,0.25,b\n0.8,0,0.1,c\n").unwrap();
    // Weights 0.4, 0.8, 2.4 and 8.
    assert!((found.ips.value - 0.7).abs() < 1e-12 && (found.snips.unwrap().value - 2.8 / 11.6).abs() < 1e-12);
    assert!((found.clipped.unwrap().value - 0.6).abs() < 1e-12);
    assert!((found.weights.effective - 11.6 * 11.6 / (0.16 + 0.64 + 5.76 + 64.0)).abs() < 1e-12);
    assert_eq!(found.conclusion, None);
    let by_unit =
        counterfactual::actions(&ActionsOptions { unit: Some("who".into()), ..options("actions.csv") }).unwrap();
    assert_eq!(by_unit.ips.value, found.ips.value);
    assert_ne!(by_unit.ips.high, found.ips.high);

    let schema =
        Schema::new(["reward", "propensity", "target"].map(|name| Field::new(name, DataType::Float32, false)).to_vec());
    let column = |values: [f32; 4]| Arc::new(Float32Array::from(values.to_vec())) as ArrayRef;
    let columns = vec![column([1.0, 0.0, 1.0, 0.0]), column([0.5, 0.5, 0.25, 0.125]), column([0.25, 0.5, 0.5, 0.75])];
    write(&folder.path().join("actions.parquet"), &RecordBatch::try_new(Arc::new(schema), columns).unwrap());
    let parquet = counterfactual::actions(&options("actions.parquet")).unwrap();
    assert_eq!((parquet.ips.value, parquet.snips.unwrap().value), (2.5 / 4.0, 2.5 / 9.5));

    let refused = |text: &str| csv(text).unwrap_err().message.replace(&folder.path().display().to_string(), ".");
    assert_eq!(
        refused("reward,propensity,target\n1,0.5,0.2\n1,0,0.2\n"),
        "`./actions.csv`, row 1: the propensity is 0, which is not above 0 and at most 1"
    );
    assert_eq!(refused("reward,propensity,target\n1,,0.2\n"), "`./actions.csv`, row 0: column `propensity` is missing");
    assert_eq!(refused("reward,propensity,target\n"), "`./actions.csv` holds no actions");
    let error = csv("reward,pscore,target\n1,0.5,0.2\n").unwrap_err();
    assert_eq!(error.hint(), Some("its columns are reward, pscore, target; name another one with `--propensity`"));
}

#[test]
fn a_test_read_from_a_lake_is_that_of_its_events() {
    let here = Here::new(two_arms(9, 2));
    let report = here.abtest(|_| {}).unwrap();
    let direct = read_users(&users(&here.options), 0);
    assert_eq!((report.searches, report.outside, report.repeated, report.without_user), (6000, 0, 0, 0));
    let arms = |reading: &ranking::online::Reading| -> Vec<(String, u64, u64)> {
        reading.arms.iter().map(|arm| (arm.arm.clone(), arm.users, arm.searches)).collect()
    };
    assert_eq!(arms(&report.reading), arms(&direct));
    for (found, expected) in report.reading.arms.iter().zip(&direct.arms) {
        assert!(
            found.values.iter().zip(&expected.values).all(|(a, b)| (a - b).abs() < 1e-12),
            "{found:?} {expected:?}"
        );
    }
    assert_eq!(report, here.abtest(|_| {}).unwrap(), "the same seed, the same intervals");
    let by_session = here.abtest(|options| options.unit = Unit::Session).unwrap();
    assert!(by_session.reading.arms[0].users > report.reading.arms[0].users);
    assert_eq!(by_session.reading.arms[0].values[..2], report.reading.arms[0].values[..2]);
    // Any column that tells searches apart can be read as arms: here that of the ranker, which is the arms'.
    let by_ranker = here.abtest(|options| {
        options.arm_column = "ranker_version".into();
        options.control = Some("r1".into());
    });
    assert_eq!(by_ranker.unwrap().reading.arms[1].values, report.reading.arms[1].values);
}

#[test]
fn a_test_that_cannot_be_read_is_refused_in_words() {
    let here = Here::new(SimulateOptions { anonymous: 0.2, ..two_arms(9, 2) });
    let refused = |change: fn(&mut AbTestOptions)| {
        let error = here.abtest(change).unwrap_err();
        (error.message.replace(&here.folder.path().display().to_string(), "."), error.hint.unwrap_or_default())
    };
    let (message, hint) = refused(|_| {});
    assert!(message.contains("of the test's 6000 searches have no user_id"), "{message}");
    assert!(hint.contains("--without-user leave-out") && hint.contains("--without-user session"), "{hint}");
    let left_out = here.abtest(|options| options.without_user = WithoutUser::LeaveOut).unwrap();
    let sessions = here.abtest(|options| options.without_user = WithoutUser::Session).unwrap();
    let searches = |report: &AbTestReport| report.reading.arms.iter().map(|arm| arm.searches).sum::<u64>();
    assert_eq!((searches(&left_out) + left_out.without_user, searches(&sessions)), (6000, 6000));

    let (message, hint) = refused(|options| options.arm_column = "variant".into());
    assert_eq!(message, "the click logs of these dates in `./lake` have no column `variant`");
    assert!(hint.ends_with("one of arm, device, explored, location, ranker_version"), "{hint}");
    let leave_out = |options: &mut AbTestOptions| options.without_user = WithoutUser::LeaveOut;
    let refused = |change: fn(&mut AbTestOptions)| {
        let error = here.abtest(|options| {
            leave_out(options);
            change(options);
        });
        let error = error.unwrap_err();
        (error.message, error.hint.unwrap_or_default())
    };
    assert_eq!(
        refused(|options| options.arms = vec!["control".into()]).0,
        "all searches of the test are of arm `control`, and a comparison takes two arms"
    );
    let (message, hint) = refused(|options| options.arms = vec!["control".into(), "treatmnet".into()]);
    assert_eq!((&*message, &*hint), ("no search is of arm `treatmnet`", "there are control"));
    assert!(refused(|options| options.arm_column = "location".into()).0.starts_with("no arm is called `control`"));
    assert!(refused(|options| options.arm_column = "session_id".into()).0.contains("has more than 16 values"));
    assert_eq!(
        refused(|options| options.control = Some("a".into())).0,
        "no search is of arm `a`, which was to be the control"
    );
    let split = |options: &mut AbTestOptions, parts: &[(&str, f64)]| {
        options.split = parts.iter().map(|(name, part)| ((*name).to_owned(), *part)).collect();
    };
    let error = here
        .abtest(|options| {
            leave_out(options);
            split(options, &[("control", 1.0)])
        })
        .unwrap_err();
    assert_eq!(error.message, "the planned split does not say how many users arm `treatment` was to have");
    let lopsided = here.abtest(|options| {
        leave_out(options);
        split(options, &[("control", 60.0), ("treatment", 40.0)])
    });
    assert!(lopsided.unwrap().reading.ratio_check.mismatch);

    let small = Here::new(SimulateOptions { users: 60, events: 300, ..two_arms(9, 2) });
    let error = small.abtest(|_| {}).unwrap_err();
    assert_eq!(error.message, "the test cannot be read yet");
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("and intervals over users take 100"));
}

#[test]
fn files_from_before_the_test_count_as_outside_of_it_and_their_columns_are_named() {
    let here = Here::new(two_arms(4, 2));
    // The same lake as another system would have it: no commits, and on its first day no column `arm` yet.
    for (at, day) in
        entries(&here.path("lake/click_logs")).into_iter().filter(|name| name.starts_with("date=")).enumerate()
    {
        let folder = here.path("lake/click_logs").join(&day);
        let name = entries(&folder).into_iter().find(|name| name.ends_with(".parquet")).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(folder.join(name)).unwrap()).unwrap();
        let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
        let mut batch = concat_batches(&batches[0].schema(), &batches).unwrap();
        if at == 0 {
            batch.remove_column(batch.schema().index_of("arm").unwrap());
        }
        let to = here.path("foreign/click_logs").join(&day);
        fs::create_dir_all(&to).unwrap();
        write(&to.join("part.parquet"), &batch);
    }
    let foreign = here.path("foreign").display().to_string();
    let report = here.abtest(|options| options.logs = foreign.clone()).unwrap();
    assert_eq!((report.searches, report.outside), (6000, 3000));
    let first = here.options.from;
    let error = here.abtest(|options| (options.logs, options.to) = (foreign.clone(), Some(first))).unwrap_err();
    assert!(error.message.contains("have no column `arm`"), "{error}");
    assert!(error.hint().unwrap().contains("ranker_version"), "{error:?}");
    // Everything else reads such a lake as before.
    here.by_query();
    assert_eq!(here.clicks(|options| options.logs = foreign).unwrap().estimates.samples, 6000);
}
