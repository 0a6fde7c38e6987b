//! Every way to end: lost, stopped, shut down.

use expect_test::expect;

use super::check;

#[test]
fn a_lost_worker_that_nobody_replaces_ends_the_run_and_its_exit_explains_its_silence() {
    check(
        "submit 2; prepare; join w1 w2; stage 100 0.5; published 100; step 123; ended w2 peerlost w1; lose w1 session closed; \
         exit w1 killed by signal 9; alone w1 was given up after 10 restarts; stage 123 0.4 w2 @g2; ended w2 stopped @g2; published 123",
        expect![[r#"
            > submit
              persist run g0
              says: waiting for 2 of 2 workers, 0 s
              prepare
            > prepare
              says: waiting for 2 of 2 workers, 0 s
            > join w1 w2
              says: waiting for 1 of 2 workers, 0 s
              persist run g1
              tell seated g1
              says: training: 2 workers seated, no step reported yet, 0 s
              seat g1: w1:1 w2:1
            > stage 100 0.5
              publish 100 as best
              = training: 2 workers seated, no step reported yet, 0 s
            > published 100
              persist checkpoint 100
              persist run g1
              tell checkpoint 100 best
              answer w1:1: Some("step-100")
              answer w2:1: Some("step-100")
              = training: 2 workers seated, no step reported yet, 0 s
            > step 123
              tell step 123
              = training: epoch 3 of 20, step 123
            > ended w2 peerlost w1
              order Abort w1:1 g1
              persist run g1
              says: recovering: worker `w1:1` is out of its peers' reach at step 123: `w1:1`; 1 member still to let go, 0 s
            > lose w1 session closed
              says: recovering: worker `w1:1` left at step 123: session closed; waiting for 1 of 2 workers, 0 s
            > exit w1 killed by signal 9
              tell lost w1:1 of g1 at 123: killed by signal 9
              says: recovering: worker `w1:1` left at step 123: killed by signal 9; waiting for 1 of 2 workers, 0 s
            > alone w1 was given up after 10 restarts
              persist run g2
              tell seated g2
              says: failing: worker `w1:1` left at step 123: killed by signal 9; saving step 123
              seat g2: w2:1 from memory (rank 0) at 123, reported 123, to save
            > stage 123 0.4 w2 @g2
              publish 123
              = failing: worker `w1:1` left at step 123: killed by signal 9; saving step 123
            > ended w2 stopped @g2
              = failing: worker `w1:1` left at step 123: killed by signal 9; saving step 123
            > published 123
              persist checkpoint 123
              persist run g2
              tell checkpoint 123
              answer w2:1: Some("step-123")
              persist run g2
              says: failed: worker `w1:1` left at step 123: killed by signal 9
              tell ended Failed; cause: w1 was given up after 10 restarts; hint: resume with `lockstep train run.toml --resume`; last 123; best 100
              remove staging
              release w2:1
        "#]],
    );
}

#[test]
fn silence_is_the_cause_where_nothing_explains_it() {
    check(
        "submit 2; prepare; join w1 w2; step 9; lose w1 no heartbeat for 5 s; ended w2 aborted at 9; alone nobody else comes; ended w2 stopped at 9 @g2",
        expect![[r#"
            > submit
              persist run g0
              says: waiting for 2 of 2 workers, 0 s
              prepare
            > prepare
              says: waiting for 2 of 2 workers, 0 s
            > join w1 w2
              says: waiting for 1 of 2 workers, 0 s
              persist run g1
              tell seated g1
              says: training: 2 workers seated, no step reported yet, 0 s
              seat g1: w1:1 w2:1
            > step 9
              tell step 9
              = training: epoch 3 of 20, step 9
            > lose w1 no heartbeat for 5 s
              order Abort w2:1 g1
              persist run g1
              says: recovering: worker `w1:1` left at step 9: no heartbeat for 5 s; 1 member still to let go, 0 s
            > ended w2 aborted at 9
              = recovering: worker `w1:1` left at step 9: no heartbeat for 5 s; waiting for 1 of 2 workers, 0 s
            > alone nobody else comes
              tell lost w1:1 of g1 at 9: no heartbeat for 5 s
              persist run g2
              tell seated g2
              says: failing: worker `w1:1` left at step 9: no heartbeat for 5 s; saving step 9
              seat g2: w2:1 from memory (rank 0) at 9, reported 9, to save
            > ended w2 stopped at 9 @g2
              persist run g2
              says: failed: worker `w1:1` left at step 9: no heartbeat for 5 s
              tell ended Failed; cause: nobody else comes; hint: resume with `lockstep train run.toml --resume`
              remove staging
              release w2:1
        "#]],
    );
}

#[test]
fn the_first_cause_wins() {
    check(
        "submit 2; prepare; join w1 w2; step 9; ended w1 failed 10 steps in a row were not finite; \
         ended w2 failed connection reset",
        expect![[r#"
            > submit
              persist run g0
              says: waiting for 2 of 2 workers, 0 s
              prepare
            > prepare
              says: waiting for 2 of 2 workers, 0 s
            > join w1 w2
              says: waiting for 1 of 2 workers, 0 s
              persist run g1
              tell seated g1
              says: training: 2 workers seated, no step reported yet, 0 s
              seat g1: w1:1 w2:1
            > step 9
              tell step 9
              = training: epoch 3 of 20, step 9
            > ended w1 failed 10 steps in a row were not finite
              order Abort w2:1 g1
              says: failing: 10 steps in a row were not finite; 1 of 2 workers still at work, 0 s
            > ended w2 failed connection reset
              persist run g1
              says: failed: 10 steps in a row were not finite
              tell ended Failed
              remove staging
              release w1:1
              release w2:1
        "#]],
    );
}

#[test]
fn a_stop_waits_for_the_checkpoint() {
    check(
        "submit 2; prepare; join w1 w2; step 120; stop; stop; stage 123 0.3; ended w1 stopped; ended w2 stopped; \
         published 123; stop",
        expect![[r#"
            > submit
              persist run g0
              says: waiting for 2 of 2 workers, 0 s
              prepare
            > prepare
              says: waiting for 2 of 2 workers, 0 s
            > join w1 w2
              says: waiting for 1 of 2 workers, 0 s
              persist run g1
              tell seated g1
              says: training: 2 workers seated, no step reported yet, 0 s
              seat g1: w1:1 w2:1
            > step 120
              tell step 120
              = training: epoch 3 of 20, step 120
            > stop
              persist run g1
              order Stop w1:1 g1
              order Stop w2:1 g1
              says: stopping on request, at step 120
            > stop
              = stopping on request, at step 120
            > stage 123 0.3
              publish 123 as best
              = stopping on request, at step 120
            > ended w1 stopped
              = stopping on request, at step 123
            > ended w2 stopped
              = stopping on request, at step 123
            > published 123
              persist checkpoint 123
              persist run g1
              tell checkpoint 123 best
              answer w1:1: Some("step-123")
              answer w2:1: Some("step-123")
              persist run g1
              says: stopped on request at step 123
              tell ended Stopped; last 123; best 123
              remove staging
              release w1:1
              release w2:1
            > stop
              = stopped on request at step 123
        "#]],
    );
}

#[test]
fn a_second_stop_waits_for_nothing() {
    check(
        "submit 2; prepare; join w1 w2; step 120; stop; stop now; ended w1 aborted; ended w2 peerlost w1",
        expect![[r#"
            > submit
              persist run g0
              says: waiting for 2 of 2 workers, 0 s
              prepare
            > prepare
              says: waiting for 2 of 2 workers, 0 s
            > join w1 w2
              says: waiting for 1 of 2 workers, 0 s
              persist run g1
              tell seated g1
              says: training: 2 workers seated, no step reported yet, 0 s
              seat g1: w1:1 w2:1
            > step 120
              tell step 120
              = training: epoch 3 of 20, step 120
            > stop
              persist run g1
              order Stop w1:1 g1
              order Stop w2:1 g1
              says: stopping on request, at step 120
            > stop now
              order Abort w1:1 g1
              order Abort w2:1 g1
              says: stopping at once, at step 120
            > ended w1 aborted
              = stopping at once, at step 120
            > ended w2 peerlost w1
              persist run g1
              says: stopped at once on request, after step 120
              tell ended Stopped
              remove staging
              release w1:1
              release w2:1
        "#]],
    );
}

#[test]
fn a_worker_that_hangs_does_not_hold_up_a_stop_at_once() {
    check(
        "submit 1; prepare; join w1; stop now; wait 3s; ended w1 aborted",
        expect![[r#"
        > submit
          persist run g0
          says: waiting for 1 of 1 workers, 0 s
          prepare
        > prepare
          says: waiting for 1 of 1 workers, 0 s
        > join w1
          persist run g1
          tell seated g1
          says: training: 1 worker seated, no step reported yet, 0 s
          seat g1: w1:1
        > stop now
          order Abort w1:1 g1
          says: stopping at once, at step 0
        > wait 3s
          persist run g1
          says: stopped at once on request, after step 0
          tell ended Stopped
          remove staging
          release w1:1
        > ended w1 aborted
          = stopped at once on request, after step 0
    "#]],
    );
}

#[test]
fn a_shutdown_stops_what_trains() {
    check(
        "submit 1; prepare; join w1; step 7; shutdown; shutdown",
        expect![[r#"
        > submit
          persist run g0
          says: waiting for 1 of 1 workers, 0 s
          prepare
        > prepare
          says: waiting for 1 of 1 workers, 0 s
        > join w1
          persist run g1
          tell seated g1
          says: training: 1 worker seated, no step reported yet, 0 s
          seat g1: w1:1
        > step 7
          tell step 7
          = training: epoch 3 of 20, step 7
        > shutdown
          order Abort w1:1 g1
          persist run g1
          says: the coordinator was shut down at step 7
          tell ended Stopped
          remove staging
          release w1:1
        > shutdown
          = the coordinator was shut down at step 7
    "#]],
    );
}

#[test]
fn a_run_whose_last_checkpoint_is_lost_has_not_succeeded() {
    check(
        "submit 1; prepare; join w1; stage 10 0.5; published 10; stage 20 0.7; ended w1 finished; \
         unpublished 20 no space left on device",
        expect![[r#"
            > submit
              persist run g0
              says: waiting for 1 of 1 workers, 0 s
              prepare
            > prepare
              says: waiting for 1 of 1 workers, 0 s
            > join w1
              persist run g1
              tell seated g1
              says: training: 1 worker seated, no step reported yet, 0 s
              seat g1: w1:1
            > stage 10 0.5
              publish 10 as best
              = training: 1 worker seated, no step reported yet, 0 s
            > published 10
              persist checkpoint 10
              persist run g1
              tell checkpoint 10 best
              answer w1:1: Some("step-10")
              = training: 1 worker seated, no step reported yet, 0 s
            > stage 20 0.7
              publish 20 as best
              = training: 1 worker seated, no step reported yet, 0 s
            > ended w1 finished
              = publishing the last checkpoint, at step 123
            > unpublished 20 no space left on device
              warn: checkpoint of step 20 was not published: no space left on device
              answer w1:1: None
              persist run g1
              says: failed: the last checkpoint, of step 20, could not be published
              tell ended Failed; cause: no space left on device; hint: check the space and the permissions where `checkpoint.dir` is, then resume from the newest checkpoint, or start again where there is none; last 10; best 10
              remove staging
              release w1:1
        "#]],
    );
}
