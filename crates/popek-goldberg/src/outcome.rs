//! What an instruction of the table does in an environment.

use crate::environment::{Environment, Mode};
use crate::table::{Entry, Guard};

/// What happens to an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It does what it does in ring 0.
    Executes,
    /// It completes, but otherwise than in ring 0, and nobody is told.
    Differs(Difference),
    /// #GP(0): a monitor gets its chance.
    GeneralProtection,
    /// #UD: it does not exist in this mode.
    InvalidOpcode,
}

/// How an instruction silently differs from what it does in ring 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Difference {
    /// It acts on VIF in place of IF (CR4.VME or CR4.PVI).
    VirtualInterruptFlag,
    /// It leaves IF, or IOPL, as they are.
    FlagsKept,
    /// It shows state of the real machine: the real CPL, descriptors, or flags.
    StateShown,
    /// Its checks are made with the real CPL.
    CheckedWithRealCpl,
}

impl Entry {
    /// What the instruction does in `environment`, as far as privilege decides it.
    ///
    /// Operands are taken to be good: a fault of a memory operand or of a selector is not looked at, and the I/O
    /// permission bit map grants nothing.
    #[must_use]
    pub fn outcome(&self, environment: Environment) -> Outcome {
        let Environment {
            mode, cpl, iopl, ..
        } = environment;
        let trap_unless = |allowed: bool| {
            if allowed {
                Outcome::Executes
            } else {
                Outcome::GeneralProtection
            }
        };
        match self.guard {
            Guard::Ring0 => trap_unless(cpl == 0),
            Guard::Ring0Protected if !environment.is_protected() => Outcome::InvalidOpcode,
            Guard::Ring0Protected => trap_unless(cpl == 0),
            Guard::Ring0Long if mode != Mode::Long64 => Outcome::InvalidOpcode,
            Guard::Ring0Long => trap_unless(cpl == 0),
            Guard::InterruptFlag => interrupt_flag(environment),
            Guard::Ports => trap_unless(mode != Mode::Virtual8086 && cpl <= iopl),
            Guard::TimeStamp => trap_unless(!environment.tsd || cpl == 0),
            Guard::Umip if environment.umip && cpl > 0 => Outcome::GeneralProtection,
            Guard::Umip => shown(cpl),
            Guard::UmipProtected if !environment.is_protected() => Outcome::InvalidOpcode,
            Guard::UmipProtected if environment.umip && cpl > 0 => Outcome::GeneralProtection,
            Guard::UmipProtected => shown(cpl),
            Guard::FlagImage => flag_image(environment),
            Guard::FlagShown => match flag_image(environment) {
                Outcome::Differs(Difference::FlagsKept) => shown(cpl),
                other => other,
            },
            Guard::Selector if !environment.is_protected() => Outcome::InvalidOpcode,
            Guard::Selector | Guard::Segment => checked(environment),
            Guard::SoftwareInterrupt => match mode {
                Mode::Virtual8086 => trap_unless(iopl == 3 || environment.vme),
                _ => checked(environment),
            },
        }
    }

    /// Whether the instruction breaks Popek and Goldberg's condition somewhere outside ring 0: sensitive, yet not
    /// trapping.
    #[must_use]
    pub fn violates(&self) -> bool {
        Environment::all().any(|environment| self.violates_in(environment))
    }

    /// Whether it does so in this environment.
    #[must_use]
    pub fn violates_in(&self, environment: Environment) -> bool {
        environment.cpl > 0 && matches!(self.outcome(environment), Outcome::Differs(_))
    }
}

fn shown(cpl: u8) -> Outcome {
    if cpl == 0 {
        Outcome::Executes
    } else {
        Outcome::Differs(Difference::StateShown)
    }
}

fn checked(environment: Environment) -> Outcome {
    if environment.cpl == 0 || !environment.is_protected() {
        Outcome::Executes
    } else {
        Outcome::Differs(Difference::CheckedWithRealCpl)
    }
}

/// CLI and STI. Intel SDM volume 2, CLI, table 3-7.
fn interrupt_flag(environment: Environment) -> Outcome {
    let Environment {
        mode,
        cpl,
        iopl,
        vme,
        pvi,
        ..
    } = environment;
    match mode {
        Mode::Real => Outcome::Executes,
        Mode::Virtual8086 if iopl == 3 => Outcome::Executes,
        Mode::Virtual8086 if vme => Outcome::Differs(Difference::VirtualInterruptFlag),
        Mode::Virtual8086 => Outcome::GeneralProtection,
        _ if cpl <= iopl => Outcome::Executes,
        _ if cpl == 3 && pvi => Outcome::Differs(Difference::VirtualInterruptFlag),
        _ => Outcome::GeneralProtection,
    }
}

/// POPF, PUSHF and IRET with 16-bit operands. Intel SDM volume 2, POPF, table 4-16.
fn flag_image(environment: Environment) -> Outcome {
    let Environment {
        mode,
        cpl,
        iopl,
        vme,
        ..
    } = environment;
    match mode {
        Mode::Real => Outcome::Executes,
        Mode::Virtual8086 if iopl == 3 => Outcome::Differs(Difference::FlagsKept),
        Mode::Virtual8086 if vme => Outcome::Differs(Difference::VirtualInterruptFlag),
        Mode::Virtual8086 => Outcome::GeneralProtection,
        _ if cpl == 0 => Outcome::Executes,
        _ => Outcome::Differs(Difference::FlagsKept),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::TABLE;
    use iced_x86::Mnemonic;

    fn entry(mnemonic: Mnemonic) -> &'static Entry {
        TABLE
            .iter()
            .find(|entry| entry.mnemonic == mnemonic)
            .unwrap()
    }

    /// The manual's table 3-7, row by row: PE, VM, IOPL, CPL, PVI, VME and the result.
    #[test]
    fn cli_has_the_eight_outcomes_of_the_manual() {
        const VIF: Outcome = Outcome::Differs(Difference::VirtualInterruptFlag);
        type Row = (
            Mode,
            &'static [u8],
            &'static [u8],
            Option<bool>,
            Option<bool>,
            Outcome,
        );
        let rows: [Row; 8] = [
            (
                Mode::Real,
                &[0, 1, 2, 3],
                &[0],
                None,
                None,
                Outcome::Executes,
            ),
            (
                Mode::Protected,
                &[3],
                &[0, 1, 2, 3],
                None,
                None,
                Outcome::Executes,
            ),
            (
                Mode::Protected,
                &[0, 1, 2, 3],
                &[0],
                None,
                None,
                Outcome::Executes,
            ),
            (Mode::Protected, &[0, 1, 2], &[3], Some(true), None, VIF),
            (
                Mode::Protected,
                &[0, 1, 2],
                &[3],
                Some(false),
                None,
                Outcome::GeneralProtection,
            ),
            (Mode::Virtual8086, &[3], &[3], None, None, Outcome::Executes),
            (Mode::Virtual8086, &[0, 1, 2], &[3], None, Some(true), VIF),
            (
                Mode::Virtual8086,
                &[0, 1, 2],
                &[3],
                None,
                Some(false),
                Outcome::GeneralProtection,
            ),
        ];
        for (mode, iopls, cpls, pvi, vme, expected) in rows {
            let matching = Environment::all().filter(|e| {
                e.mode == mode
                    && iopls.contains(&e.iopl)
                    && cpls.contains(&e.cpl)
                    && pvi.is_none_or(|pvi| e.pvi == pvi)
                    && vme.is_none_or(|vme| e.vme == vme)
            });
            let mut count = 0;
            for environment in matching {
                assert_eq!(
                    entry(Mnemonic::Cli).outcome(environment),
                    expected,
                    "{environment:?}"
                );
                count += 1;
            }
            assert!(count > 0);
        }
    }

    #[test]
    fn ring_0_executes_everything_that_exists() {
        let real = Environment::all().filter(|e| e.cpl == 0 && e.mode != Mode::Virtual8086);
        for environment in real {
            for entry in TABLE {
                let outcome = entry.outcome(environment);
                let known = matches!(outcome, Outcome::Executes | Outcome::InvalidOpcode);
                assert!(
                    known,
                    "{:?} in {environment:?}: {outcome:?}",
                    entry.mnemonic
                );
            }
        }
    }

    #[test]
    fn privileged_means_that_ring_3_always_traps() {
        for environment in Environment::all().filter(|e| e.cpl > 0) {
            for entry in TABLE.iter().filter(|entry| entry.guard == Guard::Ring0) {
                assert_eq!(entry.outcome(environment), Outcome::GeneralProtection);
                assert!(!entry.violates());
            }
        }
    }

    #[test]
    fn umip_makes_the_descriptor_table_stores_trap() {
        let umip = Environment {
            umip: true,
            ..Environment::USER
        };
        assert!(entry(Mnemonic::Sidt).violates_in(Environment::USER));
        assert!(!entry(Mnemonic::Sidt).violates_in(umip));
    }
}
