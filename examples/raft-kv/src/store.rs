//! The state machine: values, and a session for each client so that a write runs once.
//!
//! Everything lies in one `redb` file. Commands run in a transaction that stays open and is committed now and then, along
//! with how far it is: a crash takes the state back to some earlier entry, and the log runs the rest again.

use std::fmt;
use std::path::Path;

use raft_log::{Entry, NodeId, Payload, Position};
use redb::{
    Database, DatabaseError, Durability, ReadableTable, Table, TableDefinition, WriteTransaction,
};
use serde::{Deserialize, Serialize};

use crate::protocol::{Command, Effect, Operation, VALUE_MAX};

const VALUES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("values");
/// The last write's sequence and effect, and when it ran.
const SESSIONS: TableDefinition<'_, u64, (u64, u64, u8)> = TableDefinition::new("sessions");
const ADDRESSES: TableDefinition<'_, u64, &str> = TableDefinition::new("addresses");
const HEAD: TableDefinition<'_, (), (u64, u64, u64, u64)> = TableDefinition::new("head");

/// Milliseconds by the log's clock without a write after which a session ends.
pub const SESSION_MS: u64 = 3_600_000;
/// How often ended sessions are looked for, by the log's clock.
const SWEEP_MS: u64 = 60_000;

/// Why the state cannot be read or written: the disk, or a file that is none of this program's.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it.
    #[error("another server uses this folder")]
    Locked,
    /// As `redb` says.
    #[error(transparent)]
    Redb(Box<redb::Error>),
    /// A committed entry or a snapshot that no server of this version has made.
    #[error("{0} cannot be read")]
    Format(&'static str),
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::DatabaseAlreadyOpen => Self::Locked,
            other => Self::Redb(Box::new(other)),
        }
    }
}

/// How far the state is, and what else all servers agree on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    term: u64,
    index: u64,
    /// The greatest time that an entry named.
    clock: u64,
    /// Sessions opened so far.
    sessions: u64,
}

/// All of it.
pub struct Store {
    /// Before the database, which when dropped waits for it.
    transaction: Option<Box<WriteTransaction>>,
    database: Database,
    head: Head,
    addresses: Vec<(NodeId, String)>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}

/// The state as a snapshot says it.
#[derive(Debug, Serialize, Deserialize)]
struct Image<'a> {
    head: Head,
    addresses: Vec<(NodeId, String)>,
    sessions: Vec<(u64, (u64, u64, u8))>,
    #[serde(borrow)]
    values: Vec<(&'a serde_bytes::Bytes, &'a serde_bytes::Bytes)>,
}

impl Store {
    /// Opens or makes the file, which no other process may have open.
    ///
    /// # Errors
    ///
    /// [`StoreError`], of which [`StoreError::Locked`] is the usual one.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let database = Database::builder()
            .set_cache_size(256 << 20)
            .create(path)
            .map_err(|error: DatabaseError| StoreError::from(error))?;
        let mut store = Self {
            transaction: None,
            database,
            head: Head::default(),
            addresses: Vec::new(),
        };
        store.load()?;
        Ok(store)
    }

    fn load(&mut self) -> Result<(), StoreError> {
        let transaction = self.write()?;
        transaction.open_table(VALUES)?;
        transaction.open_table(SESSIONS)?;
        let addresses = read_addresses(&transaction.open_table(ADDRESSES)?)?;
        let head = {
            let table = transaction.open_table(HEAD)?;
            table.get(())?.map_or((0, 0, 0, 0), |head| head.value())
        };
        (self.addresses, self.transaction) = (addresses, Some(transaction));
        let (term, index, clock, sessions) = head;
        self.head = Head {
            term,
            index,
            clock,
            sessions,
        };
        Ok(())
    }

    fn write(&mut self) -> Result<Box<WriteTransaction>, StoreError> {
        match self.transaction.take() {
            Some(transaction) => Ok(transaction),
            None => Ok(Box::new(self.database.begin_write()?)),
        }
    }

    /// The last entry that has run.
    pub fn applied(&self) -> Position {
        Position {
            term: self.head.term,
            index: self.head.index,
        }
    }

    /// Where servers listen.
    pub fn addresses(&self) -> &[(NodeId, String)] {
        &self.addresses
    }

    /// Runs entries in the order of the log; calls `told` with each command's entry and effect.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the state is then unusable, and the server must stop.
    pub fn run(
        &mut self,
        entries: &[Entry],
        mut told: impl FnMut(Position, Effect),
    ) -> Result<(), StoreError> {
        let transaction = self.write()?;
        let moved = {
            let mut open = Open {
                values: transaction.open_table(VALUES)?,
                sessions: transaction.open_table(SESSIONS)?,
                head: self.head,
            };
            let mut addresses = None;
            for entry in entries {
                let Position { term, index } = entry.at;
                (open.head.term, open.head.index) = (term, index);
                let Payload::Command(bytes) = &entry.payload else {
                    continue;
                };
                let mut rest = &**bytes;
                let clock = take(&mut rest)?;
                open.advance(clock)?;
                while !rest.is_empty() {
                    let effect = match take(&mut rest)? {
                        Command::Open => open.open()?,
                        Command::Run {
                            session,
                            sequence,
                            operation,
                        } => open.run_once(session, sequence, &operation)?,
                        Command::Address { node, address } => {
                            let mut table = transaction.open_table(ADDRESSES)?;
                            table.insert(node, address)?;
                            addresses = Some(read_addresses(&table)?);
                            Effect::Done
                        }
                    };
                    told(entry.at, effect);
                }
            }
            self.head = open.head;
            addresses
        };
        if let Some(addresses) = moved {
            self.addresses = addresses;
        }
        self.transaction = Some(transaction);
        Ok(())
    }

    /// A value, as of the last entry that has run.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn value(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let transaction = self.write()?;
        let value = {
            let values = transaction.open_table(VALUES)?;
            let value = values.get(key)?;
            value.map(|value| value.value().to_vec())
        };
        self.transaction = Some(transaction);
        Ok(value)
    }

    /// Makes the state durable as it is.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn commit(&mut self) -> Result<(), StoreError> {
        let mut transaction = self.write()?;
        let Head {
            term,
            index,
            clock,
            sessions,
        } = self.head;
        transaction
            .open_table(HEAD)?
            .insert((), (term, index, clock, sessions))?;
        transaction.set_durability(Durability::Immediate);
        transaction.commit()?;
        Ok(())
    }

    /// The state as bytes, made by whoever calls what this returns: on another thread, while the state goes on.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn snapshot(
        &mut self,
    ) -> Result<impl FnOnce() -> Result<Vec<u8>, StoreError> + Send + 'static, StoreError> {
        self.commit()?;
        let transaction = self.database.begin_read()?;
        let (head, addresses) = (self.head, self.addresses.clone());
        Ok(move || {
            let sessions = transaction.open_table(SESSIONS)?;
            let sessions = sessions.iter()?.map(|row| {
                let (id, session) = row?;
                Ok((id.value(), session.value()))
            });
            let sessions = sessions.collect::<Result<_, redb::StorageError>>()?;
            let table = transaction.open_table(VALUES)?;
            let rows = table.iter()?.collect::<Result<Vec<_>, _>>()?;
            let values = rows.iter().map(|(key, value)| {
                let (key, value) = (key.value(), value.value());
                (serde_bytes::Bytes::new(key), serde_bytes::Bytes::new(value))
            });
            let image = Image {
                head,
                addresses,
                sessions,
                values: values.collect(),
            };
            postcard::to_allocvec(&image).map_err(|_| StoreError::Format("the state"))
        })
    }

    /// Replaces everything by a snapshot; none of its bytes is the state before the first entry.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn restore(&mut self, last: Position, bytes: &[u8]) -> Result<(), StoreError> {
        let empty = Image {
            head: Head::default(),
            addresses: Vec::new(),
            sessions: Vec::new(),
            values: Vec::new(),
        };
        let image = if bytes.is_empty() {
            empty
        } else {
            postcard::from_bytes(bytes).map_err(|_| StoreError::Format("a snapshot"))?
        };
        let transaction = self.write()?;
        transaction.delete_table(VALUES)?;
        transaction.delete_table(SESSIONS)?;
        transaction.delete_table(ADDRESSES)?;
        {
            let mut values = transaction.open_table(VALUES)?;
            for (key, value) in &image.values {
                values.insert(&***key, &***value)?;
            }
            let mut sessions = transaction.open_table(SESSIONS)?;
            for (id, session) in &image.sessions {
                sessions.insert(id, session)?;
            }
            let mut addresses = transaction.open_table(ADDRESSES)?;
            for (node, address) in &image.addresses {
                addresses.insert(node, address.as_str())?;
            }
        }
        self.transaction = Some(transaction);
        self.addresses = image.addresses;
        self.head = Head {
            term: last.term,
            index: last.index,
            ..image.head
        };
        self.commit()
    }
}

/// The tables that commands change.
struct Open<'t> {
    values: Table<'t, &'static [u8], &'static [u8]>,
    sessions: Table<'t, u64, (u64, u64, u8)>,
    head: Head,
}

impl Open<'_> {
    /// The log's clock never goes back; sessions end by it, on all servers at the same entry.
    fn advance(&mut self, clock: u64) -> Result<(), StoreError> {
        let before = self.head.clock;
        self.head.clock = before.max(clock);
        if before / SWEEP_MS != self.head.clock / SWEEP_MS {
            let oldest = self.head.clock.saturating_sub(SESSION_MS);
            self.sessions.retain(|_, (_, used, _)| used >= oldest)?;
        }
        Ok(())
    }

    fn open(&mut self) -> Result<Effect, StoreError> {
        self.head.sessions += 1;
        let session = self.head.sessions;
        self.sessions.insert(session, (0, self.head.clock, 0))?;
        Ok(Effect::Opened(session))
    }

    fn run_once(
        &mut self,
        session: u64,
        sequence: u64,
        operation: &Operation<'_>,
    ) -> Result<Effect, StoreError> {
        let Some((last, _, effect)) = self.sessions.get(session)?.map(|row| row.value()) else {
            return Ok(Effect::Expired);
        };
        if sequence < last {
            return Ok(Effect::Superseded);
        }
        if sequence == last {
            return Ok(effect_of(effect));
        }
        let effect = self.run(operation)?;
        let row = (sequence, self.head.clock, code_of(effect));
        self.sessions.insert(session, row)?;
        Ok(effect)
    }

    fn run(&mut self, operation: &Operation<'_>) -> Result<Effect, StoreError> {
        match *operation {
            Operation::Put { key, value } => {
                self.values.insert(key, value)?;
            }
            Operation::Delete { key } => {
                self.values.remove(key)?;
            }
            Operation::Append { key, value } => {
                let before = self.values.get(key)?;
                let before = before.map_or_else(Vec::new, |before| before.value().to_vec());
                if before.len() + value.len() > VALUE_MAX {
                    return Ok(Effect::TooLong);
                }
                self.values
                    .insert(key, [&before, value].concat().as_slice())?;
            }
            Operation::CompareAndSet {
                key,
                expected,
                value,
            } => {
                let held = self.values.get(key)?;
                let swapped = held.as_ref().map(|held| held.value()) == expected;
                drop(held);
                if swapped {
                    self.values.insert(key, value)?;
                }
                return Ok(Effect::Swapped(swapped));
            }
        }
        Ok(Effect::Done)
    }
}

/// A session remembers its last effect in one byte.
fn code_of(effect: Effect) -> u8 {
    match effect {
        Effect::Swapped(true) => 1,
        Effect::Swapped(false) => 2,
        Effect::TooLong => 3,
        _ => 0,
    }
}

fn effect_of(code: u8) -> Effect {
    match code {
        1 => Effect::Swapped(true),
        2 => Effect::Swapped(false),
        3 => Effect::TooLong,
        _ => Effect::Done,
    }
}

/// Takes one thing off the front.
fn take<'a, T: Deserialize<'a>>(bytes: &mut &'a [u8]) -> Result<T, StoreError> {
    let taken = postcard::take_from_bytes(bytes);
    let (value, rest) = taken.map_err(|_| StoreError::Format("a committed entry"))?;
    *bytes = rest;
    Ok(value)
}

fn read_addresses(
    table: &impl ReadableTable<u64, &'static str>,
) -> Result<Vec<(NodeId, String)>, StoreError> {
    let rows = table.iter()?.map(|row| {
        let (node, address) = row?;
        Ok((node.value(), address.value().to_owned()))
    });
    Ok(rows.collect::<Result<_, redb::StorageError>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry as a leader makes it.
    fn entry(index: u64, clock: u64, commands: &[Command<'_>]) -> Entry {
        let mut bytes = postcard::to_allocvec(&clock).unwrap();
        for command in commands {
            bytes = postcard::to_extend(command, bytes).unwrap();
        }
        Entry {
            at: Position { term: 1, index },
            payload: Payload::Command(bytes.into()),
        }
    }

    fn run(store: &mut Store, entry: Entry) -> Vec<Effect> {
        let mut effects = Vec::new();
        let told = |_, effect| effects.push(effect);
        store.run(&[entry], told).unwrap();
        effects
    }

    fn append(session: u64, sequence: u64) -> Command<'static> {
        let operation = Operation::Append {
            key: b"k",
            value: b"x",
        };
        Command::Run {
            session,
            sequence,
            operation,
        }
    }

    #[test]
    fn sessions_end_by_the_clock_of_the_log_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("state")).unwrap();
        let opened = run(&mut store, entry(1, 1_000, &[Command::Open, Command::Open]));
        assert_eq!(opened, [Effect::Opened(1), Effect::Opened(2)]);
        let twice = [append(1, 1), append(1, 1), append(2, 1)];
        assert_eq!(run(&mut store, entry(2, 1_000, &twice)), [Effect::Done; 3]);
        let later = 1_000 + SESSION_MS / 2;
        assert_eq!(
            run(&mut store, entry(3, later, &[append(1, 2)])),
            [Effect::Done]
        );
        // A leader whose clock is behind does not turn it back.
        assert_eq!(
            run(&mut store, entry(4, 5, &[append(1, 1)])),
            [Effect::Superseded]
        );
        let end = 1_000 + SESSION_MS + SWEEP_MS;
        let effects = run(&mut store, entry(5, end, &[append(2, 2), append(1, 3)]));
        assert_eq!(effects, [Effect::Expired, Effect::Done]);
        assert_eq!(store.value(b"k").unwrap().unwrap(), b"xxxx");
    }

    #[test]
    fn a_snapshot_restores_values_sessions_and_how_far_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("state")).unwrap();
        let address = Command::Address {
            node: 7,
            address: "host:1",
        };
        run(
            &mut store,
            entry(1, 1, &[Command::Open, append(1, 1), address]),
        );
        let image = store.snapshot().unwrap();
        // What comes after is not in it.
        run(&mut store, entry(2, 2, &[append(1, 2)]));
        let image = image().unwrap();
        let mut other = Store::open(&folder.path().join("other")).unwrap();
        other
            .restore(Position { term: 1, index: 1 }, &image)
            .unwrap();
        assert_eq!(other.addresses(), [(7, "host:1".to_owned())]);
        assert_eq!(other.value(b"k").unwrap().unwrap(), b"x");
        run(&mut other, entry(2, 2, &[append(1, 1), append(1, 2)]));
        assert_eq!(other.value(b"k").unwrap(), store.value(b"k").unwrap());
        // Without a commit it is back where it was restored.
        drop(other);
        let other = Store::open(&folder.path().join("other")).unwrap();
        assert_eq!(other.applied(), Position { term: 1, index: 1 });
        store.restore(Position::default(), &[]).unwrap();
        assert_eq!(store.value(b"k").unwrap(), None);
    }
}
