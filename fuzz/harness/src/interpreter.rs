//! Random code in a random state: the processor must not panic, must come back, and must do the same again.

use arbitrary::{Result, Unstructured};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use x86_dbt::{
    Clock, Cpu, Cpuid, Exit, Features, InterruptSource, Mmio, PortIo, Ram, Segment, State,
    TableRegister, Vendor,
};

/// Runs the guest that `data` describes in blocks, piece by piece and translated, and compares.
///
/// # Panics
///
/// When the runs differ.
pub fn interpreter(data: &[u8]) {
    // What is missing in the input reads as zeros, so there is no failure to look at.
    let _ = run_thrice(&mut Unstructured::new(data));
}

fn run_thrice(input: &mut Unstructured<'_>) -> Result<()> {
    let vendor = if input.arbitrary()? {
        Vendor::Amd
    } else {
        Vendor::Intel
    };
    let seed = Seed::new(input)?;
    let mut interpreting = seed.machine(vendor);
    interpreting.cpu.set_translation(None);
    let whole = interpreting.run(u64::MAX);
    let piecewise = seed.machine(vendor).run(u64::from(seed.piece));
    assert_eq!(whole, piecewise, "the budget of a run shows in its result");
    let mut translating = seed.machine(vendor);
    translating.cpu.set_translation(Some(0));
    let translated = translating.run(u64::MAX);
    assert_eq!(whole, translated, "translation shows in the result");
    Ok(())
}

/// All that a run depends on.
struct Seed<'a> {
    state: State,
    memory: &'a [u8],
    vectors: [u8; 8],
    /// Instructions at a time in the second run.
    piece: u8,
}

impl<'a> Seed<'a> {
    fn new(input: &mut Unstructured<'a>) -> Result<Self> {
        let cpu = Cpu::new(
            Cpuid::new(Vendor::Amd, Features::ALL, 0),
            ram(&new_memory()),
        );
        let mut state = cpu.expect("the host gives memory for stubs").state();
        mode(&mut state, input)?;
        for value in &mut state.registers.gpr {
            *value = number(input)?;
        }
        state.registers.rip = u64::from(input.int_in_range(0..=0x2fffu16)?);
        state.registers.rflags = u64::from(input.arbitrary::<u32>()?) & 0x3f_7fd7;
        if input.ratio(3, 4)? {
            // Mostly without single-stepping and nested tasks.
            state.registers.rflags &= !0x4100;
        }
        if input.ratio(1, 4)? {
            for value in &mut state.debug {
                *value = number(input)?;
            }
        }
        let vectors = input.arbitrary()?;
        let piece = input.int_in_range(1..=20)?;
        let len = input.len();
        Ok(Self {
            state,
            memory: input.bytes(len)?,
            vectors,
            piece,
        })
    }

    fn machine(&self, vendor: Vendor) -> Machine {
        let memory = new_memory();
        // The input's bytes are code, tables and data, again and again.
        for at in (0..RAM_BYTES).step_by(self.memory.len().max(64)) {
            let len = self.memory.len().min(RAM_BYTES - at);
            memory
                .write_slice(&self.memory[..len], GuestAddress(at as u64))
                .expect("inside RAM");
        }
        write_tables(&memory);
        let cpuid = Cpuid::new(vendor, Features::ALL, 1_000_000_000);
        let mut cpu = Cpu::new(cpuid, ram(&memory)).expect("the host gives memory for stubs");
        cpu.set_state(&self.state);
        let outside = Outside {
            retired: 0,
            vectors: self.vectors,
            noise: 1,
            log: 0,
        };
        Machine {
            cpu,
            memory,
            outside,
        }
    }
}

struct Machine {
    cpu: Cpu,
    memory: GuestMemoryMmap,
    outside: Outside,
}

impl Machine {
    /// The state, the memory and what went outside, after a bounded run.
    fn run(mut self, budget: u64) -> (State, u64, u64, u64) {
        while self.outside.retired < INSTRUCTIONS_MAX {
            let left = INSTRUCTIONS_MAX - self.outside.retired;
            if self.cpu.run(&mut self.outside, budget.min(left)) != Exit::Deadline {
                break;
            }
        }
        let mut bytes = vec![0; RAM_BYTES];
        self.memory
            .read_slice(&mut bytes, GuestAddress(0))
            .expect("inside RAM");
        (
            self.cpu.state(),
            self.cpu.retired(),
            mix(&bytes),
            self.outside.log,
        )
    }
}

/// Devices that answer noise, and interrupts at chosen times.
struct Outside {
    retired: u64,
    vectors: [u8; 8],
    noise: u64,
    /// A digest of all that was written.
    log: u64,
}

impl Outside {
    fn answer(&mut self, data: &mut [u8]) {
        for byte in data {
            self.noise = self
                .noise
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(1);
            *byte = self.noise.to_le_bytes()[7];
        }
    }

    fn note(&mut self, at: u64, data: &[u8]) {
        self.log = self.log.rotate_left(5) ^ at ^ mix(data);
    }
}

impl PortIo for Outside {
    fn port_read(&mut self, _: u16, data: &mut [u8]) {
        self.answer(data);
    }
    fn port_write(&mut self, port: u16, data: &[u8]) {
        self.note(u64::from(port), data);
    }
}

impl Mmio for Outside {
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        assert!((1..=8).contains(&data.len()) && gpa % 4096 + data.len() as u64 <= 4096);
        self.answer(data);
    }
    fn mmio_write(&mut self, gpa: u64, data: &[u8]) {
        self.note(gpa, data);
    }
}

impl InterruptSource for Outside {
    fn interrupt_pending(&mut self) -> bool {
        // Only as a function of time, so that it does not matter how often it is asked.
        self.retired % 64 == 63
    }
    fn acknowledge(&mut self) -> Option<u8> {
        Some(self.vectors[(self.retired / 64 % 8) as usize])
    }
}

impl Clock for Outside {
    fn set_retired(&mut self, retired: u64) {
        assert!(retired >= self.retired, "time went back");
        self.retired = retired;
    }
    fn tsc(&mut self) -> u64 {
        self.retired * 3
    }
    fn deadline(&mut self) -> u64 {
        // Where an interrupt comes, a run stops and looks.
        (self.retired / 64) * 64 + if self.retired % 64 < 63 { 63 } else { 64 + 63 }
    }
}

/// Real mode, protected mode with and without paging, virtual-8086, compatibility and 64-bit mode.
fn mode(state: &mut State, input: &mut Unstructured<'_>) -> Result<()> {
    const PE: u64 = 1;
    const PG: u64 = 1 << 31;
    let data = Segment::flat(0x10, 0xc000);
    let ring = input.int_in_range(0..=3u8)?;
    let with_ring = |segment: Segment| Segment {
        selector: segment.selector | u16::from(ring),
        attributes: segment.attributes | u16::from(ring) << 5,
        ..segment
    };
    let wide = if input.arbitrary()? { 0xc000 } else { 0 };
    let code = |attributes| with_ring(Segment::flat(8, 8 | attributes));
    state.gdtr = TableRegister {
        base: GDT,
        limit: 0xff,
    };
    state.idtr = TableRegister {
        base: IDT,
        limit: 0xfff,
    };
    state.tr = Segment {
        selector: 0x28,
        attributes: 0x8b,
        limit: 0x20ff,
        base: TSS,
    };
    state.cpl = ring;
    match input.int_in_range(0..=5)? {
        0 => {
            state.segments = [Segment::real(0); 6];
            state.idtr = TableRegister {
                base: 0,
                limit: 0x3ff,
            };
            return Ok(());
        }
        1 => state.cr0 = PE | 0x30,
        2 => {
            (state.cr0, state.cr3) = (PE | PG | 0x30, LEGACY_ROOT);
            state.cr4 = 0x610;
        }
        3 => {
            (state.cr0, state.cr3) = (PE | PG | 0x30, LONG_ROOT);
            (state.cr4, state.efer) = (
                0x6a0 | u64::from(input.arbitrary::<u32>()?) & 0x37_0a1f,
                0xd01,
            );
            state.segments = [with_ring(data); 6];
            state.segments[1] = code(0xa000);
            return Ok(());
        }
        4 => {
            (state.cr0, state.cr3) = (PE | PG | 0x30, LONG_ROOT);
            (state.cr4, state.efer) = (0x6a0, 0xd01);
        }
        _ => {
            state.cr0 = PE | 0x30;
            state.segments = [Segment {
                attributes: 0xf3,
                ..Segment::real(0)
            }; 6];
            state.cpl = 3;
            state.registers.rflags |= 1 << 17;
            return Ok(());
        }
    }
    state.segments = [with_ring(Segment {
        attributes: data.attributes & !0xc000 | wide,
        ..data
    }); 6];
    state.segments[1] = code(wide);
    if input.ratio(1, 4)? {
        for segment in &mut state.segments {
            segment.limit = u32::from(input.arbitrary::<u16>()?);
        }
    }
    Ok(())
}

/// Small, or near the edges that matter, or anything.
fn number(input: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match input.int_in_range(0..=3)? {
        0 => u64::from(input.arbitrary::<u16>()?),
        1 => u64::from(input.int_in_range(0..=0x1_0000u32)?),
        2 => input.int_in_range(0..=0x20u64)?.wrapping_sub(0x10),
        _ => input.arbitrary()?,
    })
}

/// Page tables that map RAM one to one, a GDT and an IDT, so that programs get somewhere.
fn write_tables(memory: &GuestMemoryMmap) {
    let put = |at: u64, value: u64| {
        memory
            .write_obj(value, GuestAddress(at))
            .expect("inside RAM");
    };
    put(LONG_ROOT, (LONG_ROOT + 0x1000) | 7);
    put(LONG_ROOT + 0x1000, 0x87);
    memory
        .write_obj(0x87u32, GuestAddress(LEGACY_ROOT))
        .expect("inside RAM");
    let descriptors = [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
    ];
    for (n, descriptor) in (0..).zip(descriptors) {
        put(GDT + n * 8, descriptor);
    }
}

fn new_memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM_BYTES)]).expect("the host has some memory")
}

fn ram(memory: &GuestMemoryMmap) -> Ram {
    Ram::new(memory.clone()).expect("whole pages")
}

/// FNV-1a.
fn mix(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

const RAM_BYTES: usize = 64 << 10;
const LONG_ROOT: u64 = 0x8000;
const LEGACY_ROOT: u64 = 0xa000;
const GDT: u64 = 0xb000;
const IDT: u64 = 0xc000;
const TSS: u64 = 0xd000;
const INSTRUCTIONS_MAX: u64 = 300;

#[cfg(test)]
mod tests {
    use super::interpreter;

    #[test]
    fn smoke() {
        arbtest::arbtest(|input| {
            interpreter(input.bytes(input.len())?);
            Ok(())
        })
        .size_max(1 << 14)
        .budget_ms(1000);
    }
}
