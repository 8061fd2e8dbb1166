//! Causes, masks, and the timers that moderate interrupts: 3.2.7, 3.4.3 and 13.4.17 to 13.4.21.

use crate::registers::{ICR_CAUSES, ICR_RXT0, ICR_TXDW};

/// Saved state of the interrupt logic. Times are in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct InterruptState {
    /// Causes that were not read yet.
    pub icr: u32,
    /// Causes that may interrupt.
    pub ims: u32,
    /// The level of INTA#.
    pub line: bool,
    /// Before this no further interrupt begins: ITR.
    pub throttled_until: u64,
    /// RDTR: restarts with each frame.
    pub receive_packet: Option<u64>,
    /// RADV: begins with the first frame.
    pub receive_absolute: Option<u64>,
    /// TIDV: restarts with each descriptor.
    pub transmit_packet: Option<u64>,
    /// TADV: begins with the first descriptor.
    pub transmit_absolute: Option<u64>,
}

/// What the interrupt logic did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterruptCounts {
    /// Times that INTA# was asserted.
    pub raised: u64,
    /// Times that a frame or a descriptor only started a delay timer.
    pub delayed: u64,
}

/// An event's delay registers, in their units of 1.024 us.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delay {
    /// RDTR or TIDV; 0 interrupts at once.
    pub(crate) packet: u32,
    /// RADV or TADV; 0 sets no limit.
    pub(crate) absolute: u32,
}

/// Which of the two pairs of timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Receive,
    Transmit,
}

impl InterruptState {
    pub(crate) fn raise(&mut self, causes: u32) {
        self.icr |= causes & ICR_CAUSES;
    }

    /// 13.4.17: a read answers the causes and clears them.
    pub(crate) fn read_icr(&mut self) -> u32 {
        std::mem::take(&mut self.icr)
    }

    /// A frame was received, or a descriptor with a delay was done.
    pub(crate) fn event(
        &mut self,
        direction: Direction,
        delay: Delay,
        now: u64,
        counts: &mut InterruptCounts,
    ) {
        if delay.packet == 0 {
            return self.expire(direction);
        }
        counts.delayed += 1;
        let after = |units: u32| now.saturating_add(u64::from(units) * DELAY_UNIT_NS);
        let (packet, absolute) = self.timers(direction);
        *packet = Some(after(delay.packet));
        if delay.absolute != 0 {
            absolute.get_or_insert(after(delay.absolute));
        }
    }

    /// The delay is over: both timers of the direction stop.
    pub(crate) fn expire(&mut self, direction: Direction) {
        let (packet, absolute) = self.timers(direction);
        *packet = None;
        *absolute = None;
        self.raise(match direction {
            Direction::Receive => ICR_RXT0,
            Direction::Transmit => ICR_TXDW,
        });
    }

    /// Whether a delay of the direction runs.
    pub(crate) fn is_delayed(&mut self, direction: Direction) -> bool {
        self.timers(direction).0.is_some()
    }

    fn timers(&mut self, direction: Direction) -> (&mut Option<u64>, &mut Option<u64>) {
        match direction {
            Direction::Receive => (&mut self.receive_packet, &mut self.receive_absolute),
            Direction::Transmit => (&mut self.transmit_packet, &mut self.transmit_absolute),
        }
    }

    pub(crate) fn advance(&mut self, now: u64) {
        for direction in [Direction::Receive, Direction::Transmit] {
            let (packet, absolute) = self.timers(direction);
            if [*packet, *absolute]
                .into_iter()
                .flatten()
                .any(|at| at <= now)
            {
                self.expire(direction);
            }
        }
    }

    /// Brings INTA# to where the causes want it. `interval` is ITR, in its units of 256 ns.
    pub(crate) fn settle(&mut self, interval: u32, now: u64, counts: &mut InterruptCounts) {
        let wanted = self.icr & self.ims != 0;
        if !wanted {
            self.line = false;
        } else if !self.line && now >= self.throttled_until {
            self.line = true;
            counts.raised += 1;
            let interval = u64::from(interval) * ITR_UNIT_NS;
            self.throttled_until = now.saturating_add(interval);
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let waits = !self.line && self.icr & self.ims != 0;
        let timers = [
            self.receive_packet,
            self.receive_absolute,
            self.transmit_packet,
            self.transmit_absolute,
            waits.then_some(self.throttled_until),
        ];
        timers.into_iter().flatten().min()
    }

    pub(crate) fn is_valid(&self) -> bool {
        (self.icr | self.ims) & !ICR_CAUSES == 0
            && (!self.line || self.icr & self.ims != 0)
            && (self.receive_absolute.is_none() || self.receive_packet.is_some())
            && (self.transmit_absolute.is_none() || self.transmit_packet.is_some())
    }
}

/// 13.4.30: "units of 1.024 microseconds".
const DELAY_UNIT_NS: u64 = 1_024;
/// 13.4.18: "256 ns increments".
const ITR_UNIT_NS: u64 = 256;
