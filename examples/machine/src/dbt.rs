//! The `dbt` engine: our own processor over the board's devices, in the board's virtual time.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::thread;
use std::time::{Duration, Instant};

use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use x86_dbt::{
    Cpu, Cpuid, ECX_TSC_DEADLINE, ECX_X2APIC, EDX_APIC, Exit, Features, PagingObserver, Registers,
    Segment, State, Stats, TableRegister, TlbStats, TranslatorStats, Vendor,
};

use crate::board::{Board, Chipset, TSC_HZ};
use crate::engine::{EngineError, Stop};
use crate::lockstep::{CHUNK, chunk};
use crate::processors::Processors;
use crate::start_state::{self, StartState};

/// A virtual machine with processors of ours.
#[derive(Debug)]
pub struct DbtEngine {
    pub(crate) processors: Processors,
    ram: GuestMemoryMmap,
    idling: Idling,
    started: Instant,
    /// Host time spent executing, sleep left out.
    busy: Duration,
}

/// How much of the processor guests are told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CpuModel {
    /// What costs a guest nothing to ignore.
    #[default]
    Default,
    /// All that is implemented.
    Max,
    /// All that is implemented, of a processor that follows Intel's rules where AMD's differ.
    MaxIntel,
    /// All that is implemented but x2APIC mode; the board is built without it, too.
    MaxXapic,
}

/// How a halted guest's time passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Idling {
    /// At once.
    Skip,
    /// A guest that has been slow gets its idle time for nothing, one that is on time sleeps.
    CatchUp,
    /// As the host's.
    WithHost,
}

/// What a run cost, of all processors together.
#[derive(Clone, Copy, Debug)]
pub struct DbtCost {
    /// Instructions retired.
    pub instructions: u64,
    /// Host time spent executing them.
    pub busy: Duration,
    /// Exceptions, interrupts, decoded blocks.
    pub stats: Stats,
    /// Soft TLB.
    pub tlb: TlbStats,
    /// Translated code.
    pub translator: TranslatorStats,
}

impl DbtEngine {
    /// Creates one processor over `ram`, in `start`.
    ///
    /// # Errors
    ///
    /// When the guest's memory cannot be pinned, or the host refuses executable memory.
    pub fn new(
        ram: &GuestMemoryMmap,
        start: &StartState,
        chipset: Chipset,
        model: CpuModel,
    ) -> Result<Self, EngineError> {
        Self::with_processors(1, ram, start, chipset, model)
    }

    /// Creates so many processors, of which the first is in `start` and the others wait for INIT and start-up messages. The
    /// board must have as many.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    ///
    /// # Panics
    ///
    /// Without any processor.
    pub fn with_processors(
        count: u8,
        ram: &GuestMemoryMmap,
        start: &StartState,
        chipset: Chipset,
        model: CpuModel,
    ) -> Result<Self, EngineError> {
        assert!(count > 0, "a machine has a processor");
        let pinned = x86_dbt::Ram::new(ram.clone()).map_err(EngineError::Ram)?;
        let vendor = match model {
            CpuModel::Default | CpuModel::Max | CpuModel::MaxXapic => Vendor::Amd,
            CpuModel::MaxIntel => Vendor::Intel,
        };
        let cpuid = Cpuid::new(vendor, features(chipset, model), TSC_HZ).with_processors(count);
        let cpu = |id| Cpu::new(cpuid.clone().with_apic_id(id), pinned.clone());
        let cpus: Result<Vec<_>, _> = (0..count).map(cpu).collect();
        let mut processors = Processors::new(cpus.map_err(EngineError::Stubs)?);
        let cpu = processors.bootstrap();
        let state = state(start, &cpu.state());
        cpu.set_state(&state);
        let started = Instant::now();
        Ok(Self {
            processors,
            ram: ram.clone(),
            idling: Idling::CatchUp,
            started,
            busy: Duration::ZERO,
        })
    }

    /// Sets how often a block is interpreted before it is translated; `None`: never.
    pub fn set_translation(&mut self, after: Option<u32>) {
        self.processors.set_translation(after);
    }

    /// Lets a halted guest's time pass at once instead of the host's, so that a run depends on
    /// nothing but what it starts from.
    pub fn make_repeatable(&mut self) {
        self.idling = Idling::Skip;
    }

    /// Lets a halted guest's time pass as the host's does, however late the guest is: for devices that live in the
    /// host's time, and would seem slow to a guest that catches up.
    pub fn idle_with_host(&mut self) {
        self.idling = Idling::WithHost;
    }

    /// A number that two machines in different states hardly share: registers, and all of memory.
    ///
    /// # Errors
    ///
    /// When memory has no host address.
    pub fn digest(&self) -> Result<u64, EngineError> {
        let mut hasher = DefaultHasher::new();
        for state in self.processors.states() {
            format!("{state:?}").hash(&mut hasher);
        }
        for region in self.ram.iter() {
            for offset in (0..region.len()).step_by(CHUNK) {
                chunk(region, offset)?.hash(&mut hasher);
            }
        }
        Ok(hasher.finish())
    }

    /// Sets who is told of the page tables of the first processor from now on.
    pub fn observe_paging(&mut self, observer: Box<dyn PagingObserver>) {
        self.processors.bootstrap().observe_paging(observer);
    }

    /// What the guest has cost so far.
    #[must_use]
    pub fn cost(&self) -> DbtCost {
        let mut cost = DbtCost {
            instructions: self.processors.retired(),
            busy: self.busy,
            stats: Stats::default(),
            tlb: TlbStats::default(),
            translator: TranslatorStats::default(),
        };
        for cpu in self.processors.cpus() {
            cost.stats += cpu.stats();
            cost.tlb += cpu.tlb_stats();
            cost.translator += cpu.translator_stats();
        }
        cost
    }

    /// Runs until the guest stops the machine, or for `limit` of host time.
    pub fn run(&mut self, board: &mut Board, limit: Duration) -> Stop {
        let end = Instant::now() + limit;
        loop {
            let entered = Instant::now();
            let exit = self.processors.run(board, SLICE);
            self.busy += entered.elapsed();
            if let Some(outcome) = board.outcome() {
                return Stop::Outcome(outcome);
            }
            match exit {
                Exit::Shutdown => return Stop::Shutdown,
                Exit::Halt if !self.processors.can_wake() && !self.processors.is_woken(board) => {
                    return Stop::Halted;
                }
                Exit::Halt if self.idling == Idling::Skip => {
                    if !self.processors.skip_idle(board) {
                        return Stop::Halted;
                    }
                }
                Exit::Halt => self.idle(board, end),
                Exit::Deadline => {}
            }
            if Instant::now() >= end {
                return Stop::TimeLimit;
            }
        }
    }

    /// Lets a halted guest's time pass, which never runs ahead of the host's.
    fn idle(&self, board: &mut Board, end: Instant) {
        if self.processors.is_woken(board) {
            return;
        }
        let Some(deadline) = board.next_deadline() else {
            thread::sleep(end.saturating_duration_since(Instant::now()).min(NAP));
            return;
        };
        let wait = match self.idling {
            Idling::WithHost => Duration::from_nanos(deadline.saturating_sub(board.now())),
            _ => {
                let due = self.started + Duration::from_nanos(deadline);
                due.saturating_duration_since(Instant::now())
            }
        };
        let left = end.saturating_duration_since(Instant::now());
        thread::sleep(wait.min(left));
        if wait <= left {
            board.skip_idle_to(deadline);
        }
    }
}

/// What the machine can support.
fn features(chipset: Chipset, model: CpuModel) -> Features {
    let all = match model {
        CpuModel::Default => Features::DEFAULT,
        CpuModel::Max | CpuModel::MaxIntel => Features::ALL,
        CpuModel::MaxXapic => Features {
            leaf1_ecx: Features::ALL.leaf1_ecx & !ECX_X2APIC,
            ..Features::ALL
        },
    };
    match chipset {
        Chipset::M1 => all,
        Chipset::M0 => Features {
            leaf1_edx: all.leaf1_edx & !EDX_APIC,
            leaf1_ecx: all.leaf1_ecx & !(ECX_X2APIC | ECX_TSC_DEADLINE),
            ..all
        },
    }
}

/// `reset`, with what the entry protocol asks for.
fn state(start: &StartState, reset: &State) -> State {
    let mut state = reset.clone();
    let data = segment(start.data);
    state.segments = [data, segment(start.cs), data, data, data, data];
    state.tr = segment(start.tr);
    state.ldtr = segment(start.ldtr);
    state.gdtr = table(start.gdt);
    state.idtr = table(start.idt);
    (state.cr0, state.cr3) = (start.cr0, start.cr3);
    (state.cr4, state.efer) = (start.cr4, start.efer);
    state.registers = Registers {
        rip: start.rip,
        rflags: start.rflags,
        ..Registers::default()
    };
    let gpr = &mut state.registers.gpr;
    gpr[0] = start.rax;
    (gpr[2], gpr[3], gpr[4], gpr[6]) = (start.rdx, start.rbx, start.rsp, start.rsi);
    state
}

fn segment(from: start_state::Segment) -> Segment {
    Segment {
        selector: from.selector,
        attributes: from.access,
        limit: from.limit,
        base: from.base,
    }
}

fn table(from: start_state::DescriptorTable) -> TableRegister {
    TableRegister {
        base: from.base,
        limit: from.limit,
    }
}

/// Instructions between two looks at the host's clock: some 50 ms.
const SLICE: u64 = 3_000_000;
/// How long to sleep when only input can wake the guest.
const NAP: Duration = Duration::from_millis(5);
