//! Where the guest's status flags are while a unit runs, and how they get where they are needed.

use iced_x86::{Instruction, InstructionInfo, Mnemonic, OpAccess, OpKind, Register};

use super::classify::{Class, FlagUse, flag_use};
use super::ident::is_moved;
use super::lower::Lowering;

/// Where the flags are: in the host's, in the header, in neither but to be had from a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flags {
    pub(super) host: bool,
    pub(super) header: bool,
    /// The instruction that made them, a comparison of registers that still have the values it compared.
    pub(super) comparison: Option<usize>,
}

impl Flags {
    /// As every unit finds them when it is entered.
    pub(super) const ENTRY: Self = Self {
        host: false,
        header: true,
        comparison: None,
    };

    /// As the second turn of a loop finds them.
    pub(super) fn compared(comparison: usize) -> Self {
        Self {
            host: false,
            header: false,
            comparison: Some(comparison),
        }
    }
}

impl Lowering<'_> {
    /// Before code that clobbers the host's flags, and may need the guest's out of line.
    pub(super) fn release_flags(&mut self) {
        if self.flags.comparison.is_none() {
            self.spill_flags();
        }
        self.flags.host = false;
    }

    /// Puts the flags into the header, where the interpreter and other units find them. Takes S1.
    pub(super) fn spill_flags(&mut self) {
        self.spill_from(self.flags);
        self.flags.host = false;
        self.flags.header = true;
    }

    pub(super) fn spill_from(&mut self, flags: Flags) {
        if flags.header {
            return;
        }
        if !flags.host {
            self.compare_again(flags.comparison);
        }
        self.code.save_flags();
    }

    fn compare_again(&mut self, comparison: Option<usize>) {
        let op = comparison.expect("the flags are somewhere");
        let bytes = self.bytes_of(op);
        self.code.put(bytes);
    }

    /// Before an instruction that needs the guest's flags in the host's. Takes S1.
    pub(super) fn fill_flags(&mut self) {
        if self.flags.host {
            return;
        }
        if self.flags.comparison.is_some() {
            self.compare_again(self.flags.comparison);
        } else {
            self.code.restore_flags();
        }
        self.flags.host = true;
    }

    pub(super) fn prepare_flags(&mut self, op: usize, i: &Instruction) {
        let needed = match flag_use(i) {
            FlagUse::Reads => true,
            FlagUse::Changes { reads } => reads || !self.are_flags_dead(op + 1),
            FlagUse::None | FlagUse::Overwrites => false,
        };
        if needed {
            self.fill_flags();
        }
    }

    /// Whether the flags before instruction `op` are overwritten before anything can see them.
    fn are_flags_dead(&self, op: usize) -> bool {
        for (i, class) in self.instructions.iter().zip(&self.classes).skip(op) {
            match class {
                Class::Nothing | Class::Lea => continue,
                Class::Ident(ident) if ident.span == 0 => {}
                _ => return false,
            }
            match flag_use(i) {
                FlagUse::Overwrites => return true,
                FlagUse::None | FlagUse::Changes { reads: false } => {}
                FlagUse::Reads | FlagUse::Changes { reads: true } => return false,
            }
        }
        false
    }

    pub(super) fn settle_flags(&mut self, op: usize, i: &Instruction) {
        if matches!(flag_use(i), FlagUse::Overwrites | FlagUse::Changes { .. }) {
            self.flags = Flags {
                host: true,
                header: false,
                comparison: is_repeatable(i).then_some(op),
            };
        }
    }

    /// Before instruction `op`: if it changes what the flags are to be compared from, they must be somewhere else.
    pub(super) fn keep_comparison(&mut self, op: usize) {
        let Some(comparison) = self.flags.comparison else {
            return;
        };
        if !self.writes_operand_of(op, comparison) {
            return;
        }
        if !self.flags.host && !self.flags.header && !self.are_flags_dead(op) {
            self.spill_flags();
        }
        if self.flags.host || self.flags.header {
            self.flags.comparison = None;
        } else {
            // Nobody will look: whatever is in the host's will do.
            self.flags = Flags {
                host: true,
                header: false,
                comparison: None,
            };
        }
    }

    /// Whether instruction `op` changes a register that `comparison` compares.
    fn writes_operand_of(&mut self, op: usize, comparison: usize) -> bool {
        let compared = &self.instructions[comparison];
        let operands = (0..compared.op_count())
            .filter(|&n| compared.op_kind(n) == OpKind::Register)
            .map(|n| compared.op_register(n).full_register());
        let operands: Vec<_> = operands.collect();
        let info = self.factory.info(&self.instructions[op]);
        writes(info, |register| operands.contains(&register))
    }
}

/// Whether an instruction may change one of the full registers that `wanted` names.
pub(super) fn writes(info: &InstructionInfo, wanted: impl Fn(Register) -> bool) -> bool {
    info.used_registers().iter().any(|used| {
        let reads = matches!(
            used.access(),
            OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess
        );
        !reads && wanted(used.register().full_register())
    })
}

/// CMP and TEST of registers that are in the host's of the same name: to be repeated at will.
fn is_repeatable(i: &Instruction) -> bool {
    matches!(i.mnemonic(), Mnemonic::Cmp | Mnemonic::Test)
        && (0..i.op_count()).all(|n| i.op_kind(n) != OpKind::Memory && !is_moved(i, n))
}
