//! What must hold in every state.

use alloc::format;
use alloc::string::String;

use super::server::{SERVERS, Server};
use super::state::State;
use crate::{Entry, Raft, Standing};

type Check = Result<(), String>;

fn must(holds: bool, what: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(what()) }
}

pub(super) fn check(state: &State) -> Check {
    for known in &state.servers {
        let raft = &known.server.raft;
        elected_once(state, raft)?;
        runs_the_same(state, raft)?;
    }
    latest_leader_is_complete(state)?;
    committed_is_durable(state)?;
    logs_match(state)
}

fn elected_once(state: &State, raft: &Raft) -> Check {
    let leads = raft.standing() == Standing::Leader;
    let elected = state.past.leaders.get(&raft.term());
    must(!leads || elected == Some(&raft.id()), || {
        format!("election safety: two leaders in term {}", raft.term())
    })
}

fn runs_the_same(state: &State, raft: &Raft) -> Check {
    state
        .past
        .committed
        .iter()
        .take_while(|entry| entry.at.index <= raft.commit())
        .try_for_each(|entry| {
            must(raft.log().entry(entry.at.index) == Some(entry), || {
                format!(
                    "state machine safety: server {} has another entry {}",
                    raft.id(),
                    entry.at.index
                )
            })
        })
}

/// A leader of an earlier term may not know.
fn latest_leader_is_complete(state: &State) -> Check {
    let latest = state.past.leaders.last_key_value().map(|(term, _)| *term);
    for known in &state.servers {
        let raft = &known.server.raft;
        if !known.server.leads() || Some(raft.term()) != latest {
            continue;
        }
        for entry in &state.past.committed {
            must(raft.log().entry(entry.at.index) == Some(entry), || {
                format!(
                    "leader completeness: leader {} lacks committed entry {}",
                    raft.id(),
                    entry.at.index
                )
            })?;
        }
    }
    Ok(())
}

fn committed_is_durable(state: &State) -> Check {
    for (place, entry) in state.past.committed.iter().enumerate() {
        let disks = state.servers.iter().map(|known| &known.server.disk);
        let holding = disks.filter(|disk| disk.entries.get(place) == Some(entry));
        let majority = usize::try_from(SERVERS / 2 + 1).unwrap_or(usize::MAX);
        must(holding.count() >= majority, || {
            format!(
                "entry {} is committed without a majority of disks",
                entry.at.index
            )
        })?;
    }
    Ok(())
}

fn logs_match(state: &State) -> Check {
    for (place, one) in state.servers.iter().enumerate() {
        for other in &state.servers[place + 1..] {
            pair_matches(&one.server.raft, &other.server.raft)?;
        }
    }
    Ok(())
}

fn pair_matches(one: &Raft, other: &Raft) -> Check {
    let mut same = false;
    for index in (1..=one.log().last().index).rev() {
        let (Some(a), Some(b)) = (one.log().entry(index), other.log().entry(index)) else {
            continue;
        };
        same |= a.at == b.at;
        must(!same || a == b, || {
            let (one, other) = (one.id(), other.id());
            format!("log matching: {one} and {other} agree after entry {index} but not there")
        })?;
    }
    Ok(())
}

/// A leader only adds to its log.
pub(super) fn append_only(before: &Server, after: &Server, crashed: bool) -> Check {
    let still = before.leads() && after.leads() && before.raft.term() == after.raft.term();
    if crashed || !still {
        return Ok(());
    }
    let kept = |entry: &Entry| after.raft.log().entry(entry.at.index) == Some(entry);
    let all = (1..=before.raft.log().last().index)
        .filter_map(|index| before.raft.log().entry(index))
        .all(kept);
    must(all, || {
        format!(
            "leader append-only: leader {} changes its log",
            before.raft.id()
        )
    })
}
