//! The driver's side of two rings, as a vhost-user front end: sends packets, receives packets, or both.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{read, write};
use vhost_user::{
    ProtocolFeatures, Region, Reply, Request, VHOST_USER_F_PROTOCOL_FEATURES, VringAddresses,
};
use virtqueue::{Config, DriverQueue, HostRing, Layout, Notify, Pending, Segment};
use vm_memory::{Bytes, GuestAddress};

use crate::frames::{PACKET, number, packet};
use crate::layout::{RING_PACKED, RingKind, VERSION_1, ring_features};
use crate::memory::{Memory, shared};
use crate::server::Waiting;
use crate::socket::Socket;

/// What a driver asks of its device.
#[derive(Clone, Copy, Debug)]
pub struct DriverOptions {
    /// Ring format.
    pub kind: RingKind,
    /// Features to choose where they are offered, beside the ring format and `VIRTIO_F_VERSION_1`.
    pub wanted: u64,
    /// Descriptors in each ring.
    pub size: u16,
    /// How it learns of packets and of room.
    pub waiting: Waiting,
}

/// What a driver does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Traffic {
    /// Sends.
    Transmit,
    /// Receives.
    Receive,
    /// Sends, and receives as many.
    Both,
}

/// What passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Packets that the device has taken.
    pub sent: u64,
    /// Packets that came.
    pub received: u64,
    /// Packets among them whose number was not the next one's, of those that this program made.
    pub out_of_order: u64,
    /// Kicks sent.
    pub kicks: u64,
    /// Times that it slept.
    pub sleeps: u64,
}

/// A driver whose device is in another process.
#[derive(Debug)]
pub struct Driver {
    socket: Socket,
    memory: Arc<Memory>,
    rings: [DriverRing; 2],
    waiting: Waiting,
    moved: Moved,
    posted: u64,
}

#[derive(Debug)]
struct DriverRing {
    queue: DriverQueue<HostRing<Arc<Memory>>>,
    /// Where each id's buffer is.
    buffers: Vec<u16>,
    free: Vec<u16>,
    first: u64,
    kick: OwnedFd,
    call: OwnedFd,
}

impl Driver {
    /// Agrees with the back end, shares memory with it, and starts both rings.
    ///
    /// # Errors
    ///
    /// Fails when the back end does not offer the ring format, or goes.
    pub fn connect(mut socket: Socket, options: DriverOptions) -> Result<Self> {
        let features = negotiate(&mut socket, options)?;
        let (memory, file) = shared(2 * RING_SPACE)?;
        share(&mut socket, &file)?;
        let [a, b] = [RECEIVE, SEND].map(|index| {
            let ring = DriverRing::new(index, options, features, &memory)?;
            ring.announce(&mut socket, index)?;
            Ok(ring)
        });
        let rings: Result<_> = a.and_then(|a| Ok([a, b?]));
        let mut driver = Self {
            socket,
            memory,
            rings: rings?,
            waiting: options.waiting,
            moved: Moved::default(),
            posted: 0,
        };
        driver.offer_buffers()?;
        for (ring, _) in (0..).zip(&driver.rings) {
            let enabled = true;
            let enable = Request::SetVringEnable { ring, enabled };
            driver.socket.ask(&enable, &[])?;
        }
        Ok(driver)
    }

    /// Moves `count` packets each way that `traffic` names.
    ///
    /// # Errors
    ///
    /// What the device got wrong.
    pub fn run(&mut self, traffic: Traffic, count: u64) -> Result<Moved> {
        let (begin, posted) = (self.moved, self.posted);
        let goal = |wanted: bool| if wanted { count } else { 0 };
        let to_send = goal(traffic != Traffic::Receive);
        let to_receive = goal(traffic != Traffic::Transmit);
        loop {
            let sent = self.moved.sent - begin.sent;
            let received = self.moved.received - begin.received;
            if sent >= to_send && received >= to_receive {
                break;
            }
            // What is out must fit the other ring, or a device that gives it back has to drop.
            let ahead = match traffic {
                Traffic::Both => WINDOW.saturating_sub(self.posted - posted - received),
                _ => u64::MAX,
            };
            let left = to_send - (self.posted - posted).min(to_send);
            let mut worked = self.take_sent()?;
            worked += self.send(left.min(ahead))?;
            worked += self.receive()?;
            if worked == 0 && self.waiting == Waiting::Event {
                self.sleep()?;
            }
        }
        Ok(self.moved)
    }

    /// Stops both rings; where they stopped.
    ///
    /// # Errors
    ///
    /// Fails when the back end has gone.
    pub fn stop(mut self) -> Result<[u32; 2]> {
        let mut bases = [0; 2];
        for (ring, base) in (0..).zip(&mut bases) {
            let reply = self.socket.ask(&Request::VringBase { ring }, &[])?;
            if let Reply::VringBase { base: at, .. } = reply {
                *base = at;
            }
        }
        Ok(bases)
    }

    fn send(&mut self, most: u64) -> Result<u64> {
        let ring = &mut self.rings[SEND];
        let mut added = 0;
        while added < most.min(BATCH) {
            let Some(buffer) = ring.free.pop() else {
                break;
            };
            let segment = ring.segment(buffer, PACKET);
            let packet = packet(self.posted);
            self.memory.write_slice(&packet, segment.address)?;
            let id = ring.queue.add(&[segment], &[])?;
            ring.buffers[usize::from(id)] = buffer;
            self.posted += 1;
            added += 1;
        }
        if added > 0 {
            self.publish(SEND)?;
        }
        Ok(added)
    }

    fn take_sent(&mut self) -> Result<u64> {
        let ring = &mut self.rings[SEND];
        let mut taken = 0;
        while let Some(used) = ring.queue.take_used()? {
            ring.free.push(ring.buffers[usize::from(used.id)]);
            taken += 1;
        }
        self.moved.sent += taken;
        Ok(taken)
    }

    fn receive(&mut self) -> Result<u64> {
        let ring = &mut self.rings[RECEIVE];
        let mut taken = 0;
        let mut bytes = [0; PACKET];
        while taken < BATCH {
            let Some(used) = ring.queue.take_used()? else {
                break;
            };
            let buffer = ring.buffers[usize::from(used.id)];
            let length = PACKET.min(usize::try_from(used.written)?);
            let at = ring.segment(buffer, PACKET).address;
            self.memory.read_slice(&mut bytes[..length], at)?;
            if let Some(number) = number(&bytes[..length]) {
                self.moved.out_of_order += u64::from(number != self.moved.received);
            }
            self.moved.received += 1;
            ring.free.push(buffer);
            taken += 1;
        }
        if taken > 0 {
            self.offer_buffers()?;
        }
        Ok(taken)
    }

    fn offer_buffers(&mut self) -> Result<()> {
        let ring = &mut self.rings[RECEIVE];
        while let Some(buffer) = ring.free.pop() {
            let id = ring.queue.add(&[], &[ring.segment(buffer, BUFFER)])?;
            ring.buffers[usize::from(id)] = buffer;
        }
        self.publish(RECEIVE)
    }

    fn publish(&mut self, index: usize) -> Result<()> {
        let ring = &mut self.rings[index];
        if ring.queue.publish()? == Notify::Send {
            write(&ring.kick, &1_u64.to_ne_bytes())?;
            self.moved.kicks += 1;
        }
        Ok(())
    }

    /// Waits for an interrupt, unless there is something to do.
    fn sleep(&mut self) -> Result<()> {
        for ring in &mut self.rings {
            if ring.queue.enable_interrupts()? == Pending::More {
                return Ok(());
            }
        }
        self.moved.sleeps += 1;
        let mut fds = vec![PollFd::new(&self.socket, PollFlags::IN)];
        fds.extend(
            self.rings
                .iter()
                .map(|ring| PollFd::new(&ring.call, PollFlags::IN)),
        );
        let patience = Timespec {
            tv_sec: PATIENCE,
            tv_nsec: 0,
        };
        let ready = poll(&mut fds, Some(&patience))?;
        ensure!(ready > 0, "the device did not interrupt in {PATIENCE} s");
        ensure!(fds[0].revents().is_empty(), "the back end has gone");
        let rung: Vec<_> = fds[1..].iter().map(|fd| !fd.revents().is_empty()).collect();
        for (ring, _) in self.rings.iter_mut().zip(rung).filter(|(_, rung)| *rung) {
            let _ = read(&ring.call, &mut [0; 8])?;
            ring.queue.disable_interrupts()?;
        }
        Ok(())
    }
}

impl DriverRing {
    fn new(
        index: usize,
        options: DriverOptions,
        features: u64,
        memory: &Arc<Memory>,
    ) -> Result<Self> {
        let first = RING_SPACE * index as u64;
        let size = options.size;
        ensure!(size <= SIZE_MAX, "at most {SIZE_MAX} descriptors");
        let config = Config {
            layout: options.kind.layout(),
            size,
            descriptors: first,
            driver: first + DRIVER,
            device: first + DEVICE,
            features: ring_features(features),
        };
        let config = config.activate()?;
        let ring = HostRing::new(&config, Arc::clone(memory))?;
        let mut queue = DriverQueue::new(&config, ring, None)?;
        queue.disable_interrupts()?;
        Ok(Self {
            queue,
            buffers: vec![0; size.into()],
            free: (0..size).rev().collect(),
            first: first + BUFFERS,
            kick: eventfd(0, EventfdFlags::CLOEXEC)?,
            call: eventfd(0, EventfdFlags::CLOEXEC)?,
        })
    }

    fn segment(&self, buffer: u16, length: usize) -> Segment {
        let at = self.first + u64::from(buffer) * BUFFER as u64;
        Segment {
            address: GuestAddress(at),
            length: u32::try_from(length).unwrap_or(0),
        }
    }

    /// Our user addresses are the guest's: there is no guest.
    fn announce(&self, socket: &mut Socket, index: usize) -> Result<()> {
        let config = self.queue.config().config();
        let ring = u32::try_from(index)?;
        let byte = u8::try_from(index)?;
        let base = match config.layout {
            Layout::Split => 0,
            // Both positions are at the start of a lap whose wrap counter is 1.
            Layout::Packed => 0x8000_8000,
        };
        let size = config.size.into();
        socket.ask(&Request::SetVringSize { ring, size }, &[])?;
        socket.ask(&Request::SetVringBase { ring, base }, &[])?;
        let addresses = VringAddresses {
            ring,
            flags: 0,
            descriptors: config.descriptors + USER,
            device: config.device + USER,
            driver: config.driver + USER,
            log: 0,
        };
        socket.ask(&Request::SetVringAddresses(addresses), &[])?;
        let call = Request::SetVringCall {
            ring: byte,
            has_fd: true,
        };
        socket.ask(&call, &[self.call.as_fd()])?;
        let kick = Request::SetVringKick {
            ring: byte,
            has_fd: true,
        };
        socket.ask(&kick, &[self.kick.as_fd()])?;
        Ok(())
    }
}

fn negotiate(socket: &mut Socket, options: DriverOptions) -> Result<u64> {
    socket.ask(&Request::SetOwner, &[])?;
    let Reply::Number(offered) = socket.ask(&Request::Features, &[])? else {
        unreachable!("a number was asked for");
    };
    let packed = match options.kind {
        RingKind::Split => 0,
        RingKind::Packed => RING_PACKED,
    };
    let needed = VERSION_1 | packed;
    ensure!(
        offered & needed == needed,
        "the device offers {offered:#x}, without {:#x}",
        needed & !offered
    );
    let protocol = offered & VHOST_USER_F_PROTOCOL_FEATURES;
    if protocol != 0 {
        let Reply::Number(known) = socket.ask(&Request::ProtocolFeatures, &[])? else {
            unreachable!("a number was asked for");
        };
        let chosen = known & ProtocolFeatures::MQ.0;
        socket.ask(&Request::SetProtocolFeatures(chosen), &[])?;
    }
    let features = needed | protocol | offered & options.wanted;
    socket.ask(&Request::SetFeatures(features), &[])?;
    Ok(features)
}

fn share(socket: &mut Socket, file: &File) -> Result<()> {
    let region = Region {
        guest_address: 0,
        size: 2 * RING_SPACE,
        user_address: USER,
        file_offset: 0,
    };
    let table = Request::SetMemoryTable(vec![region]);
    let asked = socket.ask(&table, &[file.as_fd()]);
    asked.context("sharing memory")?;
    Ok(())
}

const RECEIVE: usize = 0;
const SEND: usize = 1;
const BATCH: u64 = 64;
/// Packets on their way in both directions.
const WINDOW: u64 = 128;
/// Seconds that a device may take to interrupt; then the example gives up.
const PATIENCE: i64 = 20;
// Where things lie in the space of a ring.
const SIZE_MAX: u16 = 1024;
const DRIVER: u64 = 0x8000;
const DEVICE: u64 = 0x10000;
const BUFFERS: u64 = 0x20000;
const BUFFER: usize = 2048;
const RING_SPACE: u64 = BUFFERS + SIZE_MAX as u64 * BUFFER as u64;
/// What the device is told that our addresses are; no place is named by them but those of rings.
const USER: u64 = 0x1000_0000_0000;
