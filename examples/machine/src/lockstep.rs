//! Two machines of our own processor side by side, one translating and one interpreting, compared as they go.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, VolatileMemory};
use x86_dbt::Exit;

use crate::board::Board;
use crate::dbt::DbtEngine;
use crate::engine::{EngineError, Stop};

/// The machine that translates; beside it the same machine, interpreting. No time passes while the guest is idle.
#[derive(Debug)]
pub struct Lockstep {
    subject: Machine,
    reference: Machine,
    /// The reference's devices; the subject's are the caller's.
    board: Board,
    budgets: Budgets,
    compared: u64,
    memory_compared_at: u64,
}

/// An engine and the memory to compare.
#[derive(Debug)]
struct Machine {
    engine: DbtEngine,
    ram: GuestMemoryMmap,
}

/// The lengths of runs between comparisons: irregular, so that every place in a block becomes an end.
#[derive(Debug)]
struct Budgets(u64);

impl Budgets {
    fn next(&mut self) -> u64 {
        // Marsaglia's xorshift64 (2003), with his first triple.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        1 + self.0 % BUDGET_MAX
    }
}

impl Lockstep {
    /// Two machines in the same state: `subject` over its board, which `run` takes, and `reference` over `board`.
    #[must_use]
    pub fn new(
        subject: (DbtEngine, GuestMemoryMmap),
        reference: (DbtEngine, GuestMemoryMmap),
        board: Board,
    ) -> Self {
        let machine = |(engine, ram)| Machine { engine, ram };
        let (subject, mut reference) = (machine(subject), machine(reference));
        reference.engine.processors.set_translation(None);
        Self {
            subject,
            reference,
            board,
            budgets: Budgets(0x9e37_79b9_7f4a_7c15),
            compared: 0,
            memory_compared_at: 0,
        }
    }

    /// The machine that translates.
    #[must_use]
    pub fn subject(&self) -> &DbtEngine {
        &self.subject.engine
    }

    /// How often the machines were compared.
    #[must_use]
    pub fn compared(&self) -> u64 {
        self.compared
    }

    /// Runs until the guest stops the machine, or for `limit` of host time.
    ///
    /// # Errors
    ///
    /// [`EngineError::Diverged`] with the first difference.
    pub fn run(&mut self, board: &mut Board, limit: Duration) -> Result<Stop, EngineError> {
        let end = Instant::now() + limit;
        loop {
            let from = self.subject.engine.processors.retired();
            let budget = self.budgets.next();
            let exit = self.subject.engine.processors.run(board, budget);
            let reference = &mut self.reference.engine.processors;
            let expected = reference.run(&mut self.board, budget);
            self.compare(from, exit, expected)?;
            if let Some(outcome) = board.outcome() {
                self.compare_memory(from)?;
                return Ok(Stop::Outcome(outcome));
            }
            match exit {
                Exit::Shutdown => return Ok(Stop::Shutdown),
                Exit::Halt if !self.skip_idle(board) => return Ok(Stop::Halted),
                Exit::Halt | Exit::Deadline => {}
            }
            if Instant::now() >= end {
                return Ok(Stop::TimeLimit);
            }
        }
    }

    /// Lets a halted guest's time pass at once; `false` if nothing will ever wake it.
    fn skip_idle(&mut self, board: &mut Board) -> bool {
        let (subject, reference) = (&self.subject.engine, &self.reference.engine);
        subject.processors.skip_idle(board) && reference.processors.skip_idle(&mut self.board)
    }

    fn compare(&mut self, from: u64, exit: Exit, expected: Exit) -> Result<(), EngineError> {
        self.compared += 1;
        let subject = &self.subject.engine.processors;
        let reference = &self.reference.engine.processors;
        let same = exit == expected
            && subject.retired() == reference.retired()
            && subject.states().eq(reference.states());
        if !same {
            let mut text = String::new();
            let _ = write!(
                text,
                "translated ({exit:?}): {subject:?}\ninterpreted ({expected:?}): {reference:?}"
            );
            return Err(diverged(from, subject.retired(), text));
        }
        if subject.retired() - self.memory_compared_at >= MEMORY_INTERVAL {
            self.memory_compared_at = subject.retired();
            self.compare_memory(from)?;
        }
        Ok(())
    }

    fn compare_memory(&self, from: u64) -> Result<(), EngineError> {
        let regions = self.subject.ram.iter().zip(self.reference.ram.iter());
        for (subject, reference) in regions {
            let start = subject.start_addr().0;
            for offset in (0..subject.len()).step_by(CHUNK) {
                let (a, b) = (chunk(subject, offset)?, chunk(reference, offset)?);
                if let Some(at) = a.iter().zip(&b).position(|(a, b)| a != b) {
                    let text = format!("memory at {:#x}", start + offset + at as u64);
                    return Err(diverged(
                        from,
                        self.subject.engine.processors.retired(),
                        text,
                    ));
                }
            }
        }
        Ok(())
    }
}

/// The bytes of a region from `offset`, at most [`CHUNK`] of them.
pub(crate) fn chunk(region: &impl GuestMemoryRegion, offset: u64) -> Result<Vec<u8>, EngineError> {
    let failed = EngineError::Memory;
    let slice = region.as_volatile_slice().map_err(failed)?;
    let offset = usize::try_from(offset).expect("RAM is mapped, so its offsets are addresses");
    let len = CHUNK.min(slice.len() - offset);
    let mut bytes = vec![0; len];
    let part = slice
        .get_slice(offset, len)
        .map_err(vm_memory::GuestMemoryError::from)
        .map_err(failed)?;
    part.copy_to(&mut bytes[..]);
    Ok(bytes)
}

fn diverged(from: u64, to: u64, difference: String) -> EngineError {
    EngineError::Diverged {
        from,
        to,
        difference,
    }
}

/// Instructions between two comparisons at most.
const BUDGET_MAX: u64 = 3000;
/// Instructions between two comparisons of all memory.
const MEMORY_INTERVAL: u64 = 1 << 26;
/// Bytes of memory looked at at once.
pub(crate) const CHUNK: usize = 1 << 20;
