//! Is the host's KVM hardware virtualization, or a kernel that emulates ring 0?
//!
//! Hardware runs a loop in ring 0 at the processor's speed, thousands of million instructions a
//! second. A KVM without VT-x or SVM behind it emulates each instruction: one or two million.

use std::fmt;
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};

use crate::board::{Board, BoardConfig, Chipset};
use crate::engine::Stop;
use crate::kernel::{allocate_ram, write_boot_tables};
use crate::kvm::{Controllers, KvmEngine};
use crate::start_state::StartState;

/// What a short run under KVM showed.
#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    /// It could not be tried.
    Absent {
        /// Why.
        reason: String,
    },
    /// A loop in ring 0 ran at this rate.
    Measured {
        /// Million instructions a second.
        mips: f64,
    },
}

impl Probe {
    /// Below this rate KVM is taken for a software one, in million instructions a second. The two
    /// kinds lie three orders of magnitude apart.
    pub const HARDWARE_MIPS: f64 = 50.0;

    /// Runs 20,000 instructions of ring-0 code; takes some 15 ms where KVM emulates them.
    #[must_use]
    pub fn run() -> Self {
        match measure() {
            Ok(mips) => Self::Measured { mips },
            Err(reason) => Self::Absent { reason },
        }
    }

    /// Whether KVM is worth taking for kernel code.
    #[must_use]
    pub fn is_hardware(&self) -> bool {
        matches!(self, Self::Measured { mips } if *mips >= Self::HARDWARE_MIPS)
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent { reason } => write!(f, "KVM cannot be used here: {reason}"),
            Self::Measured { mips } if self.is_hardware() => {
                write!(f, "KVM runs kernel code at {mips:.0} MIPS here")
            }
            Self::Measured { mips } => write!(
                f,
                "KVM runs kernel code at {mips:.1} MIPS here: no hardware virtualization behind it"
            ),
        }
    }
}

/// The best of three: a busy host can only make a run slower.
fn measure() -> Result<f64, String> {
    let mut best = 0.0f64;
    for _ in 0..3 {
        let seconds = time_loop()
            .map_err(|error| explain(error.as_ref()))?
            .as_secs_f64();
        best = best.max(f64::from(LOOPS * INSTRUCTIONS_PER_LOOP) / seconds / 1e6);
    }
    Ok(best)
}

fn time_loop() -> Result<Duration, Box<dyn std::error::Error>> {
    let ram = allocate_ram(1 << 20)?;
    write_boot_tables(&ram)?;
    ram.write_slice(&code(), GuestAddress(CODE))?;
    let start = StartState::linux_64(CODE);
    let mut engine = KvmEngine::new(&ram, &start, Chipset::M0, Controllers::Board)?;
    let mut board = Board::new(BoardConfig {
        chipset: Chipset::M0,
        processors: 1,
        ram: 1 << 20,
        unix_seconds: 0,
        ns_per_instruction: 1,
        test_device: None,
        disk: None,
        firmware_files: Vec::new(),
        console: Box::new(std::io::sink()),
        network: None,
        x2apic: true,
        iommu: None,
    });
    let began = Instant::now();
    match engine.run(&mut board, Duration::from_secs(1))? {
        Stop::Halted => Ok(began.elapsed()),
        stop => Err(format!("the probe's guest ended with {stop:?}").into()),
    }
}

/// `mov ecx, LOOPS; again: nop; nop; dec ecx; jnz again; hlt`
fn code() -> Vec<u8> {
    let mut code = vec![0xb9];
    code.extend(LOOPS.to_le_bytes());
    code.extend([0x90, 0x90, 0xff, 0xc9, 0x75, 0xfa, 0xf4]);
    code
}

/// An error with its causes, in one line.
fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

const CODE: u64 = 0x1_0000;
const LOOPS: u32 = 5_000;
const INSTRUCTIONS_PER_LOOP: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_probe_answers_or_says_why_not() {
        let probe = Probe::run();
        eprintln!("{probe}");
        match probe {
            Probe::Absent { reason } => eprintln!("skipped: {reason}"),
            Probe::Measured { mips } => assert!(mips > 0.01, "{mips}"),
        }
    }
}
