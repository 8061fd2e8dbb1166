//! The coordinator: begins snapshots, gathers their parts, keeps the last few, and tells sinks when to commit.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;

#[cfg(feature = "mutation")]
use crate::Mutation;
use crate::mutation::broken;
use crate::{KeyGroups, Manifest, Part, SnapshotId, Task, Time};

/// When snapshots are taken and how many are kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Schedule {
    /// From one beginning to the next.
    pub interval: Time,
    /// From the end of one to the beginning of the next, at least.
    pub pause: Time,
    /// After this long a snapshot is given up.
    pub timeout: Time,
    /// How many may be under way at a time.
    pub concurrent: usize,
    /// How many complete ones are kept, at least 1.
    pub retained: usize,
    /// The rule to break.
    #[cfg(feature = "mutation")]
    pub mutation: Option<Mutation>,
}

impl Schedule {
    /// One at a time, given up after ten intervals; the last two are kept.
    #[must_use]
    pub fn every(interval: Time) -> Self {
        Self {
            interval,
            pause: 0,
            timeout: interval.saturating_mul(10),
            concurrent: 1,
            retained: 2,
            #[cfg(feature = "mutation")]
            mutation: None,
        }
    }
}

/// What the coordinator hears.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// Somebody wants a snapshot now, besides those of the schedule.
    Trigger,
    /// A task has taken its part, and all its files are durable.
    Acknowledged {
        /// The task.
        task: Task,
        /// The snapshot.
        id: SnapshotId,
        /// What it added.
        part: Part,
    },
    /// A task will have no part of it.
    Declined(SnapshotId),
    /// A manifest is durable.
    Written(SnapshotId),
    /// A manifest could not be written.
    NotWritten(SnapshotId),
}

/// What the coordinator wants done, in this order. What goes to a task goes in order too.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Ask every task for a snapshot.
    Initiate(SnapshotId),
    /// Tell every task that it was given up. A sink keeps what it has prepared for the next one.
    Abort(SnapshotId),
    /// Make a file durable, and say so.
    Write {
        /// The snapshot.
        id: SnapshotId,
        /// The file's name.
        name: String,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// Tell every task that the snapshot is complete: a sink commits what it prepared up to it, a stopped world goes on,
    /// and increments may build on it.
    Completed(SnapshotId),
    /// Tell a task that what it built on is gone: its next part must be whole.
    Rebase(Task),
    /// Remove a file that no snapshot needs.
    Delete(String),
}

/// The coordinator of a job.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Coordinator {
    schedule: Schedule,
    groups: KeyGroups,
    tasks: BTreeSet<Task>,
    next_id: u64,
    next_begin: Time,
    not_before: Time,
    under_way: BTreeMap<SnapshotId, Gathering>,
    retained: VecDeque<Manifest>,
    /// Files of no retained snapshot, which one of these may still build on.
    doomed: BTreeMap<String, BTreeSet<SnapshotId>>,
    /// Given up while the manifest was being written, with their files: it may turn up.
    late: BTreeMap<SnapshotId, Vec<String>>,
    failures: u32,
    to_do: VecDeque<Action>,
}

/// A snapshot under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Gathering {
    deadline: Time,
    parts: BTreeMap<Task, Part>,
    /// All parts are here, and the manifest is being written.
    writing: Option<Manifest>,
}

impl Coordinator {
    /// A coordinator of these tasks. `retained` are the snapshots that the storage holds, as
    /// [`recover`](crate::recover) found them; new ones are numbered after `last`, so that no file is written twice.
    #[must_use]
    pub fn new(
        schedule: Schedule,
        groups: KeyGroups,
        tasks: impl IntoIterator<Item = Task>,
        retained: impl IntoIterator<Item = Manifest>,
        last: SnapshotId,
        now: Time,
    ) -> Self {
        let mut retained: Vec<_> = retained.into_iter().collect();
        retained.sort_by_key(|manifest| manifest.id);
        let newest = retained.last().map_or(0, |manifest| manifest.id);
        Self {
            next_begin: now.saturating_add(schedule.interval),
            not_before: now,
            schedule,
            groups,
            tasks: tasks.into_iter().collect(),
            next_id: newest.max(last.0).saturating_add(1),
            under_way: BTreeMap::new(),
            retained: retained.into(),
            doomed: BTreeMap::new(),
            late: BTreeMap::new(),
            failures: 0,
            to_do: VecDeque::new(),
        }
    }

    /// Takes an event. What is to be done about it is in [`actions`](Self::actions).
    pub fn step(&mut self, now: Time, event: Event) {
        match event {
            Event::Tick => self.tick(now),
            Event::Trigger => self.begin(now),
            Event::Acknowledged { task, id, part } => self.acknowledged(now, task, id, part),
            Event::Declined(id) => self.give_up(now, id),
            Event::NotWritten(id) => {
                self.give_up(now, id);
                self.forget_late(id);
            }
            Event::Written(id) => self.written(now, id),
        }
    }

    /// What is to be done, in this order.
    pub fn actions(&mut self) -> impl Iterator<Item = Action> + use<'_> {
        self.to_do.drain(..)
    }

    /// When [`Event::Tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Time {
        let timeouts = self.under_way.values().map(|gathering| gathering.deadline);
        timeouts.fold(self.next_begin.max(self.not_before), Time::min)
    }

    /// The snapshots under way.
    pub fn under_way(&self) -> impl Iterator<Item = SnapshotId> + '_ {
        self.under_way.keys().copied()
    }

    /// The complete snapshots that are kept, the oldest first.
    pub fn retained(&self) -> impl Iterator<Item = &Manifest> {
        self.retained.iter()
    }

    /// How many snapshots were given up since the last that was completed.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    fn tick(&mut self, now: Time) {
        let late = |gathering: &Gathering| gathering.deadline <= now;
        let ids: Vec<_> = self
            .under_way
            .iter()
            .filter(|(_, g)| late(g))
            .map(|(&id, _)| id)
            .collect();
        for id in ids {
            self.give_up(now, id);
        }
        if now >= self.next_begin && now >= self.not_before {
            self.next_begin = now.saturating_add(self.schedule.interval);
            self.begin(now);
        }
    }

    fn begin(&mut self, now: Time) {
        if self.under_way.len() >= self.schedule.concurrent {
            return;
        }
        let id = SnapshotId(self.next_id);
        self.next_id += 1;
        let gathering = Gathering {
            deadline: now.saturating_add(self.schedule.timeout),
            parts: BTreeMap::new(),
            writing: None,
        };
        self.under_way.insert(id, gathering);
        self.to_do.push_back(Action::Initiate(id));
    }

    fn acknowledged(&mut self, now: Time, task: Task, id: SnapshotId, part: Part) {
        if !self.tasks.contains(&task) {
            return;
        }
        let gone = self.builds_on_nothing(id, &part);
        let Some(gathering) = self.under_way.get_mut(&id) else {
            return;
        };
        if gathering.writing.is_some() {
            return;
        }
        if gone {
            self.to_do.push_back(Action::Rebase(task));
            self.give_up(now, id);
            return;
        }
        for file in part.files() {
            if let Some(waiting) = self.doomed.get_mut(&file.name) {
                waiting.insert(id);
            }
        }
        gathering.parts.insert(task, part);
        let half = broken!(self.schedule, CompleteAtHalf);
        let wanted = if half {
            self.tasks.len().div_ceil(2)
        } else {
            self.tasks.len()
        };
        if gathering.parts.len() < wanted {
            return;
        }
        let manifest = Manifest {
            id: id.0,
            key_groups: self.groups.count(),
            parts: gathering.parts.clone().into_iter().collect(),
        };
        let bytes = manifest.to_bytes();
        gathering.writing = Some(manifest);
        if broken!(self.schedule, CommitEarly) {
            self.to_do.push_back(Action::Completed(id));
        }
        let name = Manifest::name(id);
        self.to_do.push_back(Action::Write { id, name, bytes });
    }

    /// Whether some file of an earlier snapshot is neither retained nor waiting to be deleted.
    fn builds_on_nothing(&self, id: SnapshotId, part: &Part) -> bool {
        let mut older = part.files().filter(|file| file.since != id.0);
        older.any(|file| !self.is_retained(&file.name) && !self.doomed.contains_key(&file.name))
    }

    fn is_retained(&self, name: &str) -> bool {
        let mut files = self.retained.iter().flat_map(Manifest::files);
        files.any(|file| file.name == name)
    }

    fn written(&mut self, now: Time, id: SnapshotId) {
        let Some(manifest) = self.under_way.get_mut(&id).and_then(|g| g.writing.take()) else {
            self.forget_late(id);
            return;
        };
        self.under_way.remove(&id);
        self.failures = 0;
        self.not_before = now.saturating_add(self.schedule.pause);
        self.retained.push_back(manifest);
        self.to_do.push_back(Action::Completed(id));
        let subsumed: Vec<_> = self.under_way.range(..id).map(|(&id, _)| id).collect();
        for older in subsumed {
            self.drop_gathering(older);
        }
        while self.retained.len() > self.schedule.retained.max(1) {
            self.expire();
        }
        self.delete_doomed(id);
    }

    /// The manifest goes first, so that none is ever there without its files.
    fn expire(&mut self) {
        let Some(oldest) = self.retained.pop_front() else {
            return;
        };
        let name = Manifest::name(SnapshotId(oldest.id));
        self.to_do.push_back(Action::Delete(name));
        self.doom(oldest.files().map(|file| file.name.clone()));
    }

    /// Files to delete, once no snapshot that is under way can build on them.
    fn doom(&mut self, names: impl Iterator<Item = String>) {
        let under_way: BTreeSet<_> = self.under_way.keys().copied().collect();
        for name in names {
            self.doomed.entry(name).or_default().extend(&under_way);
        }
    }

    fn give_up(&mut self, now: Time, id: SnapshotId) {
        if self.under_way.contains_key(&id) {
            self.failures = self.failures.saturating_add(1);
            self.not_before = now.saturating_add(self.schedule.pause);
            self.drop_gathering(id);
            self.delete_doomed(id);
        }
    }

    fn drop_gathering(&mut self, id: SnapshotId) {
        if let Some(gathering) = self.under_way.remove(&id) {
            self.to_do.push_back(Action::Abort(id));
            let parts = gathering.parts.into_values();
            let files: Vec<_> = parts.flat_map(own_files(id)).collect();
            if gathering.writing.is_some() {
                self.late.insert(id, files);
            } else {
                self.doom(files.into_iter());
            }
        }
    }

    /// Nobody was told that it is complete. Its manifest must not be there without its files.
    fn forget_late(&mut self, id: SnapshotId) {
        if let Some(files) = self.late.remove(&id) {
            self.to_do.push_back(Action::Delete(Manifest::name(id)));
            self.doom(files.into_iter());
            self.delete_doomed(id);
        }
    }

    fn delete_doomed(&mut self, over: SnapshotId) {
        let mut doomed = core::mem::take(&mut self.doomed);
        doomed.retain(|name, waiting| {
            waiting.remove(&over);
            waiting.retain(|id| self.under_way.contains_key(id));
            let needed = self.is_retained(name) && !broken!(self.schedule, DeleteShared);
            if needed {
                return false;
            }
            if waiting.is_empty() {
                self.to_do.push_back(Action::Delete(name.clone()));
            }
            !waiting.is_empty()
        });
        self.doomed = doomed;
    }
}

fn own_files(id: SnapshotId) -> impl Fn(Part) -> Vec<String> {
    move |part| {
        let files = part.files().filter(|file| file.since == id.0);
        files.map(|file| file.name.clone()).collect()
    }
}
