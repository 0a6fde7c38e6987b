//! What the arms of a test are apart.

use super::*;

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
        metrics: Metric::ALL.to_vec(),
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
    assert_eq!((&*message, &*hint), ("no search is of arm `treatmnet`", "there are control, treatment"));
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

fn search(at: usize, user: &str, arm: &str) -> Search {
    Search {
        user: (!user.is_empty()).then(|| user.to_owned()),
        session: format!("s{at}"),
        arm: (!arm.is_empty()).then(|| arm.to_owned()),
        results: vec![(1, at.is_multiple_of(3)), (2, false)],
    }
}

/// Searches of two arms, each by a user of its own.
fn two(count: usize) -> Vec<Search> {
    (0..count).map(|at| search(at, &format!("u{at}"), ["control", "treatment"][at % 2])).collect()
}

#[test]
fn metrics_of_what_a_log_does_not_hold_are_left_out_and_the_others_read() {
    let report = Logged::new(&[("a.parquet", two(400))]).abtest(|_| {}).unwrap();
    assert_eq!(report.not_logged, [Metric::CartRate, Metric::PurchaseRate, Metric::BuyerRate]);
    let read = [Metric::ClickThrough, Metric::ClicksPerImpression, Metric::ClickedReciprocalRank];
    assert_eq!(report.reading.metrics, read);
    assert_eq!(report.reading.against_control[0].effects.len(), 3);
    assert_eq!(report.reading.against_control[0].effects[0].definition, "searches with a click / searches");
}

#[test]
fn the_copy_with_most_done_is_read_whatever_its_files_name() {
    let clicked = two(400);
    let mut plain = clicked.clone();
    plain.iter_mut().flat_map(|search| &mut search.results).for_each(|(_, clicked)| *clicked = false);
    let one = Logged::new(&[("a.parquet", plain.clone()), ("b.parquet", clicked.clone())]).abtest(|_| {}).unwrap();
    let other = Logged::new(&[("a.parquet", clicked), ("b.parquet", plain)]).abtest(|_| {}).unwrap();
    assert_eq!((one.searches, one.repeated), (400, 400));
    assert!(one.reading.arms[0].values[0] > 0.3, "{:?}", one.reading.arms);
    assert_eq!(one, other);
}

#[test]
fn users_of_an_arm_that_is_not_read_are_left_out_and_hints_name_it() {
    let mut searches: Vec<Search> = two(2000);
    // Forty users of the test saw a third arm, too; a hundred others saw that one alone.
    searches.extend((0..40).map(|at| search(5000 + at, &format!("u{at}"), "third")));
    searches.extend((0..100).map(|at| search(6000 + at, &format!("v{at}"), "third")));
    let here = Logged::new(&[("a.parquet", searches)]);
    let named = |options: &mut AbTestOptions| options.arms = vec!["control".into(), "treatment".into()];
    let report = here.abtest(named).unwrap();
    let reading = &report.reading;
    assert_eq!((report.outside, reading.users_also_elsewhere, reading.users_in_several), (140, 40, 0));
    assert_eq!(reading.arms.iter().map(|arm| arm.users).sum::<u64>(), 1960);
    let error = here.abtest(|options| options.arms = vec!["control".into(), "fourth".into()]).unwrap_err();
    assert_eq!(error.hint(), Some("there are control, third, treatment"));
}

#[test]
fn searches_of_nobody_are_told_apart_from_those_whose_session_stands_in() {
    let mut searches = two(400);
    searches.extend((0..30).map(|at| search(1000 + at, "", ["control", "treatment"][at % 2])));
    searches.extend((0..7).map(|at| Search { session: String::new(), ..search(2000 + at, "", "control") }));
    // Without a session their identity is that of one search: they are told apart by nothing.
    let here = Logged::new(&[("a.parquet", searches)]);
    let report = here.abtest(|options| options.without_user = WithoutUser::Session).unwrap();
    assert_eq!((report.without_user - report.left_out, report.left_out), (30, 1));
    assert_eq!(report.reading.arms.iter().map(|arm| arm.searches).sum::<u64>(), 430);
    let by_session = |options: &mut AbTestOptions| options.unit = Unit::Session;
    let error = here.abtest(by_session).unwrap_err();
    assert!(error.message.ends_with("have no session_id, and sessions are what is compared"), "{error}");
    assert_eq!(error.hint(), Some("`--without-user leave-out` leaves them out"));
    let error = here
        .abtest(|options| (options.unit, options.without_user) = (Unit::Session, WithoutUser::Session))
        .unwrap_err();
    assert!(error.message.starts_with("sessions are what is counted"), "{error}");
}

#[test]
fn a_test_whose_users_are_mixed_or_lost_is_not_told_to_run_on() {
    let mixed: Vec<Search> =
        (0..800).map(|at| search(at, &format!("u{}", at / 4), ["control", "treatment"][at % 2])).collect();
    let here = Logged::new(&[("a.parquet", mixed)]);
    let error = here.abtest(|_| {}).unwrap_err();
    assert_eq!(error.message, "the test cannot be read");
    assert!(error.hint().unwrap().contains("--unit session"), "{error:?}");
    let lost = (0..3000).map(|at| search(at, &format!("u{at}"), if at < 40 { "treatment" } else { "control" }));
    let error = Logged::new(&[("a.parquet", lost.collect())]).abtest(|_| {}).unwrap_err();
    assert!(error.hint().unwrap().starts_with("find where users are lost"), "{error:?}");
}

#[test]
fn a_column_that_can_name_no_arms_and_resamples_past_all_use_are_refused() {
    let here = Logged::new(&[("a.parquet", two(400))]);
    let error = here.abtest(|options| options.arm_column = "results".into()).unwrap_err();
    assert!(error.message.contains("column `results` is of type List("), "{error}");
    assert!(error.message.ends_with("and arms are named by text, whole numbers or yes and no"), "{error}");
    let error = here.abtest(|options| options.resamples = 99_999_999_999_999).unwrap_err();
    assert_eq!(error.kind, pipeline::ErrorKind::Options);
    let error = here.abtest(|options| options.from = "2027-01-01".parse().ok()).unwrap_err();
    assert!(error.message.ends_with("has no click logs from 2027-01-01 on"), "{error}");
}
