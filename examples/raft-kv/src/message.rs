//! Raft's messages as bytes: serde's view of types that know nothing of it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use raft_log::{
    Body, Entries, Entry, Index, Membership, Message, NodeId, Payload, Position, SnapshotId,
};
use serde::de::{Deserializer, Error, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

/// A message on its way.
#[derive(Debug, Serialize, Deserialize)]
pub struct Envelope(#[serde(with = "MessageDef")] pub Message);

#[derive(Serialize, Deserialize)]
#[serde(remote = "Message")]
struct MessageDef {
    term: u64,
    #[serde(with = "BodyDef")]
    body: Body,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Position")]
struct PositionDef {
    term: u64,
    index: Index,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "SnapshotId")]
struct SnapshotIdDef {
    #[serde(with = "PositionDef")]
    last: Position,
    size: u64,
    fingerprint: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Membership")]
struct MembershipDef {
    voters: BTreeSet<NodeId>,
    outgoing: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
    witnesses: BTreeSet<NodeId>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Entry")]
struct EntryDef {
    #[serde(with = "PositionDef")]
    at: Position,
    #[serde(with = "PayloadDef")]
    payload: Payload,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Payload")]
enum PayloadDef {
    Empty,
    Command(#[serde(with = "shared_bytes")] Arc<[u8]>),
    Membership(#[serde(with = "shared_membership")] Arc<Membership>),
    Withheld,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Body")]
enum BodyDef {
    RequestVote {
        pre: bool,
        #[serde(with = "PositionDef")]
        last: Position,
        transfer: bool,
    },
    Vote {
        pre: bool,
        granted: bool,
    },
    Append {
        #[serde(with = "PositionDef")]
        prev: Position,
        commit: Index,
        #[serde(with = "entries")]
        entries: Entries,
    },
    Committed {
        #[serde(with = "PositionDef")]
        last: Position,
        index: Index,
    },
    Appended {
        index: Index,
    },
    Rejected {
        prev: Index,
        #[serde(with = "PositionDef")]
        hint: Position,
        lost: bool,
    },
    Heartbeat {
        commit: Index,
        round: u64,
    },
    HeartbeatAck {
        round: u64,
    },
    Chunk {
        #[serde(with = "SnapshotIdDef")]
        of: SnapshotId,
        #[serde(with = "shared_membership")]
        membership: Arc<Membership>,
        offset: u64,
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    ChunkAck {
        #[serde(with = "SnapshotIdDef")]
        of: SnapshotId,
        offset: u64,
    },
    TimeoutNow,
}

mod entries {
    use super::*;

    #[derive(Deserialize)]
    struct Owned(#[serde(with = "EntryDef")] Entry);

    #[derive(Serialize)]
    struct Borrowed<'a>(#[serde(with = "EntryDef")] &'a Entry);

    pub(super) fn serialize<S: Serializer>(entries: &[Entry], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(entries.iter().map(Borrowed))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Entries, D::Error> {
        let entries = Vec::<Owned>::deserialize(from)?;
        Ok(entries.into_iter().map(|Owned(entry)| entry).collect())
    }
}

mod shared_membership {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        membership: &Arc<Membership>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        MembershipDef::serialize(membership, to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Arc<Membership>, D::Error> {
        MembershipDef::deserialize(from).map(Arc::new)
    }
}

mod shared_bytes {
    use super::*;

    pub(super) fn serialize<S: Serializer>(bytes: &Arc<[u8]>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<[u8]>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Arc<[u8]>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Arc<[u8]>, E> {
                Ok(bytes.into())
            }
        }
        from.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame;

    fn at(term: u64, index: u64) -> Position {
        Position { term, index }
    }

    #[test]
    fn every_kind_of_message_comes_back_as_it_was() {
        let of = SnapshotId {
            last: at(3, 9),
            size: 5,
            fingerprint: u64::MAX,
        };
        let payloads = [
            Payload::Empty,
            Payload::Command(Arc::from(*b"put")),
            Payload::Membership(Arc::new(Membership::of([1, 2, 300]))),
            Payload::Withheld,
        ];
        let entries = payloads.into_iter().zip(1..);
        let entries = entries.map(|(payload, index)| Entry {
            at: at(2, index),
            payload,
        });
        let bodies = [
            Body::RequestVote {
                pre: true,
                last: at(1, 2),
                transfer: false,
            },
            Body::Vote {
                pre: false,
                granted: true,
            },
            Body::Append {
                prev: at(1, 0),
                commit: 3,
                entries: entries.collect(),
            },
            Body::Appended { index: 7 },
            Body::Rejected {
                prev: 4,
                hint: at(1, 1),
                lost: true,
            },
            Body::Heartbeat {
                commit: 1,
                round: 2,
            },
            Body::HeartbeatAck { round: 2 },
            Body::Chunk {
                of,
                membership: Arc::new(Membership::of([4])),
                offset: 2,
                bytes: vec![1, 2],
            },
            Body::ChunkAck { of, offset: 4 },
            Body::TimeoutNow,
        ];
        for body in bodies {
            let message = Message { term: 5, body };
            let mut out = Vec::new();
            frame::push(&Envelope(message.clone()), &mut out).unwrap();
            let (payload, _) = frame::first(&out).unwrap().unwrap();
            assert_eq!(frame::decode::<Envelope>(payload).unwrap().0, message);
        }
    }
}
