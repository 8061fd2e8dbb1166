//! What travels in a channel, and the names of things.

/// A snapshot. The coordinator gives rising numbers from 1; 0 is the colour of messages from before the first one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(pub u64);

/// Time in the driver's unit, from the driver's zero.
pub type Time = u64;

/// The place of an input or an output of a process, counted from 0 in the order given to [`Process::new`](crate::Process::new).
pub type Channel = usize;

/// What goes from one process to the next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Wire<M> {
    /// A message of the application.
    Data {
        /// The sender's last snapshot, which Lai and Yang's algorithm goes by. 0 with every other one.
        colour: SnapshotId,
        /// The message.
        message: M,
    },
    /// The sender has taken its state.
    Marker {
        /// For this snapshot.
        id: SnapshotId,
        /// How to take it.
        marker: Marker,
    },
    /// Nothing follows.
    End,
}

/// How a marker is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Marker {
    /// In its turn: every message before it belongs before the cut.
    InTurn,
    /// At once, past whatever waits in the receiver's queue.
    Overtaking,
    /// Whenever it comes: the sender sent this many messages before its cut.
    Count(u64),
}

/// Which end of a channel a recorded message was found at. At a restore, a channel's messages recorded at its receiver
/// go before those recorded at its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// It was under way to this input, or in its queue.
    In(Channel),
    /// It was in the queue of this output.
    Out(Channel),
}
