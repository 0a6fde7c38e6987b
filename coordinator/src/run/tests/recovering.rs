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
        expect![[""]],
    );
}

#[test]
fn the_newest_state_wins_and_an_open_epoch_is_older_than_a_closed_one() {
    check(
        "submit 4; prepare; join w1 w2 w3 w4; step 120; exit w4 killed by signal 9 (SIGKILL); ended w1 aborted at 121; \
         ended w2 peerlost w4 in 122; ended w3 peerlost w4 at 122; join w4:2",
        expect![[""]],
    );
}

#[test]
fn rank_0_is_always_one_that_held_a_state() {
    two(
        "exit w1 killed by signal 9 (SIGKILL); join w1:2; ended w2 peerlost w1 at 120; step 125 w2 @g2",
        expect![[""]],
    );
}

#[test]
fn where_fewer_suffice_they_go_on_at_once_and_others_are_let_in_at_a_step_boundary() {
    check(
        "submit 1 2 2; prepare; join w1 w2; step 120; ended w1 peerlost w2 at 123; exit w2 killed by signal 9; \
         step 130 w1 @g2; join w2:2; ended w1 yielded at 133 @g2; step 140 w1 @g3",
        expect![[""]],
    );
}

#[test]
fn when_nobody_is_left_the_newest_checkpoint_is_gone_back_to() {
    two(
        "stage 100 0.5; published 100; epoch 0; exit w1 killed by signal 9; exit w2 killed by signal 9; join w1:2 w2:2; \
         step 110 w1:2 @g2",
        expect![[""]],
    );
}

#[test]
fn without_a_checkpoint_it_starts_again() {
    two("exit w1 killed by signal 9; exit w2 killed by signal 9; join w1:2 w2:2", expect![[""]]);
}

#[test]
fn a_member_that_does_not_let_go_is_left_behind() {
    check(
        "submit 3; prepare; join w1 w2 w3; step 120; exit w3 killed by signal 9; ended w1 peerlost w3 at 123; wait 4s; wait 1s; \
         wait 1s; lose w2 hung; join w2:2 w3:2",
        expect![[""]],
    );
}

#[test]
fn a_member_that_hangs_while_its_peers_wait_for_it_is_expelled() {
    two(
        "beat w1 121 waiting; beat w2 120; wait 59s; wait 2s; lose w2 hung; ended w1 aborted at 121",
        expect![[""]],
    );
}

#[test]
fn a_whole_world_that_waits_is_nobodys_fault() {
    two("beat w1 121 waiting; beat w2 121 waiting; wait 100s", expect![[""]]);
}

#[test]
fn a_member_that_is_told_to_go_hands_over_first() {
    check(
        "submit 1 2 2; prepare; join w1 w2; step 120; drain w1; ended w1 yielded at 123; ended w2 yielded at 123; lose w1 dismissed",
        expect![[""]],
    );
}

#[test]
fn the_only_member_saves_before_it_goes_and_its_successor_goes_on_from_there() {
    check(
        "submit 1; prepare; join w1; step 120; drain w1; stage 123; ended w1 stopped; published 123; join w3",
        expect![[""]],
    );
}

#[test]
fn where_nobody_else_will_come_what_is_held_is_saved_before_the_run_fails() {
    two(
        "ended w1 peerlost w2 at 123; exit w2 killed by signal 9; alone w2 was given up; stage 123 0.4 @g2; ended w1 stopped @g2; published 123",
        expect![[""]],
    );
}

#[test]
fn a_stop_while_nothing_trains_saves_what_is_held() {
    two(
        "ended w1 peerlost w2 at 123; exit w2 killed by signal 9; stop; stage 123 @g2; ended w1 stopped @g2; published 123",
        expect![[""]],
    );
}

#[test]
fn a_stop_at_once_while_nothing_trains_ends_at_once() {
    two("ended w1 peerlost w2 at 123; exit w2 killed by signal 9; stop now", expect![[""]]);
}

#[test]
fn generations_that_get_nowhere_end_the_run_with_the_first_cause() {
    check(
        "submit 1; prepare; join w1; step 120; exit w1 killed by signal 9; join w1:2; exit w1:2 killed by signal 9; \
         join w1:3; exit w1:3 killed by signal 9; join w1:4; exit w1:4 killed by signal 9; join w1:5; \
         exit w1:5 killed by signal 9; join w1:6; exit w1:6 killed by signal 9",
        expect![[""]],
    );
}

#[test]
fn peers_that_cannot_reach_a_member_that_lives_go_on_without_it() {
    check(
        "submit 3; prepare; join w1 w2 w3; step 120; ended w1 peerlost w3 at 121; ended w2 peerlost w3 at 121; \
         ended w3 peerlost w1 at 121; ended w1 peerlost w3 at 121 @g2; ended w2 peerlost w3 at 121 @g2; ended w3 peerlost w1 at 121 @g2; \
         lose w3 its peers cannot reach it; join w4",
        expect![[""]],
    );
}

#[test]
fn a_rank_that_is_lost_after_rank_0_has_saved_all_changes_nothing() {
    two("stage 123 0.4; ended w1 finished; exit w2 killed by signal 9; published 123", expect![[""]]);
}

#[test]
fn a_rank_0_that_is_lost_in_its_last_checkpoint_is_replaced_by_one_that_holds_the_end() {
    two(
        "ended w2 finished; exit w1 killed by signal 9; join w1:2; stage 123 0.4 @g2; ended w2 finished @g2; ended w1:2 finished @g2; \
         published 123",
        expect![[""]],
    );
}

#[test]
fn fewer_than_were_wanted_begin_when_they_have_waited_long_enough() {
    check("submit 1 2 3; prepare; join w1; wait 59s; wait 1s; join w2 w3; ended w1 yielded at 5", expect![[""]]);
}
