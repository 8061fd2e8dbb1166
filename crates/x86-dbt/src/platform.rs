//! What a processor reaches outside its own state and RAM.
//!
//! The processor calls these; it never asks who answers. Every call is made with the clock already
//! set to the instruction that makes it ([`Clock::set_retired`]).

/// The I/O port space. `data` is 1, 2 or 4 bytes long.
pub trait PortIo {
    /// Reads `data.len()` bytes at `port`; an absent device answers all ones.
    fn port_read(&mut self, port: u16, data: &mut [u8]);
    /// Writes `data` at `port`; an absent device ignores it.
    fn port_write(&mut self, port: u16, data: &[u8]);
}

/// Guest-physical addresses that no RAM backs. `data` is 1 to 8 bytes long and crosses no page.
pub trait Mmio {
    /// Reads `data.len()` bytes at `gpa`; an absent device answers all ones.
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]);
    /// Writes `data` at `gpa`; an absent device ignores it.
    fn mmio_write(&mut self, gpa: u64, data: &[u8]);
    /// Takes a stretch of RAM that devices have written (first address, length), so that code decoded from there is
    /// decoded again; `None` when there is no other. Asked until then after each access to a device, and when
    /// interrupts are looked for.
    fn take_written(&mut self) -> Option<(u64, u64)> {
        None
    }
}

/// The processor's INTR and NMI pins and what a local APIC answers for.
pub trait InterruptSource {
    /// Whether a maskable interrupt waits (INTR is high, or the local APIC has one above its priority).
    fn interrupt_pending(&mut self) -> bool;
    /// Interrupt acknowledge: takes the vector, `None` when it has gone in the meantime.
    fn acknowledge(&mut self) -> Option<u8>;
    /// Takes a waiting non-maskable interrupt.
    fn take_nmi(&mut self) -> bool {
        false
    }
    /// The task priority of CR8, bits 3:0.
    fn task_priority(&mut self) -> u8 {
        0
    }
    /// Sets the task priority of CR8, 0 to 15.
    fn set_task_priority(&mut self, _class: u8) {}
    /// Whether the local APIC's enable bit is set: CPUID shows it.
    fn apic_enabled(&mut self) -> bool {
        true
    }
    /// RDMSR of a register that is not the processor's own (APIC base, x2APIC, TSC deadline).
    /// `None` raises #GP.
    fn msr_read(&mut self, _index: u32) -> Option<u64> {
        None
    }
    /// WRMSR likewise; `false` raises #GP.
    fn msr_write(&mut self, _index: u32, _value: u64) -> bool {
        false
    }
}

/// Time as a function of instructions retired, so that a run can be repeated exactly.
pub trait Clock {
    /// Tells how many instructions have retired; never goes back.
    fn set_retired(&mut self, retired: u64);
    /// The time-stamp counter now, before the guest's own TSC offset.
    fn tsc(&mut self) -> u64;
    /// The count of retired instructions at which [`crate::Cpu::run`] must return, so that timers fire on time.
    /// Asked again after every port, MMIO and MSR access.
    fn deadline(&mut self) -> u64;
}

/// Everything outside the processor, as one object.
pub trait Platform: PortIo + Mmio + InterruptSource + Clock {}
impl<T: PortIo + Mmio + InterruptSource + Clock> Platform for T {}

/// A platform with nothing in it: reads give all ones, no interrupt comes, no deadline is set, and time stands still.
///
/// For code that runs by itself, and to start a platform of one's own from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Isolated;

impl PortIo for Isolated {
    fn port_read(&mut self, _: u16, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn port_write(&mut self, _: u16, _: &[u8]) {}
}

impl Mmio for Isolated {
    fn mmio_read(&mut self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn mmio_write(&mut self, _: u64, _: &[u8]) {}
}

impl InterruptSource for Isolated {
    fn interrupt_pending(&mut self) -> bool {
        false
    }
    fn acknowledge(&mut self) -> Option<u8> {
        None
    }
}

impl Clock for Isolated {
    fn set_retired(&mut self, _: u64) {}
    fn tsc(&mut self) -> u64 {
        0
    }
    fn deadline(&mut self) -> u64 {
        u64::MAX
    }
}
