//! Port I/O and its permission check.

use crate::alu::Width;
use crate::cpu::{Cpu, Mode};
use crate::decode::Op;
use crate::exception::{GP0, Result};
use crate::platform::Platform;

impl Cpu {
    /// IOPL, or the I/O permission bit map of the TSS. Intel SDM volume 1, 19.5.
    pub(crate) fn check_port(&mut self, p: &mut dyn Platform, port: u16, len: usize) -> Result {
        let free = self.mode == Mode::Real || self.mode != Mode::V86 && self.cpl <= self.iopl();
        if free {
            return Ok(());
        }
        let limit = u64::from(self.tr.limit);
        if self.tr.attributes & 8 == 0 || limit < 0x67 {
            return Err(GP0);
        }
        let map_base: u16 = self.read_system(p, self.tr.base.wrapping_add(0x66))?;
        let at = u64::from(map_base) + u64::from(port / 8);
        // Two bytes are read, so both must be inside the TSS.
        if at + 1 > limit {
            return Err(GP0);
        }
        let bits: u16 = self.read_system(p, self.tr.base.wrapping_add(at))?;
        let wanted = ((1u16 << len) - 1) << (port % 8);
        if bits & wanted == 0 { Ok(()) } else { Err(GP0) }
    }

    pub(crate) fn port_in<T: Width>(&mut self, p: &mut dyn Platform, port: u16) -> T {
        self.before_device(p);
        self.stats.ports += 1;
        self.match_port_breakpoints(port, T::BYTES);
        let mut bytes = [0xff; 8];
        p.port_read(port, &mut bytes[..T::BYTES]);
        T::from_bytes(&bytes)
    }

    pub(crate) fn port_out<T: Width>(&mut self, p: &mut dyn Platform, port: u16, value: T) {
        self.before_device(p);
        self.stats.ports += 1;
        self.match_port_breakpoints(port, T::BYTES);
        let mut bytes = [0; 8];
        value.to_bytes(&mut bytes);
        p.port_write(port, &bytes[..T::BYTES]);
    }
}

/// Where the port number comes from.
pub(crate) trait Port {
    fn port(cpu: &Cpu, op: &Op) -> u16;
}
pub(crate) struct ByImm;
impl Port for ByImm {
    fn port(_: &Cpu, op: &Op) -> u16 {
        op.immediate as u16 & 0xff
    }
}
pub(crate) struct ByDx;
impl Port for ByDx {
    fn port(cpu: &Cpu, _: &Op) -> u16 {
        cpu.reg(2)
    }
}

pub(crate) fn input<T: Width, P: Port>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    let port = P::port(cpu, op);
    cpu.check_port(p, port, T::BYTES)?;
    let value: T = cpu.port_in(p, port);
    cpu.set_reg(0, value);
    Ok(())
}

pub(crate) fn output<T: Width, P: Port>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    let port = P::port(cpu, op);
    cpu.check_port(p, port, T::BYTES)?;
    let value: T = cpu.reg(0);
    cpu.port_out(p, port, value);
    Ok(())
}
