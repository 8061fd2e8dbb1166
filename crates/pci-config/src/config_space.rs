//! The 256 bytes of a function's configuration space, type 0 header.

use crate::bar::{Bar, BarError, BarKind};
use crate::bus::Function;
use crate::registers::*;

/// The identity of a function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Revision id.
    pub revision: u8,
    /// Base class, subclass, programming interface.
    pub class: [u8; 3],
    /// Subsystem vendor id.
    pub subsystem_vendor: u16,
    /// Subsystem id.
    pub subsystem: u16,
    /// Whether the device has functions beside this one; only function 0 says so.
    pub multi_function: bool,
}

/// The interrupt pin of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptPin {
    /// INTA#.
    A,
    /// INTB#.
    B,
    /// INTC#.
    C,
    /// INTD#.
    D,
}

/// Why a capability cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CapabilityError {
    /// The list is full.
    #[error("no room for a capability of {length} bytes")]
    NoRoom {
        /// Length asked for, with id and link.
        length: usize,
    },
    /// The mask of writable bits is not as long as the contents.
    #[error("{contents} bytes of contents and {writable} of writable bits")]
    MaskLength {
        /// Bytes of contents.
        contents: usize,
        /// Bytes of mask.
        writable: usize,
    },
}

/// A saved configuration space that does not fit the function it is restored to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("saved configuration space: byte {offset:#x} differs in bits that cannot be written")]
pub struct InvalidState {
    /// The first byte that differs, 0x100 when the length is wrong.
    pub offset: usize,
}

/// Saved state of a [`ConfigSpace`]; untrusted until [`ConfigSpace::restore`] accepts it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ConfigSpaceState {
    /// The 256 bytes.
    pub bytes: Vec<u8>,
}

/// A function's configuration space: values, and which bits a guest may change.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
    clear_by_one: [u8; SIZE],
    by_device: [u8; SIZE],
    bars: [Option<(BarKind, u64)>; 6],
    bar_taken: [bool; 6],
    next_capability: usize,
    last_link: usize,
    reads: u64,
    writes: u64,
}

impl ConfigSpace {
    /// A function with no BAR, no capability and no interrupt pin.
    #[must_use]
    pub fn new(header: Header) -> Self {
        let mut space = Self {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            clear_by_one: [0; SIZE],
            by_device: [0; SIZE],
            bars: [None; 6],
            bar_taken: [false; 6],
            next_capability: DEVICE_SPECIFIC,
            last_link: CAPABILITIES,
            reads: 0,
            writes: 0,
        };
        let [base, sub, interface] = header.class;
        space.put_u16(VENDOR_ID, header.vendor);
        space.put_u16(DEVICE_ID, header.device);
        space.bytes[REVISION] = header.revision;
        space.bytes[CLASS..CLASS + 3].copy_from_slice(&[interface, sub, base]);
        space.bytes[HEADER_TYPE] = if header.multi_function {
            MULTI_FUNCTION
        } else {
            0
        };
        space.put_u16(SUBSYSTEM_VENDOR_ID, header.subsystem_vendor);
        space.put_u16(SUBSYSTEM_ID, header.subsystem);
        space.writable[COMMAND..COMMAND + 2].copy_from_slice(&COMMAND_WRITABLE.to_le_bytes());
        space.clear_by_one[STATUS..STATUS + 2].copy_from_slice(&STATUS_ERRORS.to_le_bytes());
        space.by_device[STATUS..STATUS + 2].copy_from_slice(&STATUS_INTERRUPT.to_le_bytes());
        for register in [CACHE_LINE_SIZE, LATENCY_TIMER, INTERRUPT_LINE] {
            space.writable[register] = 0xff;
        }
        space
    }

    /// Lays out base address register `index` (0 to 5) for `size` bytes.
    ///
    /// # Errors
    ///
    /// When the register is not there or taken, or the size does not fit the kind.
    pub fn add_bar(&mut self, index: usize, kind: BarKind, size: u64) -> Result<(), BarError> {
        let layout = kind.layout(size)?;
        let range = index..index.saturating_add(layout.registers);
        let taken = self
            .bar_taken
            .get_mut(range.clone())
            .ok_or(BarError::Index { index })?;
        if taken.contains(&true) {
            return Err(BarError::Taken { index });
        }
        taken.fill(true);
        self.bars[index] = Some((kind, size));
        for (register, writable) in range.zip(layout.writable) {
            let at = BAR_0 + 4 * register;
            self.writable[at..at + 4].copy_from_slice(&writable.to_le_bytes());
        }
        let at = BAR_0 + 4 * index;
        self.bytes[at..at + 4].copy_from_slice(&layout.flags.to_le_bytes());
        Ok(())
    }

    /// Appends a capability: `contents` follow its id and link; set bits of `writable` may be
    /// changed by the guest. Answers the offset of the capability.
    ///
    /// # Errors
    ///
    /// When the mask has another length than the contents or the space is full.
    pub fn add_capability(
        &mut self,
        id: u8,
        contents: &[u8],
        writable: &[u8],
    ) -> Result<u8, CapabilityError> {
        if contents.len() != writable.len() {
            let (contents, writable) = (contents.len(), writable.len());
            return Err(CapabilityError::MaskLength { contents, writable });
        }
        let length = contents.len() + 2;
        let at = self.next_capability;
        let end = at + length;
        let offset = u8::try_from(at).map_err(|_| CapabilityError::NoRoom { length })?;
        if end > SIZE {
            return Err(CapabilityError::NoRoom { length });
        }
        self.bytes[at] = id;
        self.bytes[at + 2..end].copy_from_slice(contents);
        self.writable[at + 2..end].copy_from_slice(writable);
        self.bytes[self.last_link] = offset;
        self.last_link = at + 1;
        self.next_capability = end.next_multiple_of(4);
        let status = self.u16(STATUS) | STATUS_CAPABILITIES;
        self.put_u16(STATUS, status);
        Ok(offset)
    }

    /// Says which interrupt pin the function drives.
    pub fn set_interrupt_pin(&mut self, pin: InterruptPin) {
        self.bytes[INTERRUPT_PIN] = match pin {
            InterruptPin::A => 1,
            InterruptPin::B => 2,
            InterruptPin::C => 3,
            InterruptPin::D => 4,
        };
    }

    /// Sets the interrupt line register as firmware does.
    pub fn set_interrupt_line(&mut self, line: u8) {
        self.bytes[INTERRUPT_LINE] = line;
    }

    /// The interrupt line register.
    #[must_use]
    pub fn interrupt_line(&self) -> u8 {
        self.bytes[INTERRUPT_LINE]
    }

    /// Shows in the status register whether the device asks for an interrupt.
    pub fn set_interrupt_status(&mut self, asks: bool) {
        let status = self.u16(STATUS) & !STATUS_INTERRUPT;
        self.put_u16(
            STATUS,
            if asks {
                status | STATUS_INTERRUPT
            } else {
                status
            },
        );
    }

    /// The level of the interrupt pin: the device asks and the guest has not disabled `INTx`.
    #[must_use]
    pub fn intx(&self) -> bool {
        self.u16(STATUS) & STATUS_INTERRUPT != 0 && self.u16(COMMAND) & COMMAND_INTX_DISABLE == 0
    }

    /// Whether the guest lets the function access memory.
    #[must_use]
    pub fn is_bus_master(&self) -> bool {
        self.u16(COMMAND) & COMMAND_BUS_MASTER != 0
    }

    /// Base address register `index` as the guest has set it, `None` where none was laid out.
    #[must_use]
    pub fn bar(&self, index: usize) -> Option<Bar> {
        let (kind, size) = (*self.bars.get(index)?)?;
        let at = BAR_0 + 4 * index;
        let enables = |bit| self.u16(COMMAND) & bit != 0;
        let low = u64::from(self.u32(at));
        let (address, enabled) = match kind {
            BarKind::Io => (low & !0x3, enables(COMMAND_IO)),
            BarKind::Memory32 { .. } => (low & !0xf, enables(COMMAND_MEMORY)),
            BarKind::Memory64 { .. } => (
                u64::from(self.u32(at + 4)) << 32 | low & !0xf,
                enables(COMMAND_MEMORY),
            ),
        };
        Some(Bar {
            address,
            size,
            kind,
            enabled,
        })
    }

    /// The 16 bits at `offset`, for devices that read their own capabilities.
    ///
    /// # Panics
    ///
    /// When they do not lie in the space.
    #[must_use]
    pub fn u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.bytes[offset], self.bytes[offset + 1]])
    }

    /// The 32 bits at `offset`.
    ///
    /// # Panics
    ///
    /// When they do not lie in the space.
    #[must_use]
    pub fn u32(&self, offset: usize) -> u32 {
        u32::from(self.u16(offset + 2)) << 16 | u32::from(self.u16(offset))
    }

    /// Sets bits that the guest only reads.
    pub(crate) fn set_u32(&mut self, offset: usize, value: u32) {
        self.bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// Reads at `offset`; bytes past the space read as 0xff.
    pub fn read(&mut self, offset: u16, data: &mut [u8]) {
        self.reads += 1;
        for (at, byte) in (usize::from(offset)..).zip(data) {
            *byte = self.bytes.get(at).copied().unwrap_or(0xff);
        }
    }

    /// Writes at `offset`; read-only bits and bytes past the space ignore it.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        self.writes += 1;
        for (at, &byte) in (usize::from(offset)..SIZE).zip(data) {
            let writable = self.writable[at];
            let cleared = self.clear_by_one[at] & byte;
            self.bytes[at] = (self.bytes[at] & !writable | byte & writable) & !cleared;
        }
    }

    /// Reads and writes since construction.
    #[must_use]
    pub fn accesses(&self) -> (u64, u64) {
        (self.reads, self.writes)
    }

    /// A copy of the bytes.
    #[must_use]
    pub fn state(&self) -> ConfigSpaceState {
        ConfigSpaceState {
            bytes: self.bytes.to_vec(),
        }
    }

    /// Takes up saved bytes into a function laid out as the saved one was.
    ///
    /// # Errors
    ///
    /// When a bit differs that neither the guest nor the device can change; nothing is taken then.
    pub fn restore(&mut self, state: &ConfigSpaceState) -> Result<(), InvalidState> {
        let bytes = <[u8; SIZE]>::try_from(state.bytes.as_slice())
            .map_err(|_| InvalidState { offset: SIZE })?;
        for (offset, (&new, &old)) in bytes.iter().zip(&self.bytes).enumerate() {
            let by_guest = self.writable[offset] | self.clear_by_one[offset];
            if (new ^ old) & !(by_guest | self.by_device[offset]) != 0 {
                return Err(InvalidState { offset });
            }
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Lets the device change the bits of `mask` at `offset`, which the guest only reads.
    pub(crate) fn let_device_change(&mut self, offset: usize, mask: u32) {
        self.by_device[offset..offset + 4].copy_from_slice(&mask.to_le_bytes());
    }

    /// Leaves nothing of the header for the guest to change but the bits of `mask` at `offset`.
    pub(crate) fn allow_only(&mut self, offset: usize, mask: u16) {
        self.writable[..DEVICE_SPECIFIC].fill(0);
        self.writable[offset..offset + 2].copy_from_slice(&mask.to_le_bytes());
    }

    fn put_u16(&mut self, offset: usize, value: u16) {
        self.bytes[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
    }
}

impl Function for ConfigSpace {
    fn read_config(&mut self, offset: u16, data: &mut [u8]) {
        self.read(offset, data);
    }

    fn write_config(&mut self, offset: u16, data: &[u8]) {
        self.write(offset, data);
    }
}

#[cfg(test)]
mod tests;
