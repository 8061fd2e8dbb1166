//! Messages with descriptors over a stream socket.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use vfio_user_protocol::{FDS_MAX, Header};

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Socket(UnixStream);

/// A message as it came.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) header: Header,
    pub(crate) payload: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl Socket {
    /// A message that has begun is to be there whole after a while, else the connection is no use.
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    pub(crate) fn send(&mut self, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX as usize))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
            ensure!(fits, "at most {FDS_MAX} descriptors in a message");
        }
        let slices = [IoSlice::new(message)];
        let sent = sendmsg(&self.0, &slices, &mut control, SendFlags::NOSIGNAL)?;
        // Descriptors have gone with the first byte.
        self.0.write_all(&message[sent..])?;
        Ok(())
    }

    /// The next message; `None` once the other end has gone. Waits for the rest of a message that has begun.
    pub(crate) fn receive(&mut self) -> Result<Option<Received>> {
        let mut bytes = [0; Header::LENGTH];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX as usize))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let received = recvmsg(&self.0, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC);
        let received = match received.map_err(io::Error::from) {
            Ok(received) if received.bytes == 0 => return Ok(None),
            Ok(received) => received,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        self.0.read_exact(&mut bytes[received.bytes..])?;
        let header = Header::decode(bytes).context("the header of a message")?;
        let mut payload = vec![0; header.size];
        self.0.read_exact(&mut payload)?;
        Ok(Some(Received {
            header,
            payload,
            descriptors,
        }))
    }

    /// Waits until a message has begun, for `limit` at most; without one, until then.
    pub(crate) fn wait(&self, limit: Option<Duration>) -> io::Result<bool> {
        let limit = limit.map(|limit| Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        });
        let mut polled = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut polled, limit.as_ref()) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// How long an end may take for the rest of a message.
const PATIENCE: Duration = Duration::from_secs(5);
