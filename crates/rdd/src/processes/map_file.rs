//! The output of a map task: for each partition a 64-bit little-endian end offset, then the blocks.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::data::ShuffleId;
use crate::scheduler::AttemptId;

pub(super) fn path(folder: &Path, shuffle: ShuffleId, map: usize, attempt: AttemptId) -> PathBuf {
    folder.join(format!("{}-{map}-{}", shuffle.0, attempt.0))
}

pub(super) fn write(path: &Path, blocks: &[Vec<u8>]) -> io::Result<()> {
    let mut file = io::BufWriter::new(File::create(path)?);
    let mut end = 8 * blocks.len() as u64;
    for block in blocks {
        end += block.len() as u64;
        file.write_all(&end.to_le_bytes())?;
    }
    blocks.iter().try_for_each(|block| file.write_all(block))?;
    file.flush()
}

/// The bytes of one block, not yet checked.
pub(super) fn read(path: &Path, reduce: usize, reduces: usize) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut ends = vec![0; 8 * reduces];
    file.read_exact(&mut ends)?;
    let end = |i: usize| u64::from_le_bytes(ends[8 * i..8 * i + 8].try_into().expect("8 bytes"));
    let from = if reduce == 0 {
        ends.len() as u64
    } else {
        end(reduce - 1)
    };
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(end(reduce).saturating_sub(from))
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}
