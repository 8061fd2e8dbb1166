//! The x87, MMX and SSE register state, in the layout that FXSAVE64 and FXRSTOR64 use.
//!
//! Intel SDM volume 1, section 10.5.1 and table 10-2 (the 64-bit mode image with REX.W).

use core::fmt;

/// The x87, MMX and SSE registers of one virtual processor.
///
/// The bytes are an FXSAVE64 image that the host's own FXRSTOR64 always accepts: MXCSR holds no reserved
/// bit, and the exception summary (ES and B of FSW) agrees with the flags and masks. Every setter keeps this.
#[derive(Clone, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct FxState {
    image: [u8; 512],
}

impl FxState {
    /// Offset of XMM0 in the image; the others follow.
    pub(crate) const XMM0: usize = XMM;
    /// Offset of MXCSR in the image.
    pub(crate) const MXCSR_OFFSET: usize = MXCSR;

    /// The state after power-on or RESET: FCW 0x40, every tag valid with +0.0, MXCSR 0x1f80
    /// (SDM volume 3, table 10-1).
    #[must_use]
    pub fn power_on() -> Self {
        let mut state = Self { image: [0; 512] };
        state.put_u16(FCW, 0x40);
        state.image[FTW] = 0xff;
        state.put_u32(MXCSR, MXCSR_DEFAULT);
        state.put_u32(MXCSR_MASK_FIELD, MXCSR_MASK);
        state
    }

    /// FNINIT: FCW 0x37f, FSW 0, every register empty, pointers zero. Register contents stay where they are.
    pub fn fninit(&mut self) {
        self.set_top(0);
        self.put_u16(FSW, 0);
        self.put_u16(FCW, FCW_DEFAULT);
        self.image[FTW] = 0;
        self.set_pointers(0, 0, 0);
    }

    /// The x87 control word.
    #[must_use]
    pub fn fcw(&self) -> u16 {
        self.u16_at(FCW)
    }

    /// Loads the x87 control word as FLDCW does; bit 6 reads as one and bits 7 and 15:13 as zero.
    pub fn set_fcw(&mut self, value: u16) {
        self.put_u16(FCW, value & FCW_WRITABLE | FCW_FIXED);
        self.summarize();
    }

    /// The x87 status word; ES (bit 7) and B (bit 15) are set exactly when an unmasked exception is pending.
    #[must_use]
    pub fn fsw(&self) -> u16 {
        self.u16_at(FSW)
    }

    /// Loads the status word and keeps the registers in stack order: ST(0) stays ST(0), as FXRSTOR does.
    ///
    /// ES and B of `value` are ignored; they follow from the flags and the masks of FCW.
    pub fn set_fsw(&mut self, value: u16) {
        self.put_u16(FSW, value);
        self.summarize();
    }

    /// The number of the physical register that is ST(0), 0 to 7.
    #[must_use]
    pub fn top(&self) -> u8 {
        self.image[FSW + 1] >> 3 & 7
    }

    /// Makes physical register `top` (0 to 7) the new ST(0) and moves no register, as FINCSTP and FLDENV do.
    pub fn set_top(&mut self, top: u8) {
        let turn = usize::from(top.wrapping_sub(self.top()) & 7);
        self.image[ST..ST + 128].rotate_left(turn * 16);
        self.image[FSW + 1] = self.image[FSW + 1] & !0x38 | (top & 7) << 3;
    }

    /// The abridged tag word: bit `i` is set when physical register `i` is not empty.
    #[must_use]
    pub fn ftw_abridged(&self) -> u8 {
        self.image[FTW]
    }

    /// Sets the abridged tag word.
    pub fn set_ftw_abridged(&mut self, valid: u8) {
        self.image[FTW] = valid;
    }

    /// The full tag word of FSTENV, two bits for each physical register: 0 valid, 1 zero, 2 special, 3 empty
    /// (SDM volume 1, 8.1.7).
    #[must_use]
    pub fn ftw(&self) -> u16 {
        (0..8u8).fold(0, |word, physical| {
            word | self.tag(physical) << (2 * physical)
        })
    }

    /// Whether an unmasked x87 exception waits for the next waiting instruction.
    #[must_use]
    pub fn x87_pending(&self) -> bool {
        self.fsw() & !self.fcw() & X87_EXCEPTIONS != 0
    }

    /// The last non-control x87 opcode: bits 2:0 of its first byte and its second byte, 11 bits.
    #[must_use]
    pub fn fop(&self) -> u16 {
        self.u16_at(FOP)
    }

    /// The x87 instruction pointer: 64 bits, or a 32-bit offset with the selector in bits 47:32.
    #[must_use]
    pub fn fip(&self) -> u64 {
        self.u64_at(FIP)
    }

    /// The x87 data pointer: 64 bits, or a 32-bit offset with the selector in bits 47:32.
    #[must_use]
    pub fn fdp(&self) -> u64 {
        self.u64_at(FDP)
    }

    /// Sets [`Self::fop`] (11 bits count), [`Self::fip`] and [`Self::fdp`].
    pub fn set_pointers(&mut self, fop: u16, fip: u64, fdp: u64) {
        self.put_u16(FOP, fop & 0x7ff);
        self.put_u64(FIP, fip);
        self.put_u64(FDP, fdp);
    }

    /// The SSE control and status register.
    #[must_use]
    pub fn mxcsr(&self) -> u32 {
        u32::from_le_bytes(self.field(MXCSR))
    }

    /// Loads MXCSR; `false`, and no change, when `value` has a bit outside [`MXCSR_MASK`] (then #GP).
    #[must_use]
    pub fn set_mxcsr(&mut self, value: u32) -> bool {
        let valid = value & !MXCSR_MASK == 0;
        if valid {
            self.put_u32(MXCSR, value);
        }
        valid
    }

    /// ST(`index`), 10 bytes, for `index` below 8.
    ///
    /// # Panics
    ///
    /// When `index` is 8 or more.
    #[must_use]
    pub fn st(&self, index: usize) -> [u8; 10] {
        self.field(Self::st_offset(index))
    }

    /// Sets ST(`index`) and leaves its tag.
    ///
    /// # Panics
    ///
    /// When `index` is 8 or more.
    pub fn set_st(&mut self, index: usize, value: [u8; 10]) {
        let at = Self::st_offset(index);
        self.image[at..at + 10].copy_from_slice(&value);
    }

    /// MM`index`, the low 64 bits of physical register `index`.
    ///
    /// # Panics
    ///
    /// When `index` is 8 or more.
    #[must_use]
    pub fn mm(&self, index: usize) -> u64 {
        self.u64_at(self.mm_offset(index))
    }

    /// Writes MM`index` as an MMX instruction does: TOP becomes 0, every tag valid, and the upper 16 bits
    /// of the register ones (SDM volume 3, 13.2).
    ///
    /// # Panics
    ///
    /// When `index` is 8 or more.
    pub fn set_mm(&mut self, index: usize, value: u64) {
        self.enter_mmx();
        let at = self.mm_offset(index);
        self.put_u64(at, value);
        self.put_u16(at + 8, 0xffff);
    }

    /// What every MMX instruction except EMMS does to the x87 state: TOP 0, every tag valid.
    pub fn enter_mmx(&mut self) {
        self.set_top(0);
        self.image[FTW] = 0xff;
    }

    /// XMM`index`, for `index` below 16.
    ///
    /// # Panics
    ///
    /// When `index` is 16 or more.
    #[must_use]
    pub fn xmm(&self, index: usize) -> u128 {
        u128::from_le_bytes(self.field(Self::xmm_offset(index)))
    }

    /// Sets XMM`index`.
    ///
    /// # Panics
    ///
    /// When `index` is 16 or more.
    pub fn set_xmm(&mut self, index: usize, value: u128) {
        let at = Self::xmm_offset(index);
        self.image[at..at + 16].copy_from_slice(&value.to_le_bytes());
    }

    /// The image: what FXSAVE64 would store, with zeros in the reserved fields.
    #[must_use]
    pub fn image(&self) -> &[u8; 512] {
        &self.image
    }

    /// Replaces the whole state; bits of MXCSR that do not exist are dropped.
    pub fn set_image(&mut self, image: &[u8; 512]) {
        self.image = *image;
        self.put_u32(MXCSR, self.mxcsr() & MXCSR_MASK);
        self.put_u32(MXCSR_MASK_FIELD, MXCSR_MASK);
        self.set_fcw(self.fcw());
    }

    pub(crate) fn image_mut(&mut self) -> &mut [u8; 512] {
        &mut self.image
    }

    /// Puts the invariants and the processor-independent fields back after the host's FXSAVE64 wrote the image.
    pub(crate) fn adopt_host_image(&mut self, fop: u16, fip: u64, fdp: u64) {
        self.put_u32(MXCSR_MASK_FIELD, MXCSR_MASK);
        self.set_pointers(fop, fip, fdp);
    }

    /// Sets ES and B from the flags and the masks.
    pub(super) fn summarize(&mut self) {
        let summary = if self.x87_pending() {
            FSW_ES | FSW_B
        } else {
            0
        };
        self.put_u16(FSW, self.fsw() & !(FSW_ES | FSW_B) | summary);
    }

    pub(super) fn st_offset(index: usize) -> usize {
        assert!(index < 8, "there is no ST({index})");
        ST + 16 * index
    }

    pub(super) fn xmm_offset(index: usize) -> usize {
        assert!(index < 16, "there is no XMM{index}");
        XMM + 16 * index
    }

    fn mm_offset(&self, index: usize) -> usize {
        assert!(index < 8, "there is no MM{index}");
        Self::st_offset((index + 8 - usize::from(self.top())) & 7)
    }

    fn tag(&self, physical: u8) -> u16 {
        if self.image[FTW] >> physical & 1 == 0 {
            return 3;
        }
        let value = self.st(usize::from(physical.wrapping_sub(self.top()) & 7));
        let exponent = u16::from_le_bytes([value[8], value[9]]) & 0x7fff;
        let integer_bit = value[7] & 0x80 != 0;
        match exponent {
            0 if value[..8] == [0; 8] => 1,
            0 | 0x7fff => 2,
            _ if integer_bit => 0,
            _ => 2,
        }
    }

    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.image[at..at + N]);
        bytes
    }

    fn u16_at(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.field(at))
    }

    fn u64_at(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.field(at))
    }

    fn put_u16(&mut self, at: usize, value: u16) {
        self.image[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn put_u32(&mut self, at: usize, value: u32) {
        self.image[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn put_u64(&mut self, at: usize, value: u64) {
        self.image[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
}

impl Default for FxState {
    fn default() -> Self {
        Self::power_on()
    }
}

impl fmt::Debug for FxState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FxState")
            .field("fcw", &format_args!("{:#06x}", self.fcw()))
            .field("fsw", &format_args!("{:#06x}", self.fsw()))
            .field("ftw", &format_args!("{:#04x}", self.ftw_abridged()))
            .field("mxcsr", &format_args!("{:#06x}", self.mxcsr()))
            .field("st", &(0..8).map(|i| St(self.st(i))).collect::<Vec<_>>())
            .field(
                "xmm",
                &(0..16)
                    .map(|i| format!("{:#034x}", self.xmm(i)))
                    .collect::<Vec<_>>(),
            )
            .finish_non_exhaustive()
    }
}

struct St([u8; 10]);

impl fmt::Debug for St {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .rev()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The MXCSR bits that software may set: those of a processor with denormals-are-zeros.
pub const MXCSR_MASK: u32 = 0xffff;
/// MXCSR after reset: every exception masked, round to nearest.
pub const MXCSR_DEFAULT: u32 = 0x1f80;
/// The six SIMD floating-point exception flags of MXCSR: IE DE ZE OE UE PE.
pub const MXCSR_FLAGS: u32 = 0x3f;
/// FCW after FNINIT: every exception masked, 64-bit precision, round to nearest.
pub const FCW_DEFAULT: u16 = 0x37f;
/// The six x87 exception flags of FSW and masks of FCW.
pub const X87_EXCEPTIONS: u16 = 0x3f;
/// Exception summary.
pub const FSW_ES: u16 = 1 << 7;
/// Busy; mirrors ES since the 387.
pub const FSW_B: u16 = 1 << 15;

const FCW_WRITABLE: u16 = 0x1f3f;
const FCW_FIXED: u16 = 0x40;

// SDM volume 1, table 10-2: byte offsets into the image.
pub(super) const FCW: usize = 0;
pub(super) const FSW: usize = 2;
pub(super) const FTW: usize = 4;
pub(super) const FOP: usize = 6;
pub(super) const FIP: usize = 8;
pub(super) const FDP: usize = 16;
pub(super) const MXCSR: usize = 24;
pub(super) const MXCSR_MASK_FIELD: usize = 28;
pub(super) const ST: usize = 32;
pub(super) const XMM: usize = 160;

const _: () = assert!(size_of::<FxState>() == 512 && align_of::<FxState>() == 64);
