//! The durable log against a plain image of what it was told, on a disk that crashes, lies and rots.
#![cfg(feature = "wal")]

use std::sync::Arc;

use proptest::prelude::*;
use raft_log::wal::{Fault, Memory, Recovery, Storage, StorageError, Wal, WalError};
use raft_log::{Boot, Entry, Membership, Payload, Position, Snapshot, Write};

const SEGMENT_BYTES: u64 = 8192;

/// What a server does, and what happens to it.
#[derive(Clone, Debug)]
enum Step {
    /// Entries in place of the last few.
    Entries {
        back: u64,
        sizes: Vec<u16>,
    },
    Vote(u64),
    Snapshot {
        back: u64,
        size: u16,
    },
    Sync,
    Settle,
    Crash(u64),
    /// The process ends; the machine does not.
    Restart,
    Fail {
        after: u64,
        fault: Fault,
    },
    Flip {
        file: usize,
        bit: u64,
    },
}

/// The log, and what it must hold.
struct Model {
    wal: Option<Wal<Memory>>,
    acknowledged: Boot,
    written: Boot,
    /// What was acknowledged before the last commit, until that is settled: damaged, it looks torn after a crash.
    settled: Option<Boot>,
    ticket: u64,
    /// Whether the disk has done since the last start what no log can undo.
    rotten: bool,
    appended: bool,
}

impl Model {
    fn new() -> Self {
        let boot = Boot::first(Membership::of([1, 2, 3]));
        let wal = Wal::create(Memory::default(), SEGMENT_BYTES, &boot).expect("a good disk");
        Self {
            wal: Some(wal),
            acknowledged: boot.clone(),
            written: boot,
            settled: None,
            ticket: 0,
            rotten: false,
            appended: false,
        }
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Entries { back, sizes } => self.entries(back, &sizes),
            Step::Vote(id) => {
                let mut hard_state = self.written.hard_state;
                hard_state.term += 1;
                hard_state.voted_for = Some(id);
                self.append(Write {
                    hard_state: Some(hard_state),
                    ..Write::default()
                });
            }
            Step::Snapshot { back, size } => self.snapshot(back, size),
            Step::Sync => self.sync(),
            Step::Settle => self.settle(),
            Step::Crash(seed) => self.restart(Some(seed)),
            Step::Restart => self.restart(None),
            Step::Fail { after, fault } => {
                let lies = matches!(fault, Fault::Lost | Fault::Misdirected(_));
                if !lies || !self.rotten {
                    self.rotten |= lies;
                    self.disk(|disk| disk.fail(after, fault));
                }
            }
            Step::Flip { file, bit } => {
                if !self.rotten {
                    self.rotten = true;
                    self.disk(|disk| flip(disk, file, bit));
                }
            }
        }
    }

    fn entries(&mut self, back: u64, sizes: &[u16]) {
        let mut last = last(&self.written);
        let covered = self.written.snapshot.last();
        let back = back.min(last.index - covered.index);
        let mut hard_state = self.written.hard_state;
        if back > 0 || hard_state.term == 0 {
            hard_state.term += 1;
        }
        last.index -= back;
        let entries = sizes.iter().map(|&size| {
            last = Position {
                term: hard_state.term,
                index: last.index + 1,
            };
            Entry {
                at: last,
                payload: payload(size),
            }
        });
        let entries = entries.collect();
        self.append(Write {
            hard_state: Some(hard_state),
            entries,
            ..Write::default()
        });
    }

    fn snapshot(&mut self, back: u64, size: u16) {
        let covered = self.written.snapshot.last().index;
        let Some(entry) = self
            .written
            .entries
            .iter()
            .rev()
            .nth(usize::try_from(back).expect("small"))
        else {
            return;
        };
        assert!(entry.at.index > covered);
        let members = Arc::new(Membership::of([1, 2, 3, u64::from(size)]));
        let snapshot = Snapshot::new(entry.at, members, vec![7; size.into()].into());
        self.append(Write {
            snapshot: Some(snapshot),
            ..Write::default()
        });
    }

    fn append(&mut self, mut write: Write) {
        self.ticket += 1;
        write.ticket = self.ticket;
        let wal = self.wal.as_mut().expect("an open log");
        apply(&mut self.written, &write);
        self.appended = true;
        wal.append(write).expect("a log that has not failed");
    }

    fn sync(&mut self) {
        let wal = self.wal.as_mut().expect("an open log");
        match wal.sync() {
            Ok(ticket) => {
                assert_eq!(ticket, self.appended.then_some(self.ticket));
                if self.appended {
                    let votes = self.written.hard_state != self.acknowledged.hard_state;
                    self.settled = (!votes).then(|| self.acknowledged.clone());
                }
                self.acknowledged = self.written.clone();
                self.appended = false;
            }
            Err(error) => {
                assert!(matches!(error, WalError::Storage(_)), "{error}");
                assert_eq!(wal.sync(), Err(WalError::Poisoned));
                assert_eq!(wal.append(Write::default()), Err(WalError::Poisoned));
                self.restart(None);
            }
        }
    }

    fn settle(&mut self) {
        let wal = self.wal.as_mut().expect("an open log");
        match wal.settle() {
            Ok(()) => self.settled = None,
            Err(error) => {
                assert!(matches!(error, WalError::Storage(_)), "{error}");
                assert_eq!(wal.settle(), Err(WalError::Poisoned));
                self.restart(None);
            }
        }
    }

    fn disk(&mut self, change: impl FnOnce(&mut Memory)) {
        change(self.wal.as_mut().expect("an open log").storage_mut());
    }

    fn restart(&mut self, crash: Option<u64>) {
        let mut disk = self.wal.take().expect("an open log").into_storage();
        match crash {
            Some(seed) => disk.crash(seed),
            None => self.settled = None,
        }
        if let Some(settled) = self.settled.take_if(|_| self.rotten)
            && same(&Recovery::read(&disk).expect("a log").boot, &settled)
        {
            self.acknowledged = settled;
        }
        let (wal, recovery) = open(disk);
        self.check(&recovery);
        self.wal = Some(wal);
        self.written = recovery.boot.clone();
        if !recovery.is_whole() {
            self.heal();
        }
        self.acknowledged = self.written.clone();
        self.appended = false;
        // What only the cache has is seen as lost after a crash.
        self.rotten &= crash.is_none();
    }

    fn check(&self, recovery: &Recovery) {
        let boot = &recovery.boot;
        let is = |image: &Boot| same(boot, image) || (self.rotten && same_with_older(boot, image));
        if recovery.is_whole() {
            assert!(
                is(&self.acknowledged) || is(&self.written),
                "{}\nis neither {}\nnor {}",
                summary(boot),
                summary(&self.acknowledged),
                summary(&self.written)
            );
            return;
        }
        assert!(self.rotten, "{:?} on a disk that is sound", recovery.damage);
        let either = [&self.acknowledged, &self.written];
        let vote = |image: &Boot| (image.hard_state.term, image.hard_state.voted_for);
        assert!(either.iter().any(|image| vote(image) == vote(boot)));
        // No vote forgets what was acknowledged.
        assert!(boot.hard_state.floor.max(last(boot)) >= last(&self.acknowledged));
        let after = recovery
            .log
            .values()
            .filter_map(|(_, entry)| entry.as_ref());
        for entry in boot.entries.iter().chain(after) {
            let known = either.iter().flat_map(|image| &image.entries);
            let known = known.filter(|known| known.at == entry.at);
            let covered = |image: &&Boot| entry.at.index <= image.snapshot.last().index;
            assert!(
                either.iter().any(covered) || known.clone().any(|known| known == entry),
                "{:?} was never written",
                entry.at
            );
        }
    }

    /// A leader sends what is missing.
    fn heal(&mut self) {
        let mut good = self.acknowledged.clone();
        if self.written.hard_state.term > good.hard_state.term {
            good.hard_state = self.written.hard_state;
        }
        self.disk(|disk| disk.heal());
        let mut hard_state = self.written.hard_state;
        hard_state.floor = hard_state.floor.max(good.hard_state.floor);
        hard_state.term += 1;
        let next = Position {
            term: hard_state.term,
            index: last(&good).index + 1,
        };
        let mut entries = good.entries.clone();
        entries.push(Entry {
            at: next,
            payload: Payload::Empty,
        });
        self.append(Write {
            hard_state: Some(hard_state),
            snapshot: Some(good.snapshot.clone()),
            discard_log: true,
            entries: entries.into(),
            ..Write::default()
        });
        let wal = self.wal.as_mut().expect("an open log");
        wal.sync().expect("a healed disk");
        let (wal, recovery) = open(self.wal.take().expect("an open log").into_storage());
        self.wal = Some(wal);
        assert!(recovery.is_whole(), "{:?}", recovery.damage);
        assert!(same(&recovery.boot, &self.written));
        self.written = recovery.boot;
    }
}

/// A disk that is full or broken is replaced by one with the same bytes.
fn open(mut disk: Memory) -> (Wal<Memory>, Recovery) {
    match Wal::open(disk.clone(), SEGMENT_BYTES) {
        Ok(opened) => opened,
        Err(WalError::Storage(StorageError::NoSpace | StorageError::Failed { .. })) => {
            disk.heal();
            Wal::open(disk, SEGMENT_BYTES).expect("a healed disk")
        }
        Err(error) => panic!("{error}"),
    }
}

fn flip(disk: &mut Memory, file: usize, bit: u64) {
    let names = disk.list().expect("names");
    let name = &names[file % names.len()];
    let bits = 8 * disk.len(name).expect("a file");
    // The front half of a segment is more often used.
    disk.flip(name, bit % (bits / 2));
}

fn payload(size: u16) -> Payload {
    match size {
        0 => Payload::Empty,
        1 => Payload::Withheld,
        2 => Payload::Membership(Arc::new(Membership::of([1, 2]))),
        _ => Payload::Command(vec![5; size.into()].into()),
    }
}

fn last(boot: &Boot) -> Position {
    let last = boot.entries.last().map(|entry| entry.at);
    last.unwrap_or_else(|| boot.snapshot.last())
}

fn summary(boot: &Boot) -> String {
    let entries: Vec<_> = boot
        .entries
        .iter()
        .map(|entry| (entry.at.term, entry.at.index))
        .collect();
    format!("{:?} {:?} {entries:?}", boot.hard_state, boot.snapshot.id())
}

/// The floor aside, which grows when something is lost.
fn same(one: &Boot, other: &Boot) -> bool {
    let vote = |boot: &Boot| (boot.hard_state.term, boot.hard_state.voted_for);
    vote(one) == vote(other) && one.snapshot == other.snapshot && one.entries == other.entries
}

/// If a snapshot is lost, the one before it with the entries since says the same.
fn same_with_older(one: &Boot, other: &Boot) -> bool {
    let covered = other.snapshot.last().index;
    let mut one = one.clone();
    if one.snapshot.last().index >= covered || last(&one) != last(other) {
        return false;
    }
    one.entries.retain(|entry| entry.at.index > covered);
    one.snapshot = other.snapshot.clone();
    same(&one, other)
}

fn apply(image: &mut Boot, write: &Write) {
    image.hard_state = write.hard_state.unwrap_or(image.hard_state);
    if write.discard_log {
        image.entries.clear();
    }
    if let Some(snapshot) = &write.snapshot {
        image.applied = snapshot.last().index;
        image.entries.retain(|entry| entry.at.index > image.applied);
        image.snapshot = snapshot.clone();
    }
    if let Some(first) = write.entries.first() {
        image
            .entries
            .retain(|entry| entry.at.index < first.at.index);
    }
    image.entries.extend(write.entries.iter().cloned());
}

fn step() -> impl Strategy<Value = Step> {
    let fault = prop_oneof![
        Just(Fault::NoSpace),
        Just(Fault::Failed),
        Just(Fault::Lost),
        (1_u64..5000).prop_map(Fault::Misdirected),
    ];
    let sizes = prop::collection::vec(prop_oneof![0_u16..3, 3_u16..600, 600_u16..9000], 1..5);
    prop_oneof![
        6 => (0_u64..4, sizes).prop_map(|(back, sizes)| Step::Entries {
            back: back.saturating_sub(1),
            sizes
        }),
        1 => (1_u64..4).prop_map(Step::Vote),
        1 => (0_u64..6, 0_u16..3000).prop_map(|(back, size)| Step::Snapshot { back, size }),
        8 => Just(Step::Sync),
        3 => Just(Step::Settle),
        2 => any::<u64>().prop_map(Step::Crash),
        1 => Just(Step::Restart),
        2 => (0_u64..12, fault).prop_map(|(after, fault)| Step::Fail { after, fault }),
        1 => (any::<usize>(), any::<u64>()).prop_map(|(file, bit)| Step::Flip { file, bit }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_acknowledged_is_there_or_known_to_be_lost(steps in prop::collection::vec(step(), 1..40)) {
        let mut model = Model::new();
        for step in steps {
            model.run(step);
        }
        model.restart(None);
    }
}
