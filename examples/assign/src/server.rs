//! Our adapter behind a vfio-user socket.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result};
use machine::Wire;
use vfio_user_protocol::{Effect, InterruptAction, Outcome, Server, errno, irq};

use crate::client_memory::{ClientMemory, DmaCounts};
use crate::events;
use crate::link::Link;
use crate::nic::Nic;
use crate::socket::{Received, Socket};

/// One client's use of the adapter.
#[derive(Debug)]
pub struct Session {
    link: Rc<RefCell<Link>>,
    server: Server<OwnedFd>,
    memory: ClientMemory,
    nic: Nic,
    refused: u64,
}

/// Serves one client after the other, each with an adapter that nobody has used; `once`, the first only.
///
/// # Errors
///
/// When there can be no such socket. What a client gets wrong ends its session alone, and is told of.
pub fn serve(path: &Path, once: bool, wire: impl Fn() -> Result<Box<dyn Wire>>) -> Result<()> {
    let listener = listen(path)?;
    eprintln!("assign: an 82540EM at {}", path.display());
    loop {
        let (stream, _) = listener.accept()?;
        let mut session = Session::new(stream, Nic::new(wire()?))?;
        let end = session.run();
        eprintln!("assign: {}", session.summary());
        if let Err(error) = end {
            eprintln!("assign: the session ended early: {error:#}");
        }
        if once {
            return Ok(());
        }
    }
}

/// Takes the place of a socket that nobody listens at any more, and of nothing else.
fn listen(path: &Path) -> Result<UnixListener> {
    if UnixStream::connect(path)
        .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    {
        std::fs::remove_file(path).with_context(|| path.display().to_string())?;
    }
    UnixListener::bind(path).with_context(|| format!("no socket at {}", path.display()))
}

impl Session {
    /// A session that has not begun.
    ///
    /// # Errors
    ///
    /// When the host has no memory for it.
    pub fn new(stream: UnixStream, nic: Nic) -> Result<Self> {
        let link = Rc::new(RefCell::new(Link::new(Socket::new(stream)?)));
        Ok(Self {
            memory: ClientMemory::new(Rc::clone(&link))?,
            link,
            server: Server::new(Nic::description()),
            nic,
            refused: 0,
        })
    }

    /// Serves until the client has gone.
    ///
    /// # Errors
    ///
    /// When nothing more can be understood of what the client sends.
    pub fn run(&mut self) -> Result<()> {
        while self.step()? {}
        Ok(())
    }

    /// How often memory was reached, by the way.
    #[must_use]
    pub fn dma(&self) -> DmaCounts {
        self.memory.counts()
    }

    /// Messages that were turned down.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn summary(&self) -> String {
        let (sent, received) = self.nic.frames();
        let DmaCounts {
            mapped,
            files,
            messages,
            refused,
        } = self.dma();
        format!(
            "the guest sent {sent} frames and received {received}; DMA: {mapped} pieces of mapped memory, {files} of \
             files, {messages} messages, {refused} refused; {} messages turned down",
            self.refused
        )
    }

    /// Waits for a message or for the adapter, and does what there is. `false` once the client has gone.
    fn step(&mut self) -> Result<bool> {
        let ready = self.link.borrow().wait(self.nic.idle())?;
        if ready {
            let message = self.link.borrow_mut().next()?;
            let Some(message) = message else {
                self.server.disconnect();
                return Ok(false);
            };
            self.handle(message)?;
        }
        self.work();
        Ok(true)
    }

    fn work(&mut self) {
        self.nic.work(&self.memory);
        self.memory.flush();
        self.interrupt();
    }

    fn handle(&mut self, message: Received) -> Result<()> {
        let Received {
            header,
            payload,
            descriptors,
        } = message;
        // Some will be events, which a session signals whenever it likes.
        for descriptor in &descriptors {
            events::make_nonblocking(descriptor)?;
        }
        let answer = match self.server.handle(&header, &payload, descriptors) {
            Ok(Outcome { effect, answer }) => {
                let result = self.effect(effect);
                self.server.answer(answer, result)
            }
            Err((error, answer)) => {
                self.refused += 1;
                eprintln!("assign: turned down: {error}");
                answer
            }
        };
        match answer {
            Some(answer) => self.link.borrow_mut().socket().send(&answer, &[]),
            None => Ok(()),
        }
    }

    fn effect(&mut self, effect: Effect<OwnedFd>) -> Result<Vec<u8>, u32> {
        match effect {
            Effect::None => {}
            Effect::Map(region, file) => {
                if let Err(error) = self.memory.map(region, file) {
                    eprintln!("assign: memory at {:#x}: {error:#}", region.address);
                    return Err(errno::EINVAL);
                }
            }
            Effect::Unmap(regions) => self.memory.unmap(&regions),
            Effect::Read(access) => {
                let mut data = vec![0; access.count as usize];
                self.nic.read(access.region, access.offset, &mut data);
                return Ok(data);
            }
            Effect::Write(access, data) => {
                self.nic.write(access.region, access.offset, &data);
                // What a register starts is done when the write is, as far as it can be.
                self.work();
            }
            Effect::Interrupts(InterruptAction::Raise { index, vectors }) => {
                let interrupts = self.server.interrupts_mut();
                for vector in vectors {
                    if let Some(event) = interrupts.raise(index, vector) {
                        events::signal(event);
                    }
                }
            }
            Effect::Interrupts(InterruptAction::Changed { .. }) => {}
            Effect::Reset => self.nic.reset(),
        }
        Ok(Vec::new())
    }

    /// Tells of the adapter's level, by a message when it rises or by the pin as long as it is up.
    fn interrupt(&mut self) {
        let rise = self.nic.take_rise();
        let interrupts = self.server.interrupts_mut();
        let (index, tell) = if interrupts.is_enabled(irq::MSI) {
            (irq::MSI, rise)
        } else {
            (irq::INTX, self.nic.level())
        };
        if tell && let Some(event) = interrupts.raise(index, 0) {
            events::signal(event);
        }
        while let Some(event) = interrupts.take_pending(irq::MSI) {
            events::signal(event);
        }
    }
}
