//! A set of entries that is short to write down while its members are mostly the first ones.

/// Entries by their rank.
#[derive(Clone, Debug)]
pub(crate) struct PrefixSet {
    words: Vec<u64>,
    /// Words before this one are full.
    low: usize,
    /// Words from this one on are empty.
    high: usize,
}

impl PrefixSet {
    /// An empty set with room for `count` ranks.
    pub(crate) fn new(count: usize) -> Self {
        Self {
            words: vec![0; count.div_ceil(64)],
            low: 0,
            high: 0,
        }
    }

    pub(crate) fn contains(&self, rank: usize) -> bool {
        self.words[rank / 64] >> (rank % 64) & 1 == 1
    }

    pub(crate) fn insert(&mut self, rank: usize) {
        self.words[rank / 64] |= 1 << (rank % 64);
        self.high = self.high.max(rank / 64 + 1);
        while self.words.get(self.low) == Some(&u64::MAX) {
            self.low += 1;
        }
    }

    pub(crate) fn remove(&mut self, rank: usize) {
        self.words[rank / 64] &= !(1 << (rank % 64));
        self.low = self.low.min(rank / 64);
        while self.high > 0 && self.words[self.high - 1] == 0 {
            self.high -= 1;
        }
    }

    /// Appends words that tell this set from every other of the same room.
    pub(crate) fn write(&self, key: &mut Vec<u64>) {
        key.push(self.low as u64);
        key.extend(self.words.get(self.low..self.high).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_are_equal_exactly_when_the_sets_are(
            flips in prop::collection::vec(0..200usize, 0..400),
            filled in 0..200usize,
        ) {
            let mut set = PrefixSet::new(200);
            let mut model = BTreeSet::new();
            let mut seen: HashMap<Vec<u64>, BTreeSet<usize>> = HashMap::new();
            for rank in (0..filled).chain(flips) {
                if model.insert(rank) {
                    set.insert(rank);
                } else {
                    model.remove(&rank);
                    set.remove(rank);
                }
                prop_assert_eq!(set.contains(rank), model.contains(&rank));
                let mut key = Vec::new();
                set.write(&mut key);
                if let Some(same) = seen.get(&key) {
                    prop_assert_eq!(same, &model);
                }
                prop_assert!(seen.iter().all(|(k, m)| m != &model || k == &key));
                seen.insert(key, model.clone());
            }
        }
    }
}
