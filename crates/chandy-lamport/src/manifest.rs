//! What a whole snapshot is made of, and its bytes.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use crate::SnapshotId;
use crate::recovery::ID_MAX;

/// A task of a job: one of the parallel instances of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Task {
    /// The operator.
    pub operator: u32,
    /// Which of its instances, from 0.
    pub subtask: u32,
}

/// A file of a snapshot, which later snapshots may share.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct File {
    /// Its name in the storage: letters, digits, `-`, `_` and `.`, at most [`NAME_MAX`] of them, not a dot first.
    pub name: String,
    /// The snapshot that wrote it.
    pub since: u64,
    /// How long it is.
    pub length: u64,
    /// XXH3 of its bytes.
    pub checksum: u64,
}

/// What one task adds to a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Part {
    /// The key groups whose state it has.
    pub groups: Range<u32>,
    /// The state: a base, and what changed since, in this order.
    pub state: Vec<File>,
    /// What was recorded of its channels.
    pub channels: Vec<File>,
    /// Of a source: where it goes on.
    pub cursor: Vec<u8>,
    /// Of a sink: what it has prepared and not committed, of earlier snapshots too.
    pub transactions: Vec<u8>,
}

/// A whole snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Manifest {
    /// Which one.
    pub id: u64,
    /// How many key groups the job has.
    pub key_groups: u32,
    /// The parts of all tasks.
    pub parts: Vec<(Task, Part)>,
}

/// Bytes that are no manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Too short, or something else at its beginning.
    #[error("not a manifest")]
    Magic,
    /// A version that this one does not know.
    #[error("version {0} of the format is not known")]
    Version(u8),
    /// The bytes are not those that were written.
    #[error("the checksum does not fit")]
    Checksum,
    /// The checksum fits, but what it says cannot be.
    #[error("not well formed")]
    Form,
    /// A name that could lead out of the storage.
    #[error("the name of a file is not allowed")]
    Name,
    /// Two parts of one task.
    #[error("task {}.{} has two parts", .0.operator, .0.subtask)]
    Twice(Task),
}

impl File {
    /// What is to be known of these bytes.
    #[must_use]
    pub fn of(name: String, since: SnapshotId, bytes: &[u8]) -> Self {
        Self {
            name,
            since: since.0,
            length: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            checksum: XxHash3_64::oneshot(bytes),
        }
    }

    /// Whether these are its bytes.
    #[must_use]
    pub fn matches(&self, bytes: &[u8]) -> bool {
        u64::try_from(bytes.len()) == Ok(self.length) && XxHash3_64::oneshot(bytes) == self.checksum
    }
}

impl Part {
    /// All its files.
    pub fn files(&self) -> impl Iterator<Item = &File> {
        self.state.iter().chain(&self.channels)
    }
}

impl Manifest {
    /// The name under which a snapshot's manifest is stored: sorted by name they are sorted by number.
    #[must_use]
    pub fn name(id: SnapshotId) -> String {
        format!("{PREFIX}{:020}", id.0)
    }

    /// The snapshot whose manifest has this name.
    #[must_use]
    pub fn id_of(name: &str) -> Option<SnapshotId> {
        let digits = name.strip_prefix(PREFIX)?;
        let id = digits.parse().ok().map(SnapshotId)?;
        (id.0 < ID_MAX && Self::name(id) == name).then_some(id)
    }

    /// Its bytes: `CLMF`, the version, postcard's encoding, and XXH3 of all that in little-endian order.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::from(*MAGIC);
        bytes.push(VERSION);
        // A vector takes any number of bytes, and nothing here has a length that is not known.
        bytes = postcard::to_extend(self, bytes).unwrap_or_default();
        let checksum = XxHash3_64::oneshot(&bytes);
        bytes.extend(checksum.to_le_bytes());
        bytes
    }

    /// From its bytes.
    ///
    /// # Errors
    ///
    /// Anything but what [`to_bytes`](Self::to_bytes) made.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ManifestError> {
        let (body, checksum) = bytes.split_last_chunk().ok_or(ManifestError::Magic)?;
        if !body.starts_with(MAGIC) {
            return Err(ManifestError::Magic);
        }
        if XxHash3_64::oneshot(body) != u64::from_le_bytes(*checksum) {
            return Err(ManifestError::Checksum);
        }
        Self::parse(body)
    }

    /// From all but the checksum.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ManifestError> {
        match body.get(MAGIC.len()) {
            Some(&VERSION) => {}
            other => return Err(ManifestError::Version(other.copied().unwrap_or(0))),
        }
        let (manifest, rest): (Self, _) =
            postcard::take_from_bytes(&body[MAGIC.len() + 1..]).map_err(|_| ManifestError::Form)?;
        if !rest.is_empty() {
            return Err(ManifestError::Form);
        }
        manifest.validate()?;
        Ok(manifest)
    }

    fn validate(&self) -> Result<(), ManifestError> {
        let mut tasks = BTreeSet::new();
        for (task, part) in &self.parts {
            if !tasks.insert(task) {
                return Err(ManifestError::Twice(*task));
            }
            if part.groups.start > part.groups.end || part.groups.end > self.key_groups {
                return Err(ManifestError::Form);
            }
            if part.files().any(|file| !is_allowed(&file.name)) {
                return Err(ManifestError::Name);
            }
        }
        Ok(())
    }

    /// All its files.
    pub fn files(&self) -> impl Iterator<Item = &File> {
        self.parts.iter().flat_map(|(_, part)| part.files())
    }

    /// The part of a task.
    #[must_use]
    pub fn part(&self, task: Task) -> Option<&Part> {
        let mut parts = self.parts.iter();
        parts.find(|(of, _)| *of == task).map(|(_, part)| part)
    }
}

/// Whether a name stays in the storage.
fn is_allowed(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=NAME_MAX).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(allowed)
}

/// The longest name of a file, in bytes.
pub const NAME_MAX: usize = 200;
const MAGIC: &[u8; 4] = b"CLMF";
const VERSION: u8 = 1;
const PREFIX: &str = "manifest-";
