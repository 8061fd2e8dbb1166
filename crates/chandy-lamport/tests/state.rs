//! Keyed state against a map that is copied whole.

use std::collections::BTreeMap;

use chandy_lamport::{KeyGroups, Keyed, stable_hash};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Change {
    Add(u16, u32),
    Remove(u16),
    Snapshot,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        8 => (0..200u16, any::<u32>()).prop_map(|(key, value)| Change::Add(key, value)),
        3 => (0..200u16).prop_map(Change::Remove),
        1 => Just(Change::Snapshot),
    ]
}

fn contents(state: &Keyed<u16, u32>) -> BTreeMap<u16, u32> {
    state.iter().map(|(key, value)| (*key, *value)).collect()
}

fn groups() -> KeyGroups {
    KeyGroups::new(16).expect("allowed")
}

proptest! {
    /// A snapshot is what the state was then, whole or as increments, for one task or for three.
    #[test]
    fn snapshots_are_the_state_of_their_time(changes in vec(change(), 0..400)) {
        let mut state = Keyed::new(groups(), 0..16);
        let mut model = BTreeMap::new();
        let mut files: Vec<Vec<u8>> = Vec::new();
        let mut views = Vec::new();
        for change in changes {
            match change {
                Change::Add(key, value) => {
                    let sum = state.change(&key, || 0, |old: &mut u32| { *old = old.wrapping_add(value); *old });
                    let expected: &mut u32 = model.entry(key).or_default();
                    *expected = expected.wrapping_add(value);
                    prop_assert_eq!(sum, *expected);
                }
                Change::Remove(key) => prop_assert_eq!(state.remove(&key), model.remove(&key)),
                Change::Snapshot => {
                    let view = state.snapshot();
                    files.push(match views.last() {
                        None => view.whole(),
                        Some(_) => view.since(view.epoch() - 1),
                    });
                    views.push((view, model.clone(), files.len()));
                }
            }
            prop_assert_eq!(state.len(), model.len());
        }
        prop_assert_eq!(contents(&state), model);
        for (view, expected, count) in views {
            let mut whole = Keyed::new(groups(), 0..16);
            whole.load(&view.whole()).unwrap();
            prop_assert_eq!(&contents(&whole), &expected);
            let mut tasks = BTreeMap::new();
            for task in 0..3 {
                let mut part = Keyed::new(groups(), groups().range(task, 3));
                for file in &files[..count] {
                    part.load(file).unwrap();
                }
                tasks.extend(contents(&part));
            }
            prop_assert_eq!(&tasks, &expected);
        }
    }
}

#[test]
fn an_increment_is_as_long_as_what_changed() {
    let mut state = Keyed::new(groups(), 0..16);
    for key in 0..100_000u64 {
        state.change(&key, || 0u64, |count| *count += 1);
    }
    let first = state.snapshot();
    for key in 0..100 {
        state.change(&key, || 0, |count| *count += 1);
    }
    let increment = state.snapshot().since(first.epoch());
    assert!(first.whole().len() > 300_000);
    assert!(
        increment.len() < 16 * 4 + 5 + 100 * 3,
        "{}",
        increment.len()
    );
}

#[test]
fn keys_in_the_wrong_group_are_refused() {
    let mut state = Keyed::new(groups(), 0..16);
    state.change(&7u64, || 1u8, |_| ());
    let mut bytes = state.snapshot().whole();
    let group = u8::try_from(groups().of_hash(stable_hash(&7u64))).unwrap();
    assert_eq!(bytes[5], group);
    bytes[5] ^= 1;
    assert!(state.load(&bytes).is_err());
}
