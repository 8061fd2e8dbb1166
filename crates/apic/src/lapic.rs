//! The local APIC: state, acceptance of interrupts and delivery to the processor.
//!
//! Reference: Intel SDM (September 2023), volume 3, chapter 11.

mod lvt;
mod mmio;
mod msr;
mod page;
pub(crate) mod registers;
mod timer;

pub use timer::TimerState;

use crate::message::{DeliveryMode, Destination, Message, Trigger};
use crate::{InvalidState, check};
use registers::*;
use timer::Timebase;

/// What a local APIC is built with and never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalApicConfig {
    /// The x2APIC id; the xAPIC id is its low byte, until a guest without x2APIC mode writes another.
    pub id: u32,
    /// Whether the processor starts the machine (the BSP flag of `IA32_APIC_BASE`).
    pub bootstrap: bool,
    /// Whether x2APIC mode can be entered.
    pub x2apic: bool,
    /// Start as PC firmware leaves the bootstrap processor: software enabled, LINT0 = `ExtINT` and
    /// LINT1 = NMI unmasked. Without it every LVT entry starts masked, as after power-on.
    pub virtual_wire: bool,
    /// Frequency of the timer's clock before its divider, in Hz; not zero.
    pub timer_hz: u64,
    /// Frequency of the time-stamp counter, in Hz; not zero.
    pub tsc_hz: u64,
    /// Physical address width, 36 to 52.
    pub physical_address_bits: u8,
}

/// The mode that `IA32_APIC_BASE` selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LapicMode {
    /// Globally disabled: LINT0 is INTR and LINT1 is NMI.
    Disabled,
    /// Memory-mapped registers.
    XApic,
    /// Registers are MSRs.
    X2Apic,
}

/// What a register write asks of the rest of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// A level-triggered interrupt with this vector has ended: tell the I/O APICs.
    EndOfInterrupt(u8),
    /// An interprocessor interrupt: route it with [`deliver`](crate::deliver).
    Message(Message),
}

/// What waits for the processor's INTR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// The 8259A behind LINT0 has the vector.
    External,
    /// This vector.
    Vector(u8),
}

/// An MSR access that raises a general-protection exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("#GP at MSR {index:#x}")]
pub struct GeneralProtection {
    /// The MSR.
    pub index: u32,
}

/// Saved state of a [`LocalApic`]; untrusted until [`LocalApic::restore`] accepts it.
///
/// Registers hold the bits of their xAPIC layout.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LapicState {
    /// `IA32_APIC_BASE`.
    pub apic_base: u64,
    /// The xAPIC id.
    pub xapic_id: u8,
    /// Task priority.
    pub tpr: u8,
    /// Logical destination register, bits 31:24 (xAPIC only; in x2APIC mode it follows the id).
    pub ldr: u32,
    /// Destination format register.
    pub dfr: u32,
    /// Spurious-interrupt vector register.
    pub svr: u32,
    /// In-service register, vector 0 in bit 0 of word 0.
    pub isr: [u32; 8],
    /// Trigger mode register: set for level.
    pub tmr: [u32; 8],
    /// Interrupt request register.
    pub irr: [u32; 8],
    /// Error status as the guest reads it.
    pub esr: u32,
    /// Errors since the guest last wrote ESR.
    pub esr_pending: u32,
    /// Interrupt command register; the destination is in bits 63:32 (x2APIC) or 63:56 (xAPIC).
    pub icr: u64,
    /// Local vector table: timer, thermal, performance, LINT0, LINT1, error.
    pub lvt: [u32; 6],
    /// The timer.
    pub timer: TimerState,
    /// The last time handed in, in nanoseconds.
    pub now: u64,
    /// What the guest's TSC is ahead of the machine's, modulo 2^64.
    pub tsc_offset: u64,
    /// Levels of LINT0 and LINT1.
    pub lint: [bool; 2],
    /// An `ExtINT` message came and its vector was not fetched yet.
    pub external: bool,
    /// A non-maskable interrupt waits.
    pub nmi: bool,
    /// A system management interrupt waits.
    pub smi: bool,
    /// An INIT waits.
    pub init: bool,
    /// A start-up message waits, with its vector.
    pub start_up: Option<u8>,
}

/// What a local APIC has done since construction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LapicCounters {
    /// Reads by register: index is the xAPIC offset / 16, or the MSR index - 0x800.
    pub reads: [u64; 64],
    /// Writes likewise.
    pub writes: [u64; 64],
    /// Vectors accepted into IRR.
    pub accepted: u64,
    /// Vectors and external interrupts handed to the processor.
    pub acknowledged: u64,
    /// Expirations of the timer that were not masked.
    pub timer_interrupts: u64,
    /// Interprocessor interrupts sent.
    pub messages: u64,
}

/// One processor's local APIC.
///
/// Registers are a page of memory at [`mmio_base`](Self::mmio_base) in xAPIC mode
/// ([`read`](Self::read), [`write`](Self::write)) and MSRs in x2APIC mode
/// ([`read_msr`](Self::read_msr), [`write_msr`](Self::write_msr)).
#[derive(Clone, Debug)]
pub struct LocalApic {
    config: LocalApicConfig,
    s: LapicState,
    counters: LapicCounters,
}

impl LocalApic {
    /// Length of the register page in bytes.
    pub const LENGTH: u64 = 0x1000;

    /// A local APIC after reset, in xAPIC mode at `0xfee0_0000`.
    ///
    /// # Panics
    ///
    /// When a frequency is zero or the address width is not 36 to 52.
    #[must_use]
    pub fn new(config: LocalApicConfig) -> Self {
        assert!(
            config.timer_hz > 0 && config.tsc_hz > 0,
            "a clock needs a frequency"
        );
        let bits = config.physical_address_bits;
        assert!(
            (36..=52).contains(&bits),
            "{bits} is not a physical address width"
        );
        let bootstrap = if config.bootstrap { BASE_BSP } else { 0 };
        let mut s = LapicState {
            apic_base: DEFAULT_BASE | BASE_ENABLED | bootstrap,
            xapic_id: config.id.to_le_bytes()[0],
            tpr: 0,
            ldr: 0,
            dfr: 0,
            svr: 0,
            isr: [0; 8],
            tmr: [0; 8],
            irr: [0; 8],
            esr: 0,
            esr_pending: 0,
            icr: 0,
            lvt: [0; 6],
            timer: TimerState::default(),
            now: 0,
            tsc_offset: 0,
            lint: [false; 2],
            external: false,
            nmi: false,
            smi: false,
            init: false,
            start_up: None,
        };
        reset_registers(&mut s);
        if config.virtual_wire {
            s.svr = SVR_ENABLED | 0xff;
            s.lvt[LINT0] = 0x700;
            s.lvt[LINT1] = 0x400;
        }
        Self {
            config,
            s,
            counters: new_counters(),
        }
    }

    /// Takes up a saved state.
    ///
    /// # Errors
    ///
    /// Names the first field that no sequence of accesses could have produced.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    pub fn restore(config: LocalApicConfig, s: LapicState) -> Result<Self, InvalidState> {
        let ok = |valid, field| check(valid, "local APIC", field);
        let mut lapic = Self::new(config);
        ok(lapic.is_legal_base(s.apic_base), "apic_base")?;
        ok(!config.x2apic || s.xapic_id == lapic.s.xapic_id, "xapic_id")?;
        ok(s.ldr & !LDR_BITS == 0, "ldr")?;
        ok(s.dfr | DFR_BITS == u32::MAX, "dfr")?;
        ok(s.svr & !SVR_WRITABLE == 0, "svr")?;
        ok(s.irr[0] & 0xffff == 0, "irr")?;
        ok(s.isr[0] & 0xffff == 0, "isr")?;
        ok((s.esr | s.esr_pending) & !ESR_BITS == 0, "esr")?;
        ok(lvt::is_legal(&s), "lvt")?;
        ok(s.timer.is_legal(), "timer")?;
        lapic.s = s;
        Ok(lapic)
    }

    /// Moves time to `now` nanoseconds; an earlier time than the last one changes nothing.
    ///
    /// The last time again lets expire what became due without time passing: a moved TSC offset or a
    /// restored state can do that.
    pub fn advance(&mut self, now: u64) {
        if now < self.s.now {
            return;
        }
        self.s.now = now;
        let mode = timer::mode_of(self.s.lvt[TIMER]);
        let at = self.timebase();
        if self.s.timer.expire(mode, at) {
            self.timer_expired();
        }
    }

    /// When the timer interrupts next, in nanoseconds; `None` while it is masked or stopped.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        if self.s.lvt[TIMER] & LVT_MASKED != 0 || self.mode() == LapicMode::Disabled {
            return None;
        }
        self.s
            .timer
            .deadline(timer::mode_of(self.s.lvt[TIMER]), self.timebase())
    }

    /// The mode that `IA32_APIC_BASE` selects.
    #[must_use]
    pub fn mode(&self) -> LapicMode {
        mode_of(self.s.apic_base)
    }

    /// Where the register page lies, while the APIC is in xAPIC mode.
    #[must_use]
    pub fn mmio_base(&self) -> Option<u64> {
        (self.mode() == LapicMode::XApic).then_some(self.s.apic_base & !0xfff)
    }

    /// The x2APIC id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.config.id
    }

    /// Whether the APIC base's enable bit is set (SDM volume 3, 11.4.3).
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.s.apic_base & BASE_ENABLED != 0
    }

    /// Whether the software enable bit of SVR is set.
    #[must_use]
    pub fn is_software_enabled(&self) -> bool {
        self.s.svr & SVR_ENABLED != 0
    }

    /// The task priority class of CR8, 0 to 15.
    #[must_use]
    pub fn task_priority(&self) -> u8 {
        self.s.tpr >> 4
    }

    /// Sets the task priority from CR8; only the low four bits count.
    pub fn set_task_priority(&mut self, class: u8) {
        self.s.tpr = class << 4;
    }

    /// The processor priority (SDM 11.8.3.1).
    #[must_use]
    pub fn processor_priority(&self) -> u8 {
        let serving = highest(&self.s.isr).unwrap_or(0) & 0xf0;
        if self.s.tpr & 0xf0 >= serving {
            self.s.tpr
        } else {
            serving
        }
    }

    /// What the processor should take next, were interrupts enabled.
    #[must_use]
    pub fn pending(&self) -> Option<Pending> {
        if self.external_pending() {
            return Some(Pending::External);
        }
        if self.mode() == LapicMode::Disabled {
            return None;
        }
        highest(&self.s.irr)
            .filter(|vector| vector & 0xf0 > self.processor_priority() & 0xf0)
            .map(Pending::Vector)
    }

    /// Interrupt acknowledge: puts the vector in service.
    ///
    /// [`Pending::External`] means that the caller fetches the vector from the 8259A. `None` means
    /// that nothing waits any more.
    pub fn acknowledge(&mut self) -> Option<Pending> {
        let pending = self.pending()?;
        match pending {
            Pending::External => self.s.external = false,
            Pending::Vector(vector) => {
                clear(&mut self.s.irr, vector);
                set(&mut self.s.isr, vector);
            }
        }
        self.counters.acknowledged += 1;
        Some(pending)
    }

    /// Whether a non-maskable interrupt waits.
    #[must_use]
    pub fn has_nmi(&self) -> bool {
        self.s.nmi
    }

    /// Whether an INIT waits.
    #[must_use]
    pub fn has_init(&self) -> bool {
        self.s.init
    }

    /// Whether a start-up message waits.
    #[must_use]
    pub fn has_start_up(&self) -> bool {
        self.s.start_up.is_some()
    }

    /// Takes a waiting non-maskable interrupt.
    pub fn take_nmi(&mut self) -> bool {
        std::mem::take(&mut self.s.nmi)
    }

    /// Takes a waiting system management interrupt.
    pub fn take_smi(&mut self) -> bool {
        std::mem::take(&mut self.s.smi)
    }

    /// Takes a waiting INIT; the registers are as after [`reset`](Self::init_reset) then.
    pub fn take_init(&mut self) -> bool {
        std::mem::take(&mut self.s.init)
    }

    /// Takes a waiting start-up message: execution starts at `vector << 12`.
    pub fn take_start_up(&mut self) -> Option<u8> {
        self.s.start_up.take()
    }

    /// What INIT does to the registers: all but the id and `IA32_APIC_BASE` (SDM 11.4.7.3).
    pub fn init_reset(&mut self) {
        reset_registers(&mut self.s);
    }

    /// Drives LINT0 (`pin` 0) or LINT1.
    ///
    /// # Panics
    ///
    /// When `pin` is above 1.
    pub fn set_lint(&mut self, pin: usize, level: bool) {
        let rising = level && !self.s.lint[pin];
        self.s.lint[pin] = level;
        if rising {
            self.lint_rose(pin);
        }
    }

    /// Whether a message with `destination` is for this APIC (SDM 11.6.2).
    #[must_use]
    pub fn matches(&self, destination: Destination) -> bool {
        match (self.mode(), destination) {
            (LapicMode::Disabled, _) => false,
            (_, Destination::Broadcast) => true,
            (LapicMode::XApic, Destination::Physical(id)) => id == self.s.xapic_id.into(),
            (LapicMode::X2Apic, Destination::Physical(id)) => id == self.config.id,
            (LapicMode::XApic, Destination::Logical(address)) => self.matches_xapic(address),
            (LapicMode::X2Apic, Destination::Logical(address)) => {
                let ldr = self.x2apic_ldr();
                ldr >> 16 == address >> 16 && ldr & address & 0xffff != 0
            }
        }
    }

    /// Takes a message that was found to be for this APIC; `false` when it is not accepted,
    /// which leaves the I/O APIC's remote IRR clear.
    pub fn accept(&mut self, message: &Message) -> bool {
        match message.delivery {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                return self.accept_vector(message.vector, message.trigger);
            }
            DeliveryMode::Smi => self.s.smi = true,
            DeliveryMode::Nmi => self.s.nmi = true,
            DeliveryMode::Init => {
                self.init_reset();
                // What came before it is for a processor that is no more.
                (self.s.nmi, self.s.start_up) = (false, None);
                self.s.init = true;
            }
            DeliveryMode::StartUp => self.s.start_up = Some(message.vector),
            DeliveryMode::ExtInt => self.s.external = true,
        }
        true
    }

    /// Counters since construction.
    #[must_use]
    pub fn counters(&self) -> &LapicCounters {
        &self.counters
    }

    /// A copy of the architectural state.
    #[must_use]
    pub fn state(&self) -> LapicState {
        self.s.clone()
    }

    /// Tells by how much (modulo 2^64) the guest moved its time-stamp counter ahead.
    pub fn set_tsc_offset(&mut self, offset: u64) {
        self.s.tsc_offset = offset;
    }

    fn matches_xapic(&self, address: u32) -> bool {
        let logical_id = self.s.ldr >> 24;
        if address > 0xff {
            return false;
        }
        match self.s.dfr >> 28 {
            DFR_FLAT => logical_id & address != 0,
            DFR_CLUSTER => address >> 4 == logical_id >> 4 && logical_id & address & 0xf != 0,
            _ => false,
        }
    }

    /// "Logical x2APIC ID = [(x2APIC ID[19:4] << 16) | (1 << x2APIC ID[3:0])]" (SDM 11.12.10.2).
    fn x2apic_ldr(&self) -> u32 {
        (self.config.id >> 4) << 16 | 1 << (self.config.id & 0xf)
    }

    fn external_pending(&self) -> bool {
        match self.mode() {
            LapicMode::Disabled => self.s.lint[0],
            _ => self.s.external || (self.s.lint[0] && lvt::is_external(self.s.lvt[LINT0])),
        }
    }

    fn accept_vector(&mut self, vector: u8, trigger: Trigger) -> bool {
        // SDM 11.4.7.2: a software-disabled APIC takes only INIT, NMI, SMI and start-up.
        if !self.is_software_enabled() {
            return false;
        }
        if vector < 16 {
            self.raise_error(ESR_RECEIVE_ILLEGAL_VECTOR);
            return false;
        }
        set(&mut self.s.irr, vector);
        match trigger {
            Trigger::Edge => clear(&mut self.s.tmr, vector),
            Trigger::Level => set(&mut self.s.tmr, vector),
        }
        self.counters.accepted += 1;
        true
    }

    /// Ends the most urgent vector in service.
    fn end_of_interrupt(&mut self) -> Option<Output> {
        let vector = highest(&self.s.isr)?;
        clear(&mut self.s.isr, vector);
        if !contains(&self.s.tmr, vector) {
            return None;
        }
        self.lint_ended(vector);
        (self.s.svr & SVR_NO_EOI_BROADCAST == 0).then_some(Output::EndOfInterrupt(vector))
    }

    fn timer_expired(&mut self) {
        if self.s.lvt[TIMER] & LVT_MASKED == 0 {
            self.counters.timer_interrupts += 1;
            let [vector, ..] = self.s.lvt[TIMER].to_le_bytes();
            self.accept_vector(vector, Trigger::Edge);
        }
    }

    fn raise_error(&mut self, error: u32) {
        // Each error is signalled once until software writes ESR, which also bounds the recursion
        // through an error entry whose own vector is illegal.
        if self.s.esr_pending & error != 0 {
            return;
        }
        self.s.esr_pending |= error;
        if self.s.lvt[ERROR] & LVT_MASKED == 0 {
            let [vector, ..] = self.s.lvt[ERROR].to_le_bytes();
            self.accept_vector(vector, Trigger::Edge);
        }
    }

    fn timebase(&self) -> Timebase {
        Timebase {
            now: self.s.now,
            timer_hz: self.config.timer_hz,
            tsc_hz: self.config.tsc_hz,
            tsc_offset: self.s.tsc_offset,
        }
    }
}

/// Registers after power-on, reset or INIT (SDM 11.4.7.1). The id and `IA32_APIC_BASE` stay.
fn reset_registers(s: &mut LapicState) {
    s.tpr = 0;
    s.ldr = 0;
    s.dfr = u32::MAX;
    s.svr = 0xff;
    s.isr = [0; 8];
    s.tmr = [0; 8];
    s.irr = [0; 8];
    s.esr = 0;
    s.esr_pending = 0;
    s.icr = 0;
    s.lvt = [LVT_MASKED; 6];
    s.timer = TimerState::default();
    s.external = false;
}

fn mode_of(apic_base: u64) -> LapicMode {
    match (apic_base & BASE_ENABLED != 0, apic_base & BASE_X2APIC != 0) {
        (false, _) => LapicMode::Disabled,
        (true, false) => LapicMode::XApic,
        (true, true) => LapicMode::X2Apic,
    }
}

fn new_counters() -> LapicCounters {
    LapicCounters {
        reads: [0; 64],
        writes: [0; 64],
        accepted: 0,
        acknowledged: 0,
        timer_interrupts: 0,
        messages: 0,
    }
}

fn highest(vectors: &[u32; 8]) -> Option<u8> {
    let (word, bits) = (0u8..8).zip(vectors).rev().find(|(_, bits)| **bits != 0)?;
    let bit = u8::try_from(31 - bits.leading_zeros()).expect("below 32");
    Some(word * 32 + bit)
}

fn set(vectors: &mut [u32; 8], vector: u8) {
    vectors[usize::from(vector / 32)] |= 1 << (vector % 32);
}

fn clear(vectors: &mut [u32; 8], vector: u8) {
    vectors[usize::from(vector / 32)] &= !(1 << (vector % 32));
}

fn contains(vectors: &[u32; 8], vector: u8) -> bool {
    vectors[usize::from(vector / 32)] & 1 << (vector % 32) != 0
}

#[cfg(test)]
mod tests;
