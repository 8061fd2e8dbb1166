//! The virtual-APIC page: what a processor does by itself of a guest's local APIC.
//!
//! Reference: Intel SDM (September 2023), volume 3, chapter 30.

use crate::lapic::registers::*;

bitflags::bitflags! {
    /// The VM-execution controls that count here (SDM 25.6.1, 25.6.2).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct VirtualApicControls: u8 {
        /// Use TPR shadow: the task priority is the page's, and CR8 does not exit.
        const TPR_SHADOW = 1 << 0;
        /// APIC-register virtualization: reads are answered from the page, writes exit behind the instruction.
        const REGISTERS = 1 << 1;
        /// Virtual-interrupt delivery: ends of interrupts, self-IPIs and pending interrupts are worked on.
        const DELIVERY = 1 << 2;
        /// Virtualize x2APIC mode: registers are MSRs.
        const X2APIC = 1 << 3;
    }
}

/// Why the guest is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ApicExit {
    /// An access that the processor does not carry out: to the page's address, or RDMSR and WRMSR.
    Access {
        /// Number of the register: xAPIC offset / 16, MSR - 0x800.
        register: u8,
        /// A write.
        write: bool,
    },
    /// A write that was carried out on the page; exits behind it (SDM 30.4.3.3).
    Written {
        /// Number of the register.
        register: u8,
    },
    /// The task priority fell below the threshold (SDM 30.1.2).
    TprBelowThreshold,
    /// The end of an interrupt whose bit in the EOI-exit bitmap is set (SDM 30.1.4).
    EoiInduced {
        /// Its vector.
        vector: u8,
    },
}

/// A virtual-APIC page with the guest interrupt status and the EOI-exit bitmap of its VMCS.
///
/// Give it the guest's accesses; what it does not answer itself it returns as the exit that a VMM would see. Only
/// registers that a processor virtualizes have a meaning here; the others are words that are read as they were written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VirtualApic {
    controls: VirtualApicControls,
    /// The first word of each 16 bytes.
    registers: [u32; 64],
    /// RVI, the highest vector requested, and SVI, the highest in service; 0 for none.
    requested: u8,
    serving: u8,
    eoi_exit: [u64; 4],
    tpr_threshold: u8,
}

impl VirtualApic {
    /// A page of zeroes.
    #[must_use]
    pub fn new(controls: VirtualApicControls) -> Self {
        Self {
            controls,
            registers: [0; 64],
            requested: 0,
            serving: 0,
            eoi_exit: [0; 4],
            tpr_threshold: 0,
        }
    }

    /// Says whether the end of interrupt `vector` exits: it must where an I/O APIC waits for it.
    pub fn set_eoi_exit(&mut self, vector: u8, exits: bool) {
        let word = &mut self.eoi_exit[usize::from(vector / 64)];
        let bit = 1 << (vector % 64);
        *word = *word & !bit | if exits { bit } else { 0 };
    }

    /// The priority class below which a write of TPR exits, without virtual-interrupt delivery.
    pub fn set_tpr_threshold(&mut self, class: u8) {
        self.tpr_threshold = class & 0xf;
    }

    /// Register `number` as it stands in the page.
    #[must_use]
    pub fn register(&self, number: u8) -> u32 {
        self.registers[usize::from(number & 63)]
    }

    /// A word that the VMM puts into the page.
    pub fn set_register(&mut self, number: u8, value: u32) {
        self.registers[usize::from(number & 63)] = value;
    }

    /// RVI of the guest interrupt status.
    #[must_use]
    pub fn requested(&self) -> u8 {
        self.requested
    }

    /// SVI of the guest interrupt status.
    #[must_use]
    pub fn serving(&self) -> u8 {
        self.serving
    }

    /// The guest reads a register (SDM 30.4.2, 30.5).
    ///
    /// # Errors
    ///
    /// The exit, where the processor does not answer by itself.
    pub fn read(&self, number: u8) -> Result<u32, ApicExit> {
        let number = number & 63;
        let shadowed = number == TPR && self.has(VirtualApicControls::TPR_SHADOW);
        let answered = shadowed || self.has(VirtualApicControls::REGISTERS) && is_readable(number);
        if answered {
            Ok(self.register(number))
        } else {
            Err(ApicExit::Access {
                register: number,
                write: false,
            })
        }
    }

    /// The guest writes a register (SDM 30.4.3, 30.5); in xAPIC mode ICR is written by halves, in x2APIC mode as a
    /// whole with the destination in bits 63:32.
    ///
    /// # Errors
    ///
    /// The exit, before or behind the instruction.
    pub fn write(&mut self, number: u8, value: u64) -> Result<(), ApicExit> {
        let number = number & 63;
        let delivers = self.has(VirtualApicControls::DELIVERY);
        let [low, ..] = value.to_le_bytes();
        let word = u32::try_from(value & 0xffff_ffff).expect("masked");
        match number {
            TPR if self.has(VirtualApicControls::TPR_SHADOW) => {
                self.set_register(TPR, u32::from(low));
                self.tpr_written()
            }
            EOI if delivers => {
                self.set_register(EOI, 0);
                self.end_of_interrupt()
            }
            SELF_IPI if delivers && self.has(VirtualApicControls::X2APIC) => {
                self.request(low);
                Ok(())
            }
            ICR_LOW if delivers && is_self_ipi(word) && !self.has(VirtualApicControls::X2APIC) => {
                self.set_register(ICR_LOW, word);
                self.request(low);
                Ok(())
            }
            _ if self.has(VirtualApicControls::X2APIC) => Err(intercepted(number)),
            ICR_HIGH if self.has(VirtualApicControls::REGISTERS) => {
                self.set_register(number, word & 0xff00_0000);
                Ok(())
            }
            _ if self.has(VirtualApicControls::REGISTERS) && is_writable(number) => {
                self.set_register(number, word);
                Err(ApicExit::Written { register: number })
            }
            _ => Err(intercepted(number)),
        }
    }

    /// Requests an interrupt: self-IPI virtualization (SDM 30.1.5), or a VMM's own doing. Vectors below 16 are none.
    pub fn request(&mut self, vector: u8) {
        if vector < 16 {
            return;
        }
        self.registers[word_of(IRR, vector)] |= 1 << (vector % 32);
        self.requested = self.requested.max(vector);
    }

    /// Takes what was posted into IRR and RVI (SDM 30.6, from step 4 on).
    pub fn take_posted(&mut self, requests: [u64; 4]) {
        for (base, mut bits) in (0u8..).step_by(64).zip(requests) {
            while bits != 0 {
                let bit = u8::try_from(bits.trailing_zeros()).expect("below 64");
                self.request(base + bit);
                bits &= bits - 1;
            }
        }
    }

    /// The virtual interrupt that the guest takes next, if it has interrupts enabled (SDM 30.2.1).
    #[must_use]
    pub fn recognized(&self) -> Option<u8> {
        let urgent = self.requested >> 4 > self.priority() >> 4;
        (urgent && self.has(VirtualApicControls::DELIVERY)).then_some(self.requested)
    }

    /// Delivers the recognized interrupt without an exit (SDM 30.2.2).
    pub fn deliver(&mut self) -> Option<u8> {
        let vector = self.recognized()?;
        self.registers[word_of(ISR, vector)] |= 1 << (vector % 32);
        self.serving = vector;
        self.set_register(PPR, u32::from(vector & 0xf0));
        self.registers[word_of(IRR, vector)] &= !(1 << (vector % 32));
        self.requested = self.highest(IRR);
        Some(vector)
    }

    /// VPPR.
    #[must_use]
    pub fn priority(&self) -> u8 {
        self.register(PPR).to_le_bytes()[0]
    }

    /// TPR virtualization (SDM 30.1.2).
    fn tpr_written(&mut self) -> Result<(), ApicExit> {
        if self.has(VirtualApicControls::DELIVERY) {
            self.virtualize_ppr();
            return Ok(());
        }
        let [tpr, ..] = self.register(TPR).to_le_bytes();
        if tpr >> 4 < self.tpr_threshold {
            return Err(ApicExit::TprBelowThreshold);
        }
        Ok(())
    }

    /// PPR virtualization (SDM 30.1.3).
    fn virtualize_ppr(&mut self) {
        let [tpr, ..] = self.register(TPR).to_le_bytes();
        let priority = if tpr >> 4 >= self.serving >> 4 {
            tpr
        } else {
            self.serving & 0xf0
        };
        self.set_register(PPR, u32::from(priority));
    }

    /// EOI virtualization (SDM 30.1.4).
    fn end_of_interrupt(&mut self) -> Result<(), ApicExit> {
        let vector = self.serving;
        self.registers[word_of(ISR, vector)] &= !(1 << (vector % 32));
        self.serving = self.highest(ISR);
        self.virtualize_ppr();
        if self.eoi_exit[usize::from(vector / 64)] >> (vector % 64) & 1 != 0 {
            return Err(ApicExit::EoiInduced { vector });
        }
        Ok(())
    }

    fn highest(&self, first: u8) -> u8 {
        let words = &self.registers[usize::from(first)..][..8];
        let found = (0u8..8).zip(words).rev().find(|(_, bits)| **bits != 0);
        found.map_or(0, |(word, bits)| {
            word * 32 + u8::try_from(31 - bits.leading_zeros()).expect("below 32")
        })
    }

    fn has(&self, control: VirtualApicControls) -> bool {
        self.controls.contains(control)
    }
}

/// The word of a 256-bit register that starts at `first`, and holds `vector`.
fn word_of(first: u8, vector: u8) -> usize {
    usize::from(first + vector / 32)
}

fn intercepted(register: u8) -> ApicExit {
    ApicExit::Access {
        register,
        write: true,
    }
}

/// Registers that are read from the page (SDM 30.4.2): not PPR, nor the timer's current count.
fn is_readable(number: u8) -> bool {
    matches!(number, VERSION | ISR..=IRR_LAST) || is_writable(number)
}

/// Registers whose writes reach the page (SDM 30.4.3.1).
fn is_writable(number: u8) -> bool {
    matches!(
        number,
        ID | TPR | EOI | LDR..=SVR | ESR | ICR_LOW..=LVT_LAST | INITIAL_COUNT | DIVIDE
    )
}

/// A value of ICR's low half that asks for nothing but an edge-triggered interrupt to its own sender (SDM 30.4.3.2).
fn is_self_ipi(low: u32) -> bool {
    const SELF: u32 = 0b01 << 18;
    // Reserved bits, shorthand, trigger, delivery status and delivery mode; level and destination mode do not count.
    const FIXED: u32 = 0xffff_b700;
    low & FIXED == SELF && low & 0xf0 != 0
}
