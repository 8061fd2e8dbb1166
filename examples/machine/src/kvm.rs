//! The `kvm` engine: one virtual processor of the host's KVM over the board's devices.
//!
//! Time is the host's monotonic clock. With an in-kernel interrupt controller the 8259A, 8254 and
//! APICs are KVM's and the board supplies the rest; without one, everything is the board's.

mod memory;
mod registers;
#[cfg(test)]
mod tests;
mod ticker;

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, KVM_SYSTEM_EVENT_RESET,
    KVM_SYSTEM_EVENT_SHUTDOWN, kvm_msi, kvm_pit_config,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use x86_dbt::{InterruptSource, Mmio, PortIo};

use crate::board::{Board, Chipset};
use crate::engine::{EngineError, Stop};
use crate::kernel::Ram;
use crate::start_state::StartState;
use ticker::Ticker;

/// Whose interrupt controllers and timer the guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controllers {
    /// KVM's: fast, and not the board's.
    Kernel,
    /// The board's.
    Board,
}

/// A virtual machine of the host's KVM with one processor.
pub struct KvmEngine {
    vcpu: VcpuFd,
    vm: VmFd,
    controllers: Controllers,
    started: Instant,
    lines: u32,
    // Keeps the guest's memory mapped as long as the virtual machine uses it.
    _ram: Ram,
}

impl fmt::Debug for KvmEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvmEngine")
            .field("controllers", &self.controllers)
            .finish_non_exhaustive()
    }
}

impl KvmEngine {
    /// Creates the virtual machine over `ram` with its processor in `start`.
    ///
    /// `controllers` is what is wanted: chipset M0 and a KVM without interrupt controllers always
    /// get the board's.
    ///
    /// # Errors
    ///
    /// When `/dev/kvm` cannot be opened or refuses a step.
    pub fn new(
        ram: &Ram,
        start: &StartState,
        chipset: Chipset,
        controllers: Controllers,
    ) -> Result<Self, EngineError> {
        let kvm = Kvm::new().map_err(failed("open /dev/kvm"))?;
        let vm = kvm
            .create_vm()
            .map_err(failed("create a virtual machine"))?;
        memory::map(&vm, ram)?;
        let wanted = chipset == Chipset::M1 && controllers == Controllers::Kernel;
        let controllers = if wanted && create_controllers(&vm)? {
            Controllers::Kernel
        } else {
            Controllers::Board
        };
        let vcpu = vm.create_vcpu(0).map_err(failed("create a processor"))?;
        let cpuid = cpuid(&kvm, chipset, controllers)?;
        vcpu.set_cpuid2(&cpuid).map_err(failed("set CPUID"))?;
        registers::set(&vcpu, start)?;
        let started = Instant::now();
        Ok(Self {
            vcpu,
            vm,
            controllers,
            started,
            lines: 0,
            _ram: ram.clone(),
        })
    }

    /// Whose controllers the guest sees.
    #[must_use]
    pub fn controllers(&self) -> Controllers {
        self.controllers
    }

    /// Runs until the guest stops the machine, or for `limit`.
    ///
    /// # Errors
    ///
    /// When KVM cannot run the guest.
    pub fn run(&mut self, board: &mut Board, limit: Duration) -> Result<Stop, EngineError> {
        let end = Instant::now() + limit;
        if self.controllers == Controllers::Kernel {
            board.divert_messages();
        }
        // Brings the processor out of the guest often enough for timers and input.
        let _ticker = Ticker::start(TICK).map_err(EngineError::Signal)?;
        loop {
            board.skip_idle_to(nanoseconds(self.started.elapsed()));
            if let Some(outcome) = board.outcome() {
                return Ok(Stop::Outcome(outcome));
            }
            if Instant::now() >= end {
                return Ok(Stop::TimeLimit);
            }
            self.offer_interrupts(board)?;
            if let Some(stop) = self.enter(board)? {
                return Ok(stop);
            }
        }
    }

    /// Enters the guest once and answers what it left for.
    fn enter(&mut self, board: &mut Board) -> Result<Option<Stop>, EngineError> {
        let exit = match self.vcpu.run() {
            Ok(exit) => exit,
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => return Ok(None),
            Err(error) => return Err(failed("run the processor")(error)),
        };
        match exit {
            VcpuExit::IoIn(port, data) => each_port_access(data.len()).for_each(|part| {
                board.port_read(port, &mut data[part]);
            }),
            VcpuExit::IoOut(port, data) => each_port_access(data.len()).for_each(|part| {
                board.port_write(port, &data[part]);
            }),
            VcpuExit::MmioRead(gpa, data) => board.mmio_read(gpa, data),
            VcpuExit::MmioWrite(gpa, data) => board.mmio_write(gpa, data),
            VcpuExit::Hlt => return Ok(self.halt(board)),
            VcpuExit::Shutdown => return Ok(Some(Stop::Shutdown)),
            VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN | KVM_SYSTEM_EVENT_RESET, _) => {
                return Ok(Some(Stop::Shutdown));
            }
            VcpuExit::IrqWindowOpen | VcpuExit::SetTpr | VcpuExit::Intr => {}
            other => {
                let exit = format!("{other:?}");
                let rip = self.vcpu.get_regs().map_err(failed("read registers"))?.rip;
                return Err(EngineError::Exit { exit, rip });
            }
        }
        Ok(None)
    }

    fn offer_interrupts(&mut self, board: &mut Board) -> Result<(), EngineError> {
        match self.controllers {
            Controllers::Kernel => {
                self.signal_messages(board)?;
                self.drive_lines(board.lines())
            }
            Controllers::Board => self.inject(board),
        }
    }

    /// Passes interrupt messages to KVM's local APIC.
    fn signal_messages(&mut self, board: &mut Board) -> Result<(), EngineError> {
        for message in board.take_messages() {
            let [a, b, c, d, e, f, g, h] = message.address.to_le_bytes();
            let message = kvm_msi {
                address_lo: u32::from_le_bytes([a, b, c, d]),
                address_hi: u32::from_le_bytes([e, f, g, h]),
                data: message.data,
                ..kvm_msi::default()
            };
            let sent = self.vm.signal_msi(message);
            sent.map_err(failed("signal an interrupt message"))?;
        }
        Ok(())
    }

    /// Passes changed interrupt lines to KVM's controllers. KVM routes each to the 8259A and to
    /// the I/O APIC.
    fn drive_lines(&mut self, lines: u32) -> Result<(), EngineError> {
        // The timer is KVM's own.
        let lines = lines & !1;
        let changed = self.lines ^ lines;
        for irq in (0..24u32).filter(|irq| changed & 1 << irq != 0) {
            let level = lines & 1 << irq != 0;
            self.vm
                .set_irq_line(irq, level)
                .map_err(failed("drive an interrupt line"))?;
        }
        self.lines = lines;
        Ok(())
    }

    /// Injects what the board's controllers ask for, or asks to be told when that is possible.
    fn inject(&mut self, board: &mut Board) -> Result<(), EngineError> {
        let run = self.vcpu.get_kvm_run();
        board.set_task_priority(u8::try_from(run.cr8 & 0xf).expect("four bits"));
        let ready = run.ready_for_interrupt_injection != 0 && run.if_flag != 0;
        let asks = board.interrupt_pending();
        run.request_interrupt_window = u8::from(asks && !ready);
        if board.take_nmi() {
            self.vcpu.nmi().map_err(failed("inject an NMI"))?;
        }
        let Some(vector) = (asks && ready).then(|| board.acknowledge()).flatten() else {
            return Ok(());
        };
        let mut events = self
            .vcpu
            .get_vcpu_events()
            .map_err(failed("read pending events"))?;
        events.interrupt.injected = 1;
        events.interrupt.nr = vector;
        events.interrupt.soft = 0;
        self.vcpu
            .set_vcpu_events(&events)
            .map_err(failed("inject an interrupt"))
    }

    /// HLT with the board's controllers: waits for the next deadline, a tick at most.
    fn halt(&mut self, board: &mut Board) -> Option<Stop> {
        let deadline = board.next_deadline();
        let interruptible = self.vcpu.get_kvm_run().if_flag != 0;
        if !interruptible && !board.interrupt_pending() {
            return Some(Stop::Halted);
        }
        if !board.interrupt_pending() {
            let left = deadline.map_or(TICK, |at| {
                Duration::from_nanos(at.saturating_sub(nanoseconds(self.started.elapsed())))
            });
            thread::sleep(left.min(TICK));
        }
        None
    }
}

fn create_controllers(vm: &VmFd) -> Result<bool, EngineError> {
    vm.set_tss_address(TSS_ADDRESS)
        .map_err(failed("place the TSS"))?;
    if vm.create_irq_chip().is_err() {
        return Ok(false);
    }
    // The dummy speaker lets the kernel answer port 0x61 as well.
    let pit = kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..kvm_pit_config::default()
    };
    vm.create_pit2(pit).map_err(failed("create the timer"))?;
    Ok(true)
}

/// What KVM supports, less what the controllers in use do not.
fn cpuid(kvm: &Kvm, chipset: Chipset, controllers: Controllers) -> Result<CpuId, EngineError> {
    let mut cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(failed("read CPUID"))?;
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => {
                // The initial APIC id is the host's.
                entry.ebx &= 0x00ff_ffff;
                if controllers == Controllers::Board {
                    entry.ecx &= !(CPUID_X2APIC | CPUID_TSC_DEADLINE | CPUID_HYPERVISOR);
                }
                if chipset == Chipset::M0 {
                    entry.edx &= !CPUID_APIC;
                }
            }
            // Paravirtual features rest on KVM's own controllers.
            0x4000_0001 if controllers == Controllers::Board => entry.eax = 0,
            _ => {}
        }
    }
    Ok(cpuid)
}

/// The single accesses of an exit. KVM gathers the accesses of a string instruction, and tells
/// their size only in a place that this crate does not read: a length that no single access has is
/// taken for bytes.
fn each_port_access(length: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let size = if matches!(length, 1 | 2 | 4) {
        length
    } else {
        1
    };
    (0..length / size).map(move |index| index * size..(index + 1) * size)
}

fn failed(step: &'static str) -> impl Fn(kvm_ioctls::Error) -> EngineError {
    move |source| EngineError::Kvm { step, source }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

const TICK: Duration = Duration::from_millis(4);
/// Three pages that Intel processors without "unrestricted guest" need, below the reset vector.
const TSS_ADDRESS: usize = 0xfffb_d000;
const CPUID_X2APIC: u32 = 1 << 21;
const CPUID_TSC_DEADLINE: u32 = 1 << 24;
const CPUID_HYPERVISOR: u32 = 1 << 31;
const CPUID_APIC: u32 = 1 << 9;
