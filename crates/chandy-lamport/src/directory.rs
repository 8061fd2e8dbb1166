//! A folder as storage.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::Storage;

/// Files of a folder. Each is written under another name first, synchronized, and renamed; the folder is synchronized
/// after that.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// This folder, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        Ok(Self(path.into()))
    }

    fn synchronize(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

impl Storage for Directory {
    type Error = io::Error;

    fn put(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let unfinished = self.0.join([UNFINISHED, name].concat());
        let written = write(&unfinished, bytes)
            .and_then(|()| fs::rename(&unfinished, self.0.join(name)))
            .and_then(|()| self.synchronize());
        if written.is_err() {
            // It may never have been made; the error to tell is the first one.
            _ = fs::remove_file(&unfinished);
        }
        written
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.0.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        }
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let name = entry?.file_name();
            let name = Path::new(&name).file_name().and_then(OsStr::to_str);
            names.extend(name.map(ToString::to_string));
        }
        Ok(names)
    }

    fn delete(&mut self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.0.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            deleted => deleted,
        }
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

const UNFINISHED: &str = "unfinished-";
