//! A folder of files.

use std::fs::{self, File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::{Storage, StorageError};

/// A folder whose files are synced with `fdatasync` and, when new, with their folder. The lock against a second process is
/// the caller's.
#[derive(Debug)]
pub struct Files {
    folder: PathBuf,
    /// Those that were written, and whether the folder knows them durably.
    open: BTreeMap<String, (File, bool)>,
}

impl Files {
    /// The log in `folder`, which must exist.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_path_buf(),
            open: BTreeMap::new(),
        }
    }

    fn sync_folder(&self) -> Result<(), StorageError> {
        Ok(File::open(&self.folder)?.sync_all()?)
    }
}

impl Storage for Files {
    fn list(&self) -> Result<Vec<String>, StorageError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    fn len(&self, name: &str) -> Result<u64, StorageError> {
        Ok(fs::metadata(self.folder.join(name))?.len())
    }

    fn read(&self, name: &str, offset: u64, bytes: &mut [u8]) -> Result<(), StorageError> {
        let mut file = File::open(self.folder.join(name))?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(file.read_exact(bytes)?)
    }

    fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        if !self.open.contains_key(name) {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false);
            let file = options.open(self.folder.join(name))?;
            self.open.insert(name.to_string(), (file, false));
        }
        let (file, _) = self.open.get_mut(name).ok_or(StorageError::NotFound)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(file.write_all(bytes)?)
    }

    fn sync(&mut self, name: &str) -> Result<(), StorageError> {
        let (file, known) = self.open.get_mut(name).ok_or(StorageError::NotFound)?;
        file.sync_data()?;
        if !core::mem::replace(known, true) {
            self.sync_folder()?;
        }
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<(), StorageError> {
        self.open.remove(name);
        fs::remove_file(self.folder.join(name))?;
        self.sync_folder()
    }
}

impl From<Error> for StorageError {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::StorageFull => Self::NoSpace,
            _ => Self::Failed {
                code: error.raw_os_error().unwrap_or(0),
            },
        }
    }
}
