//! Records without their headers.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::Kind;
use crate::{Entry, Membership, NodeId, Payload, Position, Snapshot};

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    HardState,
    Entry(Entry),
    Snapshot { snapshot: Snapshot, instead: bool },
}

impl Record {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::HardState => Kind::HardState,
            Self::Entry(entry) => match entry.payload {
                Payload::Empty => Kind::Empty,
                Payload::Command(_) => Kind::Command,
                Payload::Membership(_) => Kind::Membership,
                Payload::Withheld => Kind::Withheld,
            },
            Self::Snapshot { instead: false, .. } => Kind::Snapshot,
            Self::Snapshot { instead: true, .. } => Kind::SnapshotInstead,
        }
    }

    /// Of the entry, or of the snapshot's last.
    pub(super) fn at(&self) -> Position {
        match self {
            Self::HardState => Position::default(),
            Self::Entry(entry) => entry.at,
            Self::Snapshot { snapshot, .. } => snapshot.last(),
        }
    }

    /// Where a log ends after this that ended at `last` before.
    pub(super) fn end_of_log(&self, last: Position) -> Position {
        match self {
            Self::HardState => last,
            Self::Entry(entry) => entry.at,
            Self::Snapshot { snapshot, instead } => {
                let at = snapshot.last();
                if *instead || at.index >= last.index {
                    at
                } else {
                    last
                }
            }
        }
    }

    pub(super) fn payload(&self) -> Vec<u8> {
        match self {
            Self::HardState => Vec::new(),
            Self::Entry(entry) => match &entry.payload {
                Payload::Empty | Payload::Withheld => Vec::new(),
                Payload::Command(bytes) => bytes.to_vec(),
                Payload::Membership(membership) => encode_membership(membership),
            },
            Self::Snapshot { snapshot, .. } => {
                let mut bytes = encode_membership(snapshot.membership());
                bytes.extend_from_slice(snapshot.data());
                bytes
            }
        }
    }

    /// `None` if this is no such payload: its writer did not follow the format, for the checksum was right.
    pub(super) fn decode(kind: Kind, at: Position, payload: &[u8]) -> Option<Self> {
        let nothing = || payload.is_empty().then_some(());
        let said = match kind {
            Kind::HardState => return nothing().map(|()| Self::HardState),
            Kind::Snapshot | Kind::SnapshotInstead => return decode_snapshot(kind, at, payload),
            Kind::Empty => nothing().map(|()| Payload::Empty)?,
            Kind::Withheld => nothing().map(|()| Payload::Withheld)?,
            Kind::Command => Payload::Command(payload.into()),
            Kind::Membership => {
                let (membership, rest) = decode_membership(payload)?;
                rest.is_empty()
                    .then(|| Payload::Membership(Arc::new(membership)))?
            }
        };
        Some(Self::Entry(Entry { at, payload: said }))
    }
}

fn decode_snapshot(kind: Kind, at: Position, payload: &[u8]) -> Option<Record> {
    let (membership, data) = decode_membership(payload)?;
    Some(Record::Snapshot {
        snapshot: Snapshot::new(at, Arc::new(membership), data.into()),
        instead: kind == Kind::SnapshotInstead,
    })
}

/// Each set as its size and its names, little-endian words.
fn encode_membership(membership: &Membership) -> Vec<u8> {
    let sets = [
        &membership.voters,
        &membership.outgoing,
        &membership.learners,
        &membership.witnesses,
    ];
    let mut bytes = Vec::new();
    for set in sets {
        let size = u64::try_from(set.len()).unwrap_or(u64::MAX);
        bytes.extend_from_slice(&size.to_le_bytes());
        for id in set {
            bytes.extend_from_slice(&id.to_le_bytes());
        }
    }
    bytes
}

fn decode_membership(bytes: &[u8]) -> Option<(Membership, &[u8])> {
    let (voters, rest) = decode_set(bytes)?;
    let (outgoing, rest) = decode_set(rest)?;
    let (learners, rest) = decode_set(rest)?;
    let (witnesses, rest) = decode_set(rest)?;
    let membership = Membership {
        voters,
        outgoing,
        learners,
        witnesses,
    };
    Some((membership, rest))
}

fn decode_set(bytes: &[u8]) -> Option<(BTreeSet<NodeId>, &[u8])> {
    let (size, rest) = bytes.split_first_chunk::<8>()?;
    let size = usize::try_from(u64::from_le_bytes(*size)).ok()?;
    if size > Membership::MEMBERS_MAX {
        return None;
    }
    let (ids, rest) = rest.split_at_checked(8 * size)?;
    let ids = ids
        .chunks_exact(8)
        .map(|id| id.try_into().map(u64::from_le_bytes));
    Some((ids.collect::<Result<_, _>>().ok()?, rest))
}
