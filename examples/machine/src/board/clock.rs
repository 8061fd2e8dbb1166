//! Time as a function of instructions retired, plus the idle time that was skipped.

/// Nanoseconds since the machine started, counted in instructions.
#[derive(Clone, Copy, Debug)]
pub(super) struct InstructionClock {
    base_ns: u64,
    ns_per_instruction: u64,
    retired: u64,
}

impl InstructionClock {
    pub(super) fn new(ns_per_instruction: u64) -> Self {
        assert!(ns_per_instruction > 0, "an instruction takes time");
        Self {
            base_ns: 0,
            ns_per_instruction,
            retired: 0,
        }
    }

    pub(super) fn set_retired(&mut self, retired: u64) {
        debug_assert!(
            retired >= self.retired,
            "retired instructions never go back"
        );
        self.retired = retired;
    }

    pub(super) fn retired(&self) -> u64 {
        self.retired
    }

    pub(super) fn now(&self) -> u64 {
        self.base_ns + self.retired * self.ns_per_instruction
    }

    /// Moves to `ns` at the present instruction; an earlier time changes nothing.
    pub(super) fn skip_to(&mut self, ns: u64) {
        self.base_ns += ns.saturating_sub(self.now());
    }

    /// The count of retired instructions at which `ns` has come.
    pub(super) fn instruction_at(&self, ns: u64) -> u64 {
        ns.saturating_sub(self.base_ns)
            .div_ceil(self.ns_per_instruction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_and_skips_add_up() {
        let mut clock = InstructionClock::new(10);
        clock.set_retired(5);
        assert_eq!((clock.now(), clock.instruction_at(101)), (50, 11));
        clock.skip_to(1_000);
        assert_eq!((clock.now(), clock.instruction_at(1_000)), (1_000, 5));
        clock.skip_to(3);
        clock.set_retired(6);
        assert_eq!(clock.now(), 1_010);
    }
}
