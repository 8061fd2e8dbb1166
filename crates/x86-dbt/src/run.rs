//! The run loop: blocks, and between them interrupts, traps and deadlines.

use crate::block::Block;
use crate::cluster::Cluster;
use crate::cpu::{
    Cpu, DR6_SINGLE_STEP, EVENT_BREAK, EVENT_HALT, EVENT_POLL, EVENT_SHADOW, EVENT_SHADOW_DEBUG,
    EVENT_SHUTDOWN, EVENT_TRAP,
};
use crate::cpuid::Vendor;
use crate::decode::Op;
use crate::exception::{DB, Exception, GP0};
use crate::flags::{IF, RF, TF};
use crate::ops::interrupt::Origin;
use crate::platform::Platform;
use crate::segment::CS;

/// Why [`Cpu::run`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    /// The platform's deadline is reached, or the budget used up: fire what is due and run again.
    Deadline,
    /// HLT: nothing happens until an interrupt. Let time pass to the next deadline and run again.
    Halt,
    /// A triple fault. Only a reset helps.
    Shutdown,
}

const NMI_VECTOR: u8 = 2;

impl Cpu {
    /// Runs until the platform's deadline, HLT or a triple fault, for `budget` instructions at most.
    ///
    /// A REP instruction counts once for each of its slices of 4,096 iterations. Where the budget ends changes nothing
    /// that the guest can see.
    pub fn run(&mut self, p: &mut dyn Platform, budget: u64) -> Exit {
        self.catch_up();
        self.events |= EVENT_POLL;
        self.limit = self.ticks.saturating_add(budget);
        loop {
            if self.events != 0
                && let Some(exit) = self.attend(p)
            {
                return exit;
            }
            if self.ticks >= self.deadline {
                p.set_retired(self.ticks);
                return Exit::Deadline;
            }
            if self.events != 0 || self.is_careful() {
                self.run_one(p);
            } else {
                self.run_block(p);
            }
        }
    }

    /// Executes one instruction, or delivers one waiting interrupt; a REP instruction may need several steps.
    pub fn step(&mut self, p: &mut dyn Platform) -> Option<Exit> {
        self.catch_up();
        self.events |= EVENT_POLL;
        self.limit = u64::MAX;
        let exit = self.attend(p);
        if exit.is_none() {
            self.run_one(p);
        }
        exit
    }

    /// Interprets instructions as long as RIP stays in `cluster`, `limit` of them at most; how many were run.
    ///
    /// For a VMM whose guest runs on hardware: put the guest's state here at its exit, run the cluster, and take the
    /// state back. Interrupts are taken as they come, so a handler may be where it ends.
    pub fn run_cluster(&mut self, p: &mut dyn Platform, cluster: &Cluster, limit: u64) -> u64 {
        let start = self.ticks;
        while cluster.rip.contains(&self.rip)
            && self.ticks - start < limit
            && self.step(p).is_none()
        {}
        self.ticks - start
    }

    /// Whether instructions must be run one at a time.
    pub(crate) fn is_careful(&self) -> bool {
        self.flags & (TF | RF) != 0 || self.code_breakpoints()
    }

    /// Looks at everything that can keep the next instruction from being just the next.
    pub(crate) fn attend(&mut self, p: &mut dyn Platform) -> Option<Exit> {
        self.events &= !EVENT_BREAK;
        if self.events & EVENT_SHUTDOWN != 0 {
            return Some(Exit::Shutdown);
        }
        if self.events & EVENT_TRAP != 0 && self.events & EVENT_SHADOW_DEBUG == 0 {
            self.events &= !EVENT_TRAP;
            self.raise(p, DB, Origin::Trap);
        }
        if self.events & EVENT_POLL != 0 {
            p.set_retired(self.ticks);
            while let Some((gpa, len)) = p.take_written() {
                self.code_written(gpa, len);
            }
            self.deadline = p.deadline().min(self.limit);
            if self.events & EVENT_SHADOW == 0 {
                self.events &= !EVENT_POLL;
                self.take_interrupt(p);
            }
        }
        // Delivering the trap or the interrupt may have failed for good.
        if self.events & EVENT_SHUTDOWN != 0 {
            return Some(Exit::Shutdown);
        }
        if self.events & EVENT_HALT != 0 {
            if self.halted {
                return Some(Exit::Halt);
            }
            self.events &= !EVENT_HALT;
        }
        // What an interrupt's delivery raised.
        self.events &= !EVENT_BREAK;
        None
    }

    fn take_interrupt(&mut self, p: &mut dyn Platform) {
        if !self.nmi_blocked && p.take_nmi() {
            self.halted = false;
            self.nmi_blocked = true;
            self.stats.interrupts += 1;
            self.interrupt(p, NMI_VECTOR);
        } else if self.flags & IF != 0 && p.interrupt_pending() {
            self.halted = false;
            if let Some(vector) = p.acknowledge() {
                self.stats.interrupts += 1;
                self.interrupt(p, vector);
            }
        }
    }

    fn run_block(&mut self, p: &mut dyn Platform) {
        if self.run_known(p) {
            return;
        }
        let block = match self.block(p) {
            Ok(block) => block,
            Err(exception) => return self.raise(p, exception, Origin::Fault),
        };
        if !self.block_within_code_segment(&block) {
            return self.run_one(p);
        }
        if self.run_translated(p, &block) {
            return;
        }
        let budget = usize::try_from(self.deadline - self.ticks).unwrap_or(usize::MAX);
        let ops = &block.ops[..block.ops.len().min(budget)];
        for op in ops {
            let behind = self.rip.wrapping_add(u64::from(op.len)) & self.ip_mask;
            self.next_rip = behind;
            match (op.handler)(self, p, op) {
                Ok(()) => {
                    self.rip = self.next_rip;
                    self.ticks += 1;
                }
                Err(exception) => return self.raise(p, exception, Origin::Fault),
            }
            if self.events != 0 || self.rip != behind {
                return;
            }
        }
    }

    /// One instruction with everything looked at: code breakpoints, RF, the segment limit, single-stepping.
    fn run_one(&mut self, p: &mut dyn Platform) {
        let shadow = self.events & (EVENT_SHADOW | EVENT_SHADOW_DEBUG);
        self.events &= !shadow;
        // Only Intel's processors let MOV SS hold back a code breakpoint (kvm-unit-tests, emulator).
        let held = shadow & EVENT_SHADOW_DEBUG != 0 && self.cpuid.vendor() == Vendor::Intel;
        if self.flags & RF == 0 && !held && self.match_code_breakpoints() {
            return self.raise(p, DB, Origin::Fault);
        }
        let resumed = self.flags & RF;
        self.flags &= !RF;
        self.stepping = self.flags & TF != 0;
        if let Err(exception) = self.execute_one(p) {
            self.flags |= resumed;
            return self.raise(p, exception, Origin::Fault);
        }
        // An INT does not trap behind itself, and MOV SS takes the next instruction along.
        if self.stepping && self.events & EVENT_SHADOW_DEBUG == 0 {
            self.note_debug_condition(DR6_SINGLE_STEP);
            self.halted = false;
            self.events &= !EVENT_TRAP;
            self.raise(p, DB, Origin::Trap);
        }
    }

    fn execute_one(&mut self, p: &mut dyn Platform) -> Result<(), Exception> {
        let block = self.block(p)?;
        let op: &Op = first(&block);
        if !self.within_code_segment(op.len) {
            return Err(GP0);
        }
        self.next_rip = self.rip.wrapping_add(u64::from(op.len)) & self.ip_mask;
        (op.handler)(self, p, op)?;
        self.rip = self.next_rip;
        self.ticks += 1;
        Ok(())
    }

    /// The linear address of the next instruction.
    #[inline(always)]
    pub(crate) fn code_address(&self) -> u64 {
        self.base[usize::from(CS)].wrapping_add(self.rip) & self.linear_mask
    }
}

fn first(block: &Block) -> &Op {
    // `decode_block` returns no empty block.
    &block.ops[0]
}
