//! Histories, right and wrong ones. An epoch has ten steps of two atoms, an atom three rows.

use dataset::lanes::{atom_hash, expected_hash};
use expect_test::expect;
use proto::v1::{self, run_event::Event};

use super::{
    ledger::Ledger,
    report::{Report, Verdict},
};

const STEPS: u64 = 10;
const ATOMS: u64 = 2 * STEPS;
const ROWS: u64 = 3 * ATOMS;

fn audit(events: &[Event]) -> Report {
    let mut ledger = Ledger::default();
    for event in events {
        ledger.take(&v1::RunEvent { run_id: "r-1".into(), event: Some(event.clone()), ..Default::default() });
    }
    ledger.report()
}

fn seat(generation: u64, first_step: u64) -> Event {
    Event::Seated(v1::Seated { generation, first_step, ..Default::default() })
}

/// The steps (first_step, step], each with the two atoms that are its own.
fn window(generation: u64, first_step: u64, step: u64) -> Event {
    let atoms = |step: u64| [2 * (step % STEPS), 2 * (step % STEPS) + 1];
    let hash: u128 = (first_step..step).flat_map(atoms).map(|atom| u128::from(atom_hash(atom))).sum();
    let atoms = 2 * (step - first_step);
    Event::Progress(v1::Progress {
        generation,
        epoch: first_step / STEPS,
        epochs: 3,
        first_step,
        step,
        steps_per_epoch: STEPS,
        rows: 3 * atoms,
        atoms,
        hash_high: (hash >> 64) as u64,
        hash_low: hash as u64,
        ..Default::default()
    })
}

fn end(generation: u64, epoch: u64) -> Event {
    let hash = expected_hash(ATOMS);
    let (high, low) = ((hash >> 64) as u64, hash as u64);
    Event::Epoch(v1::EpochEnded {
        generation,
        epoch,
        epochs: 3,
        step: (epoch + 1) * STEPS,
        audit: Some(v1::Audit {
            rows: ROWS,
            atoms: ATOMS,
            expected_rows: ROWS,
            expected_atoms: ATOMS,
            hash_high: high,
            hash_low: low,
            expected_hash_high: high,
            expected_hash_low: low,
        }),
        ..Default::default()
    })
}

fn ended(phase: v1::Phase) -> Event {
    Event::Ended(v1::Ended { phase: phase.into(), ..Default::default() })
}

fn lost() -> Event {
    Event::Lost(v1::Lost::default())
}

fn verdicts(events: &[Event]) -> Vec<Verdict> {
    audit(events).epochs.into_iter().map(|epoch| epoch.verdict).collect()
}

/// What is said to be wrong with the only epoch in which something is.
#[track_caller]
fn violations(events: &[Event]) -> String {
    let report = audit(events);
    assert!(report.is_violated());
    let mut wrong: Vec<String> = report.faults.clone();
    for epoch in report.epochs {
        if let Verdict::Violated(found) = epoch.verdict {
            wrong.extend(found.into_iter().map(|found| format!("{}: {found}", epoch.epoch + 1)));
        }
    }
    wrong.join("\n")
}

#[test]
fn a_run_that_lost_workers_is_proven_line_by_line() {
    let events = [
        seat(1, 0),
        window(1, 0, 4),
        window(1, 4, 10),
        end(1, 0),
        window(1, 10, 14),
        window(1, 14, 18),
        lost(),
        // Nobody but the dead had done the steps past 16.
        seat(2, 16),
        lost(),
        seat(3, 17),
        window(3, 14, 20),
        end(3, 1),
        lost(),
        // The survivors were ahead of what was reported.
        seat(4, 23),
        window(4, 20, 30),
        end(4, 2),
        ended(v1::Phase::Succeeded),
    ];
    // The window that reaches past 16 was reported too early.
    assert_eq!(violations(&events), "2: steps 15 to 16 were counted twice, by generation 1 and by generation 3");
    let events: Vec<Event> = events.into_iter().filter(|event| *event != window(1, 14, 18)).collect();
    let report = audit(&events);
    assert!(!report.is_violated() && !report.is_unprovable());
    expect![[r"
        epoch  steps  generations  rows  verdict
          1/3   0–10  1              60  every row once
          2/3  10–20  1–3            60  every row once
          3/3  20–30  3, 4           60  every row once
        run r-1: each of 3 epochs counted all 60 rows exactly once, through 4 generations
    "]]
    .assert_eq(&report.render());
}

#[test]
fn what_a_generation_reported_past_its_successors_first_step_is_void() {
    let events = [seat(1, 0), window(1, 0, 5), window(1, 5, 10), end(1, 0), seat(2, 5), window(2, 5, 10), end(2, 0)];
    let report = audit(&events);
    assert_eq!(report.epochs[0].verdict, Verdict::Proven);
    assert_eq!((report.void_steps, &report.epochs[0].generations[..]), (5, &[1, 2][..]));
    assert!(report.sentence().ends_with("through 2 generations, 5 steps done again"), "{}", report.sentence());
}

#[test]
fn steps_that_nobody_counted_are_named() {
    let begun = [seat(1, 0), window(1, 0, 4)];
    let gap = [&begun[..], &[seat(2, 6), window(2, 6, 10), end(2, 0)]].concat();
    expect![[r"
        1: steps 5 to 6 were counted by nobody, between generation 1 and generation 2
        1: its steps counted 48 rows of 60"]]
    .assert_eq(&violations(&gap));
    let cut_short = [&begun[..], &[end(1, 0)]].concat();
    expect![[r"
        1: steps 5 to 10 were counted by nobody, after generation 1
        1: its steps counted 24 rows of 60"]]
    .assert_eq(&violations(&cut_short));
    let headless = [seat(1, 0), window(1, 1, 10), end(1, 0)];
    assert!(violations(&headless).starts_with("1: step 1 was counted by nobody, before generation 1\n"));
}

#[test]
fn steps_that_were_counted_twice_are_named() {
    let overlap = [seat(1, 0), window(1, 0, 6), seat(2, 6), window(2, 4, 10), end(2, 0)];
    expect![[r"
        1: steps 5 to 6 were counted twice, by generation 1 and by generation 2
        1: its steps counted 72 rows of 60"]]
    .assert_eq(&violations(&overlap));
    let again = [seat(1, 0), window(1, 0, 6), window(1, 0, 6), window(1, 6, 10), end(1, 0)];
    assert!(violations(&again).starts_with("1: steps 1 to 6 were counted twice, by generation 1\n"));
}

#[test]
fn the_right_number_of_rows_is_not_enough() {
    let Event::Progress(mut other) = window(1, 0, 5) else { unreachable!() };
    (other.first_step, other.step) = (5, 10);
    let events = [seat(1, 0), window(1, 0, 5), Event::Progress(other), end(1, 0)];
    assert_eq!(violations(&events), "1: its steps counted the right number of rows, but not each of them once");
}

#[test]
fn an_end_that_says_otherwise_is_found() {
    let with = |change: fn(&mut v1::Audit)| {
        let Event::Epoch(mut end) = end(1, 0) else { unreachable!() };
        end.audit.iter_mut().for_each(change);
        violations(&[seat(1, 0), window(1, 0, 10), Event::Epoch(end)])
    };
    assert_eq!(with(|audit| audit.rows -= 1), "1: its end counted 59 rows of 60");
    assert_eq!(
        with(|audit| audit.hash_low += 1),
        "1: its end counted the right number of rows, but not each of them once"
    );
    let expected = with(|audit| {
        audit.hash_low += 1;
        audit.expected_hash_low += 1;
    });
    assert!(expected.starts_with("1: its end expected the hash sum"), "{expected}");
    let fewer = with(|audit| (audit.rows, audit.expected_rows) = (57, 57));
    assert_eq!(fewer, "1: its steps counted 60 rows of 57");
}

#[test]
fn epochs_that_are_missing_or_end_twice_are_found() {
    let whole = |epoch: u64| [window(1, epoch * STEPS, (epoch + 1) * STEPS), end(1, epoch)];
    let skipped = [&[seat(1, 0)][..], &whole(0), &whole(2)].concat();
    expect![[r"
        2: steps 11 to 20 were counted by nobody
        2: its end was not reported"]]
    .assert_eq(&violations(&skipped));
    let twice = [&[seat(1, 0)][..], &whole(0), &[end(1, 0)]].concat();
    assert_eq!(violations(&twice), "epoch 1 ended twice: in generation 1 and in generation 1");
    let unended = [seat(1, 0), window(1, 0, 10), ended(v1::Phase::Succeeded)];
    assert_eq!(violations(&unended), "1: its end was not reported");
}

#[test]
fn what_a_stale_generation_reports_is_found() {
    let events = [seat(1, 0), window(1, 0, 4), seat(2, 4), window(1, 4, 10), end(2, 0)];
    assert_eq!(violations(&events), "1: steps 5 to 10 were counted by generation 1 while generation 2 was at work");
    let back = [seat(2, 0), seat(1, 0), window(1, 0, 10), end(1, 0)];
    assert_eq!(violations(&back), "generation 1 began after generation 2");
}

#[test]
fn a_journal_without_hashes_proves_nothing_and_is_not_called_wrong() {
    let Event::Progress(mut old) = window(1, 0, 10) else { unreachable!() };
    (old.atoms, old.hash_high, old.hash_low) = (0, 0, 0);
    let report = audit(&[seat(1, 0), Event::Progress(old), end(1, 0)]);
    assert!(!report.is_violated() && report.is_unprovable());
    expect![[r"
        epoch  steps  generations  rows  verdict
          1/3   0–10  1              60  cannot be proven: its reports carry no hashes: an older lockstep wrote them
        run r-1: for 1 epoch it cannot be proven that every row was counted once; nothing says that it was not
    "]]
    .assert_eq(&report.render());
}

#[test]
fn an_epoch_under_way_is_shown_as_such() {
    let begun = [seat(1, 0), window(1, 0, 10), end(1, 0), window(1, 10, 13)];
    let report = audit(&begun);
    assert_eq!(report.epochs[1].verdict, Verdict::UnderWay);
    assert_eq!((report.epochs[1].to, report.epochs[1].carried.rows), (13, 18));
    assert!(report.sentence().ends_with("exactly once; the last one is under way"), "{}", report.sentence());
    let stopped = [&begun[..], &[ended(v1::Phase::Stopped)]].concat();
    assert_eq!(verdicts(&stopped), [Verdict::Proven, Verdict::Unfinished]);
    assert!(audit(&[seat(1, 0)]).render().ends_with("no epoch has ended yet\n"));
    // A gap is a gap before the end, too.
    let gap = [&begun[..], &[window(1, 15, 16)]].concat();
    assert_eq!(violations(&gap), "2: steps 14 to 15 were counted by nobody, in generation 1");
}

#[test]
fn a_run_that_was_resumed_in_mid_epoch_continues_what_another_began() {
    let events = [seat(1, 14), window(1, 14, 20), end(1, 1), window(1, 20, 30), end(1, 2)];
    let handed_on = Verdict::HandedOn("its first steps were done in an earlier run".into());
    assert_eq!(verdicts(&events), [handed_on.clone(), Verdict::Proven]);
    let gap = [seat(1, 14), window(1, 16, 20), end(1, 1)];
    assert_eq!(violations(&gap), "2: steps 15 to 16 were counted by nobody, before generation 1");
    // Resumed where an epoch had ended and was not closed yet.
    let at_its_end = [seat(1, 10), end(1, 0), window(1, 10, 20), end(1, 1)];
    assert_eq!(verdicts(&at_its_end), [handed_on, Verdict::Proven]);
}

#[test]
fn a_report_of_which_a_part_is_void_leaves_the_proof_to_the_sum_that_was_handed_on() {
    let events = [seat(1, 0), window(1, 0, 6), seat(2, 4), window(2, 4, 10), end(2, 0), window(2, 10, 20), end(2, 1)];
    let handed_on = Verdict::HandedOn("steps 1 to 4 were reported together with some that are void".into());
    assert_eq!(verdicts(&events), [handed_on, Verdict::Proven]);
    // What can be seen to be wrong is.
    let gap = [seat(1, 0), window(1, 0, 6), seat(2, 4), window(2, 5, 10), end(2, 0)];
    assert!(violations(&gap).starts_with("1: step 5 was counted by nobody"));
}

/// A run of three epochs with losses anywhere, as the contract between coordinator and workers has it.
fn random_history(mut random: impl FnMut(u64) -> u64) -> Vec<Event> {
    let (mut generation, mut done, mut reported, mut events) = (1, 0, 0, vec![seat(1, 0)]);
    while reported < 3 * STEPS {
        let to_its_end = STEPS - reported % STEPS;
        match random(4) {
            // Somebody is lost: those who are left are at what was reported, or ahead of it.
            0 => {
                generation += 1;
                done = reported + random(done - reported + 1);
                events.extend([lost(), seat(generation, done)]);
            }
            1 => done = (done + random(4)).min(3 * STEPS),
            _ => {
                let step = (reported + 1 + random(to_its_end)).min(done.max(reported));
                if step > reported {
                    events.push(window(generation, reported, step));
                    reported = step;
                    if step.is_multiple_of(STEPS) {
                        events.push(end(generation, step / STEPS - 1));
                    }
                }
            }
        }
    }
    events.push(ended(v1::Phase::Succeeded));
    events
}

#[test]
fn every_history_as_it_must_be_is_proven_and_none_is_with_a_report_lost_or_doubled_or_altered() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for _ in 0..500 {
        let history = random_history(&mut random);
        assert_eq!(verdicts(&history), [Verdict::Proven, Verdict::Proven, Verdict::Proven], "{history:#?}");
        let reports: Vec<usize> =
            (0..history.len()).filter(|at| matches!(history[*at], Event::Progress(_) | Event::Epoch(_))).collect();
        let victim = reports[random(reports.len() as u64) as usize];
        let mut faulty = history.clone();
        match random(3) {
            0 => drop(faulty.remove(victim)),
            1 => faulty.insert(victim, history[victim].clone()),
            _ => match &mut faulty[victim] {
                Event::Progress(window) => window.hash_low ^= 1 << random(64),
                Event::Epoch(end) => end.audit.iter_mut().for_each(|audit| audit.hash_low ^= 1 << random(64)),
                _ => unreachable!(),
            },
        }
        assert!(audit(&faulty).is_violated(), "{faulty:#?}");
    }
}
