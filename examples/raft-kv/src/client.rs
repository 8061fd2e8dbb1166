//! A client that asks until it is answered, wherever the leader is. Its writes take effect once.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::frame::{self, FrameError};
use crate::protocol::{Currency, Effect, Hello, Numbered, Operation, Reply, Request, Status};
use crate::server::resolve;

/// How long to wait before somebody else is asked.
const PAUSE: Duration = Duration::from_millis(20);
/// How long one server may take.
const ATTEMPT: Duration = Duration::from_secs(1);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Time is over. A write may have taken effect, or may yet.
    #[error("no answer in time; {0}")]
    Timeout(String),
    /// It cannot be done.
    #[error("refused: {0}")]
    Refused(String),
    /// The session has ended. Whether its last write took effect is not known.
    #[error("the session has ended")]
    Expired,
    /// The server answers something else than what was asked.
    #[error("an answer to another question: {0:?}")]
    Unexpected(Box<Reply>),
}

/// One client.
#[derive(Debug)]
pub struct Client {
    cluster: String,
    /// Where servers were heard of.
    addresses: Vec<String>,
    target: usize,
    timeout: Duration,
    stream: Option<TcpStream>,
    input: Vec<u8>,
    number: u64,
    session: Option<u64>,
    sequence: u64,
}

impl Client {
    /// A client that knows of these servers, and gives up after `timeout`.
    pub fn new(cluster: &str, addresses: &[String], timeout: Duration) -> Self {
        Self {
            cluster: cluster.to_owned(),
            addresses: addresses.to_vec(),
            target: 0,
            timeout,
            stream: None,
            input: Vec::new(),
            number: 0,
            session: None,
            sequence: 0,
        }
    }

    /// Writes, once however often it must ask.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; after a timeout the write may take effect at any time or never.
    pub fn write(&mut self, operation: Operation<'_>) -> Result<Effect, ClientError> {
        let sequence = self.sequence + 1;
        self.write_as(sequence, operation)
    }

    /// Writes under a sequence of the caller's: one that was used before tells what that write did.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn write_as(
        &mut self,
        sequence: u64,
        operation: Operation<'_>,
    ) -> Result<Effect, ClientError> {
        let session = self.session()?;
        self.sequence = self.sequence.max(sequence);
        let request = Request::Write {
            session,
            sequence,
            operation,
        };
        match self.ask(&request)? {
            Reply::Effect(Effect::Expired) => {
                self.session = None;
                self.sequence = 0;
                Err(ClientError::Expired)
            }
            Reply::Effect(Effect::TooLong) => {
                Err(ClientError::Refused("the value grows too long".to_owned()))
            }
            Reply::Effect(effect) => Ok(effect),
            other => Err(ClientError::Unexpected(Box::new(other))),
        }
    }

    fn session(&mut self) -> Result<u64, ClientError> {
        if let Some(session) = self.session {
            return Ok(session);
        }
        match self.ask(&Request::Open)? {
            Reply::Effect(Effect::Opened(session)) => {
                self.session = Some(session);
                Ok(session)
            }
            other => Err(ClientError::Unexpected(Box::new(other))),
        }
    }

    /// Reads.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn get(&mut self, key: &[u8], currency: Currency) -> Result<Option<Vec<u8>>, ClientError> {
        match self.ask(&Request::Get { key, currency })? {
            Reply::Value(value) => Ok(value),
            other => Err(ClientError::Unexpected(Box::new(other))),
        }
    }

    /// How the server is that it talks to.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn status(&mut self) -> Result<Status, ClientError> {
        match self.ask(&Request::Status)? {
            Reply::Status(status) => Ok(*status),
            other => Err(ClientError::Unexpected(Box::new(other))),
        }
    }

    /// What an admin asks.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn order(&mut self, request: &Request<'_>) -> Result<(), ClientError> {
        match self.ask(request)? {
            Reply::Accepted | Reply::Effect(Effect::Done) => Ok(()),
            other => Err(ClientError::Unexpected(Box::new(other))),
        }
    }

    fn ask(&mut self, request: &Request<'_>) -> Result<Reply, ClientError> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let problem = match self.attempt(request, deadline) {
                Ok(Reply::NotLeader { leader }) => {
                    self.redirect(leader.map(|(_, address)| address))
                }
                Ok(Reply::Busy(why)) => why,
                Ok(Reply::Refused(why)) => return Err(ClientError::Refused(why)),
                Ok(reply) => return Ok(reply),
                Err(problem) => {
                    let problem = format!("{}: {problem}", self.addresses[self.target]);
                    self.stream = None;
                    self.go_to((self.target + 1) % self.addresses.len());
                    problem
                }
            };
            if Instant::now() + PAUSE >= deadline {
                return Err(ClientError::Timeout(problem));
            }
            if !problem.is_empty() {
                thread::sleep(PAUSE);
            }
        }
    }

    /// Nothing, or why not at once.
    fn redirect(&mut self, leader: Option<String>) -> String {
        let Some(address) = leader else {
            self.go_to((self.target + 1) % self.addresses.len());
            return "nobody leads".to_owned();
        };
        let known = self.addresses.iter().position(|known| *known == address);
        let place = known.unwrap_or_else(|| {
            self.addresses.push(address.clone());
            self.addresses.len() - 1
        });
        if place == self.target {
            return format!("{address} does not know that it leads");
        }
        self.go_to(place);
        String::new()
    }

    fn go_to(&mut self, place: usize) {
        if place != self.target {
            self.target = place;
            self.stream = None;
        }
    }

    fn attempt(&mut self, request: &Request<'_>, deadline: Instant) -> anyhow::Result<Reply> {
        let left = deadline.saturating_duration_since(Instant::now());
        let until = Instant::now() + left.min(ATTEMPT).max(Duration::from_millis(1));
        self.number += 1;
        let mut frames = Vec::new();
        if self.stream.is_none() {
            let address: SocketAddr = resolve(&self.addresses[self.target])?;
            let stream = TcpStream::connect_timeout(&address, ATTEMPT)?;
            stream.set_nodelay(true)?;
            let cluster = self.cluster.clone();
            frame::push(&Hello::Client { cluster }, &mut frames)?;
            self.input.clear();
            self.stream = Some(stream);
        }
        let (number, body) = (self.number, request);
        frame::push(&Numbered { number, body }, &mut frames)?;
        if let Some(stream) = &mut self.stream {
            stream.write_all(&frames)?;
        }
        self.wait(until)
    }

    fn wait(&mut self, until: Instant) -> anyhow::Result<Reply> {
        loop {
            while let Some((payload, bytes)) = frame::first(&self.input)? {
                let reply: Numbered<Reply> = frame::decode(payload)?;
                self.input.drain(..bytes);
                // 0: the server does not want this client at all.
                if reply.number == self.number || reply.number == 0 {
                    return Ok(reply.body);
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            anyhow::ensure!(!left.is_zero(), "no answer");
            let stream = self.stream.as_mut().ok_or(FrameError::Payload)?;
            stream.set_read_timeout(Some(left))?;
            let mut part = [0; 16 << 10];
            match stream.read(&mut part) {
                Ok(0) => anyhow::bail!("the stream was closed"),
                Ok(bytes) => self.input.extend_from_slice(&part[..bytes]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
