//! State as the bytes of a snapshot's file.

use alloc::vec::Vec;
use core::hash::Hash;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::table::{Keyed, View};

/// Bytes that are no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Something else at the beginning.
    #[error("not a file of keyed state")]
    Magic,
    /// An end too early, a number too large, or a key in the wrong group.
    #[error("not well formed")]
    Form,
}

impl<K, V> View<K, V>
where
    K: Serialize,
    V: Serialize,
{
    /// All of it.
    #[must_use]
    pub fn whole(&self) -> Vec<u8> {
        self.write(|_| true)
    }

    /// What was changed or removed after the snapshot of this epoch.
    #[must_use]
    pub fn since(&self, epoch: u32) -> Vec<u8> {
        self.write(|changed| changed > epoch)
    }

    fn write(&self, wanted: impl Fn(u32) -> bool) -> Vec<u8> {
        let mut bytes = Vec::from(*MAGIC);
        for (group, number) in self.tables.iter().zip(self.first..) {
            let entries = || group.table.iter().filter(|entry| wanted(entry.changed));
            let removed = || group.removed.iter().filter(|(epoch, _)| wanted(*epoch));
            let (kept, gone) = (entries().count(), removed().count());
            if kept == 0 && gone == 0 {
                continue;
            }
            put(&mut bytes, &(number, gone, kept));
            // What was removed and came back must not go again: removals first.
            for (_, key) in removed() {
                put(&mut bytes, key);
            }
            for entry in entries() {
                put(&mut bytes, &(&entry.key, &entry.value));
            }
        }
        bytes
    }
}

impl<K, V> Keyed<K, V>
where
    K: Hash + Eq + Clone + DeserializeOwned,
    V: Clone + DeserializeOwned,
{
    /// Adds what a file says: the base first, then each increment. Groups that are not this state's are left out, so
    /// the files of other tasks can be given too.
    ///
    /// # Errors
    ///
    /// Bytes that no snapshot wrote; the state may then have some of them.
    pub fn load(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        let mut rest = bytes.strip_prefix(MAGIC).ok_or(StateError::Magic)?;
        while !rest.is_empty() {
            let (group, gone, kept) = take::<(u32, usize, usize)>(&mut rest)?;
            // Each takes a byte at least, but for the one value of a type without any.
            if gone.max(kept) > rest.len().max(1) {
                return Err(StateError::Form);
            }
            for _ in 0..gone {
                let key = take::<K>(&mut rest)?;
                if self.belongs(&key, group)? {
                    self.remove(&key);
                }
            }
            for _ in 0..kept {
                let (key, value) = take::<(K, V)>(&mut rest)?;
                if self.belongs(&key, group)? {
                    self.change(&key, || value.clone(), |old| *old = value.clone());
                }
            }
        }
        self.settle();
        Ok(())
    }

    /// Whether the key is of a group that is here.
    fn belongs(&self, key: &K, group: u32) -> Result<bool, StateError> {
        if self.groups.of_hash(super::stable_hash(key)) != group {
            return Err(StateError::Form);
        }
        Ok(self.place(group).is_some())
    }

    /// What was loaded needs no increment to remember its removal.
    fn settle(&mut self) {
        for slot in &mut self.tables {
            if !slot.group().removed.is_empty() {
                slot.own().removed.clear();
            }
        }
    }
}

fn put(bytes: &mut Vec<u8>, value: &impl Serialize) {
    // A vector takes any number of bytes. A type that cannot be written at all is the programmer's mistake.
    let all = core::mem::take(bytes);
    *bytes = postcard::to_extend(value, all).expect("a type that serde can write without names");
}

fn take<T: DeserializeOwned>(rest: &mut &[u8]) -> Result<T, StateError> {
    let (value, after) = postcard::take_from_bytes(rest).map_err(|_| StateError::Form)?;
    *rest = after;
    Ok(value)
}

const MAGIC: &[u8; 5] = b"CLKS\x01";
