//! A connection on which both ends ask.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use vfio_user_protocol::{Header, Kind, Reply, Request};

use crate::socket::{Received, Socket};

/// One end of a connection, with what came while something else was waited for.
#[derive(Debug)]
pub(crate) struct Link {
    socket: Socket,
    next_id: u16,
    waiting: VecDeque<Received>,
}

impl Link {
    pub(crate) fn new(socket: Socket) -> Self {
        Self {
            socket,
            next_id: 0,
            waiting: VecDeque::new(),
        }
    }

    /// Asks, and waits for the answer. Commands that come meanwhile go to `serve`, or wait if it hands them back.
    pub(crate) fn ask(
        &mut self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
        mut serve: impl FnMut(&mut Socket, Received) -> Result<Option<Received>>,
    ) -> Result<Reply> {
        self.next_id = self.next_id.wrapping_add(1);
        let id = self.next_id;
        self.socket.send(&request.encode(id, true), descriptors)?;
        loop {
            let Some(message) = self.socket.receive()? else {
                bail!("the other end has gone");
            };
            if let Kind::Reply { .. } = message.header.kind {
                ensure!(
                    message.header.id == id,
                    "an answer to nothing that was asked"
                );
                return Ok(Reply::decode(request, &message.header, &message.payload)?);
            }
            if let Some(message) = serve(&mut self.socket, message)? {
                ensure!(
                    self.waiting.len() < WAITING_MAX,
                    "too much is asked at once"
                );
                self.waiting.push_back(message);
            }
        }
    }

    /// The next message that nobody waits for; `None` once the other end has gone.
    pub(crate) fn next(&mut self) -> Result<Option<Received>> {
        match self.waiting.pop_front() {
            Some(message) => Ok(Some(message)),
            None => self.socket.receive(),
        }
    }

    /// Whether there is a message; waits for `limit` at most, without one until there is.
    pub(crate) fn wait(&self, limit: Option<Duration>) -> io::Result<bool> {
        if !self.waiting.is_empty() {
            return Ok(true);
        }
        self.socket.wait(limit)
    }

    pub(crate) fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }
}

/// The answer that a command cannot be served.
pub(crate) fn refusal(header: &Header, errno: u32) -> Vec<u8> {
    let header = Header {
        kind: Kind::Reply { error: Some(errno) },
        ..*header
    };
    header.message(&[])
}

/// Commands that wait at most.
const WAITING_MAX: usize = 64;
