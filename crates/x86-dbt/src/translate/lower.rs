//! From a block of guest instructions to host code.
//!
//! Between instructions the guest's registers are in the host's of the same name, but for RSP, which is in R13, and
//! R13 to R15, which are in the header. Where the status flags are [`Flags`] says.
//! Nothing of the guest changes before the last check of an instruction, so that any of them can be given to the
//! interpreter instead.

use core::mem::offset_of;

use iced_x86::{Encoder, Instruction, InstructionInfoFactory, Mnemonic, OpKind};

use super::access::Repin;
use super::classify::{Class, Registers, classify};
use super::cold::{Cold, Turn};
use super::emit::*;
use super::flags::Flags;
use super::site::Site;
use super::{Mode, UnitId};
use crate::block::Block;
use crate::cluster::{ClusterPolicy, clusters};
use crate::decode::falls_through;
use crate::frame::Header;

/// Host code for one block, not yet placed.
pub(super) struct Lowered {
    pub(super) code: Code,
    pub(super) links: Vec<Link>,
    /// Instructions without a template.
    pub(super) untranslated: usize,
}

/// A direct jump out of the unit, to be chained to another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    /// Where the code that leaves starts, to be overwritten by a jump of [`LINK_BYTES`].
    pub(super) at: usize,
    /// Where the link's number is to be filled in.
    pub(super) number_at: usize,
    pub(super) target: u64,
}

/// RIP and opcode of the latest x87 instruction of the unit.
pub(super) type Latest = Option<(u64, u16)>;

pub(super) struct Lowering<'a> {
    pub(super) block: &'a Block,
    pub(super) instructions: &'a [Instruction],
    /// What becomes of each instruction.
    pub(super) classes: Vec<Class>,
    untranslated: Vec<bool>,
    /// For each instruction where the run of the interpreter that starts at it ends.
    ends: Vec<u8>,
    pub(super) bytes: &'a [u8],
    pub(super) mode: Mode,
    pub(super) unit: UnitId,
    pub(super) registers: Registers,
    pub(super) x87: Latest,
    pub(super) code: Code,
    pub(super) encoder: Encoder,
    pub(super) flags: Flags,
    pub(super) factory: InstructionInfoFactory,
    pub(super) turn: Option<Turn>,
    pub(super) cold: Vec<Cold>,
    pub(super) links: Vec<Link>,
    /// Checks of the present instruction that send it to the interpreter.
    pub(super) slow: Vec<Fixup>,
    /// Pins of the present instruction that may hold another page.
    pub(super) repins: Vec<Repin>,
    /// The unit branches back to its own start.
    pub(super) is_loop: bool,
    /// The encoder has no encoding for the present instruction with its operands moved.
    pub(super) refused: bool,
}

impl<'a> Lowering<'a> {
    /// `instructions` are the block's, decoded from `bytes`.
    pub(super) fn new(
        block: &'a Block,
        instructions: &'a [Instruction],
        bytes: &'a [u8],
        mode: Mode,
        unit: UnitId,
        simulates_pause: bool,
    ) -> Self {
        let pairs = instructions.iter().zip(block.ops.iter());
        let mut classes: Vec<_> = pairs
            .map(|(i, op)| match i.mnemonic() {
                Mnemonic::Pause if simulates_pause => Class::Simulate,
                _ => classify(i, op, mode.floats()),
            })
            .collect();
        let is_simulated = |class: &Class| *class == Class::Simulate;
        let untranslated = classes.iter().map(is_simulated).collect();
        for (op, class) in classes.iter_mut().enumerate() {
            if block.is_trapping(op) {
                *class = Class::Simulate;
            }
        }
        let ends = ends(&classes.iter().map(is_simulated).collect::<Vec<_>>());
        let registers = classes.iter().map(|class| match class {
            Class::Ident(ident) => ident.registers,
            _ => Registers::General,
        });
        Self {
            block,
            instructions,
            bytes,
            mode,
            unit,
            registers: registers.max().unwrap_or(Registers::General),
            classes,
            untranslated,
            ends,
            x87: None,
            code: Code::default(),
            encoder: Encoder::new(64),
            flags: Flags::ENTRY,
            factory: InstructionInfoFactory::new(),
            turn: None,
            cold: Vec::new(),
            links: Vec::new(),
            slow: Vec::new(),
            repins: Vec::new(),
            is_loop: instructions.iter().any(|i| is_branch_to(i, block.linear())),
            refused: false,
        }
    }

    pub(super) fn run(mut self) -> Lowered {
        self.check_budget();
        self.load_registers();
        self.body();
        self.out_of_line();
        if let Some(turn) = &mut self.turn {
            // Again, for those turns of the loop that find the flags in a comparison.
            turn.start = Some(self.code.here());
            self.flags = Flags::compared(turn.comparison);
            for fixup in std::mem::take(&mut turn.from) {
                let here = self.code.here();
                self.code.bind(fixup, here);
            }
            self.x87 = None;
            self.body();
            self.out_of_line();
        }
        Lowered {
            untranslated: self.untranslated.iter().filter(|&&none| none).count(),
            code: self.code,
            links: self.links,
        }
    }

    /// Every instruction, from the flags as they are now.
    pub(super) fn body(&mut self) {
        let mut op = 0;
        while let Some(i) = self.instructions.get(op) {
            self.instruction(op, i, self.bytes_of(op), self.classes[op]);
            op = usize::from(self.ends[op]);
        }
        let last = self.instructions.last().expect("a block is not empty");
        if falls_through(last) {
            self.exit(self.instructions.len(), last.next_ip());
        }
    }

    pub(super) fn bytes_of(&self, op: usize) -> &'a [u8] {
        let start = self.block.start(op) as usize;
        &self.bytes[start..start + self.instructions[op].len()]
    }

    /// Leaves if the unit is longer than what is left of the budget.
    pub(super) fn check_budget(&mut self) {
        let instructions = count(self.instructions.len());
        self.code
            .alu_frame_imm(Alu::Cmp, offset_of!(Header, budget), instructions);
        let from = self.code.jcc(LESS);
        self.cold.push(Cold::Budget { from });
    }

    /// Takes `executed` instructions off the budget, when the unit is left. Takes the flags.
    pub(super) fn charge(&mut self, executed: usize) {
        self.code
            .alu_frame_imm(Alu::Sub, offset_of!(Header, budget), count(executed));
    }

    /// Brings the guest's XMM or x87 registers in, if the unit needs them and they are not.
    pub(super) fn load_registers(&mut self) {
        let (live, load) = match self.registers {
            Registers::General => return,
            Registers::Xmm => (offset_of!(Header, xmm_live), offset_of!(Header, load_xmm)),
            Registers::X87 => (offset_of!(Header, x87_live), offset_of!(Header, load_x87)),
        };
        self.code.alu_frame_imm(Alu::Cmp, live, 0);
        let ready = self.code.jcc(NOT_EQUAL);
        self.code.call_frame(load);
        let here = self.code.here();
        self.code.bind(ready, here);
    }

    /// Before translated code is left: what the x87 instructions so far did to the pointers.
    pub(super) fn settle_x87(&mut self, latest: Latest) {
        let Some((rip, opcode)) = latest else {
            return;
        };
        self.code.mov_imm(S0, rip);
        self.code.store(S0, offset_of!(Header, fip));
        self.code
            .store_imm(offset_of!(Header, fop), u32::from(opcode));
    }

    pub(super) fn instruction(&mut self, op: usize, i: &Instruction, bytes: &[u8], class: Class) {
        self.keep_comparison(op);
        let (start, flags, cold) = (self.code.here(), self.flags, self.cold.len());
        let x87 = self.x87;
        self.template(op, i, bytes, class);
        if std::mem::take(&mut self.refused) {
            self.code.bytes.truncate(start);
            self.flags = flags;
            self.cold.truncate(cold);
            self.slow.clear();
            self.repins.clear();
            self.simulate(op);
        }
        if !self.slow.is_empty() || !self.repins.is_empty() {
            let from = std::mem::take(&mut self.slow);
            let repins = std::mem::take(&mut self.repins);
            self.cold.push(Cold::Simulate {
                from,
                repins,
                op,
                resume: self.code.here(),
                before: flags,
                flags: self.flags,
                x87,
            });
        }
        match class {
            Class::Ident(ident) if ident.registers == Registers::X87 => {
                self.x87 = Some((i.ip(), self.block.ops[op].immediate as u16));
            }
            // The interpreter has put everything in its place.
            Class::Simulate => self.x87 = None,
            _ => {}
        }
    }

    pub(super) fn template(&mut self, op: usize, i: &Instruction, bytes: &[u8], class: Class) {
        match class {
            Class::Nothing => {}
            Class::Ident(ident) => {
                if ident.span == 0 {
                    self.ident_registers(op, i, bytes);
                } else {
                    self.ident_memory(op, i, ident);
                }
            }
            Class::Lea => self.lea(i),
            Class::Text(text) => self.text(text),
            Class::Divide { signed } => self.divide(i, signed),
            Class::Push => self.push(i),
            Class::Pop => self.pop(i),
            Class::Leave => self.leave(),
            Class::Jump => self.exit(op + 1, i.near_branch64()),
            Class::Branch => self.branch(op, i),
            Class::Call => self.call(i),
            Class::Return => self.ret(i),
            Class::JumpIndirect => self.jump_indirect(i),
            Class::CallIndirect => self.call_indirect(i),
            Class::Simulate => self.simulate(op),
        }
    }

    // The interpreter.

    pub(super) fn simulate(&mut self, op: usize) {
        self.spill_flags();
        self.settle_x87(self.x87);
        self.call_simulate(op);
        self.flags = Flags::ENTRY;
    }

    pub(super) fn call_simulate(&mut self, op: usize) {
        let end = usize::from(self.ends[op]);
        let site = Site::new(self.unit, op, end, self.untranslated[op]);
        self.code.store_imm(offset_of!(Header, site), site.0);
        self.code.call_frame(offset_of!(Header, simulate));
        self.load_registers();
    }
}

/// Where the interpreter stops when it starts at each instruction: behind it, or behind its cluster.
fn ends(simulated: &[bool]) -> Vec<u8> {
    let behind = |op: usize| u8::try_from(op + 1).expect("a block is short");
    let mut ends: Vec<_> = (0..simulated.len()).map(behind).collect();
    for cluster in clusters(simulated, CLUSTERS) {
        ends[cluster.start] = behind(cluster.end - 1);
    }
    ends
}

/// The way to the interpreter and back costs about as much as five instructions in it.
const CLUSTERS: ClusterPolicy = ClusterPolicy {
    gap: 3,
    longest: 48,
};

fn is_branch_to(i: &Instruction, target: u64) -> bool {
    i.op_kind(0) == OpKind::NearBranch64 && i.near_branch64() == target
}

pub(super) fn count(instructions: usize) -> i32 {
    i32::try_from(instructions).expect("a block is short")
}
