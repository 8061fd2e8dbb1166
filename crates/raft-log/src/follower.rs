//! What a follower does with its leader's entries and snapshots (section 5.3 and 7).

use alloc::vec::Vec;

use crate::mutation::broken;
use crate::raft::Raft;
use crate::snapshot::Incoming;
use crate::{Body, Entries, Entry, Index, NodeId, Payload, Position, Snapshot, StepError};

/// Indexes above this are a peer's mistake; it leaves room for what is added to them.
const INDEX_MAX: Index = 1 << 62;

impl Raft {
    pub(crate) fn follow_leader(&mut self, from: NodeId, body: Body) -> Result<(), StepError> {
        match body {
            Body::Append {
                prev,
                commit,
                entries,
            } => {
                let answer = self.hear_append(prev, commit, entries)?;
                self.promise(from, self.hard.term, answer);
                Ok(())
            }
            Body::Committed { last, index } => {
                let answer = self.hear_append(last, index, Entries::new())?;
                if matches!(answer, Body::Rejected { .. }) {
                    self.promise(from, self.hard.term, answer);
                }
                Ok(())
            }
            Body::Heartbeat { commit, round } => {
                self.commit_to(commit.min(self.log.last().index));
                self.promise(from, self.hard.term, Body::HeartbeatAck { round });
                Ok(())
            }
            Body::Chunk {
                of,
                membership,
                offset,
                bytes,
            } => {
                let piece = Incoming {
                    id: of,
                    membership,
                    data: bytes,
                };
                self.hear_chunk(from, offset, piece)
            }
            _ => Ok(()),
        }
    }

    fn hear_append(
        &mut self,
        prev: Position,
        commit: Index,
        entries: Entries,
    ) -> Result<Body, StepError> {
        self.check_entries(prev, &entries)?;
        let answer = if prev.index < self.commit {
            // What is committed here is in every leader's log.
            Body::Appended { index: self.commit }
        } else if self.log.has(prev)
            || broken!(self.options, NoPreviousCheck) && prev.index <= self.log.last().index
        {
            let last = entries.last().map_or(prev.index, |entry| entry.at.index);
            self.take_entries(entries)?;
            let known = if broken!(self.options, CommitUnmatched) {
                self.log.last().index
            } else {
                last
            };
            self.commit_to(commit.min(known));
            Body::Appended {
                index: if broken!(self.options, AcknowledgeAll) {
                    self.log.last().index
                } else {
                    last
                },
            }
        } else {
            Body::Rejected {
                prev: prev.index,
                hint: self.log.agree_before(prev.index, prev.term),
                lost: self.log.last() < self.hard.floor,
            }
        };
        Ok(answer)
    }

    fn check_entries(&self, prev: Position, entries: &[Entry]) -> Result<(), StepError> {
        let mut before = prev;
        for entry in entries {
            let follows = before.index < INDEX_MAX && entry.at.index == before.index + 1;
            if !follows || entry.at.term < before.term {
                return Err(StepError::Entries);
            }
            if let Payload::Membership(membership) = &entry.payload {
                membership.validate()?;
            }
            before = entry.at;
        }
        if before.term > self.hard.term {
            return Err(StepError::Entries);
        }
        Ok(())
    }

    /// Keeps what is there, replaces what conflicts, adds what is new.
    fn take_entries(&mut self, entries: Entries) -> Result<(), StepError> {
        for entry in entries {
            let same = match self.log.term(entry.at.index) {
                Some(term) => term == entry.at.term || broken!(self.options, CompareIndexOnly),
                None => false,
            };
            if same {
                continue;
            }
            if entry.at.index <= self.commit {
                return Err(StepError::ContradictsCommitted(entry.at.index));
            }
            if entry.at.index <= self.log.last().index {
                self.log.truncate(entry.at.index - 1);
            }
            self.append(entry);
        }
        Ok(())
    }

    fn commit_to(&mut self, index: Index) {
        self.commit = self.commit.max(index);
    }

    fn hear_chunk(&mut self, from: NodeId, offset: u64, piece: Incoming) -> Result<(), StepError> {
        let id = piece.id;
        let end = offset
            .checked_add(piece.received())
            .filter(|end| *end <= id.size);
        if end.is_none()
            || id.size > self.options.snapshot_bytes
            || id.last.index > INDEX_MAX
            || id.last.term > self.hard.term
        {
            return Err(StepError::Chunk);
        }
        piece.membership.validate()?;
        let answer = if id.last.index <= self.commit {
            Body::Appended { index: self.commit }
        } else if self.log.has(id.last) {
            self.commit_to(id.last.index);
            Body::Appended {
                index: id.last.index,
            }
        } else {
            self.take_chunk(offset, piece)
        };
        self.promise(from, self.hard.term, answer);
        Ok(())
    }

    fn take_chunk(&mut self, offset: u64, piece: Incoming) -> Body {
        let of = piece.id;
        let mixes = broken!(self.options, MixChunks);
        let mut incoming = match self.incoming.take() {
            Some(mut begun) if begun.id == of || mixes && begun.id.last != of.last => {
                if begun.received() == offset {
                    begun.data.extend(piece.data);
                }
                begun
            }
            _ if offset == 0 => piece,
            _ => Incoming {
                data: Vec::new(),
                ..piece
            },
        };
        if mixes {
            incoming.id = of;
        }
        let offset = incoming.received();
        if offset < of.size {
            self.incoming = Some(incoming);
            return Body::ChunkAck { of, offset };
        }
        let whole = if mixes {
            Some(Snapshot::new(
                incoming.id.last,
                incoming.membership,
                incoming.data.into(),
            ))
        } else {
            incoming.finish()
        };
        match whole {
            Some(snapshot) => self.restore(snapshot),
            None => Body::ChunkAck { of, offset: 0 },
        }
    }

    /// The log conflicts with the snapshot or ends before it: all of it goes.
    fn restore(&mut self, snapshot: Snapshot) -> Body {
        let index = snapshot.last().index;
        if broken!(self.options, SnapshotKeepsLog) && self.log.last().index > index {
            self.commit_to(index);
            return Body::Appended { index };
        }
        self.log.reset(snapshot.clone());
        self.commit = index;
        self.applied = self.handed;
        self.write.snapshot = Some(snapshot);
        self.write.discard_log = true;
        Body::Appended { index }
    }
}
