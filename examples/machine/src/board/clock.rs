//! Time as a function of instructions retired, plus the idle time that was skipped.

/// Nanoseconds since the machine started, counted in instructions of the processor that runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct InstructionClock {
    /// The time when the processor that runs had retired `from`.
    base_ns: u64,
    from: u64,
    ns_per_instruction: u64,
    /// How many processors take turns: an instruction takes each a part of its time.
    sharers: u64,
    retired: u64,
}

impl InstructionClock {
    pub(super) fn new(ns_per_instruction: u64) -> Self {
        assert!(ns_per_instruction > 0, "an instruction takes time");
        Self {
            base_ns: 0,
            from: 0,
            sharers: 1,
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

    /// Goes on with a processor that has retired `retired`, one of `sharers`. Less than a nanosecond may be lost.
    pub(super) fn switch(&mut self, retired: u64, sharers: u64) {
        assert!(sharers > 0, "somebody runs");
        self.base_ns = self.now();
        (self.from, self.retired) = (retired, retired);
        self.sharers = sharers;
    }

    pub(super) fn retired(&self) -> u64 {
        self.retired
    }

    pub(super) fn now(&self) -> u64 {
        self.base_ns + (self.retired - self.from) * self.ns_per_instruction / self.sharers
    }

    /// Moves to `ns` at the present instruction; an earlier time changes nothing.
    pub(super) fn skip_to(&mut self, ns: u64) {
        self.base_ns += ns.saturating_sub(self.now());
    }

    /// The count of retired instructions at which `ns` has come.
    pub(super) fn instruction_at(&self, ns: u64) -> u64 {
        let wait = ns.saturating_sub(self.base_ns).saturating_mul(self.sharers);
        let instructions = wait.div_ceil(self.ns_per_instruction);
        self.from.saturating_add(instructions)
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

    #[test]
    fn processors_that_take_turns_share_the_time() {
        let mut clock = InstructionClock::new(10);
        clock.switch(0, 3);
        clock.set_retired(100);
        assert_eq!((clock.now(), clock.instruction_at(400)), (333, 120));
        clock.switch(7_000, 2);
        assert_eq!((clock.now(), clock.instruction_at(333)), (333, 7_000));
        let due = clock.instruction_at(1_000);
        clock.set_retired(due - 1);
        assert!(clock.now() < 1_000);
        clock.set_retired(due);
        assert!(clock.now() >= 1_000);
    }
}
