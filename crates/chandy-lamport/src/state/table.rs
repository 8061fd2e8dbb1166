//! A table per key group, shared between the state and its snapshots until either changes it.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::hash::Hash;
use core::ops::Range;

use hashbrown::HashTable;

use super::hash::stable_hash;
use crate::KeyGroups;

/// Values by key, for some key groups.
///
/// A snapshot costs a little per group. The first change to a group after it copies that group, so what a snapshot costs is
/// paid a group at a time, by the changes; one that nobody looks at any more costs no copy.
#[derive(Clone, Debug)]
pub struct Keyed<K, V> {
    pub(super) groups: KeyGroups,
    pub(super) range: Range<u32>,
    pub(super) tables: Vec<Slot<K, V>>,
    /// Snapshots taken so far: changes are marked with it.
    epoch: u32,
}

/// A group, which snapshots may share. One that they do not is changed without asking anybody.
#[derive(Clone, Debug)]
pub(super) enum Slot<K, V> {
    Owned(Group<K, V>),
    Shared(Arc<Group<K, V>>),
}

/// The keys of one group.
#[derive(Clone)]
pub(super) struct Group<K, V> {
    pub(super) table: HashTable<Entry<K, V>>,
    /// Keys that were removed, and when.
    pub(super) removed: Vec<(u32, K)>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<K, V> {
    pub(super) key: K,
    pub(super) value: V,
    /// The epoch of its last change.
    pub(super) changed: u32,
}

/// What the state was at a snapshot.
#[derive(Clone, Debug)]
pub struct View<K, V> {
    pub(super) first: u32,
    pub(super) tables: Vec<Arc<Group<K, V>>>,
    pub(super) epoch: u32,
}

impl<K: Hash + Eq + Clone, V: Clone> Keyed<K, V> {
    /// Empty state for these of the job's key groups.
    ///
    /// # Panics
    ///
    /// If the job has no such groups.
    #[must_use]
    pub fn new(groups: KeyGroups, range: Range<u32>) -> Self {
        assert!(range.end <= groups.count(), "groups {range:?}");
        Self {
            groups,
            tables: range
                .clone()
                .map(|_| Slot::Owned(Group::default()))
                .collect(),
            range,
            epoch: 0,
        }
    }

    /// Changes the value of a key, which begins as `first` says.
    ///
    /// # Panics
    ///
    /// If the key belongs to a group that this state does not have.
    pub fn change<R>(
        &mut self,
        key: &K,
        first: impl FnOnce() -> V,
        change: impl FnOnce(&mut V) -> R,
    ) -> R {
        self.change_hashed(stable_hash(key), key, first, change)
    }

    /// As [`change`](Self::change), where the key's [`stable_hash`] is known.
    ///
    /// # Panics
    ///
    /// As [`change`](Self::change).
    pub fn change_hashed<R>(
        &mut self,
        hash: u64,
        key: &K,
        first: impl FnOnce() -> V,
        change: impl FnOnce(&mut V) -> R,
    ) -> R {
        let epoch = self.epoch;
        let group = self.group_mut(hash);
        let entry = group.table.entry(
            table_hash(hash),
            |entry| entry.key == *key,
            |entry| table_hash(stable_hash(&entry.key)),
        );
        let mut occupied = entry.or_insert_with(|| Entry {
            key: key.clone(),
            value: first(),
            changed: epoch,
        });
        let entry = occupied.get_mut();
        entry.changed = epoch;
        change(&mut entry.value)
    }

    /// Removes a key.
    ///
    /// # Panics
    ///
    /// As [`change`](Self::change).
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let hash = stable_hash(key);
        let epoch = self.epoch;
        let group = self.group_mut(hash);
        let found = group
            .table
            .find_entry(table_hash(hash), |entry| entry.key == *key);
        let (entry, _) = found.ok()?.remove();
        group.removed.push((epoch, entry.key));
        Some(entry.value)
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        let hash = stable_hash(key);
        let place = self.place(self.groups.of_hash(hash))?;
        let entry = self.tables[place]
            .group()
            .table
            .find(table_hash(hash), |entry| entry.key == *key);
        entry.map(|entry| &entry.value)
    }

    /// All keys and values, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let entries = self
            .tables
            .iter()
            .flat_map(|slot| slot.group().table.iter());
        entries.map(|entry| (&entry.key, &entry.value))
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tables
            .iter()
            .map(|slot| slot.group().table.len())
            .sum()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.iter().all(|slot| slot.group().table.is_empty())
    }

    /// The state as it is now. Costs as much as there are key groups, however many keys there are.
    #[must_use]
    pub fn snapshot(&mut self) -> View<K, V> {
        let view = View {
            first: self.range.start,
            tables: self.tables.iter_mut().map(Slot::share).collect(),
            epoch: self.epoch,
        };
        self.epoch += 1;
        view
    }

    /// Forgets which keys were removed up to this snapshot, once nothing builds on an earlier one.
    pub fn forget_removed(&mut self, upto: u32) {
        for slot in &mut self.tables {
            if slot.group().removed.iter().any(|(epoch, _)| *epoch <= upto) {
                slot.own().removed.retain(|(epoch, _)| *epoch > upto);
            }
        }
    }

    fn group_mut(&mut self, hash: u64) -> &mut Group<K, V> {
        let group = self.groups.of_hash(hash);
        let place = self.place(group);
        let place = place.unwrap_or_else(|| panic!("group {group} of {:?}", self.range));
        self.tables[place].own()
    }

    /// Where a group is, if it is here.
    pub(super) fn place(&self, group: u32) -> Option<usize> {
        let place = group.checked_sub(self.range.start)?;
        (group < self.range.end).then(|| usize::try_from(place).ok())?
    }
}

impl<K, V> Slot<K, V> {
    pub(super) fn group(&self) -> &Group<K, V> {
        match self {
            Self::Owned(group) => group,
            Self::Shared(group) => group,
        }
    }

    fn share(&mut self) -> Arc<Group<K, V>> {
        if let Self::Owned(group) = self {
            *self = Self::Shared(Arc::new(core::mem::take(group)));
        }
        match self {
            Self::Shared(group) => group.clone(),
            Self::Owned(_) => unreachable!("it has just been shared"),
        }
    }
}

impl<K: Clone, V: Clone> Slot<K, V> {
    #[inline]
    pub(super) fn own(&mut self) -> &mut Group<K, V> {
        if let Self::Shared(group) = self {
            // Where no snapshot has it any more, nothing is copied.
            let group = core::mem::take(group);
            *self = Self::Owned(Arc::try_unwrap(group).unwrap_or_else(|shared| (*shared).clone()));
        }
        match self {
            Self::Owned(group) => group,
            Self::Shared(_) => unreachable!("it has just been made one's own"),
        }
    }
}

impl<K, V> View<K, V> {
    /// Which snapshot of this state it is: increments are made from one to another.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// How many keys there were.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tables.iter().map(|group| group.table.len()).sum()
    }

    /// Whether there was no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.iter().all(|group| group.table.is_empty())
    }
}

impl<K, V> Default for Group<K, V> {
    fn default() -> Self {
        Self {
            table: HashTable::new(),
            removed: Vec::new(),
        }
    }
}

impl<K, V> fmt::Debug for Group<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} keys, {} removed",
            self.table.len(),
            self.removed.len()
        )
    }
}

/// Tables go by the upper bits, which are nearly the same for all keys of a group.
fn table_hash(hash: u64) -> u64 {
    hash.rotate_left(TABLE_ROTATION)
}

const TABLE_ROTATION: u32 = 32;
