//! What must hold after every step, seen from above (section 5, figure 3).

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::disk::Disk;
use crate::{
    Action, Body, Entry, Index, Membership, NodeId, Payload, Position, Raft, Standing, Term,
};

/// What is true of the whole cluster so far.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    leaders: BTreeMap<Term, NodeId>,
    /// The end of a leader's log when last seen.
    led: BTreeMap<Term, Position>,
    /// Everything committed, from index 1; the payload is unknown while only witnesses have shown it.
    committed: Vec<Committed>,
    seen: BTreeMap<NodeId, Seen>,
    /// The last index whose effect a client has learnt.
    pub(crate) acknowledged: Index,
}

#[derive(Debug)]
struct Committed {
    term: Term,
    /// The term whose leader committed it.
    by: Term,
    payload: Option<Payload>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    term: Term,
    commit: Index,
    standing: Option<Standing>,
}

type Check = Result<(), String>;

fn must(holds: bool, what: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(what()) }
}

impl Truth {
    /// How much is committed.
    pub(crate) fn committed(&self) -> Index {
        Index::try_from(self.committed.len()).unwrap_or(Index::MAX)
    }

    /// A server stopped; what it knew of commits may be forgotten, its term may not if it was on disk.
    pub(crate) fn stopped(&mut self, id: NodeId, disk: &Disk) {
        let term = disk.image.hard_state.term;
        self.seen.insert(
            id,
            Seen {
                term,
                ..Seen::default()
            },
        );
    }

    /// Compares a server with everything known.
    pub(crate) fn observe(&mut self, raft: &Raft, disks: &BTreeMap<NodeId, Disk>) -> Check {
        let seen = self.seen.get(&raft.id()).copied().unwrap_or_default();
        let now = Seen {
            term: raft.term(),
            commit: raft.commit(),
            standing: Some(raft.standing()),
        };
        let (id, log) = (raft.id(), raft.log());
        must(now.term >= seen.term, || {
            format!(
                "server {id} went back from term {} to {}",
                seen.term, now.term
            )
        })?;
        must(now.commit >= seen.commit, || {
            format!("server {id} uncommitted entries")
        })?;
        let ordered = log.base().index <= log.snapshot().last().index
            && log.snapshot().last().index <= now.commit
            && now.commit <= log.last().index;
        must(ordered, || {
            format!("server {id}: snapshot, commit and log are out of order")
        })?;
        if now.commit > seen.commit {
            self.commit(raft, seen.commit, disks)?;
        }
        if raft.standing() == Standing::Leader {
            self.observe_leader(
                raft,
                seen.standing != Some(Standing::Leader) || seen.term != now.term,
            )?;
        }
        self.seen.insert(id, now);
        Ok(())
    }

    fn observe_leader(&mut self, raft: &Raft, new: bool) -> Check {
        let (id, term, log) = (raft.id(), raft.term(), raft.log());
        let first = *self.leaders.entry(term).or_insert(id);
        must(first == id, || {
            format!("election safety: servers {first} and {id} lead term {term}")
        })?;
        if new {
            let earlier = self.committed.iter().rposition(|entry| entry.by < term);
            let last = earlier.map_or(0, |place| Index::try_from(place + 1).unwrap_or(Index::MAX));
            let has = last <= log.base().index
                || last.checked_sub(1).is_none()
                || log.term(last) == Some(self.term(last));
            must(has, || {
                format!(
                    "leader completeness: leader {id} of term {term} lacks committed entry {last}"
                )
            })?;
        }
        let before = self.led.insert(term, log.last()).unwrap_or_default();
        let kept = before.index <= log.base().index || log.has(before);
        must(kept, || {
            format!(
                "leader append-only: leader {id} of term {term} lost entry {}",
                before.index
            )
        })?;
        let changes = log.slice(
            self.committed().max(log.base().index) + 1,
            log.last().index,
            u64::MAX,
        );
        let changes = changes
            .iter()
            .filter(|entry| matches!(entry.payload, Payload::Membership(_)));
        must(changes.count() <= 1, || {
            format!("leader {id} changes the membership twice at once")
        })
    }

    /// The term of a committed entry, whether or not some log still holds it.
    fn term(&self, index: Index) -> Term {
        let place = usize::try_from(index.wrapping_sub(1)).unwrap_or(usize::MAX);
        self.committed.get(place).map_or(0, |entry| entry.term)
    }

    fn commit(&mut self, raft: &Raft, from: Index, disks: &BTreeMap<NodeId, Disk>) -> Check {
        let log = raft.log();
        for entry in log.slice(
            (from + 1).max(log.base().index + 1),
            raft.commit(),
            u64::MAX,
        ) {
            if entry.at.index <= self.committed() {
                self.same(raft.id(), &entry)?;
                continue;
            }
            must(entry.at.index == self.committed() + 1, || {
                format!(
                    "entry {} is committed before those before it",
                    entry.at.index
                )
            })?;
            let known = (entry.payload != Payload::Withheld).then(|| entry.payload.clone());
            self.committed.push(Committed {
                term: entry.at.term,
                by: raft.term(),
                payload: known,
            });
        }
        let last = Position {
            term: log.term(raft.commit()).unwrap_or(0),
            index: raft.commit(),
        };
        if raft.standing() == Standing::Leader && last.index > log.base().index {
            let on_disks = |membership: &Membership, at| {
                membership.agreed(|id| disks.get(&id).is_some_and(|disk| disk.vouches_for(at)))
            };
            let (start, membership) = log.membership_from(last.index);
            // Once a joint membership is committed, the one after it decides.
            let joint = Position {
                term: self.term(start),
                index: start,
            };
            let left = membership.is_joint()
                && !log.membership().is_joint()
                && on_disks(membership, joint);
            let enough = on_disks(membership, last) || left && on_disks(log.membership(), last);
            must(enough, || {
                format!(
                    "entry {} is committed without a majority of disks",
                    last.index
                )
            })?;
        }
        Ok(())
    }

    /// Log matching and state machine safety.
    fn same(&mut self, id: NodeId, entry: &Entry) -> Check {
        let place = usize::try_from(entry.at.index - 1).unwrap_or(usize::MAX);
        let Some(Committed { term, payload, .. }) = self.committed.get_mut(place) else {
            return Err(format!(
                "server {id} knows entry {} to be committed, nobody else",
                entry.at.index
            ));
        };
        if payload.is_none() && entry.payload != Payload::Withheld {
            *payload = Some(entry.payload.clone());
        }
        let same = *term == entry.at.term
            && (entry.payload == Payload::Withheld || payload.as_ref() == Some(&entry.payload));
        must(same, || {
            format!(
                "state machine safety: server {id} has another entry {}",
                entry.at.index
            )
        })
    }

    /// Nothing is promised before it is on disk, nothing runs that is not committed.
    pub(crate) fn act(&mut self, id: NodeId, action: &Action, disk: &Disk) -> Check {
        match action {
            Action::Send { to, message } => {
                let hard = disk.image.hard_state;
                match message.body {
                    Body::Vote {
                        pre: false,
                        granted: true,
                    } => {
                        let kept = hard.term > message.term
                            || (hard.term == message.term && hard.voted_for == Some(*to));
                        must(kept, || {
                            format!("server {id} sends a vote that is not on its disk")
                        })
                    }
                    Body::Appended { index } => must(disk.last().index >= index, || {
                        format!("server {id} acknowledges entry {index}, which is not on its disk")
                    }),
                    _ => Ok(()),
                }
            }
            Action::Apply(entries) => entries.iter().try_for_each(|entry| self.same(id, entry)),
            _ => Ok(()),
        }
    }
}
