//! The host's network as the other end of the cable, through a tap device.
#![expect(
    unsafe_code,
    reason = "a tap device gets its name by an ioctl; this module holds the one call"
)]

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use crate::board::Wire;

/// One end of a tap device. Frames come whole: no headers of the host's, no segmentation offload.
#[derive(Debug)]
pub struct Tap {
    device: File,
    look_at: u64,
    lost: u64,
}

/// Why there is no tap device.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The name is empty, longer than an interface's, or has a zero in it.
    #[error("{name:?} cannot be the name of an interface")]
    Name {
        /// The name.
        name: String,
    },
    /// The host has no such driver, or does not let us.
    #[error("/dev/net/tun cannot be opened")]
    Open(#[source] io::Error),
    /// The interface is in use, is no tap device, or must be made by somebody with the right to:
    /// `ip tuntap add dev NAME mode tap user USER`.
    #[error(
        "no use of the tap device {name}: it needs CAP_NET_ADMIN, or `ip tuntap add dev {name} mode tap user $USER` by root"
    )]
    Attach {
        /// The name.
        name: String,
        /// What the host says.
        #[source]
        source: io::Error,
    },
}

impl Tap {
    /// Attaches to the tap device `name`, which is made if there is none and the host lets us.
    ///
    /// # Errors
    ///
    /// Says what the host does not allow.
    pub fn open(name: &str) -> Result<Self, TapError> {
        let request = request(name).ok_or_else(|| TapError::Name { name: name.into() })?;
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .map_err(TapError::Open)?;
        // SAFETY: `device` is open for the call, and TUNSETIFF reads and writes one `ifreq`, which
        // `request` is.
        let answer = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &request) };
        if answer < 0 {
            return Err(TapError::Attach {
                name: name.into(),
                source: io::Error::last_os_error(),
            });
        }
        Ok(Self {
            device,
            look_at: 0,
            lost: 0,
        })
    }

    /// Frames that the host did not take.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

impl Wire for Tap {
    fn send(&mut self, frame: &[u8], _: u64) {
        // A full queue loses frames, as does an interface that is down.
        self.lost += u64::from(self.device.write(frame).is_err());
    }

    fn advance(&mut self, now: u64, frames: &mut VecDeque<Vec<u8>>) {
        self.look_at = now.saturating_add(LOOK_NS);
        let mut frame = [0; FRAME_MAX];
        for _ in 0..FRAMES_AT_ONCE {
            match self.device.read(&mut frame) {
                Ok(length) => frames.push_back(frame[..length].to_vec()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    }

    fn next_deadline(&self) -> Option<u64> {
        Some(self.look_at)
    }
}

fn request(name: &str) -> Option<libc::ifreq> {
    let fits = !name.is_empty() && name.len() < libc::IFNAMSIZ && !name.contains('\0');
    let flags = i16::try_from(libc::IFF_TAP | libc::IFF_NO_PI).ok()?;
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags },
    };
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte.cast_signed();
    }
    fits.then_some(request)
}

/// How long the board waits until it looks for frames again.
const LOOK_NS: u64 = 500_000;
/// Frames taken at one look.
const FRAMES_AT_ONCE: usize = 64;
/// Bytes of the longest frame that is looked at.
const FRAME_MAX: usize = 65_553;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_interface_has_are_refused() {
        for name in ["", "sixteen-letters-", "a\0b"] {
            assert!(matches!(Tap::open(name), Err(TapError::Name { .. })));
        }
    }

    #[test]
    fn a_device_that_is_not_ours_is_refused_by_name() {
        // The loopback interface is there and is no tap device; without rights the answer is the same.
        match Tap::open("lo") {
            Err(TapError::Attach { name, .. }) => assert_eq!(name, "lo"),
            Err(TapError::Open(error)) => eprintln!("skipped: no /dev/net/tun: {error}"),
            other => panic!("{other:?}"),
        }
    }
}
