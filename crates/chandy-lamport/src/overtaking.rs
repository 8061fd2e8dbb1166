//! Markers that overtake: what they pass is recorded.

use alloc::vec::Vec;

use crate::cut::is_marker_of;
use crate::mutation::broken;
use crate::{Channel, Marker, Output, Place, Process, Protocol, SnapshotId, Wire};

impl Protocol {
    pub(crate) fn knows_overtaking(self) -> bool {
        self.overtakes() || matches!(self, Self::AlignedWithTimeout { .. })
    }

    pub(crate) fn knows_turns(self) -> bool {
        self == Self::ChandyLamport || self.aligns()
    }
}

impl<M: Clone> Process<M> {
    /// A marker has overtaken whatever waits in the queue of its input.
    pub(crate) fn overtaken(&mut self, from: Channel, id: SnapshotId) {
        if !self.known(id) {
            if self.options.protocol.overtakes() {
                self.begin(id);
            } else {
                self.open(id);
            }
        }
        let Some(cut) = self.cuts.get(&id) else {
            return;
        };
        if !cut.overtakes {
            self.overtake(id);
        }
        self.came(from, id);
    }

    /// From now on the markers of this snapshot overtake: here, and everywhere further on.
    pub(crate) fn overtake(&mut self, id: SnapshotId) {
        let cut = self.cuts.entry(id).or_default();
        cut.overtakes = true;
        cut.deadline = None;
        let taken = cut.taken;
        let waiting: Vec<_> = cut.waiting.iter().copied().collect();
        if taken {
            self.overtake_late(id);
        } else {
            self.take(id);
        }
        for from in waiting {
            self.pass_input_queue(id, from);
        }
        self.unblock(id);
        self.complete_if_done(id);
    }

    /// The barriers that still wait at the outputs go to the front.
    fn overtake_late(&mut self, id: SnapshotId) {
        for to in 0..self.outputs.len() {
            let queue = &self.outputs[to].queue;
            if let Some(place) = queue.iter().position(|wire| is_marker_of(wire, id)) {
                self.record_output(id, to, place);
                let queue = &mut self.outputs[to].queue;
                queue.remove(place);
                queue.push_front(Wire::Marker {
                    id,
                    marker: Marker::Overtaking,
                });
            }
        }
    }

    /// Records what the marker goes past at an output.
    pub(crate) fn pass_output_queue(&mut self, id: SnapshotId, to: Channel) {
        self.record_output(id, to, self.outputs[to].queue.len());
    }

    fn record_output(&mut self, id: SnapshotId, to: Channel, count: usize) {
        if broken!(self.options, ForgetOutputQueues) {
            return;
        }
        let queue = self.outputs[to].queue.iter().take(count);
        let recorded = queue.filter_map(|wire| record(id, Place::Out(to), wire));
        self.to_do.extend(recorded);
    }

    /// Records what waits at an input before its marker, which may wait there too.
    fn pass_input_queue(&mut self, id: SnapshotId, from: Channel) {
        let queue = &mut self.inputs[from].queue;
        let place = queue.iter().position(|wire| is_marker_of(wire, id));
        let count = place.unwrap_or(queue.len());
        let ends = matches!(queue.back(), Some(Wire::End));
        let timed = matches!(self.options.protocol, Protocol::AlignedWithTimeout { .. });
        let forget = broken!(self.options, ForgetInputQueues)
            || (timed && broken!(self.options, ForgetQueuesAtTimeout));
        if !forget {
            let before = queue.iter().take(count);
            let recorded = before.filter_map(|wire| record(id, Place::In(from), wire));
            self.to_do.extend(recorded);
        }
        if let Some(place) = place {
            queue.remove(place);
        }
        if (place.is_some() || ends)
            && let Some(cut) = self.cuts.get_mut(&id)
        {
            cut.waiting.remove(&from);
        }
    }

    /// Records what arrives at an input before its marker.
    pub(crate) fn record_arrival(&mut self, from: Channel, message: &M) {
        if broken!(self.options, ForgetArrivals) {
            return;
        }
        for (&id, cut) in &self.cuts {
            if cut.overtakes && cut.waiting.contains(&from) {
                self.to_do.push_back(Output::Record {
                    id,
                    place: Place::In(from),
                    message: message.clone(),
                });
            }
        }
    }

    /// The end of a channel has come into its queue: no marker will.
    pub(crate) fn end_arrived(&mut self, from: Channel) {
        let overtaking = self.cuts.iter().filter(|(_, cut)| cut.overtakes);
        let ids: Vec<_> = overtaking.map(|(&id, _)| id).collect();
        for id in ids {
            self.came(from, id);
        }
    }

    /// Barriers that have waited too long begin to overtake.
    pub(crate) fn time_out(&mut self) {
        let due = |deadline: Option<u64>| deadline.is_some_and(|deadline| deadline <= self.now);
        let late = self.cuts.iter().filter(|(_, cut)| due(cut.deadline));
        let ids: Vec<_> = late.map(|(&id, _)| id).collect();
        for id in ids {
            if self.cuts.contains_key(&id) {
                self.overtake(id);
            }
        }
    }
}

fn record<M: Clone>(id: SnapshotId, place: Place, wire: &Wire<M>) -> Option<Output<M>> {
    match wire {
        Wire::Data { message, .. } => Some(Output::Record {
            id,
            place,
            message: message.clone(),
        }),
        _ => None,
    }
}
