//! Members come and go while the run goes on.

use expect_test::expect;

use super::check;

const TWO: &str = "submit 2; prepare; join w1 w2; step 120";

fn two(rest: &str, expected: expect_test::Expect) {
    check(&format!("{TWO}; {rest}"), expected);
}

#[test]
fn a_lost_member_is_replaced_and_all_go_on_from_memory() {
    two(
        "ended w1 peerlost w2 at 123; lose w2 session closed; exit w2 killed by signal 9 (SIGKILL); wait 1s; join w2:2; \
         step 130 w1 @g2; step 131 w1 @g1",
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
            > ended w1 peerlost w2 at 123
              order Abort w2:1 g1
              persist run g1
              says: recovering: worker `w2:1` is out of its peers' reach at step 123: `w2:1`; 1 member still to let go, 0 s
            > lose w2 session closed
              says: recovering: worker `w2:1` left at step 0: session closed; waiting for 1 of 2 workers, 0 s
            > exit w2 killed by signal 9 (SIGKILL)
              tell lost w2:1 of g1 at 0: killed by signal 9 (SIGKILL)
              says: recovering: worker `w2:1` left at step 0: killed by signal 9 (SIGKILL); waiting for 1 of 2 workers, 0 s
            > wait 1s
              = recovering: worker `w2:1` left at step 0: killed by signal 9 (SIGKILL); waiting for 1 of 2 workers, 1 s
            > join w2:2
              persist run g2
              tell seated g2
              says: training: epoch 3 of 20, step 123
              seat g2: w1:1 w2:2 from memory of rank 0, [1] lack it at 123, reported 120
            > step 130 w1 @g2
              tell step 130
              = training: epoch 3 of 20, step 130
            > step 131 w1 @g1
              = training: epoch 3 of 20, step 130
        "#]],
    );
}

#[test]
fn the_newest_state_wins_and_an_open_epoch_is_older_than_a_closed_one() {
    check(
        "submit 4; prepare; join w1 w2 w3 w4; step 120; exit w4 killed by signal 9 (SIGKILL); ended w1 aborted at 121; \
         ended w2 peerlost w4 in 122; ended w3 peerlost w4 at 122; join w4:2",
        expect![[r#"
            > submit
              persist run g0
              says: waiting for 4 of 4 workers, 0 s
              prepare
            > prepare
              says: waiting for 4 of 4 workers, 0 s
            > join w1 w2 w3 w4
              says: waiting for 3 of 4 workers, 0 s
              says: waiting for 2 of 4 workers, 0 s
              says: waiting for 1 of 4 workers, 0 s
              persist run g1
              tell seated g1
              says: training: 4 workers seated, no step reported yet, 0 s
              seat g1: w1:1 w2:1 w3:1 w4:1
            > step 120
              tell step 120
              = training: epoch 3 of 20, step 120
            > exit w4 killed by signal 9 (SIGKILL)
              tell lost w4:1 of g1 at 0: killed by signal 9 (SIGKILL)
              order Abort w1:1 g1
              order Abort w2:1 g1
              order Abort w3:1 g1
              persist run g1
              says: recovering: worker `w4:1` left at step 0: killed by signal 9 (SIGKILL); 3 members still to let go, 0 s
            > ended w1 aborted at 121
              = recovering: worker `w4:1` left at step 0: killed by signal 9 (SIGKILL); 2 members still to let go, 0 s
            > ended w2 peerlost w4 in 122
              = recovering: worker `w4:1` left at step 0: killed by signal 9 (SIGKILL); 1 member still to let go, 0 s
            > ended w3 peerlost w4 at 122
              = recovering: worker `w4:1` left at step 0: killed by signal 9 (SIGKILL); waiting for 1 of 4 workers, 0 s
            > join w4:2
              persist run g2
              tell seated g2
              says: training: epoch 3 of 20, step 122
              seat g2: w1:1 w2:1 w3:1 w4:2 from memory of rank 2, [0, 1, 3] lack it at 122, reported 120
        "#]],
    );
}

#[test]
fn rank_0_is_always_one_that_held_a_state() {
    two(
        "exit w1 killed by signal 9 (SIGKILL); join w1:2; ended w2 peerlost w1 at 120; step 125 w2 @g2",
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
            > exit w1 killed by signal 9 (SIGKILL)
              tell lost w1:1 of g1 at 120: killed by signal 9 (SIGKILL)
              order Abort w2:1 g1
              persist run g1
              says: recovering: worker `w1:1` left at step 120: killed by signal 9 (SIGKILL); 1 member still to let go, 0 s
            > join w1:2
              says: recovering: worker `w1:1` left at step 120: killed by signal 9 (SIGKILL); 1 member still to let go, 0 s
            > ended w2 peerlost w1 at 120
              persist run g2
              tell seated g2
              says: training: epoch 3 of 20, step 120
              seat g2: w2:1 w1:2 from memory of rank 0, [1] lack it at 120, reported 120
            > step 125 w2 @g2
              tell step 125
              = training: epoch 3 of 20, step 125
        "#]],
    );
}

#[test]
fn where_fewer_suffice_they_go_on_at_once_and_others_are_let_in_at_a_step_boundary() {
    check(
        "submit 1 2 2; prepare; join w1 w2; step 120; ended w1 peerlost w2 at 123; exit w2 killed by signal 9; \
         step 130 w1 @g2; join w2:2; ended w1 yielded at 133 @g2; step 140 w1 @g3",
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
            > ended w1 peerlost w2 at 123
              order Abort w2:1 g1
              persist run g1
              says: recovering: worker `w2:1` is out of its peers' reach at step 123: `w2:1`; 1 member still to let go, 0 s
            > exit w2 killed by signal 9
              tell lost w2:1 of g1 at 0: killed by signal 9
              persist run g2
              tell seated g2
              says: training: epoch 3 of 20, step 123
              seat g2: w1:1 from memory (rank 0) at 123, reported 120
            > step 130 w1 @g2
              tell step 130
              = training: epoch 3 of 20, step 130
            > join w2:2
              order Yield w1:1 g2
              says: training: step 130; `w2:2` is let in after the next one
            > ended w1 yielded at 133 @g2
              persist run g2
              persist run g3
              tell seated g3
              says: training: epoch 3 of 20, step 133
              seat g3: w1:1 w2:2 from memory of rank 0, [1] lack it at 133, reported 130
            > step 140 w1 @g3
              tell step 140
              = training: epoch 3 of 20, step 140
        "#]],
    );
}

#[test]
fn when_nobody_is_left_the_newest_checkpoint_is_gone_back_to() {
    two(
        "stage 100 0.5; published 100; epoch 0; exit w1 killed by signal 9; exit w2 killed by signal 9; join w1:2 w2:2; \
         step 110 w1:2 @g2",
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
            > stage 100 0.5
              publish 100 as best
              = training: epoch 3 of 20, step 120
            > published 100
              persist checkpoint 100
              persist run g1
              tell checkpoint 100 best
              answer w1:1: Some("step-100")
              answer w2:1: Some("step-100")
              = training: epoch 3 of 20, step 120
            > epoch 0
              persist run g1
              tell epoch 0
              = training: epoch 3 of 20, step 120
            > exit w1 killed by signal 9
              tell lost w1:1 of g1 at 120: killed by signal 9
              order Abort w2:1 g1
              persist run g1
              says: recovering: worker `w1:1` left at step 120: killed by signal 9; 1 member still to let go, 0 s
            > exit w2 killed by signal 9
              tell lost w2:1 of g1 at 0: killed by signal 9
              says: recovering: worker `w1:1` left at step 120: killed by signal 9; waiting for 2 of 2 workers, 0 s
            > join w1:2 w2:2
              says: recovering: worker `w1:1` left at step 120: killed by signal 9; waiting for 1 of 2 workers, 0 s
              warn: nobody who held the state of step 120 is left: going on from step 100, the newest that is on disk
              persist run g2
              tell seated g2
              says: training: epoch 3 of 20, step 100
              seat g2: w1:2 w2:2 from step-100 at 100, reported 100
            > step 110 w1:2 @g2
              tell step 110
              = training: epoch 3 of 20, step 110
        "#]],
    );
}

#[test]
fn without_a_checkpoint_it_starts_again() {
    two(
        "exit w1 killed by signal 9; exit w2 killed by signal 9; join w1:2 w2:2",
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
        > exit w1 killed by signal 9
          tell lost w1:1 of g1 at 120: killed by signal 9
          order Abort w2:1 g1
          persist run g1
          says: recovering: worker `w1:1` left at step 120: killed by signal 9; 1 member still to let go, 0 s
        > exit w2 killed by signal 9
          tell lost w2:1 of g1 at 0: killed by signal 9
          says: recovering: worker `w1:1` left at step 120: killed by signal 9; waiting for 2 of 2 workers, 0 s
        > join w1:2 w2:2
          says: recovering: worker `w1:1` left at step 120: killed by signal 9; waiting for 1 of 2 workers, 0 s
          warn: nobody who held the state of step 120 is left: going on from step 0, the newest that is on disk
          persist run g2
          tell seated g2
          says: training: epoch 3 of 20, step 0
          seat g2: w1:2 w2:2
    "#]],
    );
}

#[test]
fn a_member_that_does_not_let_go_is_left_behind() {
    check(
        "submit 3; prepare; join w1 w2 w3; step 120; exit w3 killed by signal 9; ended w1 peerlost w3 at 123; wait 4s; wait 1s; \
         wait 1s; lose w2 hung; join w2:2 w3:2",
        expect![[r#"
            > submit
              persist run g0
              says: waiting for 3 of 3 workers, 0 s
              prepare
            > prepare
              says: waiting for 3 of 3 workers, 0 s
            > join w1 w2 w3
              says: waiting for 2 of 3 workers, 0 s
              says: waiting for 1 of 3 workers, 0 s
              persist run g1
              tell seated g1
              says: training: 3 workers seated, no step reported yet, 0 s
              seat g1: w1:1 w2:1 w3:1
            > step 120
              tell step 120
              = training: epoch 3 of 20, step 120
            > exit w3 killed by signal 9
              tell lost w3:1 of g1 at 0: killed by signal 9
              order Abort w1:1 g1
              order Abort w2:1 g1
              persist run g1
              says: recovering: worker `w3:1` left at step 0: killed by signal 9; 2 members still to let go, 0 s
            > ended w1 peerlost w3 at 123
              = recovering: worker `w3:1` left at step 0: killed by signal 9; 1 member still to let go, 0 s
            > wait 4s
              = recovering: worker `w3:1` left at step 0: killed by signal 9; 1 member still to let go, 4 s
            > wait 1s
              expel w2:1: hung: it did not let go of a generation that was over within 5 s
              = recovering: worker `w3:1` left at step 0: killed by signal 9; 1 member still to let go, 5 s
            > wait 1s
              = recovering: worker `w3:1` left at step 0: killed by signal 9; 1 member still to let go, 6 s
            > lose w2 hung
              says: recovering: worker `w3:1` left at step 0: killed by signal 9; waiting for 2 of 3 workers, 6 s
            > join w2:2 w3:2
              says: recovering: worker `w3:1` left at step 0: killed by signal 9; waiting for 1 of 3 workers, 6 s
              tell lost w2:1 of g1 at 0: hung
              persist run g2
              tell seated g2
              says: training: epoch 3 of 20, step 123
              seat g2: w1:1 w2:2 w3:2 from memory of rank 0, [1, 2] lack it at 123, reported 120
        "#]],
    );
}

#[test]
fn a_member_that_hangs_while_its_peers_wait_for_it_is_expelled() {
    two(
        "beat w1 121 waiting; beat w2 120; wait 59s; wait 2s; lose w2 hung; ended w1 aborted at 121",
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
            > beat w1 121 waiting
              = training: epoch 3 of 20, step 120
            > beat w2 120
              = training: epoch 3 of 20, step 120
            > wait 59s
              = training: epoch 3 of 20, step 120
            > wait 2s
              expel w2:1: hung: it has not got on from step 120 for 61 s while its peers wait for it
              = training: epoch 3 of 20, step 120
            > lose w2 hung
              order Abort w1:1 g1
              persist run g1
              says: recovering: worker `w2:1` left at step 120: hung; 1 member still to let go, 0 s
            > ended w1 aborted at 121
              = recovering: worker `w2:1` left at step 120: hung; waiting for 1 of 2 workers, 0 s
        "#]],
    );
}

#[test]
fn a_whole_world_that_waits_is_nobodys_fault() {
    two(
        "beat w1 121 waiting; beat w2 121 waiting; wait 100s",
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
        > beat w1 121 waiting
          = training: epoch 3 of 20, step 120
        > beat w2 121 waiting
          = training: epoch 3 of 20, step 120
        > wait 100s
          = training: epoch 3 of 20, step 120
    "#]],
    );
}

#[test]
fn a_member_that_is_told_to_go_hands_over_first() {
    check(
        "submit 1 2 2; prepare; join w1 w2; step 120; drain w1; ended w1 yielded at 123; ended w2 yielded at 123; lose w1 dismissed",
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
            > drain w1
              order Yield w1:1 g1
              order Yield w2:1 g1
              says: training: step 120; a member is let go after the next one
            > ended w1 yielded at 123
              persist run g1
              says: recovering: the world changes at step 123; 1 member still to let go, 0 s
            > ended w2 yielded at 123
              dismiss w1:1
              persist run g2
              tell seated g2
              says: training: epoch 3 of 20, step 123
              seat g2: w2:1 from memory (rank 0) at 123, reported 120
            > lose w1 dismissed
              = training: epoch 3 of 20, step 123
        "#]],
    );
}

#[test]
fn the_only_member_saves_before_it_goes_and_its_successor_goes_on_from_there() {
    check(
        "submit 1; prepare; join w1; step 120; drain w1; stage 123; ended w1 stopped; published 123; join w3",
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
            > step 120
              tell step 120
              = training: epoch 3 of 20, step 120
            > drain w1
              order Stop w1:1 g1
              says: saving for whoever goes on, at step 120
            > stage 123
              publish 123
              = saving for whoever goes on, at step 120
            > ended w1 stopped
              = saving for whoever goes on, at step 123
            > published 123
              persist checkpoint 123
              persist run g1
              tell checkpoint 123
              answer w1:1: Some("step-123")
              persist run g1
              dismiss w1:1
              says: recovering: the world changes at step 123; waiting for 1 of 1 workers, 0 s
            > join w3
              persist run g2
              tell seated g2
              says: training: epoch 3 of 20, step 123
              seat g2: w3:1 from step-123 at 123, reported 120
        "#]],
    );
}

#[test]
fn where_nobody_else_will_come_what_is_held_is_saved_before_the_run_fails() {
    two(
        "ended w1 peerlost w2 at 123; exit w2 killed by signal 9; alone w2 was given up; stage 123 0.4 @g2; ended w1 stopped @g2; published 123",
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
            > ended w1 peerlost w2 at 123
              order Abort w2:1 g1
              persist run g1
              says: recovering: worker `w2:1` is out of its peers' reach at step 123: `w2:1`; 1 member still to let go, 0 s
            > exit w2 killed by signal 9
              tell lost w2:1 of g1 at 0: killed by signal 9
              says: recovering: worker `w2:1` left at step 0: killed by signal 9; waiting for 1 of 2 workers, 0 s
            > alone w2 was given up
              persist run g2
              tell seated g2
              says: failing: worker `w2:1` left at step 0: killed by signal 9; saving step 123
              seat g2: w1:1 from memory (rank 0) at 123, reported 120, to save
            > stage 123 0.4 @g2
              publish 123 as best
              = failing: worker `w2:1` left at step 0: killed by signal 9; saving step 123
            > ended w1 stopped @g2
              = failing: worker `w2:1` left at step 0: killed by signal 9; saving step 123
            > published 123
              persist checkpoint 123
              persist run g2
              tell checkpoint 123 best
              answer w1:1: Some("step-123")
              persist run g2
              says: failed: worker `w2:1` left at step 0: killed by signal 9
              tell ended Failed; cause: w2 was given up; hint: resume with `lockstep train run.toml --resume`; last 123; best 123
              remove staging
              release w1:1
        "#]],
    );
}

#[test]
fn a_stop_while_nothing_trains_saves_what_is_held() {
    two(
        "ended w1 peerlost w2 at 123; exit w2 killed by signal 9; stop; stage 123 @g2; ended w1 stopped @g2; published 123",
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
            > ended w1 peerlost w2 at 123
              order Abort w2:1 g1
              persist run g1
              says: recovering: worker `w2:1` is out of its peers' reach at step 123: `w2:1`; 1 member still to let go, 0 s
            > exit w2 killed by signal 9
              tell lost w2:1 of g1 at 0: killed by signal 9
              says: recovering: worker `w2:1` left at step 0: killed by signal 9; waiting for 1 of 2 workers, 0 s
            > stop
              persist run g2
              tell seated g2
              says: stopping on request, at step 123
              seat g2: w1:1 from memory (rank 0) at 123, reported 120, to save
            > stage 123 @g2
              publish 123
              = stopping on request, at step 123
            > ended w1 stopped @g2
              = stopping on request, at step 123
            > published 123
              persist checkpoint 123
              persist run g2
              tell checkpoint 123
              answer w1:1: Some("step-123")
              persist run g2
              says: stopped on request at step 123
              tell ended Stopped; last 123
              remove staging
              release w1:1
        "#]],
    );
}

#[test]
fn a_stop_at_once_while_nothing_trains_ends_at_once() {
    two(
        "ended w1 peerlost w2 at 123; exit w2 killed by signal 9; stop now",
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
        > ended w1 peerlost w2 at 123
          order Abort w2:1 g1
          persist run g1
          says: recovering: worker `w2:1` is out of its peers' reach at step 123: `w2:1`; 1 member still to let go, 0 s
        > exit w2 killed by signal 9
          tell lost w2:1 of g1 at 0: killed by signal 9
          says: recovering: worker `w2:1` left at step 0: killed by signal 9; waiting for 1 of 2 workers, 0 s
        > stop now
          persist run g1
          says: stopped at once on request, after step 120
          tell ended Stopped
          remove staging
          release w1:1
    "#]],
    );
}

#[test]
fn generations_that_get_nowhere_end_the_run_with_the_first_cause() {
    check(
        "submit 1; prepare; join w1; step 120; exit w1 killed by signal 9; join w1:2; exit w1:2 killed by signal 9; \
         join w1:3; exit w1:3 killed by signal 9; join w1:4; exit w1:4 killed by signal 9; join w1:5; \
         exit w1:5 killed by signal 9; join w1:6; exit w1:6 killed by signal 9",
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
            > step 120
              tell step 120
              = training: epoch 3 of 20, step 120
            > exit w1 killed by signal 9
              tell lost w1:1 of g1 at 120: killed by signal 9
              persist run g1
              says: recovering: worker `w1:1` left at step 120: killed by signal 9; waiting for 1 of 1 workers, 0 s
            > join w1:2
              warn: nobody who held the state of step 120 is left: going on from step 0, the newest that is on disk
              persist run g2
              tell seated g2
              says: training: epoch 3 of 20, step 0
              seat g2: w1:2
            > exit w1:2 killed by signal 9
              tell lost w1:2 of g2 at 0: killed by signal 9
              persist run g2
              says: recovering: worker `w1:2` left at step 0: killed by signal 9; waiting for 1 of 1 workers, 0 s
            > join w1:3
              persist run g3
              tell seated g3
              says: training: epoch 3 of 20, step 0
              seat g3: w1:3
            > exit w1:3 killed by signal 9
              tell lost w1:3 of g3 at 0: killed by signal 9
              persist run g3
              says: recovering: worker `w1:3` left at step 0: killed by signal 9; waiting for 1 of 1 workers, 0 s
            > join w1:4
              persist run g4
              tell seated g4
              says: training: epoch 3 of 20, step 0
              seat g4: w1:4
            > exit w1:4 killed by signal 9
              tell lost w1:4 of g4 at 0: killed by signal 9
              persist run g4
              says: recovering: worker `w1:4` left at step 0: killed by signal 9; waiting for 1 of 1 workers, 0 s
            > join w1:5
              persist run g5
              tell seated g5
              says: training: epoch 3 of 20, step 0
              seat g5: w1:5
            > exit w1:5 killed by signal 9
              tell lost w1:5 of g5 at 0: killed by signal 9
              persist run g5
              says: recovering: worker `w1:5` left at step 0: killed by signal 9; waiting for 1 of 1 workers, 0 s
            > join w1:6
              persist run g6
              tell seated g6
              says: training: epoch 3 of 20, step 0
              seat g6: w1:6
            > exit w1:6 killed by signal 9
              tell lost w1:6 of g6 at 0: killed by signal 9
              persist run g6
              persist run g6
              says: failed: 6 generations in a row were lost before they got a step further
              tell ended Failed; cause: worker `w1:6` left at step 0: killed by signal 9; hint: something kills the workers at this step: see their logs, then resume with `lockstep train run.toml --resume`
              remove staging
        "#]],
    );
}

#[test]
fn peers_that_cannot_reach_a_member_that_lives_go_on_without_it() {
    check(
        "submit 3; prepare; join w1 w2 w3; step 120; ended w1 peerlost w3 at 121; ended w2 peerlost w3 at 121; \
         ended w3 peerlost w1 at 121; ended w1 peerlost w3 at 121 @g2; ended w2 peerlost w3 at 121 @g2; ended w3 peerlost w1 at 121 @g2; \
         lose w3 its peers cannot reach it; join w4",
        expect![[r#"
            > submit
              persist run g0
              says: waiting for 3 of 3 workers, 0 s
              prepare
            > prepare
              says: waiting for 3 of 3 workers, 0 s
            > join w1 w2 w3
              says: waiting for 2 of 3 workers, 0 s
              says: waiting for 1 of 3 workers, 0 s
              persist run g1
              tell seated g1
              says: training: 3 workers seated, no step reported yet, 0 s
              seat g1: w1:1 w2:1 w3:1
            > step 120
              tell step 120
              = training: epoch 3 of 20, step 120
            > ended w1 peerlost w3 at 121
              order Abort w2:1 g1
              order Abort w3:1 g1
              persist run g1
              says: recovering: worker `w3:1` is out of its peers' reach at step 121: `w3:1`; 2 members still to let go, 0 s
            > ended w2 peerlost w3 at 121
              = recovering: worker `w3:1` is out of its peers' reach at step 121: `w3:1`; 1 member still to let go, 0 s
            > ended w3 peerlost w1 at 121
              persist run g2
              tell seated g2
              says: training: epoch 3 of 20, step 121
              seat g2: w1:1 w2:1 w3:1 from memory (rank 0) at 121, reported 120
            > ended w1 peerlost w3 at 121 @g2
              order Abort w2:1 g2
              order Abort w3:1 g2
              persist run g2
              says: recovering: worker `w3:1` is out of its peers' reach at step 121: `w3:1`; 2 members still to let go, 0 s
            > ended w2 peerlost w3 at 121 @g2
              = recovering: worker `w3:1` is out of its peers' reach at step 121: `w3:1`; 1 member still to let go, 0 s
            > ended w3 peerlost w1 at 121 @g2
              expel w3:1: its peers cannot reach it
              = recovering: worker `w3:1` is out of its peers' reach at step 121: `w3:1`; seating 3 workers, 0 s
            > lose w3 its peers cannot reach it
              says: recovering: worker `w3:1` left at step 121: its peers cannot reach it; waiting for 1 of 3 workers, 0 s
            > join w4
              tell lost w3:1 of g2 at 121: its peers cannot reach it
              persist run g3
              tell seated g3
              says: training: epoch 3 of 20, step 121
              seat g3: w1:1 w2:1 w4:1 from memory of rank 0, [2] lack it at 121, reported 120
        "#]],
    );
}

#[test]
fn a_rank_that_is_lost_after_rank_0_has_saved_all_changes_nothing() {
    two(
        "stage 123 0.4; ended w1 finished; exit w2 killed by signal 9; published 123",
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
        > stage 123 0.4
          publish 123 as best
          = training: epoch 3 of 20, step 120
        > ended w1 finished
          = training: epoch 3 of 20, step 123
        > exit w2 killed by signal 9
          tell lost w2:1 of g1 at 0: killed by signal 9
          = publishing the last checkpoint, at step 123
        > published 123
          persist checkpoint 123
          persist run g1
          tell checkpoint 123 best
          answer w1:1: Some("step-123")
          answer w2:1: Some("step-123")
          persist run g1
          says: finished: all 20 epochs, step 123
          tell ended Succeeded; last 123; best 123
          remove staging
          release w1:1
          release w2:1
    "#]],
    );
}

#[test]
fn a_rank_0_that_is_lost_in_its_last_checkpoint_is_replaced_by_one_that_holds_the_end() {
    two(
        "ended w2 finished; exit w1 killed by signal 9; join w1:2; stage 123 0.4 w2 @g2; ended w2 finished @g2; ended w1:2 finished @g2; \
         published 123",
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
            > ended w2 finished
              = training: epoch 3 of 20, step 123
            > exit w1 killed by signal 9
              tell lost w1:1 of g1 at 120: killed by signal 9
              persist run g1
              says: recovering: worker `w1:1` left at step 120: killed by signal 9; waiting for 1 of 2 workers, 0 s
            > join w1:2
              persist run g2
              tell seated g2
              says: training: epoch 3 of 20, step 123
              seat g2: w2:1 w1:2 from memory of rank 0, [1] lack it at 123, reported 120
            > stage 123 0.4 w2 @g2
              publish 123 as best
              = training: epoch 3 of 20, step 123
            > ended w2 finished @g2
              = training: epoch 3 of 20, step 123
            > ended w1:2 finished @g2
              = publishing the last checkpoint, at step 123
            > published 123
              persist checkpoint 123
              persist run g2
              tell checkpoint 123 best
              answer w2:1: Some("step-123")
              answer w1:2: Some("step-123")
              persist run g2
              says: finished: all 20 epochs, step 123
              tell ended Succeeded; last 123; best 123
              remove staging
              release w2:1
              release w1:2
        "#]],
    );
}

#[test]
fn fewer_than_were_wanted_begin_when_they_have_waited_long_enough() {
    check(
        "submit 1 2 3; prepare; join w1; wait 59s; wait 1s; join w2 w3; ended w1 yielded at 5",
        expect![[r#"
        > submit
          persist run g0
          says: waiting for 2 of 2 workers, 0 s
          prepare
        > prepare
          says: waiting for 2 of 2 workers, 0 s
        > join w1
          says: waiting for 1 of 2 workers, 0 s
        > wait 59s
          = waiting for 1 of 2 workers, 59 s
        > wait 1s
          persist run g1
          tell seated g1
          says: training: 1 worker seated, no step reported yet, 0 s
          seat g1: w1:1
        > join w2 w3
          order Yield w1:1 g1
          says: training: step 0; `w2:1` is let in after the next one
        > ended w1 yielded at 5
          persist run g1
          persist run g2
          tell seated g2
          says: training: 3 workers seated, no step reported yet, 0 s
          seat g2: w1:1 w2:1 w3:1 from memory of rank 0, [1, 2] lack it at 5, reported 0
    "#]],
    );
}
