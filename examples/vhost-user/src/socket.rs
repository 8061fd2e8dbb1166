//! Messages and descriptors over a stream socket.

use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, bail, ensure};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use vhost_user::{Header, REGIONS_MAX, Reply, Request};

/// One end of a connection.
#[derive(Debug)]
pub struct Socket(UnixStream);

/// A request as it came.
#[derive(Debug)]
pub struct Received {
    /// What is asked.
    pub request: Request,
    /// Whether an answer is wanted in any case.
    pub needs_reply: bool,
    /// What came along.
    pub descriptors: Vec<OwnedFd>,
}

impl Socket {
    /// Takes a connection.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// The next request; `None` once the front end has gone. Waits for all of it.
    ///
    /// # Errors
    ///
    /// Fails when the bytes are none of the protocol's.
    pub fn receive(&mut self) -> Result<Option<Received>> {
        let Some((header, descriptors)) = self.header()? else {
            return Ok(None);
        };
        let payload = self.payload(&header)?;
        let request = Request::decode(&header, &payload, descriptors.len())?;
        Ok(Some(Received {
            request,
            needs_reply: header.needs_reply,
            descriptors,
        }))
    }

    /// Sends bytes with descriptors.
    ///
    /// # Errors
    ///
    /// Fails when the other end has gone.
    pub fn send(&mut self, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(REGIONS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
            ensure!(fits, "at most {REGIONS_MAX} descriptors in a message");
        }
        let sent = sendmsg(
            &self.0,
            &[IoSlice::new(message)],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        ensure!(sent == message.len(), "a message goes out whole");
        Ok(())
    }

    /// Asks, and waits for the answer if the request has one.
    ///
    /// # Errors
    ///
    /// Fails when the other end has gone or answers something else.
    pub fn ask(&mut self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<Reply> {
        self.send(&request.encode(false), descriptors)?;
        if !request.has_answer() {
            return Ok(Reply::Number(0));
        }
        let Some((header, _)) = self.header()? else {
            bail!("the back end has gone");
        };
        let payload = self.payload(&header)?;
        Ok(Reply::decode(request.code(), &header, &payload)?)
    }

    /// Descriptors come with the first byte of a message.
    fn header(&mut self) -> Result<Option<(Header, Vec<OwnedFd>)>> {
        let mut bytes = [0; Header::LENGTH];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(REGIONS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.0,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        if received.bytes == 0 {
            return Ok(None);
        }
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        self.0.read_exact(&mut bytes[received.bytes..])?;
        let header = Header::decode(bytes).context("header of a message")?;
        Ok(Some((header, descriptors)))
    }

    fn payload(&mut self, header: &Header) -> io::Result<Vec<u8>> {
        let mut payload = vec![0; header.size];
        self.0.read_exact(&mut payload)?;
        Ok(payload)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
