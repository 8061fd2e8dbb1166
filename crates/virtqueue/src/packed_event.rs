//! The event suppression structures of packed queues: virtio 1.3, 2.8.10 and 2.8.14.
#![expect(
    clippy::cast_possible_truncation,
    reason = "a field is cut out of a wider word"
)]

use crate::notify::{Notify, by_event, by_flag};

/// What a side wants to hear about, as one 32-bit word of memory says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PackedEvent {
    Enable,
    Disable,
    /// When the descriptor at this slot on the lap with this wrap counter is written.
    Descriptor(Position),
}

/// A slot of the ring and the wrap counter of the lap: one 32-bit word, for the reason that
/// [`Positions`](crate::split::Positions) gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position(u32);

impl Position {
    /// Where both sides begin: 2.8.1, "initialized to 1".
    pub(crate) const START: Self = Self(1 << 16);

    #[inline(always)]
    pub(crate) fn new(slot: u16, wrap: bool) -> Self {
        Self(u32::from(slot) | u32::from(wrap) << 16)
    }

    #[inline(always)]
    pub(crate) fn slot(self) -> u16 {
        self.0 as u16
    }

    #[inline(always)]
    pub(crate) fn wrap(self) -> bool {
        self.0 >> 16 != 0
    }

    /// The position `count` slots on, at most one lap, in a ring of `size`.
    #[inline(always)]
    pub(crate) fn advanced(self, count: u16, size: u16) -> Self {
        let to_end = size - self.slot();
        if count < to_end {
            Self::new(self.slot() + count, self.wrap())
        } else {
            Self::new(count - to_end, !self.wrap())
        }
    }
}

impl PackedEvent {
    #[inline(always)]
    pub(crate) fn decode(word: u32) -> Self {
        let flags = (word >> 16) as u16 & 0b11;
        match flags {
            FLAGS_DISABLE => Self::Disable,
            FLAGS_DESC => Self::Descriptor(Position::new(word as u16 & 0x7fff, word & WRAP != 0)),
            // 0 is "enable"; 3 is reserved, and a notification too many does no harm.
            _ => Self::Enable,
        }
    }

    pub(crate) fn encode(self) -> u32 {
        match self {
            Self::Enable => 0,
            Self::Disable => u32::from(FLAGS_DISABLE) << 16,
            Self::Descriptor(position) => {
                let wrap = if position.wrap() { WRAP } else { 0 };
                u32::from(position.slot()) | wrap | u32::from(FLAGS_DESC) << 16
            }
        }
    }

    /// Whether the peer hears of the `count` slots that end before `new`.
    ///
    /// A position outside the ring, or one when `event_idx` was not negotiated, is a mistake of the
    /// peer's; it gets its notification, since that cannot stall it.
    #[inline(always)]
    pub(crate) fn decide(self, new: Position, count: u16, size: u16, event_idx: bool) -> Notify {
        match self {
            Self::Enable => Notify::Send,
            Self::Disable => by_flag(true),
            Self::Descriptor(event) if event.slot() >= size || !event_idx => Notify::Send,
            Self::Descriptor(event) => by_event(passes(event, new, count, size)),
        }
    }
}

/// Whether `event` is one of the `count` slots that end before `new`.
#[inline(always)]
fn passes(event: Position, new: Position, count: u16, size: u16) -> bool {
    let new_slot = i32::from(new.slot());
    let mut slot = i32::from(event.slot());
    // Of two laps that are not this one, only the last can have been written.
    if event.wrap() != new.wrap() {
        slot -= i32::from(size);
    }
    (new_slot - i32::from(count)..new_slot).contains(&slot)
}

const FLAGS_DISABLE: u16 = 1;
const FLAGS_DESC: u16 = 2;
const WRAP: u32 = 1 << 15;

#[cfg(test)]
mod tests {
    use super::*;

    /// Position on an endless tape.
    fn at(tape: u32, size: u16) -> Position {
        let size = u32::from(size);
        Position::new((tape % size) as u16, (tape / size).is_multiple_of(2))
    }

    #[test]
    fn every_slot_written_since_is_passed_and_none_before() {
        for size in [1, 2, 3, 5, 8_u16] {
            for old in 0..4 * u32::from(size) {
                for count in 0..=size {
                    let new = old + u32::from(count);
                    // Events that a peer may wait for: the slots written, and the lap after them.
                    for event in old..new + u32::from(size) - u32::from(count) {
                        let passed = passes(at(event, size), at(new, size), count, size);
                        assert_eq!(passed, event < new, "{size} {old} {count} {event}");
                    }
                }
            }
        }
    }

    #[test]
    fn positions_advance_like_the_tape() {
        for size in [1, 2, 3, 7_u16] {
            for tape in 0..50 {
                for count in 0..=size {
                    let there = at(tape, size).advanced(count, size);
                    assert_eq!(there, at(tape + u32::from(count), size));
                }
            }
        }
    }

    #[test]
    fn an_event_survives_its_encoding() {
        let events = [
            PackedEvent::Enable,
            PackedEvent::Disable,
            PackedEvent::Descriptor(Position::START),
            PackedEvent::Descriptor(Position::new(0x7fff, false)),
        ];
        for event in events {
            assert_eq!(PackedEvent::decode(event.encode()), event);
        }
    }

    #[test]
    fn a_position_outside_the_ring_gets_its_notification() {
        let outside = Position::new(4, true);
        let notify = PackedEvent::Descriptor(outside).decide(Position::START, 1, 4, true);
        assert_eq!(notify, Notify::Send);
    }
}
