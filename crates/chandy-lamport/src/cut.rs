//! One snapshot as one process sees it: from its first marker to its last.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::mutation::broken;
use crate::process::Edge;
use crate::{Channel, Marker, Output, Place, Process, Protocol, SnapshotId, Time, Wire};

/// How many finished snapshots are remembered one by one. Any older one is finished too.
const FINISHED_MAX: usize = 64;

/// A snapshot under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Cut {
    /// The application's state has been taken.
    pub(crate) taken: bool,
    /// Markers go past the queues, which are recorded.
    pub(crate) overtakes: bool,
    /// The inputs whose marker has not come.
    pub(crate) waiting: BTreeSet<Channel>,
    /// When the barriers begin to overtake.
    pub(crate) deadline: Option<Time>,
    /// Of Lai and Yang's: how many messages from before the sender's cut came, and how many there are.
    pub(crate) counts: BTreeMap<Channel, Count>,
}

/// Messages of one input from before its sender's cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Count {
    pub(crate) received: u64,
    pub(crate) sent: Option<u64>,
}

/// Snapshots that are over here: complete, declined or aborted. Their markers mean nothing any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Finished {
    ids: BTreeSet<SnapshotId>,
    floor: SnapshotId,
}

impl Finished {
    pub(crate) fn contains(&self, id: SnapshotId) -> bool {
        id <= self.floor || self.ids.contains(&id)
    }

    fn add(&mut self, id: SnapshotId) {
        self.ids.insert(id);
        if self.ids.len() > FINISHED_MAX
            && let Some(oldest) = self.ids.pop_first()
        {
            self.floor = oldest;
        }
    }
}

impl<M: Clone> Process<M> {
    /// Whether the snapshot has begun here, or is over.
    pub(crate) fn known(&self, id: SnapshotId) -> bool {
        self.cuts.contains_key(&id) || self.finished.contains(id)
    }

    /// Makes the cut here, at once.
    pub(crate) fn begin(&mut self, id: SnapshotId) {
        self.open(id);
        if self.options.protocol.overtakes() {
            self.overtake(id);
        } else {
            self.take(id);
        }
        if self.options.protocol == Protocol::StopTheWorld {
            self.stopped = Some(id);
        }
        self.complete_if_done(id);
    }

    /// Waits for the markers of all inputs that have not ended.
    pub(crate) fn open(&mut self, id: SnapshotId) {
        if self.cuts.len() >= self.options.snapshots_max
            && let Some(&oldest) = self.cuts.keys().next()
        {
            self.decline(oldest);
        }
        let live = self.inputs.iter().enumerate().filter(|(_, i)| !i.ended);
        let deadline = match self.options.protocol {
            Protocol::AlignedWithTimeout { timeout } => Some(self.now.saturating_add(timeout)),
            _ => None,
        };
        let mut cut = Cut {
            waiting: live.clone().map(|(from, _)| from).collect(),
            deadline,
            ..Cut::default()
        };
        if self.options.protocol == Protocol::LaiYang {
            let count = |received| Count {
                received,
                sent: None,
            };
            cut.counts = live.map(|(from, i)| (from, count(i.received))).collect();
        }
        self.cuts.insert(id, cut);
    }

    /// Takes the state and puts a marker behind all that was sent before, or, where it overtakes, before.
    pub(crate) fn take(&mut self, id: SnapshotId) {
        let cut = self.cuts.entry(id).or_default();
        cut.taken = true;
        let overtakes = cut.overtakes;
        self.colour = self.colour.max(id);
        self.to_do.push_back(Output::TakeState(id));
        for to in 0..self.outputs.len() {
            let output = &mut self.outputs[to];
            if output.finished {
                continue;
            }
            let marker = match self.options.protocol {
                Protocol::LaiYang => Marker::Count(output.sent),
                _ if overtakes => Marker::Overtaking,
                _ => Marker::InTurn,
            };
            let wire = Wire::Marker { id, marker };
            if overtakes {
                self.pass_output_queue(id, to);
                let queue = &mut self.outputs[to].queue;
                queue.insert(markers_in_front(queue), wire);
            } else {
                output.queue.push_back(wire);
            }
        }
    }

    /// Keeps what is delivered after the cut and was sent before the sender's.
    pub(crate) fn record_delivery(&mut self, from: Channel, message: &M) {
        let forget = broken!(self.options, ForgetChannels)
            || broken!(self.options, DoNotWait)
            || (broken!(self.options, ForgetBackEdges) && self.inputs[from].edge == Edge::Back);
        if forget {
            return;
        }
        for (&id, cut) in &self.cuts {
            let before = !cut.taken && broken!(self.options, RecordBeforeCut);
            let after = cut.taken && broken!(self.options, RecordAfterMarker);
            let between = cut.taken && cut.waiting.contains(&from);
            if !cut.overtakes && (between || before || after) {
                self.to_do.push_back(Output::Record {
                    id,
                    place: Place::In(from),
                    message: message.clone(),
                });
            }
        }
    }

    /// The snapshot no longer waits for this input.
    pub(crate) fn came(&mut self, from: Channel, id: SnapshotId) {
        if let Some(cut) = self.cuts.get_mut(&id) {
            cut.waiting.remove(&from);
            self.complete_if_done(id);
        }
    }

    pub(crate) fn complete_if_done(&mut self, id: SnapshotId) {
        let Some(cut) = self.cuts.get(&id) else {
            return;
        };
        // Until then the timeout may still have to record what is before the barrier.
        let queued = cut.deadline.is_some() && !cut.overtakes && self.has_barrier_queued(id);
        if cut.taken && cut.waiting.is_empty() && !queued {
            self.close(id);
            self.to_do.push_back(Output::Complete(id));
        }
    }

    fn has_barrier_queued(&self, id: SnapshotId) -> bool {
        let mut queues = self.outputs.iter().map(|output| &output.queue);
        queues.any(|queue| queue.iter().any(|wire| is_marker_of(wire, id)))
    }

    /// A newer snapshot, or too many of them, make this one impossible.
    pub(crate) fn decline(&mut self, id: SnapshotId) {
        self.close(id);
        self.to_do.push_back(Output::Declined(id));
    }

    pub(crate) fn abort(&mut self, id: SnapshotId) {
        self.close(id);
        self.resume(id);
    }

    pub(crate) fn resume(&mut self, id: SnapshotId) {
        if self.stopped == Some(id) {
            self.stopped = None;
        }
    }

    fn close(&mut self, id: SnapshotId) {
        self.cuts.remove(&id);
        self.finished.add(id);
        self.unblock(id);
    }

    pub(crate) fn unblock(&mut self, id: SnapshotId) {
        for input in &mut self.inputs {
            if input.behind == Some(id) {
                input.behind = None;
            }
        }
    }
}

/// Whether this is the marker of the snapshot.
pub(crate) fn is_marker_of<M>(wire: &Wire<M>, wanted: SnapshotId) -> bool {
    matches!(wire, Wire::Marker { id, .. } if *id == wanted)
}

fn markers_in_front<M>(queue: &VecDeque<Wire<M>>) -> usize {
    let overtaking = |wire: &&Wire<M>| {
        matches!(
            wire,
            Wire::Marker {
                marker: Marker::Overtaking,
                ..
            }
        )
    };
    queue.iter().take_while(overtaking).count()
}
