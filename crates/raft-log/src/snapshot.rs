//! A state machine's state instead of the entries that led to it (section 7).

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::{Membership, Position, SnapshotId};

/// The state after some entry. Copies are the same one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Snapshot(Arc<Whole>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Whole {
    id: SnapshotId,
    membership: Arc<Membership>,
    data: Arc<[u8]>,
}

impl Snapshot {
    /// `data` is the state once `last` and everything before it has run; `membership` is in force there.
    pub fn new(last: Position, membership: Arc<Membership>, data: Arc<[u8]>) -> Self {
        let id = SnapshotId {
            last,
            size: u64::try_from(data.len()).unwrap_or(u64::MAX),
            fingerprint: fnv1a(&data),
        };
        Self(Arc::new(Whole {
            id,
            membership,
            data,
        }))
    }

    /// What tells it apart.
    pub fn id(&self) -> SnapshotId {
        self.0.id
    }

    /// The last entry that it covers.
    pub fn last(&self) -> Position {
        self.0.id.last
    }

    /// The members at that entry.
    pub fn membership(&self) -> &Arc<Membership> {
        &self.0.membership
    }

    /// The state.
    pub fn data(&self) -> &Arc<[u8]> {
        &self.0.data
    }

    /// The same without the state, for a witness.
    pub(crate) fn without_data(&self) -> Self {
        Self::new(self.last(), self.membership().clone(), Arc::from([]))
    }

    /// Up to `limit` bytes from `offset` on.
    pub(crate) fn chunk(&self, offset: u64, limit: usize) -> Vec<u8> {
        let data = self.data();
        let start = usize::try_from(offset).map_or(data.len(), |start| start.min(data.len()));
        let end = data.len().min(start.saturating_add(limit));
        data[start..end].to_vec()
    }
}

/// A snapshot that arrives in pieces.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Incoming {
    pub(crate) id: SnapshotId,
    pub(crate) membership: Arc<Membership>,
    pub(crate) data: Vec<u8>,
}

impl Incoming {
    pub(crate) fn received(&self) -> u64 {
        u64::try_from(self.data.len()).unwrap_or(u64::MAX)
    }

    /// The whole, if its bytes are the ones announced.
    pub(crate) fn finish(self) -> Option<Snapshot> {
        let snapshot = Snapshot::new(self.id.last, self.membership, self.data.into());
        (snapshot.id() == self.id).then_some(snapshot)
    }
}

/// Fowler, Noll and Vo's hash: against mix-ups, not against malice.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_is_fnv1a() {
        // Test vectors of the authors' draft-eastlake-fnv.
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn pieces_make_the_whole() {
        let whole = Snapshot::new(
            Position { term: 1, index: 9 },
            Arc::default(),
            Arc::from(*b"abcdefg"),
        );
        let mut incoming = Incoming {
            id: whole.id(),
            membership: whole.membership().clone(),
            data: Vec::new(),
        };
        while incoming.received() < whole.id().size {
            incoming.data.extend(whole.chunk(incoming.received(), 3));
        }
        assert_eq!(incoming.clone().finish(), Some(whole.clone()));
        incoming.data[2] ^= 1;
        assert_eq!(incoming.finish(), None);
        assert_eq!(whole.chunk(u64::MAX, 3), []);
    }
}
