//! What decides whether an instruction traps.

/// The processor's mode of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Real-address mode: no privilege levels.
    Real,
    /// Virtual-8086 mode: always CPL 3.
    Virtual8086,
    /// Protected mode, 16- or 32-bit code.
    Protected,
    /// 64-bit mode.
    Long64,
}

/// Where an instruction is executed.
///
/// [`Environment::all`] lists every combination that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Environment {
    /// Mode of operation.
    pub mode: Mode,
    /// Current privilege level, 0 to 3.
    pub cpl: u8,
    /// EFLAGS.IOPL, 0 to 3.
    pub iopl: u8,
    /// CR4.VME.
    pub vme: bool,
    /// CR4.PVI.
    pub pvi: bool,
    /// CR4.UMIP.
    pub umip: bool,
    /// CR4.TSD.
    pub tsd: bool,
}

impl Environment {
    /// 64-bit code of an unprivileged program, with nothing special switched on.
    pub const USER: Self = Self {
        mode: Mode::Long64,
        cpl: 3,
        iopl: 0,
        vme: false,
        pvi: false,
        umip: false,
        tsd: false,
    };

    /// A guest kernel that a trap-and-emulate monitor runs in ring 1 of protected mode.
    pub const DEPRIVILEGED: Self = Self {
        mode: Mode::Protected,
        cpl: 1,
        ..Self::USER
    };

    /// Every combination that a processor can be in.
    pub fn all() -> impl Iterator<Item = Self> {
        let modes = [Mode::Real, Mode::Virtual8086, Mode::Protected, Mode::Long64];
        modes.into_iter().flat_map(|mode| {
            (0..=u8::MAX).filter_map(move |n| {
                let (cpl, iopl, bits) = (n & 3, n >> 2 & 3, n >> 4);
                let exists = match mode {
                    Mode::Real => cpl == 0,
                    Mode::Virtual8086 => cpl == 3,
                    Mode::Protected | Mode::Long64 => true,
                };
                exists.then_some(Self {
                    mode,
                    cpl,
                    iopl,
                    vme: bits & 1 != 0,
                    pvi: bits & 2 != 0,
                    umip: bits & 4 != 0,
                    tsd: bits & 8 != 0,
                })
            })
        })
    }

    /// Whether descriptor tables and their privilege checks are in use.
    #[must_use]
    pub fn is_protected(self) -> bool {
        matches!(self.mode, Mode::Protected | Mode::Long64)
    }
}
