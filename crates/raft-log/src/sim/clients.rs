//! Clients that send a command again until it is answered, and remember what they saw.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use linearizability::{Budget, Outcome, Recorder, Register, RegisterInput, RegisterOutput, check};

use super::machine::Command;
use crate::NodeId;
use crate::rng::Rng;

/// How often a client asks before it gives up.
const ATTEMPTS: u32 = 12;
/// Registers.
const KEYS: u64 = 3;

type Input = RegisterInput<u64>;
type Output = RegisterOutput<u64>;

/// What a client waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Request {
    Run(Command),
    Read { key: u64, number: u64 },
}

#[derive(Clone, Copy, Debug)]
struct Open {
    request: Request,
    attempts: u32,
}

/// All clients, and the history of each register.
#[derive(Debug)]
pub(crate) struct Clients {
    open: BTreeMap<u64, Open>,
    histories: BTreeMap<u64, Recorder<Input, Output>>,
    /// Whom each client takes for the leader.
    leaders: BTreeMap<u64, NodeId>,
    next: u64,
    pub(crate) answered: u64,
}

impl Clients {
    pub(crate) fn new() -> Self {
        Self {
            open: BTreeMap::new(),
            histories: BTreeMap::new(),
            leaders: BTreeMap::new(),
            next: 1,
            answered: 0,
        }
    }

    /// The client's turn: it asks again, or something new. Whom, and what.
    pub(crate) fn turn(
        &mut self,
        client: u64,
        servers: &[NodeId],
        rng: &mut Rng,
    ) -> (NodeId, Request) {
        let any = servers
            [usize::try_from(rng.below(u64::try_from(servers.len()).unwrap_or(1))).unwrap_or(0)];
        if let Some(open) = self.open.get_mut(&client) {
            open.attempts += 1;
            if open.attempts <= ATTEMPTS {
                return (any, open.request);
            }
            self.give_up(client);
        }
        let leader = self.leaders.get(&client).copied().unwrap_or(any);
        (leader, self.ask(client, rng))
    }

    fn ask(&mut self, client: u64, rng: &mut Rng) -> Request {
        let (key, number) = (rng.below(KEYS), self.next);
        self.next += 1;
        let command = Command {
            client,
            sequence: number,
            key,
            value: number,
            expected: None,
        };
        let (request, input) = match rng.below(4) {
            0 | 1 => (Request::Read { key, number }, RegisterInput::Read),
            2 => (Request::Run(command), RegisterInput::Write(number)),
            _ => {
                let expected = number.saturating_sub(rng.below(6));
                let command = Command {
                    expected: Some(expected),
                    ..command
                };
                (
                    Request::Run(command),
                    RegisterInput::CompareAndSet {
                        expected,
                        new: number,
                    },
                )
            }
        };
        let history = self.histories.entry(key).or_default();
        history
            .invoke(client, input)
            .expect("a client asks one thing at a time");
        self.open.insert(
            client,
            Open {
                request,
                attempts: 1,
            },
        );
        request
    }

    fn give_up(&mut self, client: u64) {
        let Some(open) = self.open.remove(&client) else {
            return;
        };
        let history = self.histories.entry(open.request.key()).or_default();
        // A read that was not answered changed nothing.
        let closed = match open.request {
            Request::Run(_) => history.abandon(client),
            Request::Read { .. } => history.fail(client),
        };
        closed.expect("it was asked");
    }

    /// Whether the client still waits for this.
    pub(crate) fn waits(&self, client: u64, number: u64) -> bool {
        self.open
            .get(&client)
            .is_some_and(|open| open.request.number() == number)
    }

    /// A server says who leads.
    pub(crate) fn redirect(&mut self, client: u64, leader: NodeId) {
        self.leaders.insert(client, leader);
    }

    pub(crate) fn answer_command(&mut self, client: u64, number: u64, effect: bool) -> bool {
        let Some(open) = self
            .open
            .get(&client)
            .copied()
            .filter(|open| open.request.number() == number)
        else {
            return false;
        };
        let output = match open.request {
            Request::Run(Command {
                expected: Some(_), ..
            }) => RegisterOutput::Swapped(effect),
            _ => RegisterOutput::Written,
        };
        self.answer(client, open.request.key(), output);
        true
    }

    pub(crate) fn answer_read(&mut self, client: u64, key: u64, value: Option<u64>) {
        self.answer(client, key, RegisterOutput::Value(value));
    }

    fn answer(&mut self, client: u64, key: u64, output: Output) {
        self.open.remove(&client);
        self.answered += 1;
        let history = self.histories.entry(key).or_default();
        history.respond(client, output).expect("it was asked");
    }

    /// Whether what the clients saw could have come from registers.
    pub(crate) fn verdict(self) -> Result<(), String> {
        for (key, recorder) in self.histories {
            let history = recorder.finish();
            match check(&Register::default(), &history, Budget::default()) {
                Outcome::Linearizable(_) => {}
                Outcome::NotLinearizable(found) => {
                    let answered: Vec<_> = found
                        .answered
                        .iter()
                        .map(|place| &history.operations()[*place])
                        .collect();
                    return Err(format!("register {key} is not linearizable: {answered:?}"));
                }
                Outcome::Unknown(reason) => return Err(format!("register {key}: {reason}")),
            }
        }
        Ok(())
    }
}

impl Request {
    fn key(&self) -> u64 {
        match self {
            Self::Run(command) => command.key,
            Self::Read { key, .. } => *key,
        }
    }

    fn number(&self) -> u64 {
        match self {
            Self::Run(command) => command.sequence,
            Self::Read { number, .. } => *number,
        }
    }
}
