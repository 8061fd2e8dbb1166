//! A disk of bytes under a log: what goes wrong with it goes wrong with the bytes, and recovery has to tell.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::rng::Rng;
use crate::wal::{Fault, Found, Memory, Recovery, Storage, Wal};
use crate::{Boot, Position, Write};

const SEGMENT_BYTES: u64 = 4096;
const HEADER_BYTES: u64 = 160;
const GOOD: &str = "a disk in memory";

#[derive(Debug)]
pub(super) struct Bytes {
    /// `None` only while it is opened.
    wal: Option<Wal<Memory>>,
    rng: Rng,
}

impl Bytes {
    pub(super) fn new(boot: &Boot, seed: u64) -> Self {
        let wal = Wal::create(Memory::default(), SEGMENT_BYTES, boot).expect(GOOD);
        Self {
            wal: Some(wal),
            rng: Rng(seed),
        }
    }

    /// All of them in one commit.
    pub(super) fn store(&mut self, writes: &[Write]) {
        let wal = self.wal.as_mut().expect(GOOD);
        for write in writes {
            wal.append(write.clone()).expect(GOOD);
        }
        wal.sync().expect(GOOD);
    }

    /// The power goes while `writes` are on their way, or the disk is full or broken, and then the power goes.
    pub(super) fn crash(&mut self, writes: &[Write]) -> Result<Recovery, String> {
        let mut wal = self.wal.take().expect(GOOD);
        let fault = [Fault::NoSpace, Fault::Failed][usize::from(self.rng.below(2) == 0)];
        wal.storage_mut().fail(self.rng.below(6), fault);
        for write in writes {
            wal.append(write.clone()).expect(GOOD);
        }
        let _failed = wal.sync().is_err();
        let mut disk = wal.into_storage();
        disk.crash(self.rng.next());
        self.open(disk)
    }

    /// Something happens to the entry at `at` in one of a segment's two files.
    pub(super) fn rot(&mut self, at: Position) -> Result<Recovery, String> {
        let mut disk = self.wal.take().expect(GOOD).into_storage();
        let before = Recovery::read(&disk).map_err(|error| format!("no log: {error}"))?;
        let mut records = before.segments.iter().flat_map(|segment| {
            let places = segment.records.iter();
            places.map(|found| (segment.number, *found))
        });
        let last = records.rfind(|(_, found)| found.at == at);
        if let Some((segment, found)) = last {
            self.damage(&mut disk, segment, &found);
        }
        self.open(disk)
    }

    fn damage(&mut self, disk: &mut Memory, segment: u64, found: &Found) {
        let log = format!("{segment:016x}.log");
        let ids = format!("{segment:016x}.ids");
        let bytes = HEADER_BYTES + found.length;
        match self.rng.below(4) {
            0 => disk.flip(&log, 8 * found.offset + self.rng.below(8 * bytes)),
            1 => {
                let bits = 8 * disk.len(&ids).unwrap_or(1);
                disk.flip(&ids, self.rng.below(bits));
            }
            // The write was lost, or another one came here.
            kind => {
                let mut other: Vec<u8> = vec![0; usize::try_from(bytes).unwrap_or(0)];
                if kind == 3 {
                    disk.read(&log, 0, &mut other).expect(GOOD);
                }
                disk.write(&log, found.offset, &other).expect(GOOD);
                disk.sync(&log).expect(GOOD);
            }
        }
    }

    fn open(&mut self, disk: Memory) -> Result<Recovery, String> {
        let (wal, recovery) =
            Wal::open(disk, SEGMENT_BYTES).map_err(|error| format!("no log: {error}"))?;
        self.wal = Some(wal);
        Ok(recovery)
    }
}
