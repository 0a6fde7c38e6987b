use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::chance::mix;

fn options(seed: u64) -> ReadingOptions {
    ReadingOptions {
        arms: vec!["control".into(), "treatment".into()],
        control: 0,
        split: vec![0.5, 0.5],
        metrics: Metric::ALL.to_vec(),
        resamples: 400,
        seed,
    }
}

/// Users of two arms, each with a taste for clicking of their own that lies around the arm's rate, and one to nine searches.
fn test(seed: u64, users: u64, rates: [f64; 2], spread: f64) -> Users {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut found = Users::default();
    for user in 0..users {
        let arm = rng.random_range(0..2u8);
        let rate = rates[usize::from(arm)] + spread * (2.0 * rng.random::<f64>() - 1.0);
        for _ in 0..rng.random_range(1..=9) {
            let mut outcome = Outcome::default();
            for position in 1..=3 {
                let clicked = rng.random::<f64>() < rate / f64::from(position);
                let bought = clicked && rng.random::<f64>() < 0.2;
                outcome.add(position, clicked, bought, bought);
            }
            found.add(mix(user), arm, &outcome);
        }
    }
    found
}

fn effect(reading: &Reading, metric: Metric) -> &Effect {
    reading.against_control[0].effects.iter().find(|effect| effect.metric == metric).unwrap()
}

#[test]
fn every_metric_is_the_ratio_that_its_definition_says() {
    let mut users = Users::default();
    let mut outcome = Outcome::default();
    [(2, true, true, false), (1, false, false, false), (4, true, false, false)]
        .into_iter()
        .for_each(|(position, clicked, carted, purchased)| outcome.add(position, clicked, carted, purchased));
    assert_eq!((outcome.first_click, outcome.clicks, outcome.impressions), (Some(2), 2, 3));
    let nothing = Outcome { impressions: 5, ..Outcome::default() };
    let bought = Outcome { impressions: 2, clicks: 1, first_click: Some(1), carted: true, purchased: true };
    for user in 0..100 {
        users.add(user, 0, &outcome);
        users.add(user, 0, &nothing);
        users.add(1000 + user, 1, &bought);
        users.add(1000 + user, 1, &bought);
        users.add(1000 + user, 1, &nothing);
    }
    let reading = users.read(&options(0)).unwrap();
    let close = |found: &[f64], expected: [f64; 6]| {
        assert!(found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-12), "{found:?}");
    };
    close(&reading.arms[0].values, [0.5, 2.0 / 8.0, 0.25, 0.5, 0.0, 0.0]);
    close(&reading.arms[1].values, [2.0 / 3.0, 2.0 / 9.0, 2.0 / 3.0, 2.0 / 3.0, 2.0 / 3.0, 1.0]);
    assert_eq!((reading.arms[1].users, reading.arms[1].searches), (100, 300));
    let purchases = effect(&reading, Metric::PurchaseRate);
    assert_eq!((purchases.verdict, purchases.lift, purchases.difference.low), (Verdict::TooRare, None, None));
}

#[test]
fn between_equal_arms_a_difference_is_seen_about_as_often_as_the_level_allows() {
    const SEEDS: u64 = 300;
    let mut false_alarms = [0u32; 4];
    for seed in 0..SEEDS {
        let reading = test(seed, 1200, [0.3, 0.3], 0.25).read(&options(seed)).unwrap();
        for (at, alarms) in false_alarms.iter_mut().enumerate() {
            *alarms +=
                u32::from(matches!(reading.against_control[0].effects[at].verdict, Verdict::Higher | Verdict::Lower));
        }
    }
    // 15 are expected of each; four standard deviations are 15.1.
    assert!(false_alarms.iter().all(|alarms| (2..=30).contains(alarms)), "{false_alarms:?} of {SEEDS}");
}

#[test]
fn the_interval_of_a_known_effect_holds_it_and_large_ones_are_seen() {
    const SEEDS: u64 = 200;
    // Clicks an impression: the rate over positions 1, 2 and 3, a third of 1 + 1/2 + 1/3.
    let truth = (0.36 - 0.30) * (11.0 / 6.0) / 3.0;
    let (mut held, mut seen) = (0u32, 0u32);
    for seed in 0..SEEDS {
        let reading = test(1000 + seed, 1500, [0.30, 0.36], 0.25).read(&options(seed)).unwrap();
        let found = effect(&reading, Metric::ClicksPerImpression);
        let Interval { low: Some(low), high: Some(high), .. } = found.difference else { panic!("{found:?}") };
        held += u32::from(low <= truth && truth <= high);
        seen += u32::from(found.verdict == Verdict::Higher);
    }
    assert!((178..=200).contains(&held), "{held} of {SEEDS} intervals hold {truth}");
    assert!(seen > 190, "{seen} of {SEEDS}");
}

#[test]
fn resampling_users_is_wider_than_resampling_searches_where_users_differ() {
    let width = |spread: f64, by_user: bool| {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let mut found = Users::default();
        for user in 0..1000u64 {
            let arm = (user % 2) as u8;
            let rate = 0.4 + spread * (2.0 * rng.random::<f64>() - 1.0);
            for search in 0..20u64 {
                let mut outcome = Outcome::default();
                outcome.add(1, rng.random::<f64>() < rate, false, false);
                // To take searches for users is to resample searches.
                found.add(mix(if by_user { user } else { 1_000_000 + user * 20 + search }), arm, &outcome);
            }
        }
        let reading = found.read(&options(1)).unwrap();
        let difference = effect(&reading, Metric::ClickThrough).difference;
        difference.high.unwrap() - difference.low.unwrap()
    };
    // The design effect: a variance of 0.4² / 3 between users on 0.24 in all, twenty searches each: √(1 + 19 · 0.22) is 2.3.
    let ratio = width(0.4, true) / width(0.4, false);
    assert!((1.8..2.8).contains(&ratio), "{ratio}");
    let alike = width(0.0, true) / width(0.0, false);
    assert!((0.85..1.15).contains(&alike), "{alike}");
}

#[test]
fn a_lopsided_split_is_noticed_and_nothing_is_concluded_from_it() {
    let fair = RatioCheck::of(&[5000, 5080], &[0.5, 0.5]);
    assert!(!fair.mismatch && fair.p_value > 0.4, "{fair:?}");
    // By hand: (5200 - 5000)² / 5000 · 2 = 16, of which a chi-square of one degree leaves 6.33e-5.
    let lopsided = RatioCheck::of(&[5200, 4800], &[0.5, 0.5]);
    assert!(lopsided.mismatch && (lopsided.chi_square - 16.0).abs() < 1e-12, "{lopsided:?}");
    assert!((lopsided.p_value - 6.334e-5).abs() < 1e-8, "{lopsided:?}");
    assert!(!RatioCheck::of(&[9010, 990], &[0.9, 0.1]).mismatch);

    let users = test(3, 4000, [0.3, 0.6], 0.1);
    let honest = users.read(&options(0)).unwrap();
    assert_eq!(effect(&honest, Metric::ClickThrough).verdict, Verdict::Higher);
    let planned = ReadingOptions { split: vec![0.6, 0.4], ..options(0) };
    let mismatched = users.read(&planned).unwrap();
    assert!(mismatched.ratio_check.mismatch);
    assert!(mismatched.against_control[0].effects.iter().all(|effect| effect.verdict == Verdict::RatioMismatch));
}

#[test]
fn the_ratio_check_alarms_seldom_over_fair_splits() {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let fires = (0..2000).filter(|_| {
        let treated = (0..1000).filter(|_| rng.random::<bool>()).count() as u64;
        RatioCheck::of(&[1000 - treated, treated], &[0.5, 0.5]).mismatch
    });
    assert!(fires.count() <= 8, "2 are expected of 2000");
}

#[test]
fn users_of_several_arms_count_in_none() {
    let mut users = test(4, 1000, [0.3, 0.3], 0.1);
    let before = users.read(&options(0)).unwrap();
    let clicked = Outcome { impressions: 1, clicks: 1, first_click: Some(1), ..Outcome::default() };
    for user in 5000..5010u64 {
        users.add(user, 0, &clicked);
        users.add(user, 1, &clicked);
        users.add(user, 0, &clicked);
    }
    let after = users.read(&options(0)).unwrap();
    assert_eq!((after.users_in_several, after.searches_in_several), (10, 30));
    assert_eq!((&after.arms, &after.against_control), (&before.arms, &before.against_control));
    assert!((after.share_in_several() - 10.0 / 1010.0).abs() < 1e-12 && !after.users_are_mixed());
    for user in 6000..6100u64 {
        users.add(user, 0, &clicked);
        users.add(user, 1, &clicked);
    }
    let mixed = users.read(&options(0)).unwrap();
    assert!(mixed.against_control[0].effects.iter().all(|effect| effect.verdict == Verdict::UsersMixed));
}

#[test]
fn a_handful_of_users_is_refused_by_the_arm_that_lacks_them() {
    let refused = test(5, 150, [0.3, 0.3], 0.1).read(&options(0)).unwrap_err();
    assert!(matches!(refused, Insufficient::FewUsers { .. }));
    assert!(refused.to_string().contains("users, and intervals over users take 100"), "{refused}");
}

#[test]
fn what_few_users_did_often_is_too_rare_for_an_interval() {
    let bought = Outcome { impressions: 1, clicks: 1, first_click: Some(1), carted: true, purchased: true };
    let nothing = Outcome { impressions: 1, ..Outcome::default() };
    let mut users = Users::default();
    for user in 0..300u64 {
        // Of the control one user buys, a dozen times; of the other arm twenty do, once each.
        let times = if user == 0 { 12 } else { 1 };
        (0..times).for_each(|_| users.add(mix(user), 0, if user == 0 { &bought } else { &nothing }));
        users.add(mix(1000 + user), 1, if user < 20 { &bought } else { &nothing });
    }
    let reading = users.read(&options(0)).unwrap();
    for metric in Metric::ALL {
        let found = effect(&reading, metric);
        let lift = found.lift.unwrap();
        assert_eq!((found.verdict, found.difference.low, lift.low, lift.high), (Verdict::TooRare, None, None, None));
    }
    let only = ReadingOptions { metrics: vec![Metric::BuyerRate], ..options(0) };
    let reading = users.read(&only).unwrap();
    assert_eq!((reading.arms[0].values.len(), reading.against_control[0].effects.len()), (1, 1));
    assert_eq!(reading.against_control[0].effects[0].definition, "users with a purchase / users");
}

#[test]
fn users_seen_in_an_arm_that_is_not_read_count_in_none_that_is() {
    let mut users = test(4, 4000, [0.3, 0.3], 0.1);
    let before = users.read(&options(0)).unwrap();
    // Some of those of the test, and some who were never in it.
    (0..50).chain(100_000..100_500).for_each(|user| users.seen_elsewhere(mix(user)));
    let after = users.read(&options(0)).unwrap();
    assert_eq!((after.users_also_elsewhere, after.users_in_several), (50, 0));
    let counted = |reading: &Reading| {
        reading.arms.iter().map(|arm| (arm.users, arm.searches)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
    };
    let (all, left) = (counted(&before), counted(&after));
    assert_eq!((all.0 - left.0, all.1 - left.1), (50, after.searches_also_elsewhere));
    assert!((after.share_in_several() - 50.0 / 4000.0).abs() < 1e-12);
}

#[test]
fn too_few_users_because_they_are_mixed_or_lost_is_told_apart_from_too_short_a_test() {
    let clicked = Outcome { impressions: 1, clicks: 1, first_click: Some(1), ..Outcome::default() };
    let mut users = Users::default();
    for user in 0..500u64 {
        users.add(mix(user), 0, &clicked);
        users.add(mix(user), 1, &clicked);
    }
    (1000..1050).for_each(|user| users.add(mix(user), 0, &clicked));
    (2000..2050).for_each(|user| users.add(mix(user), 1, &clicked));
    let mixed = users.read(&options(0)).unwrap_err();
    assert!(matches!(mixed, Insufficient::Mixed { users: 50, .. }), "{mixed}");
    assert!(mixed.to_string().ends_with("83.3 % of the users saw several arms"), "{mixed}");
    let mut users = Users::default();
    (0..5000).for_each(|user| users.add(mix(user), 0, &clicked));
    (9000..9050).for_each(|user| users.add(mix(user), 1, &clicked));
    let lost = users.read(&options(0)).unwrap_err();
    assert!(matches!(lost, Insufficient::Mismatch { users: 50, .. }), "{lost}");
}
