//! Single rules, each in the smallest situation that shows it.

mod scripts;

use scripts::{
    a_candidate_counts_only_votes_of_its_term, a_follower_acknowledges_only_what_it_has_matched,
    a_follower_commits_only_what_it_has_matched,
    a_restarted_server_does_not_vote_while_a_lease_may_last, a_transfer_ends_the_lease,
    an_old_entry_is_committed_only_with_a_new_one,
};

#[test]
fn rules_that_chance_seldom_tests_hold() {
    assert!(a_follower_commits_only_what_it_has_matched(&|options| {
        options
    }));
    assert!(a_follower_acknowledges_only_what_it_has_matched(
        &|options| options
    ));
    assert!(a_restarted_server_does_not_vote_while_a_lease_may_last(
        &|options| options
    ));
    assert!(an_old_entry_is_committed_only_with_a_new_one(&|options| {
        options
    }));
    assert!(a_candidate_counts_only_votes_of_its_term(&|options| {
        options
    }));
    assert!(a_transfer_ends_the_lease(&|options| options));
}
