//! What a leader knows of one follower.

use alloc::collections::VecDeque;

use crate::{Index, Options, Snapshot};

/// How a leader sends to a follower.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// One message at a time, until it is known where the logs agree.
    Probe {
        /// One is on its way.
        sent: bool,
    },
    /// As fast as the limits allow, without waiting for answers.
    Replicate,
    /// The entries it needs are gone: the snapshot goes first, piece by piece.
    Snapshot {
        /// Which one.
        snapshot: Snapshot,
        /// How much of it has arrived, in bytes.
        offset: u64,
    },
}

/// A follower, seen by its leader.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Progress {
    /// The last index known to be the same and on its disk.
    pub matched: Index,
    /// The next index to send.
    pub next: Index,
    /// How to send.
    pub mode: Mode,
    /// It has answered since the leader last counted.
    pub active: bool,
    /// The last heartbeat that it has answered.
    pub acked_round: u64,
    in_flight: VecDeque<(Index, u64)>,
    in_flight_bytes: u64,
}

impl Progress {
    pub(crate) fn new(next: Index) -> Self {
        Self {
            matched: 0,
            next,
            mode: Mode::Probe { sent: false },
            active: true,
            acked_round: 0,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
        }
    }

    pub(crate) fn probe(&mut self, next: Index) {
        self.mode = Mode::Probe { sent: false };
        self.next = next.max(self.matched + 1);
        self.in_flight.clear();
        self.in_flight_bytes = 0;
    }

    pub(crate) fn replicate(&mut self) {
        self.probe(self.matched + 1);
        self.mode = Mode::Replicate;
    }

    /// Whether entries may be sent now.
    pub(crate) fn is_paused(&self, options: &Options) -> bool {
        match self.mode {
            Mode::Probe { sent } => sent,
            Mode::Replicate => {
                self.in_flight.len() >= options.in_flight
                    || self.in_flight_bytes >= options.in_flight_bytes
            }
            Mode::Snapshot { .. } => true,
        }
    }

    /// Entries up to `last` are on their way.
    pub(crate) fn sent(&mut self, last: Index, bytes: u64) {
        match &mut self.mode {
            Mode::Probe { sent } => *sent = true,
            Mode::Replicate if last >= self.next => {
                self.next = last + 1;
                self.in_flight.push_back((last, bytes));
                self.in_flight_bytes += bytes;
            }
            _ => {}
        }
    }

    /// Entries up to `index` have arrived.
    pub(crate) fn arrived(&mut self, index: Index) {
        self.matched = self.matched.max(index);
        self.next = self.next.max(self.matched + 1);
        while let Some((_, bytes)) = self.in_flight.front().filter(|(last, _)| *last <= index) {
            self.in_flight_bytes -= bytes;
            self.in_flight.pop_front();
        }
    }

    /// What was sent may be lost: another message may go, to find out.
    pub(crate) fn nudge(&mut self) {
        if let Mode::Probe { sent } = &mut self.mode {
            *sent = false;
        }
    }
}
