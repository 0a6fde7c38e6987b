//! Until all are seated, or are not.

use expect_test::expect;

use super::check;

#[test]
fn a_run_that_nobody_joins_says_how_many_are_missing() {
    check(
        "submit 2; prepare; join w1; turned worker `w2:1` is of version 0.0.9; wait 59s; wait 1s",
        expect![[r#"
        > submit
          persist run g0
          says: waiting for 2 of 2 workers, 0 s
          prepare
        > prepare
          says: waiting for 2 of 2 workers, 0 s
        > join w1
          says: waiting for 1 of 2 workers, 0 s
        > turned worker `w2:1` is of version 0.0.9
          = waiting for 1 of 2 workers, 0 s
        > wait 59s
          = waiting for 1 of 2 workers, 59 s
        > wait 1s
          persist run g0
          says: failed: run `r-1` did not start: 1 of 2 workers joined within 60 s
          tell ended Failed; cause: worker `w2:1` is of version 0.0.9; hint: start 1 more, or set `cluster.workers = 1`
          remove staging
          release w1:1
    "#]],
    );
}

#[test]
fn nobody_is_late_behind_another_run() {
    check(
        "submit 2; queue behind; wait 300s; queue free; wait 59s; wait 1s; join w1",
        expect![[r#"
        > submit
          persist run g0
          says: waiting for 2 of 2 workers, 0 s
          prepare
        > queue behind
          says: waiting for 2 of 2 workers, behind run `r-00000000000000000000000000`
        > wait 300s
          = waiting for 2 of 2 workers, behind run `r-00000000000000000000000000`
        > queue free
          says: waiting for 2 of 2 workers, 0 s
        > wait 59s
          = waiting for 2 of 2 workers, 59 s
        > wait 1s
          persist run g0
          says: failed: run `r-1` did not start: 0 of 2 workers joined within 60 s
          tell ended Failed; hint: start 2 workers for this coordinator, or raise `cluster.join_timeout`
          remove staging
        > join w1
          release w1:1
          = failed: run `r-00000000010000000000000001` did not start: 0 of 2 workers joined within 60 s
    "#]],
    );
}

#[test]
fn a_dataset_that_cannot_be_used_ends_the_run() {
    check(
        "submit 1; join w1; refuse dataset has 1 list, 2 workers need at least 2; join w1",
        expect![[r#"
        > submit
          persist run g0
          says: waiting for 1 of 1 workers, 0 s
          prepare
        > join w1
          says: reading the dataset, 0 s
        > refuse dataset has 1 list, 2 workers need at least 2
          persist run g0
          says: failed: dataset has 1 list, 2 workers need at least 2
          tell ended Failed
          remove staging
          release w1:1
        > join w1
          release w1:1
          = failed: dataset has 1 list, 2 workers need at least 2
    "#]],
    );
}

#[test]
fn own_workers_that_are_gone_are_not_waited_for() {
    check(
        "submit 2; join w1; alone worker `w2:1` ended before the run began: exited with status 127",
        expect![[r#"
        > submit
          persist run g0
          says: waiting for 2 of 2 workers, 0 s
          prepare
        > join w1
          says: waiting for 1 of 2 workers, 0 s
        > alone worker `w2:1` ended before the run began: exited with status 127
          persist run g0
          says: failed: run `r-1` did not start: a worker it needs is gone
          tell ended Failed; cause: worker `w2:1` ended before the run began: exited with status 127; hint: see what the worker wrote to standard error
          remove staging
          release w1:1
    "#]],
    );
}

#[test]
fn who_leaves_before_the_seating_is_missing_again() {
    check(
        "submit 2; prepare; join w1; lose w1 session closed; join w1:2; join w2",
        expect![[r#"
        > submit
          persist run g0
          says: waiting for 2 of 2 workers, 0 s
          prepare
        > prepare
          says: waiting for 2 of 2 workers, 0 s
        > join w1
          says: waiting for 1 of 2 workers, 0 s
        > lose w1 session closed
          says: waiting for 2 of 2 workers, 0 s
        > join w1:2
          says: waiting for 1 of 2 workers, 0 s
        > join w2
          persist run g1
          tell seated g1
          says: training: 2 workers seated, no step reported yet, 0 s
          seat g1: w1:2 w2:1
    "#]],
    );
}

#[test]
fn a_stop_before_training_is_immediate() {
    check(
        "submit 2; join w1; stop; prepare",
        expect![[r#"
        > submit
          persist run g0
          says: waiting for 2 of 2 workers, 0 s
          prepare
        > join w1
          says: waiting for 1 of 2 workers, 0 s
        > stop
          persist run g0
          says: stopped on request before it trained
          tell ended Stopped
          remove staging
          release w1:1
        > prepare
          = stopped on request before it trained
    "#]],
    );
}

#[test]
fn who_takes_the_place_of_one_that_left_has_the_whole_time() {
    check(
        "submit 2; prepare; join w1; wait 50s; lose w1 session closed; wait 59s; join w1:2 w2",
        expect![[r#"
        > submit
          persist run g0
          says: waiting for 2 of 2 workers, 0 s
          prepare
        > prepare
          says: waiting for 2 of 2 workers, 0 s
        > join w1
          says: waiting for 1 of 2 workers, 0 s
        > wait 50s
          = waiting for 1 of 2 workers, 50 s
        > lose w1 session closed
          says: waiting for 2 of 2 workers, 0 s
        > wait 59s
          = waiting for 2 of 2 workers, 59 s
        > join w1:2 w2
          says: waiting for 1 of 2 workers, 59 s
          persist run g1
          tell seated g1
          says: training: 2 workers seated, no step reported yet, 0 s
          seat g1: w1:2 w2:1
    "#]],
    );
}
