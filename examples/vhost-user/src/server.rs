//! A device behind a vhost-user socket.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::ValueEnum;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vhost_user::{Backend, Effect, Outcome};

use crate::device::{Device, Passed};
use crate::memory::{Memory, map};
use crate::socket::Socket;

/// How a side learns that there is something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Waiting {
    /// Looks all the time, and asks for no notifications.
    Poll,
    /// Sleeps until it is notified.
    Event,
}

/// One session: a socket, memory, a device.
#[derive(Debug)]
pub struct Server {
    socket: Socket,
    session: Backend<OwnedFd>,
    memory: Arc<Memory>,
    device: Device,
    waiting: Waiting,
    /// When the first packet passed, and when the last.
    span: Option<(Instant, Instant)>,
}

impl Server {
    /// A device that offers `features` of virtio to the front end at the other end of `socket`.
    #[must_use]
    pub fn new(socket: Socket, device: Device, features: u64, waiting: Waiting) -> Self {
        Self {
            socket,
            session: Backend::new(Device::RINGS, features),
            memory: Arc::new(Memory::default()),
            device,
            waiting,
            span: None,
        }
    }

    /// What passed so far.
    #[must_use]
    pub fn passed(&self) -> &Passed {
        self.device.passed()
    }

    /// Seconds from the first packet to the last.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.span
            .map_or(0.0, |(first, last)| (last - first).as_secs_f64())
    }

    /// Serves until the front end has gone.
    ///
    /// # Errors
    ///
    /// What the front end got wrong.
    pub fn run(&mut self) -> Result<()> {
        while self.step()? {}
        Ok(())
    }

    /// Serves what there is, and waits if there is nothing. `false` once the front end has gone.
    ///
    /// # Errors
    ///
    /// What the front end got wrong.
    pub fn step(&mut self) -> Result<bool> {
        for _ in 0..BATCHES {
            if self.device.work()? == 0 {
                break;
            }
            let now = Instant::now();
            self.span.get_or_insert((now, now)).1 = now;
        }
        if self.waits()? {
            self.message()
        } else {
            Ok(true)
        }
    }

    /// Whether a message has come. Without a ring there is nothing else to wait for.
    fn waits(&mut self) -> Result<bool> {
        let runs = (0..Device::RINGS).any(|ring| self.session.is_enabled(ring));
        let sleeps = match self.waiting {
            Waiting::Poll => !runs,
            Waiting::Event => !runs || self.device.enable_kicks()?,
        };
        let timeout = (!sleeps).then(Timespec::default);
        let kicks = self
            .device
            .kicks()
            .filter(|_| self.waiting == Waiting::Event);
        let mut fds = vec![PollFd::new(&self.socket, PollFlags::IN)];
        fds.extend(kicks.map(|kick| PollFd::new(kick, PollFlags::IN)));
        poll(&mut fds, timeout.as_ref())?;
        let has_message = !fds[0].revents().is_empty();
        if fds.iter().skip(1).any(|fd| !fd.revents().is_empty()) {
            self.device.take_kicks();
        }
        Ok(has_message)
    }

    fn message(&mut self) -> Result<bool> {
        let Some(received) = self.socket.receive()? else {
            return Ok(false);
        };
        let Outcome { effect, answer } =
            self.session
                .handle(received.request, received.needs_reply, received.descriptors)?;
        let stopped = self.apply(effect)?;
        if let Some(message) = stopped.or_else(|| answer.message(true)) {
            self.socket.send(&message, &[])?;
        }
        Ok(true)
    }

    /// Does what a request asks; the answer to the one that waits for it.
    fn apply(&mut self, effect: Effect<OwnedFd>) -> Result<Option<Vec<u8>>> {
        match effect {
            Effect::None | Effect::Error { .. } => {}
            Effect::Map(regions) => {
                self.memory = map(regions)?;
                for ring in 0..Device::RINGS {
                    if let Ok(setup) = self.session.ring(ring) {
                        self.device.remap(ring, &setup, &self.memory)?;
                    }
                }
            }
            Effect::Start { ring, setup, kick } => {
                if kick.is_none() && self.waiting == Waiting::Event {
                    bail!("the front end wants ring {ring} polled");
                }
                let enabled = self.session.is_enabled(ring);
                let memory = &self.memory;
                self.device.start(ring, &setup, memory, kick, enabled)?;
                self.quiet()?;
            }
            Effect::Stop { ring } => {
                let base = self.device.stop(ring)?;
                return Ok(Some(self.session.stopped(ring, base)));
            }
            Effect::Call { ring, call } => self.device.set_call(ring, call),
            Effect::Enable { ring, enabled } => self.device.enable(ring, enabled),
            Effect::Reset => self.device.reset(),
        }
        Ok(None)
    }

    fn quiet(&mut self) -> Result<()> {
        match self.waiting {
            Waiting::Poll => self.device.disable_kicks(),
            Waiting::Event => Ok(()),
        }
    }
}

/// Batches between two looks at the socket.
const BATCHES: usize = 256;
