//! Three write-mostly ports that test guests and firmware use to talk to their machine.

use crate::accesses::{each_byte_read, each_byte_write};

/// The debug-exit port: a write of `value` asks the machine to end with status `value << 1 | 1`.
///
/// One register of four bytes, normally at 0xf4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DebugExit {
    code: Option<u32>,
}

impl DebugExit {
    /// The port range: first port and count.
    pub const PORTS: &'static [(u16, u16)] = &[(0xf4, 4)];

    /// Reads as zero.
    pub fn read(&mut self, _port: u16, data: &mut [u8]) {
        data.fill(0);
    }

    /// Takes up to four bytes, little end first; what a longer write has beyond them is ignored.
    /// The first write counts.
    pub fn write(&mut self, _port: u16, data: &[u8]) {
        let value = data
            .iter()
            .take(4)
            .rev()
            .fold(0u32, |sum, &byte| sum << 8 | u32::from(byte));
        self.code.get_or_insert(value);
    }

    /// The value written, before it is made an exit status.
    #[must_use]
    pub fn code(&self) -> Option<u32> {
        self.code
    }
}

/// The boot timer: a guest writes 123 when it has booted.
///
/// One byte, at 0x3f0 on x86 (the place and the value are Firecracker's).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootTimer {
    now: u64,
    booted_at: Option<u64>,
}

impl BootTimer {
    /// The port range: first port and count.
    pub const PORTS: &'static [(u16, u16)] = &[(0x3f0, 1)];
    /// The value that marks the end of booting.
    pub const MAGIC: u8 = 123;

    /// Sets the time of the next write, in nanoseconds.
    pub fn advance(&mut self, now: u64) {
        self.now = self.now.max(now);
    }

    /// Reads as 0xff.
    pub fn read(&mut self, _port: u16, data: &mut [u8]) {
        data.fill(0xff);
    }

    /// Notes the time of the first write of the magic value.
    pub fn write(&mut self, _port: u16, data: &[u8]) {
        if data.first() == Some(&Self::MAGIC) {
            self.booted_at.get_or_insert(self.now);
        }
    }

    /// When the guest said that it had booted, in nanoseconds.
    #[must_use]
    pub fn booted_at(&self) -> Option<u64> {
        self.booted_at
    }
}

/// The firmware debug console: bytes written at 0x402 or 0xe9.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DebugConsole {
    output: Vec<u8>,
    dropped: u64,
}

impl DebugConsole {
    /// The port ranges: first port and count.
    pub const PORTS: &'static [(u16, u16)] = &[(0x402, 1), (0xe9, 1)];
    /// Bytes kept until [`take_output`](Self::take_output); later ones are dropped and counted.
    pub const CAPACITY: usize = 1 << 20;

    /// Reads as 0xe9, by which firmware knows that the port is there.
    pub fn read(&mut self, port: u16, data: &mut [u8]) {
        each_byte_read(port, data, |at| if is_console(at) { 0xe9 } else { 0xff });
    }

    /// Appends the byte.
    pub fn write(&mut self, port: u16, data: &[u8]) {
        each_byte_write(port, data, |at, byte| match is_console(at) {
            true if self.output.len() < Self::CAPACITY => self.output.push(byte),
            true => self.dropped += 1,
            false => {}
        });
    }

    /// Takes what was written since the last call.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Bytes lost because nobody took them.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

fn is_console(port: u16) -> bool {
    matches!(port, 0x402 | 0xe9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_exit_code_counts() {
        let mut exit = DebugExit::default();
        exit.write(0xf4, &[]);
        assert_eq!(exit.code(), Some(0));
        let mut exit = DebugExit::default();
        exit.write(0xf4, &[0x10, 0x02, 0, 0, 9, 9]);
        exit.write(0xf4, &[1]);
        assert_eq!(exit.code(), Some(0x210));
    }

    #[test]
    fn the_boot_timer_wants_its_magic() {
        let mut timer = BootTimer::default();
        timer.advance(7);
        timer.write(0x3f0, &[122]);
        assert_eq!(timer.booted_at(), None);
        timer.write(0x3f0, &[123]);
        timer.advance(9);
        timer.write(0x3f0, &[123]);
        assert_eq!(timer.booted_at(), Some(7));
    }

    #[test]
    fn the_console_is_bounded() {
        let mut console = DebugConsole::default();
        console.write(0x402, b"a");
        console.write(0xe9, b"b");
        assert_eq!(console.take_output(), b"ab");
        (0..=DebugConsole::CAPACITY).for_each(|_| console.write(0x402, b"x"));
        assert_eq!(
            (console.take_output().len(), console.dropped()),
            (DebugConsole::CAPACITY, 1)
        );
        let mut data = [0; 2];
        console.read(0x402, &mut data);
        assert_eq!(data, [0xe9, 0xff]);
    }
}
