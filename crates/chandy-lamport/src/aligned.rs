//! Barriers in their turn: Chandy and Lamport's rule for markers, and the alignment of Carbone et al. 2015.

use crate::mutation::broken;
use crate::process::Edge;
use crate::{Channel, Process, Protocol, SnapshotId};

impl<M: Clone> Process<M> {
    /// A barrier has come into a queue. Its timeout counts from here, however long the queue is.
    pub(crate) fn barrier_arrived(&mut self, id: SnapshotId) {
        let timed = matches!(self.options.protocol, Protocol::AlignedWithTimeout { .. });
        if timed && !self.known(id) {
            self.open(id);
        }
    }

    /// A barrier is next.
    pub(crate) fn barrier(&mut self, from: Channel, id: SnapshotId) {
        if self.finished.contains(id) && !self.cuts.contains_key(&id) {
            return;
        }
        if self.options.protocol.aligns() {
            self.align(from, id);
            return;
        }
        if !self.cuts.contains_key(&id) {
            self.begin(id);
        }
        self.came(from, id);
    }

    fn align(&mut self, from: Channel, id: SnapshotId) {
        self.decline_skipped(from, id);
        if !self.cuts.contains_key(&id) {
            self.open(id);
        }
        let taken = self.cuts.get(&id).is_some_and(|cut| cut.taken);
        if !taken {
            // A back edge too: its sender may have the barrier from elsewhere.
            self.inputs[from].behind = Some(id);
        }
        if let Some(cut) = self.cuts.get_mut(&id) {
            cut.waiting.remove(&from);
        }
        if broken!(self.options, DoNotWait) && !taken {
            self.take(id);
        }
        if broken!(self.options, UnblockEarly) || broken!(self.options, DoNotWait) {
            self.unblock(id);
        }
        self.take_if_aligned(id);
    }

    /// The barriers of a channel come in order: one that was skipped will not come.
    fn decline_skipped(&mut self, from: Channel, id: SnapshotId) {
        while let Some(skipped) = self
            .cuts
            .range(..id)
            .find(|(_, cut)| !cut.taken && cut.waiting.contains(&from))
            .map(|(&skipped, _)| skipped)
        {
            self.decline(skipped);
        }
    }

    fn take_if_aligned(&mut self, id: SnapshotId) {
        let Some(cut) = self.cuts.get(&id) else {
            return;
        };
        let all = broken!(self.options, WaitForBackEdges);
        let missing = |&from: &Channel| all || self.inputs[from].edge == Edge::Forward;
        if !cut.taken && !cut.waiting.iter().any(missing) {
            self.take(id);
            self.unblock(id);
        }
        self.complete_if_done(id);
    }

    /// Nothing comes from this input any more, no marker either.
    pub(crate) fn no_longer_wait(&mut self, from: Channel) {
        let waiting = self
            .cuts
            .iter()
            .filter(|(_, cut)| cut.waiting.contains(&from));
        let ids: alloc::vec::Vec<_> = waiting.map(|(&id, _)| id).collect();
        for id in ids {
            if let Some(cut) = self.cuts.get_mut(&id) {
                cut.waiting.remove(&from);
            }
            if self.options.protocol.aligns() {
                self.take_if_aligned(id);
            } else {
                self.complete_if_done(id);
            }
        }
    }
}
