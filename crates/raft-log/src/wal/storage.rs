//! What the log asks of a disk.

use alloc::string::String;
use alloc::vec::Vec;

/// Named files. Nothing is promised about a write before [`sync`](Self::sync) has returned.
pub trait Storage {
    /// Every file's name, in any order.
    ///
    /// # Errors
    ///
    /// [`StorageError`] as the disk has it; so for all of these.
    fn list(&self) -> Result<Vec<String>, StorageError>;

    /// A file's length in bytes.
    ///
    /// # Errors
    ///
    /// [`StorageError::NotFound`] if there is no such file.
    fn len(&self, name: &str) -> Result<u64, StorageError>;

    /// Fills `bytes` from `offset` on.
    ///
    /// # Errors
    ///
    /// [`StorageError`], also where the file ends before `bytes` does.
    fn read(&self, name: &str, offset: u64, bytes: &mut [u8]) -> Result<(), StorageError>;

    /// Writes all of `bytes` at `offset`; creates and lengthens the file.
    ///
    /// # Errors
    ///
    /// [`StorageError`]; any part of `bytes` may have been written.
    fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), StorageError>;

    /// Makes the file durable: its bytes, its length, and that it exists.
    ///
    /// # Errors
    ///
    /// [`StorageError`]; any part of what was written since the last success may be lost, and a second call may not
    /// notice.
    fn sync(&mut self, name: &str) -> Result<(), StorageError>;

    /// Removes the file, durably.
    ///
    /// # Errors
    ///
    /// [`StorageError`]; the file may be there or not.
    fn remove(&mut self, name: &str) -> Result<(), StorageError>;
}

/// What a disk says when it cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// No such file.
    #[error("no such file")]
    NotFound,
    /// ENOSPC.
    #[error("no space is left")]
    NoSpace,
    /// EIO and everything else.
    #[error("the disk failed with error {code}")]
    Failed {
        /// The operating system's number, 0 if it has none.
        code: i32,
    },
}
