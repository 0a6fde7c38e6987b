//! A generation at work.

use expect_test::expect;

use super::check;

#[test]
fn all_are_seated_at_once_and_finish() {
    check(
        "submit 2; join w2; prepare; wait 12s; join w1; step 400; step 400 w2; stage 400 0.5; \
         ended w1 finished; ended w2 finished; published 400",
        expect![[r#"
            > submit
              persist run g0
              says: waiting for 2 of 2 workers, 0 s
              prepare
            > join w2
              says: waiting for 1 of 2 workers, 0 s
            > prepare
              says: waiting for 1 of 2 workers, 0 s
            > wait 12s
              = waiting for 1 of 2 workers, 12 s
            > join w1
              persist run g1
              tell seated g1
              says: training: 2 workers seated, no step reported yet, 0 s
              seat g1: w1:1 w2:1
            > step 400
              tell step 400
              = training: epoch 3 of 20, step 400
            > step 400 w2
              = training: epoch 3 of 20, step 400
            > stage 400 0.5
              publish 400 as best
              = training: epoch 3 of 20, step 400
            > ended w1 finished
              = training: epoch 3 of 20, step 400
            > ended w2 finished
              = publishing the last checkpoint, at step 400
            > published 400
              persist checkpoint 400
              persist run g1
              tell checkpoint 400 best
              answer w1:1: Some("step-400")
              answer w2:1: Some("step-400")
              persist run g1
              says: finished: all 20 epochs, step 400
              tell ended Succeeded; last 400; best 400
              remove staging
              release w1:1
              release w2:1
        "#]],
    );
}

#[test]
fn other_generations_and_strangers_are_fenced_off() {
    check(
        "submit 1; prepare; join w1; step 5; step 9 @g0; step 9 @g2; step 9 w7; ended w1 finished @g2; published 5; \
         step 4",
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
            > step 5
              tell step 5
              = training: epoch 3 of 20, step 5
            > step 9 @g0
              = training: epoch 3 of 20, step 5
            > step 9 @g2
              = training: epoch 3 of 20, step 5
            > step 9 w7
              = training: epoch 3 of 20, step 5
            > ended w1 finished @g2
              = training: epoch 3 of 20, step 5
            > published 5
              = training: epoch 3 of 20, step 5
            > step 4
              = training: epoch 3 of 20, step 5
        "#]],
    );
}

#[test]
fn checkpoints_are_published_one_at_a_time_and_the_best_is_the_best_published() {
    check(
        "submit 1; prepare; join w1; stage 10 0.5; stage 20 0.7; stage 30 0.6; published 10; \
         unpublished 20 no space left on device; published 30; ended w1 finished",
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
            > stage 20 0.7
              = training: 1 worker seated, no step reported yet, 0 s
            > stage 30 0.6
              = training: 1 worker seated, no step reported yet, 0 s
            > published 10
              persist checkpoint 10
              persist run g1
              tell checkpoint 10 best
              answer w1:1: Some("step-10")
              publish 20 as best
              = training: 1 worker seated, no step reported yet, 0 s
            > unpublished 20 no space left on device
              warn: checkpoint of step 20 was not published: no space left on device
              answer w1:1: None
              publish 30 as best
              = training: 1 worker seated, no step reported yet, 0 s
            > published 30
              persist checkpoint 30
              persist run g1
              tell checkpoint 30 best
              answer w1:1: Some("step-30")
              = training: 1 worker seated, no step reported yet, 0 s
            > ended w1 finished
              persist run g1
              says: finished: all 20 epochs, step 123
              tell ended Succeeded; last 30; best 30
              remove staging
              release w1:1
        "#]],
    );
}

#[test]
fn metrics_of_an_older_validation_do_not_make_a_checkpoint_better() {
    check(
        "submit 1; prepare; join w1; stage 10 0.5; published 10; stage 15 0.5; published 15",
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
        > stage 15 0.5
          publish 15
          = training: 1 worker seated, no step reported yet, 0 s
        > published 15
          persist checkpoint 15
          persist run g1
          tell checkpoint 15
          answer w1:1: Some("step-15")
          = training: 1 worker seated, no step reported yet, 0 s
    "#]],
    );
}

#[test]
fn an_epoch_counts_once() {
    check(
        "submit 1; prepare; join w1; epoch 0; epoch 0; epoch 1",
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
        > epoch 0
          persist run g1
          tell epoch 0
          = training: 1 worker seated, no step reported yet, 0 s
        > epoch 0
          = training: 1 worker seated, no step reported yet, 0 s
        > epoch 1
          persist run g1
          tell epoch 1
          = training: 1 worker seated, no step reported yet, 0 s
    "#]],
    );
}

#[test]
fn a_resumed_run_that_does_not_improve_reports_the_best_it_had() {
    check(
        "submit 1; resume 100 50 0.9; join w1; stage 110 0.5; published 110; ended w1 finished",
        expect![[r#"
            > submit
              persist run g0
              says: waiting for 1 of 1 workers, 0 s
              prepare
            > resume 100 50 0.9
              says: waiting for 1 of 1 workers, 0 s
            > join w1
              persist run g1
              tell seated g1
              says: training: 1 worker seated, no step reported yet, 0 s
              seat g1: w1:1 at 100, reported 100
            > stage 110 0.5
              publish 110
              = training: 1 worker seated, no step reported yet, 0 s
            > published 110
              persist checkpoint 110
              persist run g1
              tell checkpoint 110
              answer w1:1: Some("step-110")
              = training: 1 worker seated, no step reported yet, 0 s
            > ended w1 finished
              persist run g1
              says: finished: all 20 epochs, step 123
              tell ended Succeeded; last 110; best 50
              remove staging
              release w1:1
        "#]],
    );
}

#[test]
fn a_checkpoint_in_the_place_of_the_best_one_is_the_best() {
    check(
        "submit 1; resume 100 150 0.9; join w1; stage 150 0.9; published 150",
        expect![[r#"
            > submit
              persist run g0
              says: waiting for 1 of 1 workers, 0 s
              prepare
            > resume 100 150 0.9
              says: waiting for 1 of 1 workers, 0 s
            > join w1
              persist run g1
              tell seated g1
              says: training: 1 worker seated, no step reported yet, 0 s
              seat g1: w1:1 at 100, reported 100
            > stage 150 0.9
              publish 150 as best
              = training: 1 worker seated, no step reported yet, 0 s
            > published 150
              persist checkpoint 150
              persist run g1
              tell checkpoint 150 best
              answer w1:1: Some("step-150")
              = training: 1 worker seated, no step reported yet, 0 s
        "#]],
    );
}

#[test]
fn where_the_disk_is_slow_the_oldest_waiting_checkpoint_goes() {
    check(
        "submit 1; prepare; join w1; stage 1; stage 2; stage 3; stage 4; stage 5; stage 6; stage 7; stage 8; stage 9; \
         stage 10; published 1",
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
            > stage 1
              publish 1
              = training: 1 worker seated, no step reported yet, 0 s
            > stage 2
              = training: 1 worker seated, no step reported yet, 0 s
            > stage 3
              = training: 1 worker seated, no step reported yet, 0 s
            > stage 4
              = training: 1 worker seated, no step reported yet, 0 s
            > stage 5
              = training: 1 worker seated, no step reported yet, 0 s
            > stage 6
              = training: 1 worker seated, no step reported yet, 0 s
            > stage 7
              = training: 1 worker seated, no step reported yet, 0 s
            > stage 8
              = training: 1 worker seated, no step reported yet, 0 s
            > stage 9
              = training: 1 worker seated, no step reported yet, 0 s
            > stage 10
              warn: checkpoint of step 2 was not published: 8 newer ones wait for the disk
              answer w1:1: None
              = training: 1 worker seated, no step reported yet, 0 s
            > published 1
              persist checkpoint 1
              persist run g1
              tell checkpoint 1
              answer w1:1: Some("step-1")
              publish 3
              = training: 1 worker seated, no step reported yet, 0 s
        "#]],
    );
}
