//! Runs: sorted elements on disk, in checksummed blocks with a 32-bit little-endian length before each.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::block::{BlockError, decode, encode};
use crate::data::Data;
use crate::task::TaskError;

/// A finished run in a temporary file, which goes when this does.
pub(crate) struct RunFile {
    file: tempfile::NamedTempFile,
}

impl RunFile {
    /// Writes a run in the order given.
    pub(crate) fn write<T: Data>(folder: &Path, values: &[T]) -> Result<Self, TaskError> {
        let spill = |source| TaskError::Spill {
            path: folder.to_owned(),
            source,
        };
        let file = tempfile::Builder::new()
            .prefix("rdd-run-")
            .tempfile_in(folder)
            .map_err(spill)?;
        let mut writer = BufWriter::new(file.as_file());
        for chunk in values.chunks(CHUNK) {
            let block = encode(chunk);
            let length = u32::try_from(block.len())
                .map_err(|_| spill(io::Error::from(io::ErrorKind::FileTooLarge)))?;
            writer.write_all(&length.to_le_bytes()).map_err(spill)?;
            writer.write_all(&block).map_err(spill)?;
        }
        writer.flush().map_err(spill)?;
        drop(writer);
        Ok(Self { file })
    }

    /// Reads it from the start.
    pub(crate) fn read<T: Data>(&self) -> Result<RunReader<T, BufReader<File>>, TaskError> {
        let path = self.file.path();
        let file = File::open(path).map_err(|source| TaskError::Spill {
            path: path.to_owned(),
            source,
        })?;
        Ok(RunReader::new(BufReader::new(file), path.to_owned()))
    }
}

/// Elements of a run, one block in memory at a time.
#[derive(Debug)]
pub struct RunReader<T, R> {
    from: R,
    path: PathBuf,
    block: std::vec::IntoIter<T>,
    over: bool,
}

impl<T: Data, R: Read> RunReader<T, R> {
    /// Reads the run in `from`; `path` is for errors only.
    pub fn new(from: R, path: PathBuf) -> Self {
        Self {
            from,
            path,
            block: Vec::new().into_iter(),
            over: false,
        }
    }

    fn block(&mut self) -> Result<Option<Vec<T>>, TaskError> {
        let spill = |source| TaskError::Spill {
            path: self.path.clone(),
            source,
        };
        let mut length = [0; 4];
        let mut found = 0;
        while found < 4 {
            match self.from.read(&mut length[found..]).map_err(spill)? {
                0 if found == 0 => return Ok(None),
                0 => return Err(BlockError::Truncated { length: found }.into()),
                n => found += n,
            }
        }
        let length = u32::from_le_bytes(length);
        // The length is not believed before the bytes are there.
        let mut bytes = Vec::new();
        self.from
            .by_ref()
            .take(u64::from(length))
            .read_to_end(&mut bytes)
            .map_err(spill)?;
        Ok(Some(decode(&bytes)?))
    }
}

impl<T: Data, R: Read> Iterator for RunReader<T, R> {
    type Item = Result<T, TaskError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(value) = self.block.next() {
                return Some(Ok(value));
            }
            if self.over {
                return None;
            }
            match self.block() {
                Ok(Some(block)) => self.block = block.into_iter(),
                Ok(None) => self.over = true,
                Err(error) => {
                    self.over = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

const CHUNK: usize = 1024;
