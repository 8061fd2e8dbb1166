//! Engines: what runs the guest's instructions over a board, and which one to take.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::board::{Board, Outcome};
use crate::dbt::DbtEngine;
use crate::kvm::KvmEngine;
use crate::lockstep::Lockstep;
use crate::probe::Probe;

/// An engine with its guest loaded.
#[derive(Debug)]
pub enum Engine {
    /// Our own processor: needs no virtualization hardware.
    Dbt(Box<DbtEngine>),
    /// The host's KVM.
    Kvm(Box<KvmEngine>),
    /// Our own processor twice, translating and interpreting, compared as they go.
    Lockstep(Box<Lockstep>),
}

impl Engine {
    /// Runs the guest until it stops the machine, or for `limit` of host time.
    ///
    /// # Errors
    ///
    /// When the engine cannot run the guest any further.
    pub fn run(&mut self, board: &mut Board, limit: Duration) -> Result<Stop, EngineError> {
        match self {
            Self::Dbt(engine) => Ok(engine.run(board, limit)),
            Self::Kvm(engine) => engine.run(board, limit),
            Self::Lockstep(engine) => engine.run(board, limit),
        }
    }
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The guest asked the board to stop.
    Outcome(Outcome),
    /// A triple fault, which a PC takes for a reset.
    Shutdown,
    /// HLT with nothing that could ever wake the processor.
    Halted,
    /// The time was up.
    TimeLimit,
}

/// Why an engine cannot run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// KVM refused a step.
    #[error("KVM cannot {step}")]
    Kvm {
        /// What was tried.
        step: &'static str,
        /// What KVM said.
        source: kvm_ioctls::Error,
    },
    /// Guest memory cannot be pinned for our own processor.
    #[error("guest memory cannot be pinned")]
    Ram(#[source] x86_dbt::RamError),
    /// The host refuses memory for native code.
    #[error("the host refuses executable memory")]
    Stubs(#[source] io::Error),
    /// Guest memory has no host address.
    #[error("guest memory cannot be mapped")]
    Memory(#[source] vm_memory::GuestMemoryError),
    /// The processor left the guest for a reason that this engine does not know.
    #[error("KVM stopped with {exit} at rip {rip:#x}")]
    Exit {
        /// KVM's exit.
        exit: String,
        /// The instruction it stopped at.
        rip: u64,
    },
    /// Translated code and the interpreter disagree.
    #[error(
        "the translator differs from the interpreter between instructions {from} and {to}:\n{difference}"
    )]
    Diverged {
        /// Instructions retired when both still agreed.
        from: u64,
        /// Instructions retired when they did not.
        to: u64,
        /// What differs.
        difference: String,
    },
    /// The signal that brings the processor out of the guest cannot be set up.
    #[error("cannot set up the processor's wake-up signal")]
    Signal(#[source] io::Error),
}

/// The engine that a user asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// KVM where it is real hardware virtualization, else our own.
    #[default]
    Auto,
    /// Our own engine.
    Dbt,
    /// KVM, whatever it is.
    Kvm,
}

/// The engine to take, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Whether it is KVM; else our own.
    pub kvm: bool,
    /// One line for the user.
    pub reason: String,
}

impl EngineChoice {
    /// Decides, probing the host's KVM when the user leaves it to us.
    #[must_use]
    pub fn decide(self) -> Decision {
        self.decide_with(Probe::run)
    }

    fn decide_with(self, probe: impl FnOnce() -> Probe) -> Decision {
        let decision = |kvm, reason: &dyn fmt::Display| Decision {
            kvm,
            reason: reason.to_string(),
        };
        match self {
            Self::Dbt => decision(false, &"asked for"),
            Self::Kvm => decision(true, &"asked for"),
            Self::Auto => {
                let probe = probe();
                decision(probe.is_hardware(), &probe)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_kvm_only_when_it_is_fast() {
        let auto = |probe| EngineChoice::Auto.decide_with(|| probe);
        assert!(auto(Probe::Measured { mips: 2000.0 }).kvm);
        let slow = auto(Probe::Measured { mips: 1.5 });
        assert!(!slow.kvm);
        assert_eq!(
            slow.reason,
            "KVM runs kernel code at 1.5 MIPS here: no hardware virtualization behind it"
        );
        assert!(
            !auto(Probe::Absent {
                reason: "no such file".into()
            })
            .kvm
        );
    }

    #[test]
    fn an_explicit_choice_is_not_probed() {
        let never = || -> Probe { panic!("probed") };
        assert!(EngineChoice::Kvm.decide_with(never).kvm);
        assert!(!EngineChoice::Dbt.decide_with(never).kvm);
    }
}
