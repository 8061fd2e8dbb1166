//! All streams of a server.

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use raft_log::NodeId;
use serde::Serialize;
use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::connection::{Connection, Party};

/// Streams at once; more are not accepted.
const STREAMS_MAX: usize = 16_384;
/// Tokens below belong to the listener and the waker.
const FIRST: usize = 2;

#[derive(Debug)]
pub(super) struct Sockets {
    listener: TcpListener,
    registry: Registry,
    all: Vec<Option<Connection>>,
    free: Vec<usize>,
    generation: u64,
    /// Something has arrived there.
    readable: BTreeSet<usize>,
    /// Something is to be sent there.
    dirty: Vec<usize>,
    scratch: Vec<u8>,
}

impl Sockets {
    pub(super) fn new(listener: TcpListener, registry: Registry) -> Self {
        Self {
            listener,
            registry,
            all: Vec::new(),
            free: Vec::new(),
            generation: 0,
            readable: BTreeSet::new(),
            dirty: Vec::new(),
            scratch: vec![0; 64 << 10],
        }
    }

    pub(super) fn accept(&mut self) {
        // An error concerns one stream, which is then no more, or all, until some are closed.
        while let Ok((stream, _)) = self.listener.accept() {
            self.add(stream, Party::Unknown);
        }
    }

    /// Begins to connect; whether that works is seen later.
    pub(super) fn dial(&mut self, address: SocketAddr, peer: NodeId) -> Option<usize> {
        let stream = TcpStream::connect(address).ok()?;
        self.add(stream, Party::Link(peer))
    }

    fn add(&mut self, mut stream: TcpStream, party: Party) -> Option<usize> {
        if self.all.len() - self.free.len() >= STREAMS_MAX {
            return None;
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.all.push(None);
            self.all.len() - 1
        });
        // Without it small frames wait for acknowledgements.
        let _slow = stream.set_nodelay(true).is_err();
        let interest = Interest::READABLE | Interest::WRITABLE;
        let token = Token(place + FIRST);
        if self
            .registry
            .register(&mut stream, token, interest)
            .is_err()
        {
            self.free.push(place);
            return None;
        }
        self.generation += 1;
        self.all[place] = Some(Connection::new(stream, party, self.generation));
        Some(place)
    }

    pub(super) fn happened(&mut self, token: Token, readable: bool) {
        let place = token.0 - FIRST;
        if readable {
            self.readable.insert(place);
        }
        self.dirty.push(place);
    }

    pub(super) fn has_unread(&self) -> bool {
        !self.readable.is_empty()
    }

    /// Where something has arrived.
    pub(super) fn readable(&mut self) -> BTreeSet<usize> {
        std::mem::take(&mut self.readable)
    }

    /// What has arrived at a place; `None` if nothing is there any more.
    pub(super) fn read(&mut self, place: usize) -> Option<(Party, Vec<u8>)> {
        let connection = self.all.get_mut(place)?.as_mut()?;
        if !connection.fill(&mut self.scratch) {
            connection.closing = true;
        } else if connection.unread {
            self.readable.insert(place);
        }
        Some((connection.party, std::mem::take(&mut connection.input)))
    }

    /// What of it is to be read again when more has come. Closes what has ended.
    pub(super) fn unread(&mut self, place: usize, rest: Vec<u8>) -> Option<NodeId> {
        let connection = self.all.get_mut(place)?.as_mut()?;
        connection.input = rest;
        if connection.closing {
            return self.close(place);
        }
        None
    }

    pub(super) fn at(&mut self, place: usize) -> Option<&mut Connection> {
        self.all.get_mut(place)?.as_mut()
    }

    pub(super) fn generation(&self, place: usize) -> u64 {
        let connection = self.all.get(place).and_then(Option::as_ref);
        connection.map_or(0, |connection| connection.generation)
    }

    /// Will say `value` there.
    pub(super) fn push<T: Serialize>(&mut self, place: usize, value: &T) {
        if let Some(connection) = self.all.get_mut(place).and_then(Option::as_mut) {
            if !connection.push(value) {
                connection.closing = connection.party == Party::Client;
            }
            self.dirty.push(place);
        }
    }

    /// Sends what can be sent; to which servers the stream has broken.
    pub(super) fn flush(&mut self) -> Vec<NodeId> {
        let mut lost = Vec::new();
        for place in std::mem::take(&mut self.dirty) {
            let Some(connection) = self.all.get_mut(place).and_then(Option::as_mut) else {
                continue;
            };
            if connection.flush().is_err() {
                lost.extend(self.close(place));
            }
        }
        lost
    }

    /// To which server the stream went.
    pub(super) fn close(&mut self, place: usize) -> Option<NodeId> {
        let mut connection = self.all.get_mut(place)?.take()?;
        self.readable.remove(&place);
        self.free.push(place);
        // It is closed when it is dropped, registered or not.
        let _gone = self.registry.deregister(&mut connection.stream).is_err();
        match connection.party {
            Party::Link(peer) => Some(peer),
            _ => None,
        }
    }
}
