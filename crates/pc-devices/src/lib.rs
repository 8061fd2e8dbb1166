#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod accesses;
mod acpi_pm;
mod ata;
mod debug;
mod fw_cfg;
mod i8042;
mod i8254;
mod i8259;
mod mc146818;
mod ps2;
mod state_error;
mod system_control;
mod test_device;

pub use accesses::Accesses;
pub use acpi_pm::{AcpiPm, AcpiPmState, Button, TimerWidth};
pub use ata::{Ata, AtaState, Moved, SECTOR, Sectors};
pub use debug::{BootTimer, DebugConsole, DebugExit};
pub use fw_cfg::{FwCfg, FwCfgError, FwCfgState};
pub use i8042::{I8042, I8042State};
pub use i8254::{I8254, I8254State};
pub use i8259::{I8259Pair, I8259PairState};
pub use mc146818::{Mc146818, Mc146818State, MemorySize};
pub use ps2::{KeyboardState, MouseState};
pub use state_error::InvalidState;
pub use system_control::{ResetControl, SystemControlA};
pub use test_device::TestDevice;

/// The parts of each device's `State` that are structures of their own.
pub mod state {
    pub use crate::ata::AtaRegisters;
    pub use crate::ata::command::{Block, Progress};
    pub use crate::i8254::channel::{ChannelState, Latch};
    pub use crate::i8259::chip::{ChipState, InitStep};
}

/// Lets a device sit on a `vm-device` port bus: the bus's base plus offset is the port number.
macro_rules! impl_mut_device_pio {
    ($($device:ty),+) => {$(
        impl vm_device::MutDevicePio for $device {
            fn pio_read(
                &mut self,
                base: vm_device::bus::PioAddress,
                offset: vm_device::bus::PioAddressOffset,
                data: &mut [u8],
            ) {
                self.read(base.0.wrapping_add(offset), data);
            }

            fn pio_write(
                &mut self,
                base: vm_device::bus::PioAddress,
                offset: vm_device::bus::PioAddressOffset,
                data: &[u8],
            ) {
                self.write(base.0.wrapping_add(offset), data);
            }
        }
    )+};
}

impl_mut_device_pio!(
    AcpiPm,
    BootTimer,
    DebugConsole,
    DebugExit,
    FwCfg,
    I8042,
    I8254,
    I8259Pair,
    Mc146818,
    ResetControl,
    SystemControlA,
    TestDevice
);
