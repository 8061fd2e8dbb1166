//! The statistics registers: 13.7. They stop at their highest value, and a read clears them.

use crate::device::E1000;
use crate::registers::*;

impl E1000 {
    pub(crate) fn count(&mut self, register: u32) {
        self.add(register, 1);
    }

    fn add(&mut self, register: u32, count: u32) {
        let value = self.register(register).saturating_add(count);
        self.set_register(register, value);
    }

    /// A pair of registers that count octets: low word first.
    fn add_octets(&mut self, low: u32, octets: u64) {
        let high = low + 4;
        let value = u64::from(self.register(high)) << 32 | u64::from(self.register(low));
        let value = value.saturating_add(octets);
        self.set_register(low, u32::try_from(value & 0xffff_ffff).unwrap_or(0));
        self.set_register(high, u32::try_from(value >> 32).unwrap_or(0));
    }

    /// A frame that was sent, by its length with check sequence and its destination.
    pub(crate) fn count_sent(&mut self, frame: &[u8]) {
        let octets = octets(frame.len());
        for register in [TPT, GPTC, PTC64 + 4 * size_class(octets)] {
            self.count(register);
        }
        for pair in [TOTL, GOTCL] {
            self.add_octets(pair, octets);
        }
        match destination(frame) {
            Destination::Broadcast => self.count(BPTC),
            Destination::Multicast => self.count(MPTC),
            Destination::Unicast => {}
        }
        self.counts.tx_frames += 1;
        self.counts.tx_bytes += octets - 4;
    }

    /// A frame that arrived, whatever becomes of it.
    pub(crate) fn count_seen(&mut self, length: usize) {
        self.count(TPR);
        self.add_octets(TORL, octets(length));
    }

    /// A frame that was delivered.
    pub(crate) fn count_received(&mut self, frame: &[u8]) {
        let octets = octets(frame.len());
        for register in [GPRC, PRC64 + 4 * size_class(octets)] {
            self.count(register);
        }
        self.add_octets(GORCL, octets);
        match destination(frame) {
            Destination::Broadcast => self.count(BPRC),
            Destination::Multicast => self.count(MPRC),
            Destination::Unicast => {}
        }
        self.counts.rx_frames += 1;
        self.counts.rx_bytes += octets - 4;
    }

    /// 13.7: reading clears, and of a pair of registers reading the upper clears both.
    pub(crate) fn read_statistic(&mut self, register: u32) -> u32 {
        let value = self.register(register);
        match register {
            GORCL | GOTCL | TORL | TOTL => {}
            GORCH | GOTCH | TORH | TOTH => {
                self.set_register(register, 0);
                self.set_register(register - 4, 0);
            }
            _ => self.set_register(register, 0),
        }
        value
    }
}

enum Destination {
    Unicast,
    Multicast,
    Broadcast,
}

fn destination(frame: &[u8]) -> Destination {
    match frame.first_chunk::<6>() {
        Some([0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) => Destination::Broadcast,
        Some([first, ..]) if first & 1 != 0 => Destination::Multicast,
        _ => Destination::Unicast,
    }
}

/// Bytes on the wire: the check sequence counts, and short frames were padded.
fn octets(length: usize) -> u64 {
    u64::try_from(length.max(60)).unwrap_or(u64::MAX) + 4
}

/// Which of the six registers by size: 64, 127, 255, 511, 1023, and above.
fn size_class(octets: u64) -> u32 {
    match octets {
        0..=64 => 0,
        65..=127 => 1,
        128..=255 => 2,
        256..=511 => 3,
        512..=1023 => 4,
        _ => 5,
    }
}
