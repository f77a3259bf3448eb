//! Golden transcripts. `UPDATE_EXPECT=1 cargo test` writes them anew: read what
//! changed before it is committed.

use expect_test::expect_file;

use super::script::play;

macro_rules! transcripts {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            let script = include_str!(concat!("../../testdata/", stringify!($name), ".txt"));
            expect_file![concat!("../../testdata/", stringify!($name), ".txt")]
                .assert_eq(&play(script));
        }
    )*};
}

transcripts! {
    a_killed_primary_is_replaced_once_its_lease_is_over
    a_restarted_primary_is_promoted_at_once
    a_primary_that_is_killed_again_and_again_is_replaced_each_time
    a_coordinator_that_alone_lost_sight_of_a_primary_fences_nobody
    a_silent_primary_whose_lease_is_renewed_is_left_alone
    what_w1_may_have_lost_is_counted
    two_replicas_shrink_to_one_and_are_two_again
    a_joiner_that_dies_is_left_behind
    a_stale_report_does_not_count
    an_answer_to_a_question_is_no_fence
    a_fence_counts_once_it_is_flushed
    a_damaged_replica_does_not_count_and_is_replaced
    where_too_few_are_whole_a_known_head_counts
    a_wiped_node_gets_its_seats_back
    a_draining_node_hands_over_without_waiting_for_leases
    a_stuck_proposal_is_made_again
    the_highest_head_is_promoted
    too_few_answers_promote_nobody
    a_person_names_the_survivor
    a_primary_that_lost_its_others_goes_on_once_a_person_says_so
    two_replicas_with_w1_need_both_leases_and_shrink
    a_primary_that_dies_while_joint_needs_both_sets
    primaries_go_back_to_the_ring_when_all_is_calm
    a_primary_whose_engine_hangs_is_replaced_though_its_ports_answer
    a_primary_whose_client_port_is_dead_is_replaced
    a_mute_member_does_not_delay_the_fence
    a_primary_that_gets_no_further_is_given_up_after_a_second
    a_node_that_was_given_up_leaves_its_seats_to_its_name
    a_primary_without_its_followers_is_replaced_where_they_could_serve
    a_learner_that_is_too_slow_is_given_up_and_tried_again_later
    a_node_that_leaves_gives_up_its_copies_and_goes
    a_node_that_stays_away_is_replaced_and_comes_back
    three_replicas_become_five_and_three_again
    w_is_lowered_to_one_and_raised_again
    a_primary_without_a_seat_hands_over_before_it_is_replaced
}
