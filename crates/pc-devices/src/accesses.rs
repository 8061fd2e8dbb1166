//! How often each register of a device was reached.

/// Counts of byte accesses, one slot per register of a device with `N` registers.
///
/// Counters are not part of a device's state: a restored device starts from zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accesses<const N: usize> {
    /// Reads by register.
    pub reads: [u64; N],
    /// Writes by register.
    pub writes: [u64; N],
}

impl<const N: usize> Default for Accesses<N> {
    fn default() -> Self {
        Self {
            reads: [0; N],
            writes: [0; N],
        }
    }
}

impl<const N: usize> Accesses<N> {
    pub(crate) fn count_read(&mut self, register: usize) {
        self.reads[register] += 1;
    }

    pub(crate) fn count_write(&mut self, register: usize) {
        self.writes[register] += 1;
    }

    /// The sum over all registers, reads and writes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.reads.iter().sum::<u64>() + self.writes.iter().sum::<u64>()
    }
}

/// Splits an access into the byte accesses that an 8-bit device on the ISA bus sees.
pub(crate) fn each_byte_read(port: u16, data: &mut [u8], mut read: impl FnMut(u16) -> u8) {
    let mut at = port;
    for byte in data {
        *byte = read(at);
        at = at.wrapping_add(1);
    }
}

/// Splits a write likewise.
pub(crate) fn each_byte_write(port: u16, data: &[u8], mut write: impl FnMut(u16, u8)) {
    let mut at = port;
    for &byte in data {
        write(at, byte);
        at = at.wrapping_add(1);
    }
}
