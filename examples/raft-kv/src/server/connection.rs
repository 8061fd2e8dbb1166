//! One stream, with what has arrived and what has not left yet.

use std::io::{self, ErrorKind, Read, Write};

use mio::net::TcpStream;
use raft_log::NodeId;
use serde::Serialize;

use crate::frame;

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Party {
    /// Not said yet.
    Unknown,
    Client,
    /// A server that speaks to this one.
    Peer(NodeId),
    /// A server that this one speaks to.
    Link(NodeId),
}

/// Bytes that may wait for a slow reader.
const OUTPUT_MAX: usize = 64 << 20;
/// Bytes taken from one stream before others have their turn.
const TURN_BYTES: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) party: Party,
    /// Tells it from others that had its place.
    pub(super) generation: u64,
    pub(super) input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
    /// More may have arrived than was read.
    pub(super) unread: bool,
    pub(super) closing: bool,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, party: Party, generation: u64) -> Self {
        Self {
            stream,
            party,
            generation,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            unread: false,
            closing: false,
        }
    }

    /// Takes what has arrived. Whether the stream is still open.
    pub(super) fn fill(&mut self, scratch: &mut [u8]) -> bool {
        let before = self.input.len();
        self.unread = true;
        while self.input.len() - before < TURN_BYTES {
            match self.stream.read(scratch) {
                Ok(0) => return false,
                Ok(bytes) => {
                    self.input.extend_from_slice(&scratch[..bytes]);
                    // All that there was: the next arrival is a new event.
                    if bytes < scratch.len() {
                        self.unread = false;
                        return true;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.unread = false;
                    return true;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Will say `value`. Whether the other end is not too slow for that.
    pub(super) fn push<T: Serialize>(&mut self, value: &T) -> bool {
        self.output.len() - self.sent < OUTPUT_MAX && frame::push(value, &mut self.output).is_ok()
    }

    /// Sends what can be sent.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(bytes) => self.sent += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A stream that is not connected yet.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::NotConnected
                    ) =>
                {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        self.sent = 0;
        Ok(())
    }
}
