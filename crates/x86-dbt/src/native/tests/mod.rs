mod control;
mod description;
mod sse;
mod x87;

use iced_x86::code_asm::CodeAssembler;
use iced_x86::{Decoder, DecoderOptions, IcedError, Instruction};

use super::{FxState, NativeIo, NativeOp, NativeOutcome, NativeUnit};

const DONE: NativeOutcome = NativeOutcome::Done { store: true };

fn decode(bytes: &[u8], bitness: u32) -> Instruction {
    Decoder::with_ip(bitness, bytes, 0x1000, DecoderOptions::NONE).decode()
}

fn assembled(build: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Instruction {
    let mut a = CodeAssembler::new(64).unwrap();
    build(&mut a).unwrap();
    decode(&a.assemble(0x1000).unwrap(), 64)
}

struct Machine {
    unit: NativeUnit,
    fx: FxState,
    io: NativeIo,
}

impl Machine {
    fn new() -> Self {
        let mut fx = FxState::power_on();
        fx.fninit();
        Self {
            unit: NativeUnit::new().unwrap(),
            fx,
            io: NativeIo::new(),
        }
    }

    fn prepare(
        &mut self,
        build: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> NativeOp {
        self.unit.prepare(&assembled(build)).unwrap()
    }

    fn run(
        &mut self,
        build: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> NativeOutcome {
        let op = self.prepare(build);
        self.unit.execute(&op, &mut self.fx, &mut self.io)
    }

    fn set_memory(&mut self, bytes: &[u8]) {
        self.io.memory[..bytes.len()].copy_from_slice(bytes);
    }
}

/// Two doubles as an XMM register has them.
fn doubles(low: f64, high: f64) -> u128 {
    u128::from(high.to_bits()) << 64 | u128::from(low.to_bits())
}

fn low_double(register: u128) -> f64 {
    f64::from_le_bytes(register.to_le_bytes()[..8].try_into().unwrap())
}
