//! What a process is told and what it answers, the same for every protocol.

use crate::{Channel, Place, SnapshotId, Wire};

/// What happens to a process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input<M> {
    /// The coordinator asks for a snapshot. Processes that markers will reach need not be asked, and may be.
    Initiate(SnapshotId),
    /// Something came out of the network, and waits in the queue of its input.
    Arrive {
        /// The input.
        from: Channel,
        /// What came.
        wire: Wire<M>,
    },
    /// The application is ready for the next message of this input. Nothing is delivered if the input is empty or must
    /// wait.
    Next(Channel),
    /// The application sends; the message waits in the queue of its output.
    Send {
        /// The output.
        to: Channel,
        /// The message.
        message: M,
    },
    /// The application will send nothing more on this output.
    Finish(Channel),
    /// The network has room for whatever is first in the queue of this output.
    Transmit(Channel),
    /// Time has passed.
    Tick,
    /// The coordinator has given the snapshot up.
    Abort(SnapshotId),
    /// The coordinator has the whole snapshot of a stopped world, which may go on.
    Resume(SnapshotId),
}

/// What a process wants done, in this order, before it is told anything else.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Output<M> {
    /// The application's next message.
    Deliver {
        /// Where it came from.
        from: Channel,
        /// The message.
        message: M,
    },
    /// For the network.
    Transmit {
        /// The output.
        to: Channel,
        /// What to send.
        wire: Wire<M>,
    },
    /// Take the application's state as it is now.
    TakeState(SnapshotId),
    /// This message was in a channel when the cut was made: keep it with the snapshot.
    Record {
        /// The snapshot.
        id: SnapshotId,
        /// Where it was.
        place: Place,
        /// The message.
        message: M,
    },
    /// This process has its part of the snapshot: the state taken, and all that was recorded.
    Complete(SnapshotId),
    /// This process will have no part of this snapshot: a newer one overtook it. What was recorded can be dropped.
    Declined(SnapshotId),
    /// Nothing more comes from this input.
    Ended(Channel),
}
