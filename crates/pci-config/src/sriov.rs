//! SR-IOV (Single Root I/O Virtualization 1.1, chapter 3): one physical function that shows many virtual ones, each
//! with a requester id of its own, for guests to have.

use crate::Header;
use crate::bar::{Bar, BarError, BarKind};
use crate::bus::{Bdf, Function};
use crate::config_space::{ConfigSpace, ConfigSpaceState, InvalidState};
use crate::registers::{BAR_0, COMMAND, COMMAND_BUS_MASTER};

/// What a physical function offers.
#[derive(Clone, Debug)]
pub struct SriovConfig {
    /// Virtual functions there may be, 1 to 65,535.
    pub total: u16,
    /// From the physical function's requester id to the first virtual one's, not 0.
    pub first_offset: u16,
    /// From each virtual function's requester id to the next one's; not 0 where there are several.
    pub stride: u16,
    /// Device id of virtual functions; their vendor is the physical one's.
    pub device: u16,
    /// Windows of each virtual function; memory only.
    pub bars: [Option<(BarKind, u64)>; 6],
    /// What each virtual function begins as, made by [`ConfigSpace::virtual_function`].
    pub template: ConfigSpace,
}

/// Why there cannot be such a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SriovError {
    /// No virtual functions, or two with the same requester id.
    #[error("{total} functions, {first_offset} and then {stride} apart, are no virtual functions")]
    Layout {
        /// How many.
        total: u16,
        /// To the first.
        first_offset: u16,
        /// From one to the next.
        stride: u16,
    },
    /// A window that virtual functions cannot have.
    #[error("window {index} of virtual functions")]
    Bar {
        /// Which.
        index: usize,
        /// What is wrong; ports are [`BarError::Size`].
        #[source]
        source: BarError,
    },
}

/// A function with the SR-IOV capability at 0x100, and its virtual functions as long as they are enabled.
#[derive(Clone, Debug)]
pub struct PhysicalFunction {
    space: ConfigSpace,
    config: SriovConfig,
    /// Base address registers of all virtual functions together.
    windows: ConfigSpace,
    control: u16,
    number: u16,
    page_size: u32,
    enabled: Vec<ConfigSpace>,
}

/// Saved state; untrusted until [`PhysicalFunction::restore`] accepts it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PhysicalFunctionState {
    /// The physical function's space.
    pub space: ConfigSpaceState,
    /// The windows' registers.
    pub windows: ConfigSpaceState,
    /// SR-IOV control.
    pub control: u16,
    /// `NumVFs`.
    pub number: u16,
    /// System page size.
    pub page_size: u32,
    /// The spaces of enabled virtual functions.
    pub enabled: Vec<ConfigSpaceState>,
}

impl PhysicalFunction {
    /// Adds the capability to `space`, which should have [`add_express`](crate::add_express)'s too.
    ///
    /// # Errors
    ///
    /// When there cannot be such virtual functions.
    pub fn new(space: ConfigSpace, config: SriovConfig) -> Result<Self, SriovError> {
        let SriovConfig {
            total,
            first_offset,
            stride,
            ..
        } = config;
        if total == 0 || first_offset == 0 || total > 1 && stride == 0 {
            return Err(SriovError::Layout {
                total,
                first_offset,
                stride,
            });
        }
        let windows = windows(&config.bars, PAGE)?;
        Ok(Self {
            space,
            windows,
            config,
            control: 0,
            number: 0,
            page_size: 1,
            enabled: Vec::new(),
        })
    }

    /// The physical function's own space.
    #[must_use]
    pub fn space(&self) -> &ConfigSpace {
        &self.space
    }

    /// The same, to change.
    pub fn space_mut(&mut self) -> &mut ConfigSpace {
        &mut self.space
    }

    /// How many virtual functions there are now.
    #[must_use]
    pub fn enabled(&self) -> usize {
        self.enabled.len()
    }

    /// The space of virtual function `number`, from 0 on, while it is enabled.
    #[must_use]
    pub fn virtual_function(&self, number: usize) -> Option<&ConfigSpace> {
        self.enabled.get(number)
    }

    /// The same, to change.
    pub fn virtual_function_mut(&mut self, number: usize) -> Option<&mut ConfigSpace> {
        self.enabled.get_mut(number)
    }

    /// Window `index` of virtual function `number`: they lie one behind the other (3.3.14).
    #[must_use]
    pub fn virtual_bar(&self, number: usize, index: usize) -> Option<Bar> {
        self.enabled.get(number)?;
        let all = self.windows.bar(index)?;
        let offset = all.size.checked_mul(u64::try_from(number).ok()?)?;
        Some(Bar {
            address: all.address.checked_add(offset)?,
            enabled: self.control & MEMORY_ENABLE != 0,
            ..all
        })
    }

    /// Where virtual function `number` of a physical function at `own` is; `None` past the last requester id
    /// (3.3.9, 3.3.10: routing ids do not wrap).
    #[must_use]
    pub fn place(&self, own: Bdf, number: usize) -> Option<Bdf> {
        let number = u16::try_from(number).ok()?;
        let offset = self.config.stride.checked_mul(number)?;
        let offset = offset.checked_add(self.config.first_offset)?;
        let id = own.requester_id().checked_add(offset)?;
        Some(Bdf::from_requester_id(id))
    }

    /// A copy of all that changes.
    #[must_use]
    pub fn state(&self) -> PhysicalFunctionState {
        PhysicalFunctionState {
            space: self.space.state(),
            windows: self.windows.state(),
            control: self.control,
            number: self.number,
            page_size: self.page_size,
            enabled: self.enabled.iter().map(ConfigSpace::state).collect(),
        }
    }

    /// Takes up a saved state.
    ///
    /// # Errors
    ///
    /// When a function such as this one never has it; nothing is taken then. The offset is that of the register.
    pub fn restore(&mut self, state: &PhysicalFunctionState) -> Result<(), InvalidState> {
        let check = |right, register: usize| {
            let offset = CAPABILITY + register;
            if right {
                Ok(())
            } else {
                Err(InvalidState { offset })
            }
        };
        check(state.control & !CONTROL_WRITABLE == 0, CONTROL)?;
        check(state.number <= self.config.total, NUMBER)?;
        check(is_page_size(state.page_size), PAGE_SIZE)?;
        let expected = if state.control & ENABLE != 0 {
            usize::from(state.number)
        } else {
            0
        };
        check(state.enabled.len() == expected, CONTROL)?;
        let mut restored = self.clone();
        restored.space.restore(&state.space)?;
        restored.page_size = state.page_size;
        restored.lay_out();
        restored.windows.restore(&state.windows)?;
        (restored.control, restored.number) = (state.control, state.number);
        restored.enabled = vec![self.config.template.clone(); expected];
        for (space, state) in restored.enabled.iter_mut().zip(&state.enabled) {
            space.restore(state)?;
        }
        *self = restored;
        Ok(())
    }

    fn number_at(&self, own: Bdf, wanted: Bdf) -> Option<usize> {
        let offset = wanted.requester_id().checked_sub(own.requester_id())?;
        let beyond = offset.checked_sub(self.config.first_offset)?;
        let number = match self.config.stride {
            0 => (beyond == 0).then_some(0)?,
            stride => beyond.is_multiple_of(stride).then_some(beyond / stride)?,
        };
        let number = usize::from(number);
        (number < self.enabled.len()).then_some(number)
    }

    /// The capability's bytes.
    fn registers(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        let mut put = |at: usize, value: u32| {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        };
        let pair = |low: u16, high: u16| u32::from(high) << 16 | u32::from(low);
        put(0, EXTENDED_HEADER);
        put(CONTROL, self.control.into());
        put(INITIAL, pair(self.config.total, self.config.total));
        put(NUMBER, self.number.into());
        put(OFFSETS, pair(self.config.first_offset, self.config.stride));
        put(DEVICE - 2, pair(0, self.config.device));
        put(PAGE_SIZES, SUPPORTED);
        put(PAGE_SIZE, self.page_size);
        for index in 0..6 {
            put(WINDOWS + 4 * index, self.windows.u32(BAR_0 + 4 * index));
        }
        bytes
    }

    /// Takes the bytes that a write leaves behind, register by register.
    fn write_registers(&mut self, bytes: &[u8; LENGTH]) {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let (number, page_size) = (half(NUMBER), word(PAGE_SIZE));
        // Neither may be changed while there are virtual functions (3.3.7, 3.3.13).
        if self.control & ENABLE == 0 {
            if number <= self.config.total {
                self.number = number;
            }
            if is_page_size(page_size) && page_size != self.page_size {
                self.page_size = page_size;
                self.lay_out();
            }
        }
        for index in 0..6 {
            let at = u16::try_from(BAR_0 + 4 * index).expect("six registers");
            let value = word(WINDOWS + 4 * index);
            self.windows.write(at, &value.to_le_bytes());
        }
        self.set_control(half(CONTROL) & CONTROL_WRITABLE);
    }

    fn set_control(&mut self, control: u16) {
        let was = std::mem::replace(&mut self.control, control) & ENABLE;
        match (was, control & ENABLE) {
            (0, ENABLE) => {
                self.enabled = vec![self.config.template.clone(); usize::from(self.number)];
            }
            (ENABLE, 0) => self.enabled.clear(),
            _ => {}
        }
    }

    /// Windows are at least a page, and are nowhere after its size has changed.
    fn lay_out(&mut self) {
        let page = u64::from(self.page_size) * PAGE;
        self.windows = windows(&self.config.bars, page).expect("a page is a size for a window");
    }
}

impl Function for PhysicalFunction {
    fn read_config(&mut self, offset: u16, data: &mut [u8]) {
        let start = usize::from(offset);
        let own = data.len().min(CAPABILITY.saturating_sub(start));
        if own > 0 {
            self.space.read(offset, &mut data[..own]);
        }
        let registers = self.registers();
        for (at, byte) in (start..).zip(data).skip(own) {
            *byte = registers.get(at - CAPABILITY).copied().unwrap_or(0);
        }
    }

    fn write_config(&mut self, offset: u16, data: &[u8]) {
        let start = usize::from(offset);
        let own = data.len().min(CAPABILITY.saturating_sub(start));
        if own > 0 {
            self.space.write(offset, &data[..own]);
        }
        let mut registers = self.registers();
        let mut hit = false;
        for (at, &byte) in (start..).zip(data).skip(own) {
            if let Some(register) = registers.get_mut(at - CAPABILITY) {
                *register = byte;
                hit = true;
            }
        }
        if hit {
            self.write_registers(&registers);
        }
    }

    fn read_virtual(&mut self, own: Bdf, wanted: Bdf, offset: u16, data: &mut [u8]) -> bool {
        let Some(number) = self.number_at(own, wanted) else {
            return false;
        };
        // No extended capabilities: zeros (PCI Express Base 5.0, 7.6.2).
        data.fill(0);
        let before = data.len().min(CAPABILITY.saturating_sub(offset.into()));
        if before > 0 {
            self.enabled[number].read(offset, &mut data[..before]);
        }
        true
    }

    fn write_virtual(&mut self, own: Bdf, wanted: Bdf, offset: u16, data: &[u8]) -> bool {
        let Some(number) = self.number_at(own, wanted) else {
            return false;
        };
        self.enabled[number].write(offset, data);
        true
    }
}

/// Base address registers in a space of their own, each window at least a page.
fn windows(bars: &[Option<(BarKind, u64)>; 6], page: u64) -> Result<ConfigSpace, SriovError> {
    let mut space = ConfigSpace::new(Header::default());
    for (index, bar) in bars.iter().enumerate() {
        let &Some((kind, size)) = bar else { continue };
        let failed = |source| SriovError::Bar { index, source };
        if kind == BarKind::Io || !size.is_power_of_two() {
            return Err(failed(BarError::Size { size }));
        }
        let size = size.max(page);
        space.add_bar(index, kind, size).map_err(failed)?;
    }
    Ok(space)
}

/// One of the supported page sizes, and one only.
fn is_page_size(bit: u32) -> bool {
    bit.is_power_of_two() && bit & SUPPORTED != 0
}

impl ConfigSpace {
    /// The space of a virtual function (3.4.1): its ids read all ones, it has no windows of its own and no pin, and all
    /// that can be changed is bus mastering. Its revision, class and subsystem are the physical function's.
    #[must_use]
    pub fn virtual_function(header: Header) -> Self {
        let mut space = Self::new(Header {
            vendor: 0xffff,
            device: 0xffff,
            multi_function: false,
            ..header
        });
        space.allow_only(COMMAND, COMMAND_BUS_MASTER);
        space
    }
}

/// Where the capability is: the first extended one must be here.
const CAPABILITY: usize = 0x100;
const LENGTH: usize = 0x40;
/// Id 0x0010, version 1, none after it.
const EXTENDED_HEADER: u32 = 1 << 16 | 0x0010;
// Offsets in the capability, figure 3-1.
const CONTROL: usize = 0x08;
const INITIAL: usize = 0x0c;
const NUMBER: usize = 0x10;
const OFFSETS: usize = 0x14;
const DEVICE: usize = 0x1a;
const PAGE_SIZES: usize = 0x1c;
const PAGE_SIZE: usize = 0x20;
const WINDOWS: usize = 0x24;
// 3.3.3, control.
const ENABLE: u16 = 1 << 0;
const MEMORY_ENABLE: u16 = 1 << 3;
const CONTROL_WRITABLE: u16 = ENABLE | MEMORY_ENABLE;
/// 4 KiB, 8 KiB, 64 KiB, 256 KiB, 1 MiB, 4 MiB: those that all must support (3.3.12).
const SUPPORTED: u32 = 0x553;
const PAGE: u64 = 4096;

#[cfg(test)]
mod tests;
