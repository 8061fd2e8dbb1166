//! Text files as datasets.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::context::Context;
use crate::data::Data;
use crate::rdd::{BATCH, Rdd, Reader, Sink};
use crate::task::{Halt, TaskContext, TaskError};

impl Context {
    /// The lines of a file, in `partitions` splits: a line belongs to the split its first byte is in. The file is
    /// opened when a task runs; it must not change while datasets made from it are used.
    ///
    /// An action fails when the file cannot be read, or where a line is not UTF-8.
    ///
    /// # Panics
    ///
    /// When `partitions` is 0.
    pub fn text_file(&self, path: impl AsRef<Path>, partitions: usize) -> Rdd<String> {
        self.lines(Arc::new(path.as_ref().to_owned()), partitions)
    }

    /// As [`Self::text_file`], with `f` of each line: no line is copied unless `f` does.
    ///
    /// # Panics
    ///
    /// When `partitions` is 0.
    pub fn text_lines<T: Data>(
        &self,
        path: impl AsRef<Path>,
        partitions: usize,
        f: impl Fn(&str) -> T + Send + Sync + 'static,
    ) -> Rdd<T> {
        assert!(partitions > 0, "a dataset has at least one partition");
        let path = path.as_ref().to_owned();
        self.rdd(
            "textFile",
            partitions,
            vec![],
            None,
            move |p, task, sink| split(&path, (p, partitions), task, &f, sink),
        )
    }

    pub(crate) fn lines(&self, bytes: Arc<dyn Bytes>, partitions: usize) -> Rdd<String> {
        assert!(partitions > 0, "a dataset has at least one partition");
        let lent = bytes.clone();
        let mut lines = self.rdd(
            "textFile",
            partitions,
            vec![],
            None,
            move |p, task, sink| split(&*bytes, (p, partitions), task, &str::to_owned, sink),
        );
        lines.lend = Some(Arc::new(move |p, task, reader| {
            lend(&*lent, (p, partitions), task, reader)
        }));
        lines
    }
}

/// Bytes that lines are read from.
pub(crate) trait Bytes: Send + Sync {
    /// What errors call it.
    fn path(&self) -> PathBuf;
    /// How many there are.
    fn length(&self) -> io::Result<u64>;
    /// Those from `at` on.
    fn open(&self, at: u64) -> io::Result<Box<dyn Read>>;
}

impl Bytes for PathBuf {
    fn path(&self) -> PathBuf {
        self.clone()
    }

    fn length(&self) -> io::Result<u64> {
        Ok(std::fs::metadata(self)?.len())
    }

    fn open(&self, at: u64) -> io::Result<Box<dyn Read>> {
        let mut file = File::open(self)?;
        file.seek(SeekFrom::Start(at))?;
        Ok(Box::new(file))
    }
}

/// The split `p` of `of`.
pub(crate) fn split<T: Data>(
    bytes: &dyn Bytes,
    (p, of): (usize, usize),
    task: &TaskContext<'_>,
    f: &dyn Fn(&str) -> T,
    sink: Sink<'_, T>,
) -> Result<(), Halt> {
    let mut batch = Vec::with_capacity(BATCH);
    each_line(bytes, (p as u64, of as u64), |line| {
        batch.push(f(line));
        if batch.len() == BATCH {
            task.took(BATCH)?;
            sink(std::mem::replace(&mut batch, Vec::with_capacity(BATCH)))?;
        }
        Ok(())
    })?;
    task.took(batch.len())?;
    sink(batch)
}

/// As [`split`] for readers that only look: the memory of a batch's lines is used for the next.
pub(crate) fn lend(
    bytes: &dyn Bytes,
    (p, of): (usize, usize),
    task: &TaskContext<'_>,
    reader: Reader<'_, String>,
) -> Result<(), Halt> {
    let (mut lines, mut filled) = (vec![String::new(); LENT], 0);
    each_line(bytes, (p as u64, of as u64), |line| {
        lines[filled].clear();
        lines[filled].push_str(line);
        filled += 1;
        if filled == LENT {
            filled = 0;
            task.took(LENT)?;
            reader(&lines)?;
        }
        Ok(())
    })?;
    task.took(filled)?;
    reader(&lines[..filled])
}

fn each_line(
    bytes: &dyn Bytes,
    (p, of): (u64, u64),
    mut f: impl FnMut(&str) -> Result<(), Halt>,
) -> Result<(), Halt> {
    let failed = |source: io::Error| TaskError::Source {
        path: bytes.path(),
        source,
    };
    let length = bytes.length().map_err(failed)?;
    let bound = |i: u64| {
        u64::try_from(u128::from(length) * u128::from(i) / u128::from(of)).unwrap_or(length)
    };
    let (mut at, end) = (bound(p), bound(p + 1));
    // The byte before tells whether a line begins here.
    let from = bytes.open(at.saturating_sub(1)).map_err(failed)?;
    let mut reader = BufReader::with_capacity(READ_BYTES, from);
    if at > 0 {
        at -= 1;
        at += reader.skip_until(b'\n').map_err(failed)? as u64;
    }
    let mut line = Vec::new();
    while at < end {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).map_err(failed)?;
        if read == 0 {
            break;
        }
        let ending = if line.ends_with(b"\r\n") {
            2
        } else {
            usize::from(line.ends_with(b"\n"))
        };
        let text =
            std::str::from_utf8(&line[..line.len() - ending]).map_err(|_| TaskError::NotUtf8 {
                path: bytes.path(),
                offset: at,
            })?;
        f(text)?;
        at += read as u64;
    }
    Ok(())
}

/// Lines lent together: they stay in the second-level cache.
const LENT: usize = 256;
const READ_BYTES: usize = 256 * 1024;
