//! What the guest went through with its interrupt controllers, for those who ask what it would have cost elsewhere.

use apic::{ApicEvent, LocalApic, Pending, Source};

use super::Board;
use super::clock::InstructionClock;

/// Events kept; more are not recorded.
const EVENTS_MAX: usize = 1 << 22;

#[derive(Debug)]
pub(super) struct History {
    events: Vec<ApicEvent>,
    /// IRR as it was.
    requested: [u32; 8],
    external: bool,
    /// When each vector was requested, in instructions, if the guest was running.
    since: [Option<u64>; 256],
    /// The processor is halted.
    pub(super) idle: bool,
    /// The guest has just sent an interrupt.
    sent: bool,
}

impl History {
    fn new() -> Self {
        Self {
            events: Vec::new(),
            requested: [0; 8],
            external: false,
            since: [None; 256],
            idle: false,
            sent: false,
        }
    }

    pub(super) fn push(&mut self, event: ApicEvent) {
        const ICR_LOW: u8 = 0x30;
        const SELF_IPI: u8 = 0x3f;
        let sends = |register| matches!(register, ICR_LOW | SELF_IPI);
        self.sent = matches!(event, ApicEvent::Write { register, .. } if sends(register));
        if self.events.len() < EVENTS_MAX {
            self.events.push(event);
        }
    }

    /// Finds out which vectors are newly requested.
    fn look(&mut self, lapic: &LocalApic, external: bool, clock: &InstructionClock) {
        let page = lapic.state();
        let rising = external && !self.external;
        self.external = external;
        if rising {
            self.request(ApicEvent::EXTERNAL, false, Source::Device, clock);
        }
        let timer = page.lvt[0].to_le_bytes()[0];
        for (word, (&now, before)) in (0u8..).zip(page.irr.iter().zip(self.requested)) {
            let mut new = now & !before;
            while new != 0 {
                let bit = new.trailing_zeros();
                let vector = word * 32 + bit.to_le_bytes()[0];
                let level = page.tmr[usize::from(word)] >> bit & 1 != 0;
                let source = match vector {
                    _ if self.sent => Source::Itself,
                    _ if vector == timer => Source::Timer,
                    _ => Source::Device,
                };
                self.request(vector, level, source, clock);
                new &= new - 1;
            }
        }
        self.requested = page.irr;
        self.sent = false;
    }

    fn request(&mut self, vector: u8, level: bool, source: Source, clock: &InstructionClock) {
        let running = !self.idle;
        self.since[usize::from(vector)] = running.then(|| clock.retired());
        self.push(ApicEvent::Request {
            vector,
            level,
            source,
            running,
        });
    }

    /// The guest has taken `vector`. An instruction may have been on its way.
    fn take(&mut self, vector: u8, clock: &InstructionClock) {
        let since = self.since[usize::from(vector)].take();
        let waited = since.is_some_and(|since| clock.retired() > since + 1);
        self.push(ApicEvent::Take { vector, waited });
    }
}

impl Board {
    /// From now on keeps what the guest does with its local APIC and its 8259A pair.
    ///
    /// # Panics
    ///
    /// When there are several processors.
    pub fn record_interrupts(&mut self) {
        assert_eq!(self.processors(), 1, "one processor's history");
        self.history = Some(History::new());
    }

    /// Takes what was recorded since the last time.
    pub fn take_history(&mut self) -> Vec<ApicEvent> {
        let history = self.history.as_mut();
        history.map_or_else(Vec::new, |history| std::mem::take(&mut history.events))
    }

    pub(super) fn note(&mut self, event: ApicEvent) {
        if let Some(history) = &mut self.history {
            history.push(event);
        }
    }

    /// An access to a port of the 8259A pair; OCW2 with bit 5 set ends an interrupt.
    pub(super) fn note_port(&mut self, port: u16, written: Option<u8>) {
        const COMMANDS: [u16; 2] = [0x20, 0xa0];
        let end = written.is_some_and(|value| value & 0x38 == 0x20);
        self.note(ApicEvent::Port {
            end: end && COMMANDS.contains(&port),
        });
    }

    pub(super) fn note_requests(&mut self) {
        if let (Some(history), Some(lapic)) = (&mut self.history, self.interrupts.lapic()) {
            let external = lapic.pending() == Some(Pending::External);
            history.look(lapic, external, &self.clock);
        }
    }

    /// The guest takes the vector that its processor is handed; before the controllers learn of it.
    pub(super) fn note_taken(&mut self) {
        let pending = self.interrupts.lapic().and_then(LocalApic::pending);
        let vector = match pending {
            Some(Pending::Vector(vector)) => vector,
            Some(Pending::External) => ApicEvent::EXTERNAL,
            None => return,
        };
        if let Some(history) = &mut self.history {
            if vector == ApicEvent::EXTERNAL {
                history.external = false;
            }
            history.take(vector, &self.clock);
        }
    }

    pub(super) fn note_idle(&mut self, idle: bool) {
        if let Some(history) = &mut self.history {
            history.idle = idle;
        }
    }
}
