//! Closed-loop load: each client asks, waits for the answer, and asks again. One thread for all of them.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use raft_kv::frame;
use raft_kv::protocol::{Currency, Effect, Hello, Numbered, Operation, Reply, Request};
use raft_kv::server::resolve;

use crate::ClientArgs;

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    to: ClientArgs,
    /// Clients that ask at the same time.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=4096))]
    clients: u64,
    /// Streams that they share.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u64).range(1..=4096))]
    connections: u64,
    /// How long.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Bytes of a value.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(0..=1_048_576))]
    bytes: u64,
    /// Different keys, each of 8 bytes.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    keys: u64,
    /// What they ask.
    #[arg(long, value_enum, default_value_t = Load::Put)]
    load: Load,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Load {
    Put,
    Get,
    GetLease,
    GetStale,
}

pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    let mut left = ATTEMPTS;
    let (mut fleet, seconds) = loop {
        left -= 1;
        match measure(args) {
            Err(error) if left > 0 => eprintln!("raft-kv: once more: {error:#}"),
            measured => break measured?,
        }
    };
    let times = &mut fleet.times;
    ensure!(!times.is_empty(), "nothing was answered");
    times.sort_unstable();
    let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)];
    println!(
        "raft-kv: {} clients, {} connections: {:.0} a second, p50 {:.3} ms, p99 {:.3} ms",
        args.clients,
        fleet.streams.len(),
        f64::from(u32::try_from(times.len())?) / seconds,
        at(50).as_secs_f64() * 1e3,
        at(99).as_secs_f64() * 1e3,
    );
    Ok(())
}

/// A cluster whose leader changes meanwhile is measured again.
const ATTEMPTS: u32 = 3;

fn measure(args: &BenchArgs) -> Result<(Fleet<'_>, f64)> {
    let leader = find_leader(&args.to)?;
    let mut fleet = Fleet::connect(args, leader)?;
    fleet.run(Instant::now() + Duration::from_secs(1))?; // sessions, caches
    fleet.times.clear();
    let began = Instant::now();
    fleet.run(began + Duration::from_secs(args.seconds))?;
    Ok((fleet, began.elapsed().as_secs_f64()))
}

fn find_leader(to: &ClientArgs) -> Result<SocketAddr> {
    let mut client = to.client();
    client.write(Operation::Delete { key: b"" })?;
    let status = client.status()?;
    let address = status
        .addresses
        .iter()
        .find(|(id, _)| Some(*id) == status.leader);
    resolve(&address.context("nobody leads")?.1)
}

/// A client, by its number on its stream.
struct One {
    stream: usize,
    session: Option<u64>,
    sequence: u64,
    asked: Instant,
}

struct Stream {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
}

struct Fleet<'a> {
    args: &'a BenchArgs,
    poll: Poll,
    streams: Vec<Stream>,
    clients: Vec<One>,
    random: u64,
    value: Vec<u8>,
    times: Vec<Duration>,
}

impl<'a> Fleet<'a> {
    fn connect(args: &'a BenchArgs, leader: SocketAddr) -> Result<Self> {
        let poll = Poll::new()?;
        let count = usize::try_from(args.connections.min(args.clients))?;
        let mut streams = Vec::new();
        for place in 0..count {
            let stream = std::net::TcpStream::connect(leader)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry()
                .register(&mut stream, Token(place), interest)?;
            let mut output = Vec::new();
            let cluster = args.to.cluster.clone();
            frame::push(&Hello::Client { cluster }, &mut output)?;
            streams.push(Stream {
                stream,
                input: Vec::new(),
                output,
                sent: 0,
            });
        }
        let clients = (0..usize::try_from(args.clients)?).map(|number| One {
            stream: number % count,
            session: None,
            sequence: 0,
            asked: Instant::now(),
        });
        let mut fleet = Self {
            args,
            poll,
            streams,
            clients: clients.collect(),
            random: 1,
            value: vec![b'v'; usize::try_from(args.bytes)?],
            times: Vec::new(),
        };
        for number in 0..fleet.clients.len() {
            fleet.ask(number)?;
        }
        Ok(fleet)
    }

    fn run(&mut self, until: Instant) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut scratch = vec![0; 64 << 10];
        for place in 0..self.streams.len() {
            self.streams[place].flush()?;
        }
        while Instant::now() < until {
            self.poll
                .poll(&mut events, Some(Duration::from_millis(100)))?;
            for event in &events {
                let place = event.token().0;
                if event.is_readable() {
                    self.hear(place, &mut scratch)?;
                }
                self.streams[place].flush()?;
            }
        }
        Ok(())
    }

    fn hear(&mut self, place: usize, scratch: &mut [u8]) -> Result<()> {
        loop {
            match self.streams[place].stream.read(scratch) {
                Ok(0) => bail!("the server closed a stream"),
                Ok(bytes) => {
                    self.streams[place]
                        .input
                        .extend_from_slice(&scratch[..bytes]);
                    if bytes < scratch.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        let input = std::mem::take(&mut self.streams[place].input);
        let mut rest = input.as_slice();
        while let Some((payload, bytes)) = frame::first(rest)? {
            rest = &rest[bytes..];
            let reply: Numbered<Reply> = frame::decode(payload)?;
            self.answered(usize::try_from(reply.number)?, reply.body)?;
        }
        self.streams[place].input.extend_from_slice(rest);
        Ok(())
    }

    fn answered(&mut self, number: usize, reply: Reply) -> Result<()> {
        let client = self
            .clients
            .get_mut(number)
            .context("an answer to nobody")?;
        match reply {
            Reply::Effect(Effect::Opened(session)) => client.session = Some(session),
            Reply::Effect(Effect::Done) | Reply::Value(_) => {
                self.times.push(client.asked.elapsed());
            }
            other => bail!("unexpected: {other:?}"),
        }
        self.ask(number)
    }

    fn ask(&mut self, number: usize) -> Result<()> {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005);
        self.random = self.random.wrapping_add(1_442_695_040_888_963_407);
        let key = format!("{:08}", (self.random >> 33) % self.args.keys);
        let client = &mut self.clients[number];
        let get = |currency| Request::Get {
            key: key.as_bytes(),
            currency,
        };
        let body = match (self.args.load, client.session) {
            (Load::Put, None) => Request::Open,
            (Load::Put, Some(session)) => {
                client.sequence += 1;
                Request::Write {
                    session,
                    sequence: client.sequence,
                    operation: Operation::Put {
                        key: key.as_bytes(),
                        value: &self.value,
                    },
                }
            }
            (Load::Get, _) => get(Currency::Linearizable),
            (Load::GetLease, _) => get(Currency::Lease),
            (Load::GetStale, _) => get(Currency::Stale),
        };
        client.asked = Instant::now();
        let numbered = Numbered {
            number: u64::try_from(number)?,
            body,
        };
        frame::push(&numbered, &mut self.streams[client.stream].output)?;
        Ok(())
    }
}

impl Stream {
    fn flush(&mut self) -> Result<()> {
        while self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(bytes) => self.sent += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.output.clear();
        self.sent = 0;
        Ok(())
    }
}
