//! Situations that chance hardly ever finds, played by hand. Each tells whether the rule holds.

use std::sync::Arc;

use raft_log::{
    Action, Body, Boot, Entry, Membership, Message, Options, Payload, Position, Raft, ReadMode,
    Standing,
};

/// Options of a server; the mutation tests break a rule in them.
pub(crate) type With<'a> = &'a dyn Fn(Options) -> Options;

/// Does everything that a server asks of its disk; what it sends.
fn settle(raft: &mut Raft, now: u64) -> Vec<(u64, Message)> {
    let mut sent = Vec::new();
    loop {
        let actions: Vec<_> = raft.actions().collect();
        if actions.is_empty() {
            return sent;
        }
        for action in actions {
            match action {
                Action::Send { to, message } => sent.push((to, message)),
                Action::Write(write) => raft.stored(now, write.ticket),
                _ => {}
            }
        }
    }
}

fn server(with: With<'_>, lease: bool) -> Raft {
    let options = Options {
        lease_drift_percent: lease.then_some(10),
        ..Options::new(1, 1)
    };
    Raft::new(with(options), &Boot::first(Membership::of([1, 2, 3])), 0).unwrap()
}

fn entries(term: u64, indexes: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
    let entry = |index| Entry {
        at: Position { term, index },
        payload: Payload::Command(Arc::from([0])),
    };
    indexes.map(entry).collect()
}

fn hear(raft: &mut Raft, now: u64, from: u64, term: u64, body: Body) -> Vec<Message> {
    raft.receive(now, from, Message { term, body }).unwrap();
    settle(raft, now)
        .into_iter()
        .map(|(_, message)| message)
        .collect()
}

/// A follower with a tail that its new leader lacks hears where the logs agree, and that more is committed.
fn with_stale_tail(with: With<'_>) -> (Raft, Vec<Message>) {
    let mut raft = server(with, false);
    let append = Body::Append {
        prev: Position::default(),
        commit: 0,
        entries: entries(1, 1..=5).into(),
    };
    hear(&mut raft, 1, 2, 1, append);
    let prev = Position { term: 1, index: 3 };
    let probe = Body::Append {
        prev,
        commit: 5,
        entries: Vec::new().into(),
    };
    let answers = hear(&mut raft, 2, 3, 2, probe);
    (raft, answers)
}

pub(crate) fn a_follower_commits_only_what_it_has_matched(with: With<'_>) -> bool {
    with_stale_tail(with).0.commit() == 3
}

pub(crate) fn a_follower_acknowledges_only_what_it_has_matched(with: With<'_>) -> bool {
    let body = Body::Appended { index: 3 };
    with_stale_tail(with).1 == [Message { term: 2, body }]
}

/// The leader may be counting on the heartbeat that this server acknowledged before it stopped.
pub(crate) fn a_restarted_server_does_not_vote_while_a_lease_may_last(with: With<'_>) -> bool {
    let mut raft = server(with, true);
    let request = || Body::RequestVote {
        pre: false,
        last: Position { term: 1, index: 9 },
        transfer: false,
    };
    let early = hear(&mut raft, 1, 2, 2, request());
    let granted = |messages: &[Message]| {
        messages
            .iter()
            .any(|message| matches!(message.body, Body::Vote { granted: true, .. }))
    };
    let late = hear(&mut raft, 150, 2, 2, request());
    !granted(&early) && granted(&late)
}

/// A leader of servers 1 to 3 whose followers have everything.
fn leader(with: With<'_>, lease: bool) -> Raft {
    let mut raft = server(with, lease);
    raft.campaign(200);
    settle(&mut raft, 200);
    let vote = |pre| Body::Vote { pre, granted: true };
    hear(&mut raft, 200, 2, 1, vote(true));
    hear(&mut raft, 200, 2, 1, vote(false));
    assert_eq!(raft.standing(), Standing::Leader);
    for follower in [2, 3] {
        hear(&mut raft, 200, follower, 1, Body::Appended { index: 1 });
        hear(&mut raft, 200, follower, 1, Body::HeartbeatAck { round: 1 });
    }
    raft
}

/// The target of the transfer votes whatever the lease says.
pub(crate) fn a_transfer_ends_the_lease(with: With<'_>) -> bool {
    let mut raft = leader(with, true);
    let reads = |raft: &mut Raft, id| {
        raft.read(201, id, ReadMode::Lease).unwrap();
        raft.actions()
            .any(|action| matches!(action, Action::ReadReady { .. }))
    };
    let before = reads(&mut raft, 1);
    raft.transfer(201, 2).unwrap();
    settle(&mut raft, 201);
    before && !reads(&mut raft, 2)
}

/// Figure 8: an entry of an earlier term can be overwritten even where a majority has it.
pub(crate) fn an_old_entry_is_committed_only_with_a_new_one(with: With<'_>) -> bool {
    let mut raft = server(with, false);
    let append = Body::Append {
        prev: Position::default(),
        commit: 0,
        entries: entries(1, 1..=3).into(),
    };
    hear(&mut raft, 1, 2, 1, append);
    raft.campaign(500);
    settle(&mut raft, 500);
    let vote = |pre| Body::Vote { pre, granted: true };
    hear(&mut raft, 500, 2, 2, vote(true));
    hear(&mut raft, 500, 2, 2, vote(false));
    hear(&mut raft, 500, 2, 2, Body::Appended { index: 3 });
    let early = raft.commit();
    hear(&mut raft, 500, 2, 2, Body::Appended { index: 4 });
    early == 0 && raft.commit() == 4
}

/// The vote for an election that was given up arrives in the next.
pub(crate) fn a_candidate_counts_only_votes_of_its_term(with: With<'_>) -> bool {
    let mut raft = server(with, false);
    let vote = |pre| Body::Vote { pre, granted: true };
    for (term, now) in [(1, 500), (2, 1_000)] {
        raft.campaign(now);
        settle(&mut raft, now);
        hear(&mut raft, now, 2, term, vote(true));
    }
    assert_eq!(raft.term(), 2);
    hear(&mut raft, 1_000, 3, 1, vote(false));
    raft.standing() == Standing::Candidate
}
