//! A machine of RAM and nothing else, and ways to start code in it.
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test file uses its own part"
)]

use iced_x86::code_asm::CodeAssembler;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use x86_dbt::{
    Clock, Cpu, Cpuid, Exit, Features, InterruptSource, Mmio, PortIo, Ram, Registers, Segment,
    State, Vendor,
};

pub(crate) const CODE: u64 = 0x1000;
pub(crate) const STACK: u64 = 0x9000;

/// Records what goes out, answers all ones, and raises what it is told to.
#[derive(Debug, Default)]
pub(crate) struct Bare {
    pub retired: u64,
    pub deadline: u64,
    pub ports: Vec<(u16, u64)>,
    pub mmio: Vec<(u64, u64)>,
    pub vector: Option<u8>,
    pub nmi: bool,
    /// RAM that a device has written.
    pub written: Vec<(u64, u64)>,
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}

impl PortIo for Bare {
    fn port_read(&mut self, _: u16, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn port_write(&mut self, port: u16, data: &[u8]) {
        self.ports.push((port, number(data)));
    }
}

impl Mmio for Bare {
    fn mmio_read(&mut self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn mmio_write(&mut self, gpa: u64, data: &[u8]) {
        self.mmio.push((gpa, number(data)));
    }
    fn take_written(&mut self) -> Option<(u64, u64)> {
        self.written.pop()
    }
}

impl InterruptSource for Bare {
    fn interrupt_pending(&mut self) -> bool {
        self.vector.is_some()
    }
    fn acknowledge(&mut self) -> Option<u8> {
        self.vector.take()
    }
    fn take_nmi(&mut self) -> bool {
        std::mem::take(&mut self.nmi)
    }
}

impl Clock for Bare {
    fn set_retired(&mut self, retired: u64) {
        assert!(retired >= self.retired, "time went back");
        self.retired = retired;
    }
    fn tsc(&mut self) -> u64 {
        self.retired
    }
    fn deadline(&mut self) -> u64 {
        self.deadline
    }
}

/// A processor over 2 MiB of RAM, and the RAM to look into.
pub(crate) struct Guest {
    pub cpu: Cpu,
    pub bare: Bare,
    pub memory: GuestMemoryMmap,
}

impl Guest {
    pub(crate) fn new(features: Features) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
        let ram = Ram::new(memory.clone()).unwrap();
        let cpu = Cpu::new(Cpuid::new(Vendor::Amd, features, 1_000_000_000), ram).unwrap();
        Self {
            cpu,
            bare: Bare {
                deadline: 1_000_000,
                ..Bare::default()
            },
            memory,
        }
    }

    pub(crate) fn load(&self, at: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    pub(crate) fn read_u64(&self, at: u64) -> u64 {
        self.memory.read_obj(GuestAddress(at)).unwrap()
    }

    pub(crate) fn read_u32(&self, at: u64) -> u32 {
        self.memory.read_obj(GuestAddress(at)).unwrap()
    }

    /// Runs until HLT, a shutdown or the deadline.
    pub(crate) fn run(&mut self) -> Exit {
        self.cpu.run(&mut self.bare, u64::MAX)
    }

    pub(crate) fn gpr(&self, number: usize) -> u64 {
        self.cpu.registers().gpr[number]
    }

    /// 16-bit code at `CODE`, in real mode.
    pub(crate) fn real_mode(assemble: impl FnOnce(&mut CodeAssembler)) -> Self {
        let mut guest = Self::new(Features::ALL);
        guest.load(CODE, &assembled(16, CODE, assemble));
        let mut state = guest.cpu.state();
        state.segments = [Segment::real(0); 6];
        state.registers = Registers {
            rip: CODE,
            rflags: 2,
            ..Registers::default()
        };
        state.registers.gpr[4] = STACK;
        guest.cpu.set_state(&state);
        guest
    }

    /// 32-bit code at `CODE`, in flat protected mode without paging.
    pub(crate) fn protected_mode(assemble: impl FnOnce(&mut CodeAssembler)) -> Self {
        let mut guest = Self::new(Features::ALL);
        guest.load(CODE, &assembled(32, CODE, assemble));
        let mut state = guest.cpu.state();
        state.cr0 = 0x11;
        state.segments = [Segment::flat(0x10, 0xc000); 6];
        state.segments[1] = Segment::flat(0x08, 0xc008);
        state.registers = Registers {
            rip: CODE,
            rflags: 2,
            ..Registers::default()
        };
        state.registers.gpr[4] = STACK;
        guest.cpu.set_state(&state);
        guest
    }

    /// 64-bit code at `CODE` in ring 0, the first 2 MiB identity-mapped.
    pub(crate) fn long_mode(assemble: impl FnOnce(&mut CodeAssembler)) -> Self {
        let mut guest = Self::new(Features::ALL);
        guest.load(CODE, &assembled(64, CODE, assemble));
        for (at, entry) in [
            (0x10_0000, 0x10_1007u64),
            (0x10_1000, 0x10_2007),
            (0x10_2000, 0x87),
        ] {
            guest.load(at, &entry.to_le_bytes());
        }
        let mut state = guest.cpu.state();
        long_mode_state(&mut state);
        guest.cpu.set_state(&state);
        guest
    }
}

/// CR0, CR3, CR4, EFER and segments of 64-bit mode with SSE on.
pub(crate) fn long_mode_state(state: &mut State) {
    state.cr0 = 0x8001_0033;
    state.cr3 = 0x10_0000;
    state.cr4 = 0x6a0;
    state.efer = 0xd01;
    state.segments = [Segment::flat(0x10, 0xc000); 6];
    state.segments[1] = Segment::flat(0x08, 0xa008);
    state.registers = Registers {
        rip: CODE,
        rflags: 2,
        ..Registers::default()
    };
    state.registers.gpr[4] = STACK;
}

pub(crate) fn assembled(bits: u32, at: u64, assemble: impl FnOnce(&mut CodeAssembler)) -> Vec<u8> {
    let mut a = CodeAssembler::new(bits).unwrap();
    assemble(&mut a);
    a.assemble(at).unwrap()
}
