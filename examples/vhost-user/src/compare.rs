//! Each end against DPDK's, in turns with DPDK's against each other.

use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use clap::Args;
use comfy_table::Table;
use example_vhost_user::device::{Device, Role};
use example_vhost_user::driver::{Driver, DriverOptions, Traffic};
use example_vhost_user::layout::RingKind;
use example_vhost_user::server::{Server, Waiting};
use example_vhost_user::socket::Socket;
use example_vhost_user::testpmd::{Forward, Peer, Testpmd, socket_path};

use crate::{OFFERED, WANTED, say, stay_on};

#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// Packets in each measurement.
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    packets: u64,
    /// Measurements of each pair.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// One ring format only.
    #[arg(long, value_enum)]
    ring: Option<RingKind>,
}

/// Who is at the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pair {
    Dpdk,
    OurDevice,
    OurDriver,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    ToDevice,
    ToDriver,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
struct Run {
    sent: u64,
    received: u64,
    mpps: f64,
}

pub(crate) fn run(options: &Compare) -> Result<()> {
    ensure!(
        Testpmd::is_installed(),
        "there is no dpdk-testpmd (Debian: dpdk-dev)"
    );
    let mut table = Table::new();
    table.set_header([
        "ring",
        "direction",
        "DPDK, DPDK",
        "our device",
        "our driver",
        "device / DPDK",
        "driver / DPDK",
        "packets",
        "lost",
    ]);
    let kinds = [RingKind::Split, RingKind::Packed];
    for kind in kinds
        .into_iter()
        .filter(|kind| options.ring.is_none_or(|only| only == *kind))
    {
        for direction in [Direction::ToDevice, Direction::ToDriver] {
            table.add_row(row(kind, direction, options)?);
        }
    }
    say(&table.to_string());
    Ok(())
}

fn row(kind: RingKind, direction: Direction, options: &Compare) -> Result<Vec<String>> {
    let mut rates: [Vec<f64>; 5] = Default::default();
    let (mut packets, mut lost) = (0, 0);
    for _ in 0..options.rounds {
        let mut round = [0.0; 3];
        for (pair, rate) in [Pair::Dpdk, Pair::OurDevice, Pair::OurDriver]
            .into_iter()
            .zip(&mut round)
        {
            let run = measure(pair, kind, direction, options.packets)?;
            packets += run.sent;
            lost += run.sent.abs_diff(run.received);
            *rate = run.mpps;
        }
        let [dpdk, device, driver] = round;
        let values = [dpdk, device, driver, device / dpdk, driver / dpdk];
        for (rates, value) in rates.iter_mut().zip(values) {
            rates.push(value);
        }
    }
    let mut row = vec![
        format!("{kind:?}").to_lowercase(),
        match direction {
            Direction::ToDevice => "to the device".into(),
            Direction::ToDriver => "to the driver".into(),
        },
    ];
    row.extend(rates.map(|rates| format!("{:.2}", median(rates))));
    row.extend([packets.to_string(), lost.to_string()]);
    Ok(row)
}

fn measure(pair: Pair, kind: RingKind, direction: Direction, packets: u64) -> Result<Run> {
    match pair {
        Pair::Dpdk => dpdk(kind, direction, packets),
        Pair::OurDevice => our_device(kind, direction, packets),
        Pair::OurDriver => our_driver(kind, direction, packets),
    }
}

fn dpdk(kind: RingKind, direction: Direction, packets: u64) -> Result<Run> {
    let (_folder, path) = socket_path()?;
    let (device, driver) = match direction {
        Direction::ToDevice => (Forward::Receive, Forward::Transmit),
        Direction::ToDriver => (Forward::Transmit, Forward::Receive),
    };
    let mut device = Testpmd::start(Peer::Vhost, device, &path, OURS)?;
    device.counts()?;
    let in_order = true;
    let peer = Peer::VirtioUser { kind, in_order };
    let mut driver = Testpmd::start(peer, driver, &path, THEIRS)?;
    driver.counts()?;
    let (sender, receiver) = match direction {
        Direction::ToDevice => (&mut driver, &mut device),
        Direction::ToDriver => (&mut device, &mut driver),
    };
    receiver.forward()?;
    sender.forward()?;
    let (begin, first) = (Instant::now(), receiver.counts()?.received);
    let (seconds, last) = wait(packets, begin, || Ok(receiver.counts()?.received))?;
    sender.stop()?;
    thread::sleep(PAUSE);
    Ok(Run {
        sent: sender.counts()?.sent,
        received: receiver.counts()?.received,
        mpps: rate(last - first, seconds),
    })
}

fn our_device(kind: RingKind, direction: Direction, packets: u64) -> Result<Run> {
    let (_folder, path) = socket_path()?;
    let listener = UnixListener::bind(&path)?;
    let (role, forward) = match direction {
        Direction::ToDevice => (Role::Sink, Forward::Transmit),
        Direction::ToDriver => (Role::Source, Forward::Receive),
    };
    let served = thread::spawn(move || {
        stay_on(Some(OURS))?;
        let (stream, _) = listener.accept()?;
        let device = Device::new(role, Some(packets));
        let mut server = Server::new(Socket::new(stream), device, OFFERED, Waiting::Poll);
        server.run()?;
        Ok::<_, anyhow::Error>((*server.passed(), server.seconds()))
    });
    let in_order = true;
    let peer = Peer::VirtioUser { kind, in_order };
    let mut generator = Testpmd::start(peer, forward, &path, THEIRS)?;
    generator.forward()?;
    let counted = |generator: &mut Testpmd| {
        let counts = generator.counts()?;
        Ok(counts.sent.max(counts.received))
    };
    wait(packets, Instant::now(), || counted(&mut generator))?;
    generator.stop()?;
    let theirs = counted(&mut generator)?;
    drop(generator);
    let (passed, seconds) = served
        .join()
        .map_err(|_| anyhow!("the device panicked"))??;
    let ours = passed.taken.max(passed.given);
    let (sent, received) = match direction {
        Direction::ToDevice => (theirs, ours),
        Direction::ToDriver => (ours, theirs),
    };
    let mpps = rate(ours, seconds);
    Ok(Run {
        sent,
        received,
        mpps,
    })
}

fn our_driver(kind: RingKind, direction: Direction, packets: u64) -> Result<Run> {
    let (_folder, path) = socket_path()?;
    let (traffic, forward) = match direction {
        Direction::ToDevice => (Traffic::Transmit, Forward::Receive),
        Direction::ToDriver => (Traffic::Receive, Forward::Transmit),
    };
    let mut generator = Testpmd::start(Peer::Vhost, forward, &path, THEIRS)?;
    generator.counts()?;
    let moved = thread::spawn(move || {
        stay_on(Some(OURS))?;
        let options = DriverOptions {
            kind,
            wanted: WANTED,
            size: 256,
            waiting: Waiting::Poll,
        };
        let socket = Socket::new(UnixStream::connect(&path)?);
        let mut driver = Driver::connect(socket, options)?;
        let begin = Instant::now();
        let moved = driver.run(traffic, packets)?;
        let seconds = begin.elapsed().as_secs_f64();
        Ok::<_, anyhow::Error>((driver, moved, seconds))
    });
    generator.forward()?;
    let joined = moved.join().map_err(|_| anyhow!("the driver panicked"))?;
    let (mut driver, moved, seconds) = joined?;
    let ours = moved.sent.max(moved.received);
    generator.stop()?;
    let counts = generator.counts()?;
    let (sent, received) = match direction {
        Direction::ToDevice => (moved.sent, counts.received),
        Direction::ToDriver => {
            // What the generator had sent when it stopped lies in the ring.
            let rest = counts.sent - moved.received;
            let moved = driver.run(Traffic::Receive, rest)?;
            (counts.sent, moved.received)
        }
    };
    driver.stop()?;
    let mpps = rate(ours, seconds);
    Ok(Run {
        sent,
        received,
        mpps,
    })
}

/// Asks now and then until as many packets have come; when that was, and how many they are.
fn wait(
    packets: u64,
    begin: Instant,
    mut count: impl FnMut() -> Result<u64>,
) -> Result<(f64, u64)> {
    loop {
        let now = count()?;
        if now >= packets {
            return Ok((begin.elapsed().as_secs_f64(), now));
        }
        thread::sleep(PAUSE);
    }
}

/// Millions of packets per second.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn rate(packets: u64, seconds: f64) -> f64 {
    packets as f64 / seconds / 1e6
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The processor of our end, or of DPDK's in its place.
const OURS: usize = 0;
/// The processor of the other end.
const THEIRS: usize = 1;
const PAUSE: Duration = Duration::from_millis(100);
