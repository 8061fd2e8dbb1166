//! Registers whose every write has a value of its own, decided without a search.
//!
//! Gibbons and Korach, "Testing shared memories", 1997, section 4: the write of a value and its reads form a cluster. If the
//! first of them to return does so before the last is invoked, the register must hold the value all the time in between:
//! a forward zone. Otherwise all of them overlap, and the value need be there only for a moment in between: a backward
//! zone. The history is linearizable exactly if no read returns before its value's write is invoked, no two forward zones
//! overlap, and no backward zone lies within a forward one.

use std::hash::Hash;

use rustc_hash::FxHashMap;

use crate::{History, RegisterInput, RegisterOutput, Shortcut, Witness};

/// Decides a history of reads and writes of a register that is at first empty, in O(n log n).
///
/// The [`Register`](crate::Register) takes this way by itself.
pub fn unique_writes<V: Clone + Eq + Hash>(
    history: &History<RegisterInput<V>, RegisterOutput<V>>,
) -> Shortcut {
    match clusters(history) {
        None => Shortcut::NotApplicable,
        Some(clusters) => clusters
            .and_then(arrange)
            .map_or(Shortcut::NotLinearizable, Shortcut::Linearizable),
    }
}

/// A value's write and its reads.
#[derive(Debug, Default)]
struct Cluster {
    /// Indexes; the reads in order of invocation. The initial value has no write.
    write: Option<usize>,
    reads: Vec<usize>,
    first_return: Option<i128>,
    last_invocation: i128,
}

impl Cluster {
    fn add(&mut self, invoked: u64, returned: Option<u64>) {
        self.last_invocation = self.last_invocation.max(invoked.into());
        self.first_return = [self.first_return, returned.map(i128::from)]
            .into_iter()
            .flatten()
            .min();
    }

    /// Where the value must be held throughout, or for a moment.
    fn zone(&self) -> Zone {
        match self.first_return {
            Some(first) if first < self.last_invocation => {
                Zone::Forward(first, self.last_invocation)
            }
            first => Zone::Backward(self.last_invocation, first.unwrap_or(i128::MAX)),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Zone {
    Forward(i128, i128),
    Backward(i128, i128),
}

/// `None` if values are not unique; `Some(None)` if some read cannot have come after its write.
fn clusters<V: Clone + Eq + Hash>(
    history: &History<RegisterInput<V>, RegisterOutput<V>>,
) -> Option<Option<Vec<Cluster>>> {
    let operations = history.operations();
    let mut writes: FxHashMap<Option<&V>, Cluster> = FxHashMap::default();
    // The initial value was written before everything: before time 0.
    writes.insert(
        None,
        Cluster {
            first_return: Some(-1),
            ..Cluster::default()
        },
    );
    for (index, operation) in operations.iter().enumerate() {
        match &operation.input {
            RegisterInput::Read => {}
            RegisterInput::Write(value) => {
                let mut cluster = Cluster {
                    write: Some(index),
                    ..Cluster::default()
                };
                cluster.add(operation.invoked, operation.returned());
                if writes.insert(Some(value), cluster).is_some() {
                    return None;
                }
            }
            RegisterInput::CompareAndSet { .. } => return None,
        }
    }
    for (index, operation) in operations.iter().enumerate() {
        let value = match (&operation.input, operation.output()) {
            (RegisterInput::Read, Some(RegisterOutput::Value(value))) => value.as_ref(),
            (RegisterInput::Write(_), None | Some(RegisterOutput::Written)) => continue,
            (RegisterInput::Read, None) => continue,
            // An answer to some other question.
            _ => return Some(None),
        };
        let Some(cluster) = writes.get_mut(&value) else {
            return Some(None);
        };
        let written = cluster.write.map_or(0, |write| operations[write].invoked);
        if operation.returned() < Some(written) {
            return Some(None);
        }
        cluster.add(operation.invoked, operation.returned());
        cluster.reads.push(index);
    }
    // A write that nobody waited for and nobody saw need not have happened.
    let matters = |cluster: &Cluster| {
        let unseen = cluster.reads.is_empty();
        !unseen
            || cluster
                .write
                .is_some_and(|write| operations[write].response.is_some())
    };
    let mut clusters: Vec<Cluster> = writes.into_values().filter(matters).collect();
    for cluster in &mut clusters {
        cluster.reads.sort_by_key(|&read| operations[read].invoked);
    }
    Some(Some(clusters))
}

/// The clusters one after the other, if their zones allow it.
fn arrange(clusters: Vec<Cluster>) -> Option<Witness> {
    let mut forward: Vec<(i128, i128)> = clusters.iter().filter_map(forward_zone).collect();
    forward.sort_unstable();
    if forward.windows(2).any(|pair| pair[1].0 < pair[0].1) {
        return None;
    }
    let mut placed = Vec::with_capacity(clusters.len());
    for cluster in clusters {
        // Before a moment, a forward zone that starts there has not begun, and one that ends there is over.
        let place = match cluster.zone() {
            Zone::Forward(from, _) => (from, true),
            Zone::Backward(from, to) => {
                let around = forward.partition_point(|zone| zone.0 < from).checked_sub(1);
                match around
                    .map(|place| forward[place])
                    .filter(|zone| from < zone.1)
                {
                    Some(zone) if to < zone.1 => return None,
                    Some(zone) => (zone.1, false),
                    None => (from, false),
                }
            }
        };
        placed.push((place, cluster));
    }
    placed.sort_by_key(|(place, _)| *place);
    let order = placed
        .into_iter()
        .flat_map(|(_, cluster)| cluster.write.into_iter().chain(cluster.reads));
    Some(Witness {
        order: order.collect(),
    })
}

fn forward_zone(cluster: &Cluster) -> Option<(i128, i128)> {
    match cluster.zone() {
        Zone::Forward(from, to) => Some((from, to)),
        Zone::Backward(..) => None,
    }
}
