//! Serves a virtqueue device over a vhost-user socket, drives one, or compares both with DPDK's.
#![forbid(unsafe_code)]

mod compare;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use comfy_table::Table;
use example_vhost_user::device::{Device, Role};
use example_vhost_user::driver::{Driver, DriverOptions, Traffic};
use example_vhost_user::layout::{
    EVENT_IDX, IN_ORDER, MRG_RXBUF, RING_PACKED, RingKind, VERSION_1,
};
use example_vhost_user::server::{Server, Waiting};
use example_vhost_user::socket::Socket;
use rustix::thread::{CpuSet, sched_setaffinity};

fn main() -> Result<()> {
    match Options::parse().command {
        Command::Device(options) => device(&options),
        Command::Driver(options) => driver(&options),
        Command::Compare(options) => compare::run(&options),
    }
}

/// Both ends of vhost-user over our virtqueues.
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Be the device: listen, serve one front end, and say what passed.
    Device(DeviceOptions),
    /// Be the driver: connect to a device, move packets, and say what passed.
    Driver(Drive),
    /// Run each end against DPDK's, and DPDK's against each other.
    Compare(compare::Compare),
}

#[derive(Debug, Args)]
struct DeviceOptions {
    /// Where to listen.
    #[arg(long)]
    socket: PathBuf,
    /// What to do with packets.
    #[arg(long, value_enum, default_value = "sink")]
    role: Role,
    /// Packets that a source makes.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    packets: Option<u64>,
    /// How to learn of packets.
    #[arg(long, value_enum, default_value = "poll")]
    waiting: Waiting,
    /// A processor to stay on.
    #[arg(long)]
    cpu: Option<usize>,
}

#[derive(Debug, Args)]
struct Drive {
    /// Where the device listens.
    #[arg(long)]
    socket: PathBuf,
    /// What to do.
    #[arg(long, value_enum, default_value = "both")]
    traffic: Traffic,
    /// Packets in each direction.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    packets: u64,
    /// Ring format.
    #[arg(long, value_enum, default_value = "split")]
    ring: RingKind,
    /// How to learn of packets.
    #[arg(long, value_enum, default_value = "poll")]
    waiting: Waiting,
    /// A processor to stay on.
    #[arg(long)]
    cpu: Option<usize>,
}

fn device(options: &DeviceOptions) -> Result<()> {
    stay_on(options.cpu)?;
    let listener = listen(&options.socket)?;
    let (stream, _) = listener.accept()?;
    let device = Device::new(options.role, options.packets);
    let mut server = Server::new(Socket::new(stream), device, OFFERED, options.waiting);
    server.run()?;
    let passed = server.passed();
    let mut table = Table::new();
    table.set_header([
        "taken",
        "given",
        "dropped",
        "kicks",
        "interrupts",
        "seconds",
    ]);
    let counts = [
        passed.taken,
        passed.given,
        passed.dropped,
        passed.kicks,
        passed.calls,
    ];
    let seconds = format!("{:.3}", server.seconds());
    table.add_row(
        counts
            .map(|count| count.to_string())
            .into_iter()
            .chain([seconds]),
    );
    say(&table.to_string());
    Ok(())
}

fn driver(options: &Drive) -> Result<()> {
    stay_on(options.cpu)?;
    let socket = Socket::new(connect(&options.socket)?);
    let begin = DriverOptions {
        kind: options.ring,
        wanted: WANTED,
        size: 256,
        waiting: options.waiting,
    };
    let mut driver = Driver::connect(socket, begin)?;
    let begin = Instant::now();
    let moved = driver.run(options.traffic, options.packets)?;
    let seconds = begin.elapsed().as_secs_f64();
    driver.stop()?;
    let mut table = Table::new();
    table.set_header([
        "sent",
        "received",
        "out of order",
        "kicks",
        "slept",
        "seconds",
    ]);
    let counts = [
        moved.sent,
        moved.received,
        moved.out_of_order,
        moved.kicks,
        moved.sleeps,
    ];
    let seconds = format!("{seconds:.3}");
    table.add_row(
        counts
            .map(|count| count.to_string())
            .into_iter()
            .chain([seconds]),
    );
    say(&table.to_string());
    ensure!(moved.out_of_order == 0, "packets came out of order");
    Ok(())
}

/// Listens at `path`, where a socket of a process that has ended may lie.
fn listen(path: &Path) -> Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", path.display()));
        }
        _ => {}
    }
    UnixListener::bind(path).with_context(|| format!("listening at {}", path.display()))
}

/// Waits a while for somebody to listen.
fn connect(path: &Path) -> Result<UnixStream> {
    let begin = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Err(_) if begin.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(10)),
            connected => {
                return connected.with_context(|| format!("connecting to {}", path.display()));
            }
        }
    }
}

fn stay_on(cpu: Option<usize>) -> Result<()> {
    let Some(cpu) = cpu else {
        return Ok(());
    };
    ensure!(cpu < CpuSet::MAX_CPU, "there is no processor {cpu}");
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("staying on processor {cpu}"))
}

#[expect(clippy::print_stdout, reason = "a program reports")]
fn say(line: &str) {
    println!("{line}");
}

const OFFERED: u64 = VERSION_1 | RING_PACKED | IN_ORDER | EVENT_IDX | MRG_RXBUF;
const WANTED: u64 = IN_ORDER | MRG_RXBUF;
const PATIENCE: Duration = Duration::from_secs(10);
