//! The device's side of two rings: takes packets, makes packets, or sends them back.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use rustix::io::{read, write};
use vhost_user::RingSetup;
use virtqueue::{Chain, DeviceQueue, HostRing, Notify, Pending};

use crate::frames::{HEADER, PACKET, packet};
use crate::layout::{base, queue_state};
use crate::memory::Memory;

/// What a device does with its rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Takes what the driver sends.
    Sink,
    /// Fills the buffers that the driver offers, and takes what it sends.
    Source,
    /// Gives back what the driver sends.
    Loopback,
}

/// What passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Packets taken from the driver.
    pub taken: u64,
    /// Their bytes, without headers.
    pub taken_bytes: u64,
    /// Packets given to the driver.
    pub given: u64,
    /// Packets that found no buffer on their way back.
    pub dropped: u64,
    /// Interrupts sent.
    pub calls: u64,
    /// Kicks received.
    pub kicks: u64,
}

/// The rings of a network device: the driver receives by the first, sends by the second.
#[derive(Debug)]
pub struct Device {
    role: Role,
    /// Packets to make; `None` is without end.
    limit: Option<u64>,
    rings: [Option<Ring>; 2],
    /// A descriptor for interrupts may come before the ring that uses it starts.
    calls: [Option<OwnedFd>; 2],
    passed: Passed,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Ring {
    queue: DeviceQueue<HostRing<Arc<Memory>>>,
    chain: Chain,
    memory: Arc<Memory>,
    kick: Option<OwnedFd>,
    enabled: bool,
}

impl Device {
    /// Rings of a network device with one pair.
    pub const RINGS: usize = 2;

    /// A device whose rings are yet to start. A source makes `limit` packets.
    #[must_use]
    pub fn new(role: Role, limit: Option<u64>) -> Self {
        Self {
            role,
            limit,
            rings: [None, None],
            calls: [None, None],
            passed: Passed::default(),
            buffer: vec![0; BUFFER],
        }
    }

    /// What passed so far.
    #[must_use]
    pub fn passed(&self) -> &Passed {
        &self.passed
    }

    /// Begins with a ring.
    ///
    /// # Errors
    ///
    /// Fails when the ring is not sound or not in memory.
    pub fn start(
        &mut self,
        ring: usize,
        setup: &RingSetup,
        memory: &Arc<Memory>,
        kick: Option<OwnedFd>,
        enabled: bool,
    ) -> Result<()> {
        let state = queue_state(setup);
        let queue = state.restore(|config| HostRing::new(config, Arc::clone(memory)));
        let queue = queue.with_context(|| format!("ring {ring}"))?;
        self.rings[ring] = Some(Ring {
            chain: Chain::new(queue.config()),
            queue,
            memory: Arc::clone(memory),
            kick,
            enabled,
        });
        Ok(())
    }

    /// Moves a running ring into other memory.
    ///
    /// # Errors
    ///
    /// Fails when the ring is not in it.
    pub fn remap(&mut self, ring: usize, setup: &RingSetup, memory: &Arc<Memory>) -> Result<()> {
        let Some(old) = self.rings[ring].take() else {
            return Ok(());
        };
        let setup = RingSetup {
            base: base(&old.queue.state()?),
            ..*setup
        };
        self.start(ring, &setup, memory, old.kick, old.enabled)
    }

    /// Stops a ring; where it stopped, or 0 when it never ran.
    ///
    /// # Errors
    ///
    /// Fails while chains are out, which they are not between two calls of [`work`](Self::work).
    pub fn stop(&mut self, ring: usize) -> Result<u32> {
        match self.rings[ring].take() {
            Some(ring) => Ok(base(&ring.queue.state()?)),
            None => Ok(0),
        }
    }

    /// Stops both.
    pub fn reset(&mut self) {
        self.rings = [None, None];
    }

    /// How to interrupt the driver.
    pub fn set_call(&mut self, ring: usize, call: Option<OwnedFd>) {
        self.calls[ring] = call;
    }

    /// Whether a ring's buffers may be used.
    pub fn enable(&mut self, ring: usize, enabled: bool) {
        if let Some(ring) = &mut self.rings[ring] {
            ring.enabled = enabled;
        }
    }

    /// What drivers kick, for the rings that run.
    pub fn kicks(&self) -> impl Iterator<Item = &OwnedFd> {
        self.rings.iter().flatten().filter_map(|r| r.kick.as_ref())
    }

    /// Takes kicks that came.
    pub fn take_kicks(&mut self) {
        for ring in self.rings.iter_mut().flatten() {
            // Read without waiting: an event counter with nothing in it says so.
            let mut counter = [0; 8];
            if let Some(kick) = &ring.kick
                && is_readable(kick)
                && read(kick, &mut counter).is_ok()
            {
                ring.queue.count_kick();
                self.passed.kicks += 1;
            }
        }
    }

    /// Asks for no kicks.
    ///
    /// # Errors
    ///
    /// Fails when a ring cannot be reached.
    pub fn disable_kicks(&mut self) -> Result<()> {
        for ring in self.rings.iter_mut().flatten() {
            ring.queue.disable_kicks()?;
        }
        Ok(())
    }

    /// Asks for kicks; whether it is safe to sleep.
    ///
    /// # Errors
    ///
    /// What a driver got wrong.
    pub fn enable_kicks(&mut self) -> Result<bool> {
        let mut idle = true;
        for (index, ring) in self.rings.iter_mut().enumerate() {
            let Some(ring) = ring.as_mut().filter(|ring| ring.enabled) else {
                continue;
            };
            let pending = ring.queue.enable_kicks()?;
            // Buffers that nobody fills may lie there.
            let wanted = index == SEND || self.role == Role::Source;
            idle &= pending == Pending::None || !wanted;
        }
        let made = self.limit.is_some_and(|limit| self.passed.given >= limit);
        Ok(idle || made && self.role == Role::Source)
    }

    /// Does what there is to do, at most a batch; how many packets passed.
    ///
    /// # Errors
    ///
    /// What the driver got wrong.
    pub fn work(&mut self) -> Result<u64> {
        let before = self.passed;
        match self.role {
            Role::Sink => self.take()?,
            Role::Source => {
                self.take()?;
                self.make()?;
            }
            Role::Loopback => self.give_back()?,
        }
        let after = &self.passed;
        Ok(after.taken - before.taken + after.given - before.given)
    }

    fn take(&mut self) -> Result<()> {
        let Some(ring) = usable(&mut self.rings[SEND]) else {
            return Ok(());
        };
        let (passed, buffer, memory) = (&mut self.passed, &mut self.buffer, &ring.memory);
        let mut fault = false;
        let served = ring.queue.serve(&mut ring.chain, BATCH, |chain| {
            // Read as DPDK's device does, which hands a copy on.
            match chain.read(&**memory, 0, buffer) {
                Ok(length) => passed.taken_bytes += length.saturating_sub(HEADER) as u64,
                Err(_) => fault = true,
            }
            passed.taken += 1;
            0
        })?;
        ensure!(!fault, "a buffer is in no memory");
        self.flush(SEND, served > 0)
    }

    fn make(&mut self) -> Result<()> {
        let left = self
            .limit
            .map_or(u64::MAX, |limit| limit - self.passed.given);
        let batch = u16::try_from(left).unwrap_or(BATCH).min(BATCH);
        let Some(ring) = usable(&mut self.rings[RECEIVE]).filter(|_| batch > 0) else {
            return Ok(());
        };
        let (passed, memory) = (&mut self.passed, &ring.memory);
        let mut short = false;
        let served = ring.queue.serve(&mut ring.chain, batch, |chain| {
            let written = chain.write(&**memory, 0, &packet(passed.given));
            passed.given += 1;
            short |= written.as_ref().ok() != Some(&PACKET);
            written.map_or(0, |bytes| u32::try_from(bytes).unwrap_or(0))
        })?;
        ensure!(!short, "a buffer is too short or in no memory");
        self.flush(RECEIVE, served > 0)
    }

    fn give_back(&mut self) -> Result<()> {
        let [Some(receive), Some(send)] = &mut self.rings else {
            return Ok(());
        };
        let (passed, buffer) = (&mut self.passed, &mut self.buffer);
        let mut served = 0;
        while served < BATCH && send.enabled {
            let Some(taken) = send.queue.pop(&mut send.chain)? else {
                break;
            };
            served += 1;
            let length = send.chain.read(&*send.memory, 0, buffer)?;
            send.queue.complete(taken, 0)?;
            passed.taken += 1;
            passed.taken_bytes += length.saturating_sub(HEADER) as u64;
            let offered = match receive.enabled {
                true => receive.queue.pop(&mut receive.chain)?,
                false => None,
            };
            let Some(given) = offered else {
                passed.dropped += 1;
                continue;
            };
            buffer[10] = 1;
            let written = receive
                .chain
                .write(&*receive.memory, 0, &buffer[..length])?;
            receive.queue.complete(given, u32::try_from(written)?)?;
            passed.given += 1;
        }
        self.flush(RECEIVE, served > 0)?;
        self.flush(SEND, served > 0)
    }

    fn flush(&mut self, index: usize, served: bool) -> Result<()> {
        let Some(ring) = self.rings[index].as_mut().filter(|_| served) else {
            return Ok(());
        };
        if ring.queue.flush()? == Notify::Send
            && let Some(call) = &self.calls[index]
        {
            write(call, &1_u64.to_ne_bytes())?;
            self.passed.calls += 1;
        }
        Ok(())
    }
}

fn usable(ring: &mut Option<Ring>) -> Option<&mut Ring> {
    ring.as_mut().filter(|ring| ring.enabled)
}

/// Whether a read would not wait.
fn is_readable(fd: &impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1))
}

/// The ring by which the driver receives: virtio 1.3, 5.1.2.
const RECEIVE: usize = 0;
/// The ring by which it sends.
const SEND: usize = 1;
/// Packets between two looks at the other ring.
const BATCH: u16 = 64;
/// Bytes of a packet that are looked at; no more are sent here.
const BUFFER: usize = 2048;
