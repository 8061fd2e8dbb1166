//! Whether to notify the peer: what both sides and both layouts share.

/// What to do about the peer once something was published.
#[must_use = "a notification that is due and not sent stalls the queue"]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Notify {
    /// Nothing was published since the last time.
    Idle,
    /// Send it: an interrupt to the driver, a kick to the device.
    Send,
    /// The peer does not want one now.
    Suppressed(Why),
}

/// Why no notification is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// A flag: `VIRTQ_AVAIL_F_NO_INTERRUPT`, `VIRTQ_USED_F_NO_NOTIFY`, or `RING_EVENT_FLAGS_DISABLE`.
    Flag,
    /// The position that the peer waits for was not passed.
    Event,
}

/// What is there after notifications were switched on again.
#[must_use = "entries that came before notifications were on cause none"]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pending {
    /// Nothing: the next entry causes a notification. It is safe to sleep.
    None,
    /// Entries that no notification may ever be sent for: look at the queue again.
    More,
}

/// Notifications that one side sent, and did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NotifyCounts {
    /// Sent.
    pub sent: u64,
    /// Held back by a flag of the peer's.
    pub by_flag: u64,
    /// Held back by the position that the peer waits for.
    pub by_event: u64,
}

impl Notify {
    /// Whether a notification must be sent.
    #[must_use]
    pub fn is_due(self) -> bool {
        self == Self::Send
    }
}

impl NotifyCounts {
    #[inline]
    pub(crate) fn count(&mut self, notify: Notify) -> Notify {
        match notify {
            Notify::Idle => {}
            Notify::Send => self.sent += 1,
            Notify::Suppressed(Why::Flag) => self.by_flag += 1,
            Notify::Suppressed(Why::Event) => self.by_event += 1,
        }
        notify
    }
}

/// Whether publishing the entries from `old` up to but not including `new` passed `event`.
///
/// Virtio 1.3, 2.7.7.2 and 2.7.10: the peer wants to hear when the entry at `event` is written. A
/// test for equality with the newest entry would lose it when a batch steps over it.
#[inline(always)]
pub(crate) fn passes(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// The answer of a peer that gave a position.
#[inline(always)]
pub(crate) fn by_event(passed: bool) -> Notify {
    if passed {
        Notify::Send
    } else {
        Notify::Suppressed(Why::Event)
    }
}

/// The answer of a peer that set a flag, or did not.
#[inline(always)]
pub(crate) fn by_flag(suppressed: bool) -> Notify {
    if suppressed {
        Notify::Suppressed(Why::Flag)
    } else {
        Notify::Send
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_passed_exactly_when_it_lies_in_the_range() {
        for old in [0, 1, 7, 0x7fff, 0xfff0, 0xffff_u16] {
            for count in 0..20 {
                let new = old.wrapping_add(count);
                for event in 0..=u16::MAX {
                    let written = (0..count).any(|i| old.wrapping_add(i) == event);
                    assert_eq!(passes(event, old, new), written, "{event} {old} {new}");
                }
            }
        }
    }
}
