//! The control block of a nested guest: VMCS0-2 made of VMCS0-1 and VMCS1-2, and the exits that this
//! costs.
//!
//! The hardware runs level 2 from VMCS0-2: the guest state of VMCS1-2, for that is what level 1 wants
//! to run; the host state of VMCS0-1, for an exit comes to level 0; and the exits that either asks for
//! (Ben-Yehuda et al., "The Turtles Project", OSDI 2010, 3.2). How often level 1 exits while it handles
//! one exit of level 2 depends on whether its accesses to VMCS1-2 trap.

/// What a control block holds, as far as composing it matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ControlBlock {
    /// State loaded by VM entry and stored by VM exit, in words of the caller's choice.
    pub guest_state: [u64; STATE_WORDS],
    /// State loaded by VM exit.
    pub host_state: [u64; STATE_WORDS],
    /// Events that exit, a bit each.
    pub exits_on: u64,
    /// The EPTP, or nCR3.
    pub nested_root: u64,
    /// The TSC offset.
    pub tsc_offset: u64,
}

/// How level 1 gets at the control block that it keeps for level 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shadowing {
    /// VMREAD and VMWRITE exit to level 0.
    Trapping,
    /// They go to a shadow VMCS (SDM 3C, 24.10), but for fields that exit nevertheless.
    ShadowVmcs,
    /// The block lies in memory, as a VMCB does: loads and stores.
    Memory,
}

/// What level 1 does while it handles an exit of level 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Reads or writes a field of the block.
    Field,
    /// Reads or writes a field that VMCS shadowing does not cover.
    UncoveredField,
    /// Another privileged operation that exits in any case, such as INVEPT or WRMSR.
    Privileged,
}

/// Exits to level 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ControlCounters {
    /// Exits of level 2.
    pub nested_exits: u64,
    /// Of these, those that went on to level 1.
    pub reflected: u64,
    /// Exits of level 1 on the way: for fields, for other operations, and to resume level 2.
    pub level_1_exits: u64,
}

/// The three blocks of one nested guest.
#[derive(Clone, Copy, Debug)]
pub struct ControlBlocks {
    own: ControlBlock,
    nested: ControlBlock,
    shadowing: Shadowing,
    counters: ControlCounters,
}

impl ControlBlocks {
    /// `own` is VMCS0-1, `nested` VMCS1-2.
    pub fn new(own: ControlBlock, nested: ControlBlock, shadowing: Shadowing) -> Self {
        Self {
            own,
            nested,
            shadowing,
            counters: ControlCounters::default(),
        }
    }

    /// VMCS0-2. `composed_root` is the EPTP of EPT0-2.
    pub fn compose(&self, composed_root: u64) -> ControlBlock {
        ControlBlock {
            guest_state: self.nested.guest_state,
            host_state: self.own.host_state,
            exits_on: self.own.exits_on | self.nested.exits_on,
            nested_root: composed_root,
            tsc_offset: self.own.tsc_offset.wrapping_add(self.nested.tsc_offset),
        }
    }

    /// VMCS1-2, which level 1 changes.
    pub fn nested_mut(&mut self) -> &mut ControlBlock {
        &mut self.nested
    }

    /// Handles the exit of level 2 for `event`, a bit of [`ControlBlock::exits_on`], with the state that
    /// the hardware stored. If level 1 asked for the event it gets the exit: its state is loaded from
    /// VMCS1-2, and given back.
    pub fn exit(
        &mut self,
        event: u32,
        guest_state: [u64; STATE_WORDS],
    ) -> Option<[u64; STATE_WORDS]> {
        self.counters.nested_exits += 1;
        self.nested.guest_state = guest_state;
        if self.nested.exits_on >> (event % 64) & 1 == 0 {
            return None;
        }
        self.counters.reflected += 1;
        Some(self.nested.host_state)
    }

    /// Counts what level 1 does about the exit, and its VMRESUME or VMRUN at the end.
    pub fn handled(&mut self, operations: &[Operation]) {
        let exits = operations
            .iter()
            .filter(|&&operation| self.traps(operation));
        self.counters.level_1_exits += exits.count() as u64 + 1;
    }

    /// Exits to level 0 so far.
    pub fn counters(&self) -> &ControlCounters {
        &self.counters
    }

    fn traps(&self, operation: Operation) -> bool {
        match (operation, self.shadowing) {
            (Operation::Privileged, _) | (Operation::UncoveredField, Shadowing::ShadowVmcs) => true,
            (_, shadowing) => shadowing == Shadowing::Trapping,
        }
    }
}

impl ControlCounters {
    /// All exits to level 0 for each exit of level 2, rounded down; 0 without any.
    pub fn exits_for_each(&self) -> u64 {
        (self.nested_exits + self.level_1_exits)
            .checked_div(self.nested_exits)
            .unwrap_or(0)
    }
}

/// Words of state in a block of the model.
pub const STATE_WORDS: usize = 8;
