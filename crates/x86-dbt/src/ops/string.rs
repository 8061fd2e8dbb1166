//! String instructions, with REP restart.
//!
//! A REP instruction runs until its counter ends, a fault, a device, a data breakpoint, or [`SLICE`] iterations; then it
//! leaves RIP on itself, so that it goes on where it stopped. Iterations that stay inside RAM pages are done in bulk.
//! Code that it writes over does not stop it: which code is decoded must not show in the count of instructions.

use crate::alu::Width;
use crate::cpu::{Cpu, EVENT_BREAK, EVENT_TRAP};
use crate::decode::{Op, REP, REPNE};
use crate::exception::Result;
use crate::flags::{DF, ZF};
use crate::platform::Platform;
use crate::ram::PAGE;
use crate::segment::ES;
use crate::walk::Kind;

/// Iterations of a REP instruction before interrupts are looked for.
pub(crate) const SLICE: u64 = 4096;

const SI: u8 = 6;
const DI: u8 = 7;

/// One iteration of a string instruction; `false` ends a REPE or REPNE.
trait Step {
    fn step<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result<bool>;
    /// Does up to `count` iterations at once if that can be told apart from single steps by nobody; how many.
    fn bulk<T: Width>(_: &mut Cpu, _: &Op, _count: u64) -> u64 {
        0
    }
}

/// Runs a string instruction under its REP prefix, if it has one.
fn repeat<T: Width, S: Step>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    if op.repeat == 0 {
        return S::step::<T>(cpu, p, op).map(|_| ());
    }
    let mut left = cpu.regs[1] & op.address_mask;
    let mut budget = SLICE;
    let accesses = cpu.device_accesses();
    while left > 0 {
        let stopped = cpu.device_accesses() != accesses || cpu.events & EVENT_TRAP != 0;
        if budget == 0 || stopped && budget < SLICE {
            cpu.next_rip = cpu.rip;
            cpu.partial_reps += 1;
            cpu.events |= EVENT_BREAK;
            return Ok(());
        }
        let bulk = S::bulk::<T>(cpu, op, left.min(budget));
        if bulk > 0 {
            left -= bulk;
            budget -= bulk;
            cpu.set_counter(op.address_mask, left);
            continue;
        }
        let go_on = S::step::<T>(cpu, p, op)?;
        left -= 1;
        budget -= 1;
        cpu.set_counter(op.address_mask, left);
        if !go_on {
            break;
        }
    }
    Ok(())
}

impl Cpu {
    fn device_accesses(&self) -> u64 {
        self.stats.mmio + self.stats.ports
    }

    fn advance<T: Width>(&mut self, register: u8, op: &Op, iterations: u64) {
        let bytes = iterations.wrapping_mul(T::BYTES as u64);
        let old = self.regs[usize::from(register)];
        let new = if self.flags & DF == 0 {
            old.wrapping_add(bytes)
        } else {
            old.wrapping_sub(bytes)
        };
        self.set_address_register(register, op.address_mask, new & op.address_mask);
    }

    fn at(&self, register: u8, op: &Op) -> u64 {
        self.regs[usize::from(register)] & op.address_mask
    }

    /// How many ascending elements of `T`, at most `count`, start at `segment:register` without leaving the page of
    /// RAM; and where that is. `None` when the slow way must be taken.
    fn run_of<T: Width>(
        &mut self,
        register: u8,
        segment: u8,
        op: &Op,
        count: u64,
        kind: Kind,
    ) -> Option<(crate::ram::HostPage, u64, u64)> {
        if self.flags & DF != 0
            || self.unchecked & (1 << segment) == 0
            || self.bank == crate::tlb::Bank::Slow
        {
            return None;
        }
        let offset = self.at(register, op);
        let linear = self.linear(segment, offset, T::BYTES, kind).ok()?;
        let in_page = linear % PAGE;
        let fits = ((PAGE - in_page) / T::BYTES as u64).min(count);
        // Registers that would wrap at the address size go one by one.
        if fits == 0 || offset.checked_add(fits * T::BYTES as u64)? > op.address_mask {
            return None;
        }
        let entry = self.tlb.entry(self.bank, linear);
        let tag = if kind == Kind::Write {
            entry.write
        } else {
            entry.read
        };
        (tag == linear - in_page).then_some((entry.host, in_page, fits))
    }
}

struct Movs;
impl Step for Movs {
    fn step<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result<bool> {
        let value: T = cpu.read(p, op.segment, cpu.at(SI, op))?;
        cpu.write(p, ES, cpu.at(DI, op), value)?;
        cpu.advance::<T>(SI, op, 1);
        cpu.advance::<T>(DI, op, 1);
        Ok(true)
    }

    fn bulk<T: Width>(cpu: &mut Cpu, op: &Op, count: u64) -> u64 {
        let Some((from, from_at, count)) = cpu.run_of::<T>(SI, op.segment, op, count, Kind::Read)
        else {
            return 0;
        };
        let Some((to, to_at, count)) = cpu.run_of::<T>(DI, ES, op, count, Kind::Write) else {
            return 0;
        };
        let len = count * T::BYTES as u64;
        // A destination just above the source repeats what was written: only single steps do that.
        if from == to && to_at > from_at && to_at < from_at + len {
            return 0;
        }
        to.copy_from(to_at, from, from_at, len as usize);
        cpu.advance::<T>(SI, op, count);
        cpu.advance::<T>(DI, op, count);
        count
    }
}

struct Stos;
impl Step for Stos {
    fn step<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result<bool> {
        let value: T = cpu.reg(0);
        cpu.write(p, ES, cpu.at(DI, op), value)?;
        cpu.advance::<T>(DI, op, 1);
        Ok(true)
    }

    fn bulk<T: Width>(cpu: &mut Cpu, op: &Op, count: u64) -> u64 {
        let value: T = cpu.reg(0);
        let Some((to, at, count)) = cpu.run_of::<T>(DI, ES, op, count, Kind::Write) else {
            return 0;
        };
        if value == T::default() {
            to.fill(at, 0, (count * T::BYTES as u64) as usize);
        } else {
            for n in 0..count {
                to.store(at + n * T::BYTES as u64, value);
            }
        }
        cpu.advance::<T>(DI, op, count);
        count
    }
}

struct Lods;
impl Step for Lods {
    fn step<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result<bool> {
        let value: T = cpu.read(p, op.segment, cpu.at(SI, op))?;
        cpu.set_reg(0, value);
        cpu.advance::<T>(SI, op, 1);
        Ok(true)
    }
}

fn go_on(cpu: &Cpu, op: &Op) -> bool {
    let equal = cpu.flags & ZF != 0;
    match op.repeat {
        REP => equal,
        REPNE => !equal,
        _ => true,
    }
}

struct Cmps;
impl Step for Cmps {
    fn step<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result<bool> {
        let b: T = cpu.read(p, ES, cpu.at(DI, op))?;
        let a: T = cpu.read(p, op.segment, cpu.at(SI, op))?;
        a.sub(b, &mut cpu.flags);
        cpu.advance::<T>(SI, op, 1);
        cpu.advance::<T>(DI, op, 1);
        Ok(go_on(cpu, op))
    }
}

struct Scas;
impl Step for Scas {
    fn step<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result<bool> {
        let a: T = cpu.reg(0);
        let b: T = cpu.read(p, ES, cpu.at(DI, op))?;
        a.sub(b, &mut cpu.flags);
        cpu.advance::<T>(DI, op, 1);
        Ok(go_on(cpu, op))
    }
}

struct Ins;
impl Step for Ins {
    fn step<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result<bool> {
        let port: u16 = cpu.reg(2);
        cpu.check_port(p, port, T::BYTES)?;
        // The destination must be known writable before the device is read.
        let linear = cpu.linear(ES, cpu.at(DI, op), T::BYTES, Kind::Write)?;
        cpu.probe(linear, T::BYTES, Kind::Write, ES)?;
        let value: T = cpu.port_in(p, port);
        cpu.write_linear(p, linear, ES, value)?;
        cpu.advance::<T>(DI, op, 1);
        Ok(true)
    }
}

struct Outs;
impl Step for Outs {
    fn step<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result<bool> {
        let port: u16 = cpu.reg(2);
        cpu.check_port(p, port, T::BYTES)?;
        let value: T = cpu.read(p, op.segment, cpu.at(SI, op))?;
        cpu.port_out(p, port, value);
        cpu.advance::<T>(SI, op, 1);
        Ok(true)
    }
}

macro_rules! handlers {
    ($($name:ident $step:ident),*) => {$(
        pub(crate) fn $name<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
            repeat::<T, $step>(cpu, p, op)
        }
    )*};
}
handlers!(movs Movs, stos Stos, lods Lods, cmps Cmps, scas Scas, ins Ins, outs Outs);
