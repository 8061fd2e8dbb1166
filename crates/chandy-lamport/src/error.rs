//! What can go wrong: a peer's doing, or the driver's.

use crate::{Channel, SnapshotId};

/// Why an input was refused. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// There is no such input or output.
    #[error("no channel {0}")]
    NoChannel(Channel),
    /// Something after the end of a channel.
    #[error("channel {0} has ended")]
    Ended(Channel),
    /// More than may wait.
    #[error("the queue of input {0} is full")]
    Full(Channel),
    /// A marker that this protocol does not know.
    #[error("a marker of another protocol from input {0}")]
    Protocol(Channel),
    /// A sender that has sent less than was received.
    #[error("input {from} claims {sent} messages, {received} were received")]
    Count {
        /// The input.
        from: Channel,
        /// What the marker says.
        sent: u64,
        /// What came.
        received: u64,
    },
    /// A message while the world is stopped.
    #[error("the world is stopped for snapshot {}", .0.0)]
    Stopped(SnapshotId),
    /// Snapshot 0, which is the colour of no snapshot.
    #[error("there is no snapshot 0")]
    Zero,
}

/// Why a process cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// Aligned barriers would wait for ever.
    #[error("input {0} is a back edge, which this protocol cannot have")]
    BackEdge(Channel),
    /// A recorded message belongs to a channel that is not there.
    #[error("a message was recorded at a channel that is not there: {0:?}")]
    Channel(crate::Place),
}
