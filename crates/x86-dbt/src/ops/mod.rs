//! What each instruction does, by family.

pub(crate) mod arith;
pub(crate) mod bcd;
pub(crate) mod bits;
pub(crate) mod branch;
pub(crate) mod data;
pub(crate) mod far;
pub(crate) mod flagops;
pub(crate) mod gate;
pub(crate) mod interrupt;
pub(crate) mod io;
pub(crate) mod muldiv;
pub(crate) mod operand;
pub(crate) mod selector;
pub(crate) mod shift;
pub(crate) mod simd;
pub(crate) mod stack;
pub(crate) mod string;
pub(crate) mod syscall;
pub(crate) mod system;
pub(crate) mod task;
