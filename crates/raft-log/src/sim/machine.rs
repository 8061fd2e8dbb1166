//! The replicated state machine of the simulator: registers, and a session for each client so that a command runs once.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// One command of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) client: u64,
    /// Grows with each command of a client; a command sent again keeps it.
    pub(crate) sequence: u64,
    pub(crate) key: u64,
    pub(crate) value: u64,
    /// Only if the register holds this.
    pub(crate) expected: Option<u64>,
}

impl Command {
    pub(crate) fn encode(self) -> Arc<[u8]> {
        let expected = self.expected.map_or(u64::MAX, |value| value);
        let words = [self.client, self.sequence, self.key, self.value, expected];
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let [client, sequence, key, value, expected] = words(bytes).try_into().ok()?;
        let expected = (expected != u64::MAX).then_some(expected);
        Some(Self {
            client,
            sequence,
            key,
            value,
            expected,
        })
    }
}

fn words(bytes: &[u8]) -> Vec<u64> {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().map(|word| u64::from_le_bytes(*word)).collect()
}

/// All registers and sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    registers: BTreeMap<u64, u64>,
    /// The last command of each client and whether it took effect.
    sessions: BTreeMap<u64, (u64, bool)>,
}

impl Machine {
    /// Runs a command unless it has run before; whether it took effect then.
    pub(crate) fn run(&mut self, command: Command) -> bool {
        if let Some((last, effect)) = self.sessions.get(&command.client)
            && *last >= command.sequence
        {
            return *effect;
        }
        let held = self.registers.get(&command.key).copied();
        let effect = command
            .expected
            .is_none_or(|expected| held == Some(expected));
        if effect {
            self.registers.insert(command.key, command.value);
        }
        self.sessions
            .insert(command.client, (command.sequence, effect));
        effect
    }

    pub(crate) fn read(&self, key: u64) -> Option<u64> {
        self.registers.get(&key).copied()
    }

    /// Whether a command of this client has run.
    pub(crate) fn has_run(&self, client: u64, sequence: u64) -> Option<bool> {
        let (last, effect) = self.sessions.get(&client)?;
        (*last == sequence).then_some(*effect)
    }

    pub(crate) fn encode(&self) -> Arc<[u8]> {
        let count = u64::try_from(self.registers.len()).unwrap_or(u64::MAX);
        let registers = self
            .registers
            .iter()
            .flat_map(|(key, value)| [*key, *value]);
        let sessions = self
            .sessions
            .iter()
            .flat_map(|(client, (last, effect))| [*client, *last, u64::from(*effect)]);
        let words = core::iter::once(count).chain(registers).chain(sessions);
        words.flat_map(u64::to_le_bytes).collect()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Self {
        let words = words(bytes);
        let Some((count, rest)) = words.split_first() else {
            return Self::default();
        };
        let split = usize::try_from(*count)
            .map_or(0, |count| 2 * count)
            .min(rest.len());
        let (registers, sessions) = rest.split_at(split);
        let (registers, sessions) = (registers.as_chunks::<2>().0, sessions.as_chunks::<3>().0);
        Self {
            registers: registers
                .iter()
                .map(|[key, value]| (*key, *value))
                .collect(),
            sessions: sessions
                .iter()
                .map(|[client, last, effect]| (*client, (*last, *effect == 1)))
                .collect(),
        }
    }
}
