//! One 8259A.

use crate::state_error::{InvalidState, check};

/// Which initialization command word the chip waits for (data sheet, figure 6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum InitStep {
    /// None: writes to the odd port set the interrupt mask.
    #[default]
    Ready,
    /// ICW2, the vector base.
    Icw2,
    /// ICW3, the cascade wiring.
    Icw3,
    /// ICW4, the modes.
    Icw4,
}

/// Saved state of one chip. Bit `n` of a register belongs to line `n`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ChipState {
    /// Levels of the eight inputs.
    pub lines: u8,
    /// Edge latches: a low-to-high transition was seen and not yet acknowledged.
    pub edges: u8,
    /// Interrupt mask register.
    pub imr: u8,
    /// In-service register.
    pub isr: u8,
    /// Edge/level control: a set bit is level triggered.
    pub elcr: u8,
    /// ICW1.LTIM: every line is level triggered.
    pub all_level: bool,
    /// Vector of line 0; a multiple of 8.
    pub vector_base: u8,
    /// The line with the lowest priority, 0 to 7.
    pub lowest_priority: u8,
    /// Position in the initialization sequence.
    pub init_step: InitStep,
    /// ICW1.SNGL: no ICW3 follows.
    pub single: bool,
    /// ICW1.IC4: ICW4 follows.
    pub wants_icw4: bool,
    /// Whether an initialization sequence ever finished; nothing is delivered before.
    pub initialized: bool,
    /// ICW4.AEOI: in-service bits are not kept.
    pub auto_eoi: bool,
    /// Whether automatic end of interrupt rotates priorities.
    pub rotate_on_auto_eoi: bool,
    /// ICW4.SFNM, special fully nested mode.
    pub special_fully_nested: bool,
    /// Special mask mode.
    pub special_mask: bool,
    /// OCW3: the even port reads ISR instead of IRR.
    pub read_isr: bool,
    /// OCW3.P: the next read is a poll.
    pub poll: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Chip {
    state: ChipState,
    elcr_mask: u8,
}

impl Chip {
    pub(crate) fn new(elcr_mask: u8) -> Self {
        let state = ChipState {
            lowest_priority: 7,
            ..ChipState::default()
        };
        Self { state, elcr_mask }
    }

    pub(crate) fn restore(state: ChipState, elcr_mask: u8) -> Result<Self, InvalidState> {
        check(state.lowest_priority < 8, "8259A", "lowest_priority")?;
        check(state.vector_base.is_multiple_of(8), "8259A", "vector_base")?;
        check(state.elcr & !elcr_mask == 0, "8259A", "elcr")?;
        Ok(Self { state, elcr_mask })
    }

    pub(crate) fn state(&self) -> ChipState {
        self.state
    }

    pub(crate) fn elcr(&self) -> u8 {
        self.state.elcr
    }

    pub(crate) fn set_elcr(&mut self, value: u8) {
        self.state.elcr = value & self.elcr_mask;
    }

    /// Whether the next read is a poll, which acknowledges.
    pub(crate) fn polling(&self) -> bool {
        self.state.poll
    }

    pub(crate) fn vector(&self, irq: u8) -> u8 {
        self.state.vector_base | irq
    }

    /// An edge is kept when its line falls, as QEMU and KVM do: guests pulse lines. The data sheet
    /// would answer with vector 7.
    pub(crate) fn set_line(&mut self, irq: u8, level: bool) {
        let bit = 1 << irq;
        let s = &mut self.state;
        if !level {
            s.lines &= !bit;
        } else if s.lines & bit == 0 {
            s.lines |= bit;
            s.edges |= bit;
        }
    }

    /// Drops the line and what its edge asked for.
    pub(crate) fn withdraw(&mut self, irq: u8) {
        self.state.lines &= !(1 << irq);
        self.state.edges &= !(1 << irq);
    }

    /// The INT output.
    pub(crate) fn output(&self) -> bool {
        self.winner().is_some()
    }

    /// An acknowledge cycle, `None` when no request is left.
    pub(crate) fn acknowledge(&mut self) -> Option<u8> {
        let irq = self.winner()?;
        let bit = 1 << irq;
        let s = &mut self.state;
        s.edges &= !bit;
        if !s.auto_eoi {
            s.isr |= bit;
        } else if s.rotate_on_auto_eoi {
            s.lowest_priority = irq;
        }
        Some(irq)
    }

    pub(crate) fn read(&mut self, odd: bool) -> u8 {
        if self.state.poll {
            self.state.poll = false;
            return self.acknowledge().map_or(0, |irq| 0x80 | irq);
        }
        match odd {
            true => self.state.imr,
            false if self.state.read_isr => self.state.isr,
            false => self.irr(),
        }
    }

    pub(crate) fn write(&mut self, odd: bool, value: u8) {
        match odd {
            true => self.write_odd(value),
            false if value & ICW1 != 0 => self.write_icw1(value),
            false if value & OCW3 != 0 => self.write_ocw3(value),
            false => self.write_ocw2(value),
        }
    }

    fn irr(&self) -> u8 {
        let s = &self.state;
        let level = if s.all_level { 0xff } else { s.elcr };
        (s.lines & level) | (s.edges & !level)
    }

    /// The request to deliver: the most urgent unmasked one that nothing in service holds back.
    fn winner(&self) -> Option<u8> {
        let s = &self.state;
        if !s.initialized {
            return None;
        }
        let request = self.most_urgent(self.irr() & !s.imr)?;
        // In special mask mode a masked level in service holds nothing back.
        let holding = if s.special_mask {
            s.isr & !s.imr
        } else {
            s.isr
        };
        let Some(serving) = self.most_urgent(holding) else {
            return Some(request);
        };
        let urgent = self.rank(request) < self.rank(serving);
        // Special fully nested: a second request through the line in service is let through.
        // Special mask mode enables all other unmasked levels, lower ones included.
        let admitted = urgent
            || (s.special_fully_nested && request == serving)
            || (s.special_mask && holding & (1 << request) == 0);
        admitted.then_some(request)
    }

    fn rank(&self, irq: u8) -> u8 {
        irq.wrapping_sub(self.state.lowest_priority + 1) & 7
    }

    fn most_urgent(&self, set: u8) -> Option<u8> {
        (0..8)
            .filter(|irq| set & (1 << irq) != 0)
            .min_by_key(|&irq| self.rank(irq))
    }

    fn write_icw1(&mut self, value: u8) {
        let s = &self.state;
        // Data sheet, "Initialization Command Words": what ICW1 clears. The lines and the
        // edge/level register are outside the chip.
        self.state = ChipState {
            lines: s.lines,
            elcr: s.elcr,
            vector_base: s.vector_base,
            lowest_priority: 7,
            init_step: InitStep::Icw2,
            all_level: value & ICW1_LTIM != 0,
            single: value & ICW1_SNGL != 0,
            wants_icw4: value & ICW1_IC4 != 0,
            ..ChipState::default()
        };
    }

    fn write_odd(&mut self, value: u8) {
        let s = &mut self.state;
        let after_icw3 = if s.wants_icw4 {
            InitStep::Icw4
        } else {
            InitStep::Ready
        };
        match s.init_step {
            InitStep::Ready => {
                s.imr = value;
                return;
            }
            InitStep::Icw2 => {
                s.vector_base = value & 0xf8;
                s.init_step = if s.single { after_icw3 } else { InitStep::Icw3 };
            }
            // The cascade is wired as on every PC; ICW3 cannot change it.
            InitStep::Icw3 => s.init_step = after_icw3,
            InitStep::Icw4 => {
                s.auto_eoi = value & ICW4_AEOI != 0;
                s.special_fully_nested = value & ICW4_SFNM != 0;
                s.init_step = InitStep::Ready;
            }
        }
        s.initialized = s.init_step == InitStep::Ready;
    }

    fn write_ocw2(&mut self, value: u8) {
        let level = value & 7;
        match value >> 5 {
            OCW2_EOI => drop(self.end_of_interrupt()),
            OCW2_SPECIFIC_EOI => self.state.isr &= !(1 << level),
            OCW2_ROTATE_EOI => {
                if let Some(irq) = self.end_of_interrupt() {
                    self.state.lowest_priority = irq;
                }
            }
            OCW2_ROTATE_SPECIFIC_EOI => {
                self.state.isr &= !(1 << level);
                self.state.lowest_priority = level;
            }
            OCW2_SET_ROTATE_AEOI => self.state.rotate_on_auto_eoi = true,
            OCW2_CLEAR_ROTATE_AEOI => self.state.rotate_on_auto_eoi = false,
            OCW2_SET_PRIORITY => self.state.lowest_priority = level,
            _ => {}
        }
    }

    /// Non-specific: ends the most urgent level in service. A level masked in special mask mode
    /// is not ended by it (data sheet, "End of Interrupt").
    fn end_of_interrupt(&mut self) -> Option<u8> {
        let s = &self.state;
        let candidates = if s.special_mask {
            s.isr & !s.imr
        } else {
            s.isr
        };
        let irq = self.most_urgent(candidates)?;
        self.state.isr &= !(1 << irq);
        Some(irq)
    }

    fn write_ocw3(&mut self, value: u8) {
        let s = &mut self.state;
        if value & OCW3_ESMM != 0 {
            s.special_mask = value & OCW3_SMM != 0;
        }
        if value & OCW3_RR != 0 {
            s.read_isr = value & OCW3_RIS != 0;
        }
        s.poll = value & OCW3_POLL != 0;
    }
}

// Data sheet, figures 7 and 8.
const ICW1: u8 = 1 << 4;
const ICW1_IC4: u8 = 1 << 0;
const ICW1_SNGL: u8 = 1 << 1;
const ICW1_LTIM: u8 = 1 << 3;
const ICW4_AEOI: u8 = 1 << 1;
const ICW4_SFNM: u8 = 1 << 4;
// OCW2 bits 7:5 (R, SL, EOI).
const OCW2_CLEAR_ROTATE_AEOI: u8 = 0b000;
const OCW2_EOI: u8 = 0b001;
const OCW2_SPECIFIC_EOI: u8 = 0b011;
const OCW2_SET_ROTATE_AEOI: u8 = 0b100;
const OCW2_ROTATE_EOI: u8 = 0b101;
const OCW2_SET_PRIORITY: u8 = 0b110;
const OCW2_ROTATE_SPECIFIC_EOI: u8 = 0b111;
const OCW3: u8 = 1 << 3;
const OCW3_RIS: u8 = 1 << 0;
const OCW3_RR: u8 = 1 << 1;
const OCW3_POLL: u8 = 1 << 2;
const OCW3_SMM: u8 = 1 << 5;
const OCW3_ESMM: u8 = 1 << 6;
