//! What a new ranker would have earned.

use super::*;

/// The estimate by examination from the events of a world, without a lake.
fn estimated(options: &SimulateOptions, table: &PropensityTable, gain: Gain) -> Estimates {
    let grades = grades(options);
    let mut sums = ByExamination::new(None, table.clone(), gain);
    each_event(options, |event| {
        let grades = &grades[number(&event.query_id) as usize - 1];
        let positions: Vec<u32> = event.results.iter().map(|result| result.position).collect();
        let scores = event.results.iter().map(|result| {
            let document = number(&result.document_id) - 1;
            f64::from(score(document, grades[&document]))
        });
        let new = new_positions(&positions, &scores.collect::<Vec<f64>>());
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
        "`./actions.csv`, row 1: column `propensity`: the propensity is 0, which is not above 0 and at most 1"
    );
    assert_eq!(refused("reward,propensity,target\n1,,0.2\n"), "`./actions.csv`, row 0: column `propensity` is empty");
    assert_eq!(refused("reward,propensity,target\n"), "`./actions.csv` holds no actions");
    assert_eq!(
        refused("reward,propensity,target\n1,0.5,0.2\n1,1e-320,1\n"),
        format!("`./actions.csv`, row 1: the weight, 1 / {:e}, is past what a number holds", 1e-320)
    );
    // One action that was next to impossible among many that say the policy changes nothing.
    let mut text = "reward,propensity,target\n".to_owned();
    (0..5000).for_each(|at| text += if at % 5 == 0 { "1,0.5,0.5\n" } else { "0,0.5,0.5\n" });
    assert_eq!(csv(&text).unwrap().conclusion, Some(Conclusion::NotApart));
    let found = csv(&format!("{text}0,1e-200,0.5\n")).unwrap();
    assert_eq!(found.conclusion, None, "{:?}", found.doubts);
    fs::create_dir(folder.path().join("folder")).unwrap();
    fs::copy(folder.path().join("actions.csv"), folder.path().join("folder/actions.csv")).unwrap();
    let inside = counterfactual::actions(&options("folder")).unwrap_err();
    assert!(inside.message.ends_with("holds CSV, and of folders Parquet is read"), "{inside}");
    assert!(inside.hint().unwrap().starts_with("CSV goes in as one file: `"), "{inside:?}");
    let error = csv("reward,pscore,target\n1,0.5,0.2\n").unwrap_err();
    assert_eq!(error.hint(), Some("its columns are reward, pscore, target; name another one with `--propensity`"));
}

/// One search of one query, of ten users, with results `d1`, `d2`, … of which the named ones were clicked.
fn search(at: usize, results: u32, clicked: &[u32]) -> Search {
    Search {
        user: Some(format!("u{}", at % 10)),
        session: format!("s{at}"),
        arm: None,
        results: (1..=results).map(|position| (position, clicked.contains(&position))).collect(),
    }
}

#[test]
fn scores_count_to_the_last_digit_and_the_two_zeros_are_equal() {
    let here = Logged::new(&[("a.parquet", (0..400).map(|at| search(at, 3, &[3])).collect())]);
    let ips = |scores: [&str; 3]| {
        let rows = scores.iter().zip(1..).map(|(score, document)| format!("q1,d{document},{score}\n"));
        here.clicks("query_id,document_id,score\n".to_owned() + &rows.collect::<String>()).estimates
    };
    // The third result, clicked always, goes to the first position.
    for rising in [["1", "2", "3"], ["20000000.1", "20000000.2", "20000000.3"], ["1e39", "2e39", "3e39"]] {
        let found = ips(rising);
        assert!((found.ips.value - 1.0 / 0.45).abs() < 1e-12, "{rising:?}: {found:?}");
    }
    for equal in [["0", "0", "0"], ["-0.0", "-0.0", "0.0"]] {
        assert!((ips(equal).ips.value - 1.0).abs() < 1e-12, "{equal:?}");
    }
}

#[test]
fn a_search_that_showed_nothing_is_not_one_without_scores() {
    let searches = (0..400).map(|at| search(at, if at % 2 == 0 { 3 } else { 0 }, &[1])).collect();
    let here = Logged::new(&[("a.parquet", searches)]);
    let found = here.clicks("query_id,document_id,score\nq1,d1,3\nq1,d2,2\nq1,d3,1\n".to_owned());
    assert_eq!((found.searches, found.showed_nothing, found.unscored, found.estimates.samples), (400, 200, 0, 200));
    assert_eq!(found.estimates.rewards, 200);
}

#[test]
fn of_a_repeated_search_the_copy_with_most_done_counts_whatever_its_files_name() {
    let plain: Vec<Search> = (0..400).map(|at| search(at, 3, &[])).collect();
    let clicked: Vec<Search> = (0..400).map(|at| search(at, 3, &[3])).collect();
    let scores = "query_id,document_id,score\nq1,d1,1\nq1,d2,2\nq1,d3,3\n";
    let one = Logged::new(&[("a.parquet", plain.clone()), ("b.parquet", clicked.clone())]).clicks(scores.into());
    let other = Logged::new(&[("a.parquet", clicked), ("b.parquet", plain)]).clicks(scores.into());
    assert_eq!((one.searches, one.repeated, one.estimates.rewards), (400, 400, 400));
    assert_eq!(one, other);
}
