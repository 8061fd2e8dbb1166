//! Files as sources and sinks.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::{Output, Poll, Source, TaskError};

/// The lines of a file, each without its end. A file that grows can be followed.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    reader: Option<BufReader<File>>,
    /// Where the next line begins.
    offset: u64,
    follow: bool,
    line: Vec<u8>,
}

impl Lines {
    /// All lines of a file, also a last one without an end. The file is opened at the first read.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        Self {
            path: path.into(),
            reader: None,
            offset: 0,
            follow: false,
            line: Vec::new(),
        }
    }

    /// The lines of a file that grows: at its end there are none for now, and a line without an end is not one yet.
    #[must_use]
    pub fn follow(path: &Path) -> Self {
        Self {
            follow: true,
            ..Self::of(path)
        }
    }

    /// The next line, if it is whole.
    fn line(&mut self) -> io::Result<Option<String>> {
        if self.reader.is_none() {
            let mut file = File::open(&self.path)?;
            if file.metadata()?.len() < self.offset {
                let text = format!("shorter than when it was read to byte {}", self.offset);
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
            file.seek(SeekFrom::Start(self.offset))?;
            self.reader = Some(BufReader::with_capacity(BUFFER, file));
        }
        let Some(reader) = &mut self.reader else {
            return Ok(None);
        };
        // What was read of a line that is not whole stays in `line`.
        let read = reader.read_until(b'\n', &mut self.line)?;
        let whole = self.line.ends_with(b"\n");
        if self.line.is_empty() || (read == 0 && self.follow) || (!whole && self.follow) {
            return Ok(None);
        }
        self.offset += u64::try_from(self.line.len()).unwrap_or(0);
        let end = self.line.len() - usize::from(whole);
        let line = String::from_utf8_lossy(&self.line[..end]).into_owned();
        self.line.clear();
        Ok(Some(line))
    }
}

impl Source for Lines {
    type Item = String;

    fn read(&mut self, records: &mut Vec<String>, max: usize) -> Result<Poll, TaskError> {
        while records.len() < max {
            let line = self.line();
            let what = || format!("reading {}", self.path.display());
            match line.map_err(|error| TaskError::io(what())(error))? {
                Some(line) => records.push(line),
                None => break,
            }
        }
        Ok(match (records.is_empty(), self.follow) {
            (false, _) => Poll::Emitted,
            (true, true) => Poll::Idle,
            (true, false) => Poll::Ended,
        })
    }

    fn cursor(&self) -> Vec<u8> {
        self.offset.to_le_bytes().to_vec()
    }

    fn seek(&mut self, cursor: &[u8]) -> Result<(), TaskError> {
        let offset = cursor.try_into().map_err(|_| TaskError::Snapshot)?;
        self.offset = u64::from_le_bytes(offset);
        self.reader = None;
        self.line.clear();
        Ok(())
    }
}

/// A file that a sink writes each record to once.
#[derive(Debug)]
pub struct FileOutput {
    path: PathBuf,
    file: Option<File>,
}

impl FileOutput {
    /// This file, which is made at the first write if it is not there.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.into(),
            file: None,
        }
    }

    fn file(&mut self) -> io::Result<&File> {
        if self.file.is_none() {
            let mut options = OpenOptions::new();
            // What is there may be the output of before a crash.
            let options = options.write(true).create(true).truncate(false);
            self.file = Some(options.open(&self.path)?);
        }
        self.file
            .as_ref()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Output for FileOutput {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.file()?;
        file.write_all_at(bytes, offset)?;
        file.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let file = self.file()?;
        if file.metadata()?.len() > length {
            file.set_len(length)?;
            file.sync_data()?;
        }
        Ok(())
    }
}

const BUFFER: usize = 64 << 10;
