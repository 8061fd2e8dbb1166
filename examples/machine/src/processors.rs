//! The processors of a machine: one, or several that take turns.
//!
//! In a round each processor that is neither halted nor waiting to be started has one turn of up to [`TURN`] instructions,
//! in the order of their numbers. HLT, PAUSE and the deadline of a device end a turn early: who waits for another
//! lets it run. An instruction is done, with all its effects, before the next turn begins, so that locked
//! instructions are atomic, and the same start leads to the same end.

use apic::LocalApic;
use x86_dbt::{Clock, Cpu, Exit, State};

use crate::board::Board;

/// Processors over one RAM, the bootstrap processor first.
#[derive(Debug)]
pub(crate) struct Processors {
    all: Vec<Processor>,
}

#[derive(Debug)]
struct Processor {
    cpu: Cpu,
    activity: Activity,
}

/// What a processor does while others run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    Runs,
    /// HLT, and which interrupts end it.
    Halted {
        maskable: bool,
        nmi: bool,
    },
    /// INIT has come, or power, and no start-up message since. Intel SDM volume 3, 9.4.
    AwaitsStartUp,
}

impl Processors {
    /// The first of `cpus` runs, the others wait to be started.
    pub(crate) fn new(cpus: Vec<Cpu>) -> Self {
        let mut all: Vec<_> = cpus.into_iter().map(Processor::waiting).collect();
        all[0].activity = Activity::Runs;
        Self { all }
    }

    /// Runs `budget` instructions, a round more at most when there are several processors.
    ///
    /// [`Exit::Halt`] means that none can go on, [`Exit::Shutdown`] that one of them shut down.
    pub(crate) fn run(&mut self, board: &mut Board, budget: u64) -> Exit {
        match &mut self.all[..] {
            [only] => only.cpu.run(board, budget),
            _ => self.take_turns(board, budget),
        }
    }

    fn take_turns(&mut self, board: &mut Board, budget: u64) -> Exit {
        let mut used = 0;
        while used < budget && board.outcome().is_none() {
            let awake = self.wake(board);
            if awake == 0 {
                return Exit::Halt;
            }
            for number in 0..self.all.len() {
                let processor = &mut self.all[number];
                if processor.activity == Activity::Runs {
                    let before = processor.cpu.ticks();
                    if processor.turn(board, number, awake) == Exit::Shutdown {
                        return Exit::Shutdown;
                    }
                    // A turn that gets nowhere counts too, so that none lasts for ever.
                    used += (processor.cpu.ticks() - before).max(1);
                }
            }
        }
        Exit::Deadline
    }

    /// Carries INIT and start-up messages to their processors, and ends the halts that something ends; how many
    /// processors run now.
    fn wake(&mut self, board: &mut Board) -> u64 {
        let mut awake = 0;
        for (number, processor) in self.all.iter_mut().enumerate() {
            processor.take_signals(board.lapic_mut(number));
            if processor.is_woken(board.lapic(number)) {
                processor.activity = Activity::Runs;
                awake += 1;
            }
        }
        awake
    }

    /// Whether something has come that a halted machine goes on for.
    pub(crate) fn is_woken(&self, board: &Board) -> bool {
        match &self.all[..] {
            [_] => board.requests_interrupt(),
            all => {
                let mut all = all.iter().enumerate();
                all.any(|(number, processor)| processor.is_woken(board.lapic(number)))
            }
        }
    }

    /// Whether anything but a reset could make a halted machine go on.
    pub(crate) fn can_wake(&self) -> bool {
        match &self.all[..] {
            [only] => only.is_interruptible(),
            all => all.iter().any(|processor| match processor.activity {
                Activity::Halted { maskable, .. } => maskable,
                Activity::Runs => true,
                Activity::AwaitsStartUp => false,
            }),
        }
    }

    /// Lets a halted machine's time pass at once; `false` if nothing will ever wake it.
    pub(crate) fn skip_idle(&self, board: &mut Board) -> bool {
        board.skip_idle_until(|board| self.is_woken(board))
    }

    /// Instructions that all of them have retired.
    pub(crate) fn retired(&self) -> u64 {
        self.cpus().map(Cpu::retired).sum()
    }

    /// What each can be told apart by.
    pub(crate) fn states(&self) -> impl Iterator<Item = State> {
        self.cpus().map(Cpu::state)
    }

    pub(crate) fn cpus(&self) -> impl Iterator<Item = &Cpu> {
        self.all.iter().map(|processor| &processor.cpu)
    }

    pub(crate) fn bootstrap(&mut self) -> &mut Cpu {
        &mut self.all[0].cpu
    }

    pub(crate) fn set_translation(&mut self, after: Option<u32>) {
        for processor in &mut self.all {
            processor.cpu.set_translation(after);
        }
    }
}

impl Processor {
    fn waiting(cpu: Cpu) -> Self {
        Self {
            cpu,
            activity: Activity::AwaitsStartUp,
        }
    }

    /// A start-up message for a processor that does not wait for one is lost.
    fn take_signals(&mut self, lapic: &mut LocalApic) {
        if lapic.take_init() {
            self.cpu.init();
            self.activity = Activity::AwaitsStartUp;
        }
        if let Some(vector) = lapic.take_start_up()
            && self.activity == Activity::AwaitsStartUp
        {
            self.cpu.start_up(vector);
            self.activity = Activity::Runs;
        }
    }

    /// Whether it runs, or has something to run for.
    fn is_woken(&self, lapic: &LocalApic) -> bool {
        match self.activity {
            Activity::Runs => true,
            Activity::Halted { maskable, nmi } => {
                maskable && lapic.pending().is_some() || nmi && lapic.has_nmi() || lapic.has_init()
            }
            // NMI and maskable interrupts wait as well.
            Activity::AwaitsStartUp => lapic.has_start_up(),
        }
    }

    /// One turn, one of `sharers` of the round.
    fn turn(&mut self, board: &mut Board, number: usize, sharers: u64) -> Exit {
        // Who had its turn before may have sent it an INIT.
        self.take_signals(board.lapic_mut(number));
        if self.activity != Activity::Runs {
            return Exit::Halt;
        }
        board.switch_to(number, self.cpu.ticks(), sharers);
        // Alone, it waits for a device, whose time comes no sooner.
        self.cpu.set_pause_exit(sharers > 1);
        let exit = self.cpu.run(board, TURN);
        board.set_retired(self.cpu.ticks());
        if exit == Exit::Halt {
            self.activity = Activity::Halted {
                maskable: self.is_interruptible(),
                // One that it has not taken is blocked.
                nmi: !board.lapic(number).has_nmi(),
            };
        }
        exit
    }

    fn is_interruptible(&self) -> bool {
        const RFLAGS_IF: u64 = 1 << 9;
        self.cpu.registers().rflags & RFLAGS_IF != 0
    }
}

/// Instructions of a turn.
const TURN: u64 = 5_000;

#[cfg(test)]
mod tests;
