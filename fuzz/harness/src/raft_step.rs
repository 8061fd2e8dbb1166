//! One Raft server among peers that say anything.

use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use raft_log::{
    Action, Body, Boot, Entries, Entry, Membership, Message, Options, Payload, Position, Raft,
    ReadMode, Snapshot, Standing,
};

const CALLS_MAX: usize = 200;

/// Messages, time, finished writes and requests in any order: no panic, terms and commits never go back, and whatever is
/// handed out to run follows what was handed out before.
pub fn raft_step(data: &[u8]) {
    // The end of the input is the end of the run.
    let _ended = play(&mut Unstructured::new(data)).is_err();
}

struct Play {
    raft: Raft,
    now: u64,
    issued: u64,
    handed: u64,
    last_handed: Position,
}

fn play(u: &mut Unstructured<'_>) -> Result<()> {
    let options = Options {
        lease_drift_percent: u.arbitrary::<bool>()?.then_some(10),
        append_bytes: 100,
        in_flight: 2,
        chunk_bytes: 3,
        snapshot_bytes: 100,
        ..Options::new(1, 1)
    };
    let boot = Boot::first(Membership::of(1..=u.int_in_range(1..=4)?));
    let raft = Raft::new(options, &boot, 0).expect("an empty disk is a good one");
    let mut play = Play {
        raft,
        now: 0,
        issued: 0,
        handed: 0,
        last_handed: Position::default(),
    };
    for _ in 0..CALLS_MAX {
        play.call(u)?;
    }
    Ok(())
}

impl Play {
    fn call(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let before = (self.raft.term(), self.raft.commit());
        let raft = &mut self.raft;
        match u.int_in_range(0..=11)? {
            0 => {
                self.now += u.int_in_range(0..=200)?;
                raft.tick(self.now);
            }
            1 => raft.stored(self.now, u.int_in_range(0..=self.issued)?),
            2 => raft.applied(self.now, self.handed),
            3 => {
                let _refused = raft
                    .propose(self.now, [Arc::from([0; 8]), Arc::from([1; 90])])
                    .is_err();
            }
            4 => {
                let _refused = raft.read(self.now, 0, ReadMode::Lease).is_err();
            }
            5 => {
                let _refused = raft.change_membership(self.now, &membership(u)?).is_err();
            }
            6 => {
                let _refused = raft.transfer(self.now, u.int_in_range(0..=5)?).is_err();
            }
            7 => {
                raft.applied(self.now, self.handed);
                raft.compact(
                    self.now,
                    self.last_handed,
                    Arc::from(*b"state"),
                    u.int_in_range(0..=2)?,
                );
            }
            8 => raft.campaign(self.now),
            _ => {
                let from = u.int_in_range(0..=5)?;
                let message = message(u, &self.raft)?;
                let _refused = self.raft.receive(self.now, from, message).is_err();
            }
        }
        self.look(before);
        Ok(())
    }

    fn look(&mut self, before: (u64, u64)) {
        for action in self.raft.actions() {
            match action {
                Action::Write(write) => self.issued = write.ticket,
                Action::Apply(entries) => {
                    for entry in entries {
                        assert_eq!(entry.at.index, self.handed + 1, "entries run in order");
                        self.handed = entry.at.index;
                        self.last_handed = entry.at;
                    }
                }
                Action::Restore(snapshot) => {
                    assert!(
                        snapshot.last().index > self.handed,
                        "a snapshot goes forward"
                    );
                    self.handed = snapshot.last().index;
                    self.last_handed = snapshot.last();
                }
                _ => {}
            }
        }
        assert!(
            (self.raft.term(), self.raft.commit()) >= before,
            "terms and commits stay"
        );
        assert!(self.raft.commit() >= before.1, "commits stay");
        assert!(
            self.raft.commit() <= self.raft.log().last().index,
            "what is committed is there"
        );
        assert!(
            self.handed <= self.raft.commit(),
            "only what is committed runs"
        );
        let leads = self.raft.standing() == Standing::Leader;
        assert_eq!(
            leads,
            self.raft.leader() == Some(1),
            "a leader knows itself"
        );
    }
}

/// Mostly near to what the server has, so that it is not refused at once.
fn number(u: &mut Unstructured<'_>, near: u64) -> Result<u64> {
    Ok(match u.int_in_range(0..=15)? {
        0 => u.arbitrary()?,
        1 => u64::MAX,
        2 => 0,
        other => near.saturating_add(other).saturating_sub(8),
    })
}

fn position(u: &mut Unstructured<'_>, raft: &Raft) -> Result<Position> {
    let known = if u.arbitrary()? {
        raft.log().last()
    } else {
        Position {
            term: raft.term(),
            index: raft.commit(),
        }
    };
    if u.arbitrary()? {
        return Ok(known);
    }
    Ok(Position {
        term: number(u, known.term)?,
        index: number(u, known.index)?,
    })
}

fn membership(u: &mut Unstructured<'_>) -> Result<Membership> {
    let mut membership = Membership::default();
    for id in 0..u.int_in_range(0..=6)? {
        match u.int_in_range(0..=4)? {
            0 => membership.learners.insert(id),
            1 => membership.outgoing.insert(id),
            2 => membership.witnesses.insert(id) && membership.voters.insert(id),
            _ => membership.voters.insert(id),
        };
    }
    Ok(membership)
}

fn message(u: &mut Unstructured<'_>, raft: &Raft) -> Result<Message> {
    let term = if u.arbitrary()? {
        raft.term()
    } else {
        number(u, raft.term())?
    };
    let near = raft.log().last().index;
    let body = match u.int_in_range(0..=10)? {
        0 => Body::RequestVote {
            pre: u.arbitrary()?,
            last: position(u, raft)?,
            transfer: u.arbitrary()?,
        },
        1 => Body::Vote {
            pre: u.arbitrary()?,
            granted: u.arbitrary()?,
        },
        2 | 3 => {
            let prev = position(u, raft)?;
            let entries = entries(u, prev)?;
            Body::Append {
                prev,
                commit: number(u, near)?,
                entries,
            }
        }
        4 => Body::Appended {
            index: number(u, near)?,
        },
        5 => Body::Rejected {
            prev: number(u, near)?,
            hint: position(u, raft)?,
            lost: u.arbitrary()?,
        },
        6 => Body::Heartbeat {
            commit: number(u, near)?,
            round: u.arbitrary()?,
        },
        7 => Body::HeartbeatAck {
            round: number(u, 3)?,
        },
        8 => {
            let snapshot = Snapshot::new(
                position(u, raft)?,
                Arc::new(membership(u)?),
                Arc::from(*b"state"),
            );
            let offset = number(u, 2)?;
            let skip = usize::try_from(offset).unwrap_or(usize::MAX).min(5);
            let bytes = snapshot.data()[skip..].to_vec();
            Body::Chunk {
                of: snapshot.id(),
                membership: snapshot.membership().clone(),
                offset,
                bytes,
            }
        }
        9 => Body::Committed {
            last: position(u, raft)?,
            index: number(u, near)?,
        },
        _ => Body::TimeoutNow,
    };
    Ok(Message { term, body })
}

fn entries(u: &mut Unstructured<'_>, prev: Position) -> Result<Entries> {
    let mut entries = Entries::new();
    let mut at = prev;
    for _ in 0..u.int_in_range(0..=3)? {
        at.index = if u.ratio(1, 16)? {
            u.arbitrary()?
        } else {
            at.index.wrapping_add(1)
        };
        at.term = at.term.wrapping_add(u.int_in_range(0..=1)?);
        let payload = match u.int_in_range(0..=3)? {
            0 => Payload::Membership(Arc::new(membership(u)?)),
            1 => Payload::Withheld,
            2 => Payload::Empty,
            _ => Payload::Command(Arc::from([2; 4])),
        };
        entries.push(Entry { at, payload });
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    #[test]
    fn smoke() {
        arbtest::arbtest(|u| {
            let bytes = u.bytes(u.len())?;
            super::raft_step(bytes);
            Ok(())
        })
        .budget_ms(1_000);
    }
}
