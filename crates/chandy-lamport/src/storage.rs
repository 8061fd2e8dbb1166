//! Where snapshots are kept.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::convert::Infallible;

/// Named files that are written once.
pub trait Storage {
    /// What can go wrong.
    type Error;

    /// Writes a file. Once this returns it survives a crash; before that it may be absent, whole or torn.
    ///
    /// # Errors
    ///
    /// Whatever the storage says: no room, no rights, no answer.
    fn put(&mut self, name: &str, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Reads a file, or nothing if there is none of this name.
    ///
    /// # Errors
    ///
    /// Whatever the storage says, but that there is no such file.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Self::Error>;

    /// The names of all files, in any order.
    ///
    /// # Errors
    ///
    /// Whatever the storage says.
    fn names(&self) -> Result<Vec<String>, Self::Error>;

    /// Removes a file, if it is there.
    ///
    /// # Errors
    ///
    /// Whatever the storage says.
    fn delete(&mut self, name: &str) -> Result<(), Self::Error>;
}

/// A storage that lasts as long as the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MemoryStorage {
    files: BTreeMap<String, Vec<u8>>,
}

impl MemoryStorage {
    /// How many bytes it has.
    #[must_use]
    pub fn size(&self) -> usize {
        self.files.values().map(Vec::len).sum()
    }
}

impl Storage for MemoryStorage {
    type Error = Infallible;

    fn put(&mut self, name: &str, bytes: &[u8]) -> Result<(), Infallible> {
        self.files.insert(name.into(), bytes.into());
        Ok(())
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Infallible> {
        Ok(self.files.get(name).cloned())
    }

    fn names(&self) -> Result<Vec<String>, Infallible> {
        Ok(self.files.keys().cloned().collect())
    }

    fn delete(&mut self, name: &str) -> Result<(), Infallible> {
        self.files.remove(name);
        Ok(())
    }
}
