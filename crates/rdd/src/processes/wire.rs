//! What driver and workers tell each other.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToWorker {
    Run {
        attempt: u64,
        stage: usize,
        partition: usize,
        places: Vec<Place>,
    },
    Cancel {
        attempt: u64,
    },
}

/// Where the blocks of a map task lie.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) shuffle: u64,
    pub(super) map: usize,
    pub(super) path: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromWorker {
    Ready {
        fingerprint: u64,
    },
    Progress {
        attempt: u64,
        records: u64,
    },
    Done {
        attempt: u64,
        records: u64,
        digest: u64,
        result: Vec<u8>,
    },
    Lost {
        attempt: u64,
        shuffle: u64,
        map: usize,
    },
    Failed {
        attempt: u64,
        message: String,
    },
}

pub(super) fn send(to: &mut impl Write, what: &impl Serialize) -> io::Result<()> {
    let bytes = postcard::to_stdvec(what).map_err(io::Error::other)?;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&bytes)?;
    to.flush()
}

/// `None` at the end.
pub(super) fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u64::from(u32::from_le_bytes(length));
    let mut bytes = Vec::new();
    from.take(length).read_to_end(&mut bytes)?;
    postcard::from_bytes(&bytes)
        .map(Some)
        .map_err(io::Error::other)
}
