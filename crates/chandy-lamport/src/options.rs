//! What a process is made with.

#[cfg(feature = "mutation")]
use crate::Mutation;
use crate::Time;

/// How the processes of a graph agree on a cut. All of them use the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Chandy and Lamport 1985: the state at the first marker, and of every other channel what comes until its marker.
    /// Any graph whose processes can all be reached from those asked; any number of snapshots at a time.
    ChandyLamport,
    /// Carbone et al. 2015, algorithm 1: channels wait behind their barrier until all have theirs. No channel state.
    /// Graphs without cycles.
    Aligned,
    /// Carbone et al. 2015, algorithm 2: only forward edges wait, back edges are recorded until their barrier.
    AlignedCyclic,
    /// The first barrier to arrive overtakes all queues, whose contents are recorded. Any graph.
    Unaligned,
    /// Aligned for this long from the first barrier on, then unaligned. Any graph.
    AlignedWithTimeout {
        /// How long a barrier may make its channel wait.
        timeout: Time,
    },
    /// Nobody takes a message from its cut until [`Input::Resume`](crate::Input::Resume). Any graph.
    StopTheWorld,
    /// Lai and Yang 1987 with Mattern's counters: channels may reorder. Any graph; ends of channels are not known.
    LaiYang,
}

/// How a process behaves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Options {
    /// The protocol.
    pub protocol: Protocol,
    /// How much may wait at one input. An arrival above it is refused.
    pub queue_max: usize,
    /// How many snapshots may be under way here. The oldest is declined when another begins.
    pub snapshots_max: usize,
    /// The rule to break.
    #[cfg(feature = "mutation")]
    pub mutation: Option<Mutation>,
}

impl Options {
    /// 1,024 messages at an input, 16 snapshots.
    #[must_use]
    pub fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            queue_max: 1_024,
            snapshots_max: 16,
            #[cfg(feature = "mutation")]
            mutation: None,
        }
    }
}

impl Protocol {
    /// Whether a barrier makes its channel wait for the others.
    pub(crate) fn aligns(self) -> bool {
        matches!(
            self,
            Self::Aligned | Self::AlignedCyclic | Self::AlignedWithTimeout { .. }
        )
    }

    /// Whether markers overtake from the beginning.
    pub(crate) fn overtakes(self) -> bool {
        matches!(self, Self::Unaligned | Self::StopTheWorld)
    }
}
