//! A replicated key-value store: its servers, a client, what an admin does, and a demonstration that it holds.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod admin;
mod bench;
mod demo;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};

use raft_kv::client::Client;
use raft_kv::protocol::{Currency, Effect, Operation};
use raft_kv::server::{Server, Settings, resolve};

/// A replicated key-value store.
#[derive(Debug, Parser)]
struct Command {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Run one server.
    Server(ServerArgs),
    /// Tell a key's value; exits with 1 if there is none.
    Get {
        key: String,
        /// How current it must be; a stale one comes from the first server named.
        #[arg(long, value_enum, default_value_t = Currency::Linearizable)]
        read: Currency,
        #[command(flatten)]
        to: ClientArgs,
    },
    /// Set a key's value.
    Put {
        key: String,
        value: String,
        #[command(flatten)]
        to: ClientArgs,
    },
    /// Remove a key.
    Delete {
        key: String,
        #[command(flatten)]
        to: ClientArgs,
    },
    /// Add to the end of a key's value.
    Append {
        key: String,
        value: String,
        #[command(flatten)]
        to: ClientArgs,
    },
    /// Set a key's value if it is as expected; exits with 1 if it is not.
    Cas {
        key: String,
        value: String,
        /// The value wanted before; without it there must be none.
        #[arg(long)]
        expect: Option<String>,
        #[command(flatten)]
        to: ClientArgs,
    },
    /// Look at the cluster and change it.
    Admin {
        #[command(subcommand)]
        what: admin::Admin,
    },
    /// Flip a bit in a stopped server's log, as a disk may.
    Rot {
        /// Its folder.
        data: PathBuf,
    },
    /// Measure a cluster that runs, at its leader.
    Bench(bench::BenchArgs),
    /// Kill, corrupt, cut off and replace servers under load, and check what the clients saw.
    Demo(demo::DemoArgs),
}

/// Where the cluster is.
#[derive(Clone, Debug, Args)]
struct ClientArgs {
    /// Where servers listen; one that knows the leader is enough.
    #[arg(
        long = "to",
        value_delimiter = ',',
        required = true,
        value_name = "HOST:PORT,..."
    )]
    addresses: Vec<String>,
    /// Refuse to talk to another cluster than this.
    #[arg(long, default_value = "")]
    cluster: String,
    /// Milliseconds after which to give up.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

impl ClientArgs {
    fn client(&self) -> Client {
        let timeout = Duration::from_millis(self.timeout);
        Client::new(&self.cluster, &self.addresses, timeout)
    }
}

#[derive(Debug, Args)]
struct ServerArgs {
    /// Its name, a number.
    #[arg(long)]
    id: u64,
    /// All first members and where they listen, this one too.
    #[arg(
        long,
        value_delimiter = ',',
        required = true,
        value_name = "ID=HOST:PORT,..."
    )]
    peers: Vec<String>,
    /// Its folder, made if it is not there.
    #[arg(long)]
    data: PathBuf,
    /// Where to listen, if not where the peers are told.
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// The cluster's name; servers of another are refused.
    #[arg(long, default_value = "raft-kv")]
    cluster: String,
    /// It is no first member: it waits until `admin add` tells the leader of it.
    #[arg(long)]
    join: bool,
    /// Milliseconds of silence after which another server may lead.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    election_timeout: u64,
    /// Serve `/metrics` there, over HTTP.
    #[arg(long, value_name = "HOST:PORT")]
    metrics: Option<String>,
    /// MiB of log between two snapshots.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1024))]
    snapshot_mib: u64,
    /// Allow tests to cut it off from others.
    #[arg(long)]
    faults: bool,
}

fn main() -> ExitCode {
    match run(Command::parse().what) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("raft-kv: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(what: What) -> Result<ExitCode> {
    let write = |to: &ClientArgs, operation| to.client().write(operation);
    match what {
        What::Server(args) => return serve(&args),
        What::Get { key, read, to } => match to.client().get(key.as_bytes(), read)? {
            Some(value) => println!("{}", String::from_utf8_lossy(&value)),
            None => return Ok(ExitCode::FAILURE),
        },
        What::Put { key, value, to } => {
            let (key, value) = (key.as_bytes(), value.as_bytes());
            write(&to, Operation::Put { key, value })?;
        }
        What::Delete { key, to } => {
            let key = key.as_bytes();
            write(&to, Operation::Delete { key })?;
        }
        What::Append { key, value, to } => {
            let (key, value) = (key.as_bytes(), value.as_bytes());
            write(&to, Operation::Append { key, value })?;
        }
        What::Cas {
            key,
            value,
            expect,
            to,
        } => {
            let operation = Operation::CompareAndSet {
                key: key.as_bytes(),
                expected: expect.as_ref().map(String::as_bytes),
                value: value.as_bytes(),
            };
            if write(&to, operation)? != Effect::Swapped(true) {
                return Ok(ExitCode::FAILURE);
            }
        }
        What::Admin { what } => admin::run(&what)?,
        What::Rot { data } => {
            let entry = raft_kv::folder::flip_a_bit(&data)?;
            println!("flipped a bit in entry {entry}");
        }
        What::Bench(args) => bench::run(&args)?,
        What::Demo(args) => demo::run(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What keeps it from starting is told apart from what stops it later.
fn serve(args: &ServerArgs) -> Result<ExitCode> {
    let started = settings(args).and_then(Server::start);
    match started {
        Ok(server) => server.run().map(|()| ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("raft-kv: {error:#}");
            Ok(ExitCode::from(2))
        }
    }
}

fn settings(args: &ServerArgs) -> Result<Settings> {
    let mut peers = BTreeMap::new();
    for peer in &args.peers {
        let (id, address) = peer
            .split_once('=')
            .with_context(|| format!("not ID=HOST:PORT: {peer}"))?;
        let id: u64 = id.parse().with_context(|| format!("no number: {id}"))?;
        ensure!(
            peers.insert(id, address.to_owned()).is_none(),
            "server {id} is named twice"
        );
    }
    let listen = match (&args.listen, peers.get(&args.id)) {
        (Some(listen), _) | (None, Some(listen)) => resolve(listen)?,
        (None, None) => bail!(
            "--peers does not name server {}, and there is no --listen",
            args.id
        ),
    };
    ensure!(
        args.join || peers.contains_key(&args.id),
        "server {} is no first member; give --join to add it later",
        args.id
    );
    let metrics = args.metrics.as_deref().map(resolve).transpose()?;
    Ok(Settings {
        id: args.id,
        cluster: args.cluster.clone(),
        listen,
        peers,
        join: args.join,
        folder: args.data.clone(),
        election_timeout: Duration::from_millis(args.election_timeout),
        metrics: metrics.map(|address: SocketAddr| address),
        snapshot_bytes: args.snapshot_mib << 20,
        faults: args.faults,
    })
}
