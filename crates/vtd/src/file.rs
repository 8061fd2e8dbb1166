//! The registers as words: what they hold at reset, and which of their bits software may write.

use crate::capabilities::{Capabilities, Features};
use crate::registers::*;

/// Words below the fault recording registers.
pub(crate) const WORDS: usize = 0x220 / 4;

/// The words below the fault recording registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RegisterFile {
    words: [u32; WORDS],
}

/// What software may do to a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Access {
    /// Bits that take what is written.
    write: u32,
    /// Bits that a written one clears.
    clear: u32,
}

impl RegisterFile {
    pub(crate) fn new(capabilities: &Capabilities) -> Self {
        let mut file = Self { words: [0; WORDS] };
        let scalable = capabilities.has(Features::SCALABLE);
        file.set(VER, if scalable { 0x40 } else { 0x10 });
        file.set_quad(CAP, capabilities.cap());
        file.set_quad(ECAP, capabilities.ecap());
        for control in [FECTL, IECTL, PECTL] {
            let exists = access(capabilities, control).write != 0;
            file.set(control, if exists { INTERRUPT_MASK } else { 0 });
        }
        file
    }

    /// Takes words that were saved, if they are such that registers can hold.
    pub(crate) fn restore(capabilities: &Capabilities, words: &[u32]) -> Option<Self> {
        let words = <[u32; WORDS]>::try_from(words).ok()?;
        let reset = Self::new(capabilities);
        let legal = (0..).step_by(4).zip(words.iter().zip(&reset.words));
        let mut legal = legal.map(|(offset, (&word, &at_reset))| {
            let access = access(capabilities, offset);
            let changes = access.write | access.clear | status(offset);
            (word ^ at_reset) & !changes == 0
        });
        legal.all(|legal| legal).then_some(Self { words })
    }

    pub(crate) fn words(&self) -> &[u32] {
        &self.words
    }

    /// The word at `offset`, a multiple of 4; 0 where there is none.
    pub(crate) fn get(&self, offset: u64) -> u32 {
        index(offset).map_or(0, |index| self.words[index])
    }

    pub(crate) fn quad(&self, offset: u64) -> u64 {
        u64::from(self.get(offset + 4)) << 32 | u64::from(self.get(offset))
    }

    pub(crate) fn set(&mut self, offset: u64, value: u32) {
        if let Some(index) = index(offset) {
            self.words[index] = value;
        }
    }

    pub(crate) fn set_quad(&mut self, offset: u64, value: u64) {
        self.set(offset, crate::ids::u32_at(value, 0));
        self.set(offset + 4, crate::ids::u32_at(value, 32));
    }

    /// Sets bits of a word.
    pub(crate) fn raise(&mut self, offset: u64, bits: u32) {
        self.set(offset, self.get(offset) | bits);
    }

    /// Clears bits of a word.
    pub(crate) fn clear(&mut self, offset: u64, bits: u32) {
        self.set(offset, self.get(offset) & !bits);
    }

    /// What software writes: effects apart, the bits that it may change.
    pub(crate) fn write(&mut self, capabilities: &Capabilities, offset: u64, value: u32) {
        let Access { write, clear } = access(capabilities, offset);
        let kept = self.get(offset) & !write & !(clear & value);
        self.set(offset, kept | value & write);
    }
}

fn index(offset: u64) -> Option<usize> {
    let index = usize::try_from(offset / 4).ok()?;
    (index < WORDS).then_some(index)
}

/// Bits that the unit changes and software does not.
fn status(offset: u64) -> u32 {
    match offset {
        GSTS => TE | SRTP | QIE | IRE | SIRTP | CFI,
        FSTS => FSTS_PPF | 0xff << FSTS_FRI_SHIFT,
        FECTL | IECTL | PECTL => INTERRUPT_PENDING,
        IQH => 0x7_fff0,
        PQT => 0x7_ffe0,
        IQERCD | IQERCD_HIGH => u32::MAX,
        CCMD_HIGH => 0x1800_0000,
        IOTLB_HIGH => 0x0600_0000,
        _ => 0,
    }
}

/// The attributes of the register tables in VT-d 11.4.
fn access(capabilities: &Capabilities, offset: u64) -> Access {
    let has = |feature| capabilities.has(feature);
    let queued = has(Features::QUEUED_INVALIDATION);
    let remapping = has(Features::INTERRUPT_REMAPPING);
    let requests = has(Features::PAGE_REQUESTS);
    let when = |condition, bits| if condition { bits } else { 0 };
    let write = match offset {
        RTADDR => 0xffff_fc00,
        RTADDR_HIGH => u32::MAX,
        // DID and SID; FM; CIRG. ICC and CAIG are the unit's.
        CCMD => u32::MAX,
        CCMD_HIGH => 0x6000_0003,
        FECTL => INTERRUPT_MASK,
        FEDATA => 0xffff,
        FEADDR => 0xffff_fffc,
        FEUADDR => when(has(Features::EXTENDED_INTERRUPTS), u32::MAX),
        IQT => when(queued, 0x7_fff0),
        IQA => when(queued, 0xffff_f007 | when(has(Features::SCALABLE), 1 << 11)),
        IQA_HIGH => when(queued, u32::MAX),
        IECTL => when(queued, INTERRUPT_MASK),
        IEDATA => when(queued, 0xffff),
        IEADDR => when(queued, 0xffff_fffc),
        IEUADDR => when(queued && has(Features::EXTENDED_INTERRUPTS), u32::MAX),
        IRTA => when(
            remapping,
            0xffff_f00f | when(has(Features::EXTENDED_INTERRUPTS), 1 << 11),
        ),
        IRTA_HIGH => when(remapping, u32::MAX),
        PQH => when(requests, 0x7_ffe0),
        PQA => when(requests, 0xffff_f007),
        PQA_HIGH => when(requests, u32::MAX),
        PECTL => when(requests, INTERRUPT_MASK),
        PEDATA => when(requests, 0xffff),
        PEADDR => when(requests, 0xffff_fffc),
        PEUADDR => when(requests && has(Features::EXTENDED_INTERRUPTS), u32::MAX),
        IVA => 0xffff_f07f,
        IVA_HIGH => u32::MAX,
        // IIRG, DR, DW and DID.
        IOTLB_HIGH => 0x3003_ffff,
        _ => 0,
    };
    let clear = match offset {
        FSTS => FSTS_PFO | when(queued, FSTS_IQE | FSTS_ICE | FSTS_ITE),
        ICS => when(queued, ICS_IWC),
        PRS => when(requests, PRS_PPR | PRS_PRO),
        _ => 0,
    };
    Access { write, clear }
}

const RTADDR_HIGH: u64 = RTADDR + 4;
pub(crate) const CCMD_HIGH: u64 = CCMD + 4;
const IQA_HIGH: u64 = IQA + 4;
const IQERCD_HIGH: u64 = IQERCD + 4;
const IRTA_HIGH: u64 = IRTA + 4;
const PQA_HIGH: u64 = PQA + 4;
const IVA_HIGH: u64 = IVA + 4;
pub(crate) const IOTLB_HIGH: u64 = IOTLB + 4;
