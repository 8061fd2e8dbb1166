//! Numbers of the PCI Local Bus Specification 3.0, chapter 6. Byte offsets into config space.

// Figure 6-1, type 00h header.
pub(crate) const VENDOR_ID: usize = 0x00;
pub(crate) const DEVICE_ID: usize = 0x02;
pub(crate) const COMMAND: usize = 0x04;
pub(crate) const STATUS: usize = 0x06;
pub(crate) const REVISION: usize = 0x08;
pub(crate) const CLASS: usize = 0x09;
pub(crate) const CACHE_LINE_SIZE: usize = 0x0c;
pub(crate) const LATENCY_TIMER: usize = 0x0d;
pub(crate) const HEADER_TYPE: usize = 0x0e;
pub(crate) const BAR_0: usize = 0x10;
pub(crate) const SUBSYSTEM_VENDOR_ID: usize = 0x2c;
pub(crate) const SUBSYSTEM_ID: usize = 0x2e;
pub(crate) const CAPABILITIES: usize = 0x34;
pub(crate) const INTERRUPT_LINE: usize = 0x3c;
pub(crate) const INTERRUPT_PIN: usize = 0x3d;
/// First byte that belongs to the device.
pub(crate) const DEVICE_SPECIFIC: usize = 0x40;
pub(crate) const SIZE: usize = 0x100;

// 6.2.2, command.
pub(crate) const COMMAND_IO: u16 = 1 << 0;
pub(crate) const COMMAND_MEMORY: u16 = 1 << 1;
pub(crate) const COMMAND_BUS_MASTER: u16 = 1 << 2;
pub(crate) const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// I/O, memory, bus master, parity error response, SERR# and interrupt disable.
pub(crate) const COMMAND_WRITABLE: u16 = 0x0547;
// 6.2.3, status.
pub(crate) const STATUS_INTERRUPT: u16 = 1 << 3;
pub(crate) const STATUS_CAPABILITIES: u16 = 1 << 4;
/// Error bits, cleared by writing ones.
pub(crate) const STATUS_ERRORS: u16 = 0xf900;
pub(crate) const MULTI_FUNCTION: u8 = 1 << 7;

// 6.2.5.1, base address registers.
pub(crate) const BAR_IO: u32 = 1 << 0;
pub(crate) const BAR_64_BIT: u32 = 1 << 2;
pub(crate) const BAR_PREFETCHABLE: u32 = 1 << 3;

// Appendix H, capability ids.
pub(crate) const CAPABILITY_MSI: u8 = 0x05;
pub(crate) const CAPABILITY_MSIX: u8 = 0x11;
