#![doc = include_str!("../README.md")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "an operand is what is left of a register when it is cut to the operand's width"
)]

#[cfg(not(target_arch = "x86_64"))]
compile_error!(
    "x86-dbt executes guest arithmetic by the host's own instructions and needs an x86-64 host"
);

mod alu;
mod arena;
mod block;
mod cluster;
mod code_pages;
mod cpu;
mod cpuid;
mod debug;
mod decode;
mod exception;
mod flags;
mod frame;
mod memory;
mod msr;
pub mod native;
mod observe;
mod ops;
mod platform;
mod ram;
mod reset;
mod run;
mod segment;
mod state;
mod tlb;
mod translate;
mod walk;

pub use cluster::{Cluster, ClusterPolicy};
pub use cpu::{Cpu, Stats, TableRegister};
pub use cpuid::{
    Cpuid, ECX_PCID, ECX_TSC_DEADLINE, ECX_X2APIC, EDX_APIC, EDX_FXSR, EDX_MTRR, EDX_SSE, EDX_VME,
    Features, Vendor,
};
pub use exception::{Exception, Vector};
pub use guest_paging;
pub use observe::PagingObserver;
pub use platform::{Clock, InterruptSource, Isolated, Mmio, Platform, PortIo};
pub use ram::{Ram, RamError};
pub use run::Exit;
pub use segment::Segment;
pub use state::{Registers, State};
pub use tlb::TlbStats;
pub use translate::TranslatorStats;
