//! The device that test guests such as kvm-unit-tests prod the machine with (QEMU,
//! hw/misc/pc-testdev.c).

/// A port that keeps what is written, 24 interrupt inputs under the guest's control, and a window
/// of memory behind which a device and no RAM answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestDevice {
    latch: [u8; 4],
    lines: u32,
    memory: Box<[u8]>,
}

impl TestDevice {
    /// The port ranges: first port and count.
    pub const PORTS: &'static [(u16, u16)] = &[(LATCH, 4), (LINES, 24)];
    /// Where the memory normally lies.
    pub const MEMORY: u64 = 0xff00_0000;
    /// Bytes of memory.
    pub const MEMORY_LENGTH: u64 = 1 << 16;

    /// A device with all lines low and all memory zero.
    #[must_use]
    pub fn new() -> Self {
        Self {
            latch: [0; 4],
            lines: 0,
            memory: vec![0; 1 << 16].into(),
        }
    }

    /// Levels of the interrupt inputs, bit `n` for input `n`.
    #[must_use]
    pub fn lines(&self) -> u32 {
        self.lines
    }

    /// Reads the latch; other ports read as 0xff.
    pub fn read(&mut self, port: u16, data: &mut [u8]) {
        for (byte, port) in data.iter_mut().zip(port..=u16::MAX) {
            let index = usize::from(port.wrapping_sub(LATCH));
            *byte = self.latch.get(index).copied().unwrap_or(0xff);
        }
    }

    /// Writes the latch, or drives an input: low for zero, else high.
    pub fn write(&mut self, port: u16, data: &[u8]) {
        if let line @ 0..24 = port.wrapping_sub(LINES) {
            let bit = 1 << line;
            let high = data.iter().any(|&byte| byte != 0);
            self.lines = if high {
                self.lines | bit
            } else {
                self.lines & !bit
            };
            return;
        }
        for (&byte, port) in data.iter().zip(port..=u16::MAX) {
            if let Some(kept) = self.latch.get_mut(usize::from(port.wrapping_sub(LATCH))) {
                *kept = byte;
            }
        }
    }

    /// Reads memory at `offset`; past its end 0xff.
    pub fn read_memory(&self, offset: u64, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(offset..=u64::MAX) {
            let kept = usize::try_from(at).ok().and_then(|at| self.memory.get(at));
            *byte = kept.copied().unwrap_or(0xff);
        }
    }

    /// Writes memory at `offset`; what lies past its end is dropped.
    pub fn write_memory(&mut self, offset: u64, data: &[u8]) {
        for (&byte, at) in data.iter().zip(offset..=u64::MAX) {
            let at = usize::try_from(at).ok();
            if let Some(kept) = at.and_then(|at| self.memory.get_mut(at)) {
                *kept = byte;
            }
        }
    }
}

impl Default for TestDevice {
    fn default() -> Self {
        Self::new()
    }
}

const LATCH: u16 = 0xe0;
const LINES: u16 = 0x2000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latch_keeps_what_fits() {
        let mut device = TestDevice::new();
        device.write(0xe2, &[1, 2, 3, 4]);
        let mut data = [0; 6];
        device.read(0xe0, &mut data);
        assert_eq!(data, [0, 0, 1, 2, 0xff, 0xff]);
    }

    #[test]
    fn each_input_is_driven_by_a_port_of_its_own() {
        let mut device = TestDevice::new();
        device.write(0x2000, &[1]);
        device.write(0x2017, &[0x80]);
        device.write(0x2018, &[1]);
        assert_eq!(device.lines(), 1 << 23 | 1);
        device.write(0x2017, &[0]);
        assert_eq!(device.lines(), 1);
    }

    #[test]
    fn memory_ends_where_it_ends() {
        let mut device = TestDevice::new();
        let last = TestDevice::MEMORY_LENGTH - 1;
        device.write_memory(last, &[5, 6]);
        device.write_memory(u64::MAX, &[7, 8]);
        let mut data = [0; 2];
        device.read_memory(last, &mut data);
        assert_eq!(data, [5, 0xff]);
        device.read_memory(0, &mut data);
        assert_eq!(data, [0, 0]);
    }
}
