//! What comes in on the streams, and what clients are told.

use std::mem;

use anyhow::Result;
use raft_log::{Membership, NodeId, ProposeError, ReadError, ReadMode, Standing};

use super::connection::Party;
use super::{Server, metrics::Counter};
use crate::frame::{self, FrameError};
use crate::message::Envelope;
use crate::protocol::{Command, Currency, Hello, KEY_MAX, Numbered, Reply, Request, Status};

/// Bytes of commands in one entry; the last of them may go over.
const BATCH_BYTES: usize = 1 << 20;

/// Who waits for a reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    place: usize,
    generation: u64,
    number: u64,
}

/// A read under way.
#[derive(Clone, Debug)]
pub(super) struct Get {
    pub(super) asker: Asker,
    key: Vec<u8>,
}

impl Server {
    /// Reads all streams on which something has arrived.
    pub(super) fn hear(&mut self) -> Result<()> {
        for place in self.sockets.readable() {
            let Some((mut party, input)) = self.sockets.read(place) else {
                continue;
            };
            let mut rest = input.as_slice();
            let wrong = loop {
                match frame::first(rest) {
                    Ok(Some((payload, bytes))) => {
                        rest = &rest[bytes..];
                        if let Err(error) = self.hear_frame(place, &mut party, payload)? {
                            break Some(error);
                        }
                    }
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            };
            let rest = rest.to_vec();
            if let Some(connection) = self.sockets.at(place) {
                connection.party = party;
                connection.closing |= wrong.is_some();
            }
            if wrong.is_some() {
                self.metrics.bad_frames.add(1);
            }
            if let Some(peer) = self.sockets.unread(place, rest) {
                self.links.lost(peer, self.started.elapsed());
                self.raft.unreachable(peer);
            }
        }
        Ok(())
    }

    fn hear_frame(
        &mut self,
        place: usize,
        party: &mut Party,
        payload: &[u8],
    ) -> Result<Result<(), FrameError>> {
        match *party {
            Party::Unknown => Ok(self.hear_hello(place, party, payload)),
            Party::Peer(from) => Ok(self.hear_peer(from, payload)),
            Party::Client => self.hear_client(place, payload),
            // Nobody answers on a link.
            Party::Link(_) => Ok(Err(FrameError::Payload)),
        }
    }

    fn hear_hello(
        &mut self,
        place: usize,
        party: &mut Party,
        payload: &[u8],
    ) -> Result<(), FrameError> {
        let (id, ours) = (self.settings.id, self.settings.cluster.clone());
        match frame::decode(payload)? {
            Hello::Peer {
                cluster,
                from,
                to,
                address,
            } => {
                if cluster != ours || to != id || from == id {
                    self.say(&format!(
                        "refuses server {from} of cluster {cluster}, which looks for server {to}"
                    ));
                    return Err(FrameError::Payload);
                }
                self.links.set(from, &address);
                *party = Party::Peer(from);
            }
            Hello::Client { cluster } if cluster.is_empty() || cluster == ours => {
                *party = Party::Client;
            }
            Hello::Client { cluster } => {
                let wrong = format!("this is cluster {ours}, not {cluster}");
                let asker = self.asker(place, 0);
                self.reply(asker, Reply::Refused(wrong));
                self.flush();
                return Err(FrameError::Payload);
            }
        }
        Ok(())
    }

    fn hear_peer(&mut self, from: NodeId, payload: &[u8]) -> Result<(), FrameError> {
        let Envelope(message) = frame::decode(payload)?;
        if self.cut.contains(&from) {
            return Ok(());
        }
        self.links.heard(from, self.started.elapsed());
        let now = self.now();
        if let Err(error) = self.raft.receive(now, from, message) {
            self.say(&format!("server {from} sent what it should not: {error}"));
            self.metrics.bad_messages.add(1);
        }
        Ok(())
    }

    fn asker(&self, place: usize, number: u64) -> Asker {
        let generation = self.sockets.generation(place);
        Asker {
            place,
            generation,
            number,
        }
    }

    fn hear_client(&mut self, place: usize, payload: &[u8]) -> Result<Result<(), FrameError>> {
        let Numbered { number, body } = match frame::decode(payload) {
            Ok(numbered) => numbered,
            Err(error) => return Ok(Err(error)),
        };
        let asker = self.asker(place, number);
        self.metrics.requests.add(1);
        match body {
            Request::Open => self.take(asker, &Command::Open),
            Request::Write {
                session,
                sequence,
                operation,
            } if operation.fits() => {
                let command = Command::Run {
                    session,
                    sequence,
                    operation,
                };
                self.take(asker, &command);
            }
            Request::Write { .. } => {
                self.reply(asker, Reply::Refused("key or value is too long".to_owned()));
            }
            Request::Get { key, .. } if key.len() > KEY_MAX => {
                self.reply(asker, Reply::Refused("the key is too long".to_owned()));
            }
            Request::Get { key, currency } => self.get(asker, key, currency)?,
            Request::Status => {
                let status = Reply::Status(Box::new(self.status()));
                self.reply(asker, status);
            }
            Request::Address { node, address } => {
                self.links.set(node, &address);
                let address = address.as_str();
                self.take(asker, &Command::Address { node, address });
            }
            Request::Members { voters, learners } => {
                let target = Membership {
                    learners,
                    ..Membership::of(voters)
                };
                let now = self.now();
                let begun = self.raft.change_membership(now, &target).map(|_| ());
                self.begun(asker, begun);
            }
            Request::Transfer { to } => {
                let now = self.now();
                let begun = self.raft.transfer(now, to);
                self.begun(asker, begun);
            }
            Request::Snapshot => {
                self.snapshot_wanted = true;
                self.reply(asker, Reply::Accepted);
            }
            Request::Cut { from } if self.settings.faults => {
                self.cut = from;
                self.reply(asker, Reply::Accepted);
            }
            Request::Cut { .. } => {
                self.reply(
                    asker,
                    Reply::Refused("not started with --faults".to_owned()),
                );
            }
        }
        Ok(Ok(()))
    }

    /// Puts a command into the next entry.
    fn take(&mut self, asker: Asker, command: &Command<'_>) {
        if self.raft.standing() != Standing::Leader {
            return self.not_leader(asker);
        }
        if self.batch.is_empty() {
            let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let millis = clock.map_or(0, |clock| clock.as_millis());
            let millis = u64::try_from(millis).unwrap_or(0);
            self.extend_batch(&millis);
        }
        self.extend_batch(command);
        self.batch_askers.push(asker);
        if self.batch.len() >= BATCH_BYTES {
            self.propose();
        }
    }

    fn extend_batch(&mut self, value: &impl serde::Serialize) {
        let batch = mem::take(&mut self.batch);
        self.batch = postcard::to_extend(value, batch).expect("memory takes everything");
    }

    /// Proposes what has gathered.
    pub(super) fn propose(&mut self) {
        if self.batch_askers.is_empty() {
            return;
        }
        let askers = mem::take(&mut self.batch_askers);
        let command = self.batch.as_slice().into();
        self.batch.clear();
        let now = self.now();
        match self.raft.propose(now, [command]) {
            Ok(range) => {
                self.metrics.entries.add(1);
                self.waiting.insert(range.start, (self.raft.term(), askers));
            }
            Err(error) => {
                for asker in askers {
                    self.begun(asker, Err(error));
                }
            }
        }
    }

    fn begun(&mut self, asker: Asker, begun: Result<(), ProposeError>) {
        let reply = match begun {
            Ok(()) => Reply::Accepted,
            Err(ProposeError::NotLeader { .. }) => return self.not_leader(asker),
            Err(
                error @ (ProposeError::Transferring
                | ProposeError::Overloaded
                | ProposeError::ChangePending),
            ) => Reply::Busy(error.to_string()),
            Err(error) => Reply::Refused(error.to_string()),
        };
        self.reply(asker, reply);
    }

    fn get(&mut self, asker: Asker, key: &[u8], currency: Currency) -> Result<()> {
        let key = key.to_vec();
        match currency {
            Currency::Stale => self.serve(&Get { asker, key })?,
            _ if self.raft.standing() != Standing::Leader => self.not_leader(asker),
            Currency::Linearizable => self.gets[0].push(Get { asker, key }),
            Currency::Lease => self.gets[1].push(Get { asker, key }),
        }
        Ok(())
    }

    /// Asks how far the state machine must be for the reads that have gathered: once for all.
    pub(super) fn begin_reads(&mut self) {
        for (place, mode) in [ReadMode::Quorum, ReadMode::Lease].into_iter().enumerate() {
            let gets = mem::take(&mut self.gets[place]);
            if gets.is_empty() {
                continue;
            }
            self.round += 1;
            let now = self.now();
            match self.raft.read(now, self.round, mode) {
                Ok(()) => {
                    self.rounds.insert(self.round, gets);
                }
                Err(ReadError::NotLeader { .. }) => {
                    gets.iter().for_each(|get| self.not_leader(get.asker));
                }
                Err(error @ ReadError::Overloaded) => {
                    for get in gets {
                        self.reply(get.asker, Reply::Busy(error.to_string()));
                    }
                }
            }
        }
    }

    pub(super) fn serve_reads(&mut self) -> Result<()> {
        let at = self.store.applied().index;
        while self.ready.front().is_some_and(|(index, _)| *index <= at) {
            let (_, gets) = self.ready.pop_front().unwrap_or_default();
            for get in &gets {
                self.serve(get)?;
            }
        }
        Ok(())
    }

    fn serve(&mut self, get: &Get) -> Result<()> {
        let value = self.store.value(&get.key)?;
        self.metrics.reads.add(1);
        self.reply(get.asker, Reply::Value(value));
        Ok(())
    }

    pub(super) fn not_leader(&mut self, asker: Asker) {
        let others = self.raft.leader().filter(|id| *id != self.settings.id);
        let leader = others.and_then(|id| Some((id, self.links.address(id)?.to_owned())));
        self.reply(asker, Reply::NotLeader { leader });
    }

    /// Unless who asked has gone.
    pub(super) fn reply(&mut self, asker: Asker, reply: Reply) {
        if self.sockets.generation(asker.place) == asker.generation {
            let (number, body) = (asker.number, reply);
            self.sockets.push(asker.place, &Numbered { number, body });
        }
    }

    fn status(&self) -> Status {
        let log = self.raft.log();
        let members = log.membership();
        let floor = self.raft.hard_state().floor;
        Status {
            node: self.settings.id,
            term: self.raft.term(),
            role: role(self.raft.standing()).to_owned(),
            leader: self.raft.leader(),
            commit: self.raft.commit(),
            applied: self.store.applied().index,
            last: log.last().index,
            snapshot: log.snapshot().last().index,
            voters: members.voters.clone(),
            outgoing: members.outgoing.clone(),
            learners: members.learners.clone(),
            matched: self
                .raft
                .progress()
                .map(|(id, of)| (id, of.matched))
                .collect(),
            lost: self.lost,
            whole: log.last() >= floor,
            addresses: self.links.addresses(),
        }
    }
}

fn role(standing: Standing) -> &'static str {
    match standing {
        Standing::Follower => "follower",
        Standing::PreCandidate => "asks",
        Standing::Candidate => "candidate",
        Standing::Leader => "leader",
    }
}

/// Counters are added to from one thread and read from another.
impl Counter {
    pub(super) fn add(&self, many: u64) {
        self.0.fetch_add(many, std::sync::atomic::Ordering::Relaxed);
    }
}
