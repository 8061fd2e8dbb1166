//! One process: its queues, and what it does with an input.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use crate::cut::{Cut, Finished};
use crate::mutation::broken;
use crate::{
    Channel, Input, Marker, Options, Output, Place, Protocol, ShapeError, SnapshotId, StepError,
    Time, Wire,
};

/// What an input is in its graph. Without the back edges a graph has no cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Edge {
    /// A barrier comes down this one by itself.
    Forward,
    /// Its barrier may come only after this process has sent its own.
    Back,
}

/// One process of a graph.
///
/// It owns the queues at its inputs and outputs, because a marker may have to overtake them. The driver moves what
/// comes and goes, runs the application, and does what [`outputs`](Self::outputs) says before the next input. What the
/// application sends because of a message is handed in as [`Input::Send`] before any other input.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Process<M> {
    pub(crate) options: Options,
    pub(crate) inputs: Vec<Incoming<M>>,
    pub(crate) outputs: Vec<Outgoing<M>>,
    pub(crate) cuts: BTreeMap<SnapshotId, Cut>,
    pub(crate) finished: Finished,
    /// The last snapshot whose state was taken.
    pub(crate) colour: SnapshotId,
    pub(crate) stopped: Option<SnapshotId>,
    pub(crate) now: Time,
    pub(crate) to_do: VecDeque<Output<M>>,
}

/// An input and its queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Incoming<M> {
    pub(crate) edge: Edge,
    pub(crate) queue: VecDeque<Wire<M>>,
    /// The barrier behind which it waits.
    pub(crate) behind: Option<SnapshotId>,
    /// The end has come, perhaps only into the queue.
    closing: bool,
    /// The application knows of the end.
    pub(crate) ended: bool,
    pub(crate) received: u64,
    /// How many messages were put here by a restore, and are in no sender's count.
    pub(crate) restored: u64,
}

/// An output and its queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Outgoing<M> {
    pub(crate) queue: VecDeque<Wire<M>>,
    pub(crate) sent: u64,
    pub(crate) finished: bool,
}

impl<M: Clone> Process<M> {
    /// A process with these inputs and this many outputs.
    ///
    /// # Errors
    ///
    /// A back edge, where the protocol cannot have one.
    pub fn new(
        options: Options,
        inputs: impl IntoIterator<Item = Edge>,
        outputs: usize,
    ) -> Result<Self, ShapeError> {
        let inputs: Vec<_> = inputs.into_iter().map(Incoming::new).collect();
        let back = inputs.iter().position(|input| input.edge == Edge::Back);
        match back {
            Some(back) if options.protocol == Protocol::Aligned => {
                return Err(ShapeError::BackEdge(back));
            }
            _ => {}
        }
        Ok(Self {
            options,
            inputs,
            outputs: (0..outputs).map(|_| Outgoing::default()).collect(),
            cuts: BTreeMap::new(),
            finished: Finished::default(),
            colour: SnapshotId::default(),
            stopped: None,
            now: 0,
            to_do: VecDeque::new(),
        })
    }

    /// The process as it was at a snapshot, with what that recorded here, in that order.
    ///
    /// # Errors
    ///
    /// A message recorded at a channel that is not there, or a back edge as in [`new`](Self::new).
    pub fn restore(
        options: Options,
        inputs: impl IntoIterator<Item = Edge>,
        outputs: usize,
        recorded: impl IntoIterator<Item = (Place, M)>,
    ) -> Result<Self, ShapeError> {
        let mut process = Self::new(options, inputs, outputs)?;
        for (place, message) in recorded {
            process
                .refill(place, message)
                .ok_or(ShapeError::Channel(place))?;
        }
        Ok(process)
    }

    fn refill(&mut self, place: Place, message: M) -> Option<()> {
        let wire = Wire::Data {
            colour: SnapshotId::default(),
            message,
        };
        match place {
            Place::In(from) => {
                let input = self.inputs.get_mut(from)?;
                input.restored += 1;
                input.queue.push_back(wire);
            }
            Place::Out(to) => {
                let output = self.outputs.get_mut(to)?;
                output.sent += 1;
                output.queue.push_back(wire);
            }
        }
        Some(())
    }

    /// Takes an input. What is to be done about it is in [`outputs`](Self::outputs).
    ///
    /// # Errors
    ///
    /// What no correct peer or driver does; nothing is changed then.
    pub fn step(&mut self, now: Time, input: Input<M>) -> Result<(), StepError> {
        self.now = self.now.max(now);
        match input {
            Input::Initiate(id) => self.initiate(id),
            Input::Arrive { from, wire } => self.arrive(from, wire),
            Input::Next(from) => self.next(from),
            Input::Send { to, message } => self.send(to, message),
            Input::Finish(to) => self.finish(to),
            Input::Transmit(to) => self.transmit(to),
            Input::Tick => {
                self.time_out();
                Ok(())
            }
            Input::Abort(id) => {
                self.abort(id);
                Ok(())
            }
            Input::Resume(id) => {
                self.resume(id);
                Ok(())
            }
        }
    }

    /// What is to be done, in this order.
    pub fn outputs(&mut self) -> impl Iterator<Item = Output<M>> + use<'_, M> {
        self.to_do.drain(..)
    }

    fn initiate(&mut self, id: SnapshotId) -> Result<(), StepError> {
        if id == SnapshotId::default() {
            return Err(StepError::Zero);
        }
        if self.known(id) {
            return Ok(());
        }
        if self.options.protocol == Protocol::LaiYang && id < self.colour {
            // Messages from after a later cut have been received: this one would not be consistent.
            self.decline(id);
        } else if self.options.protocol.aligns() && self.awaits_barriers() {
            // Where all inputs end without a barrier, the cut is made at the last end.
            self.open(id);
        } else {
            self.begin(id);
        }
        Ok(())
    }

    /// Whether some barrier will come by itself.
    fn awaits_barriers(&self) -> bool {
        self.inputs
            .iter()
            .any(|input| input.edge == Edge::Forward && !input.ended)
    }

    fn arrive(&mut self, from: Channel, wire: Wire<M>) -> Result<(), StepError> {
        let protocol = self.options.protocol;
        let input = self
            .inputs
            .get_mut(from)
            .ok_or(StepError::NoChannel(from))?;
        if input.closing {
            return Err(StepError::Ended(from));
        }
        match wire {
            Wire::Marker { id, .. } if id == SnapshotId::default() => return Err(StepError::Zero),
            Wire::Marker { id, marker } => match marker {
                Marker::Overtaking if protocol.knows_overtaking() => self.overtaken(from, id),
                Marker::Count(sent) if protocol == Protocol::LaiYang => {
                    return self.counted(from, id, sent);
                }
                Marker::InTurn if protocol.knows_turns() => {
                    if self.cuts.get(&id).is_some_and(|cut| cut.overtakes) {
                        // The cut has been made: what follows is after it, wherever it waits.
                        self.came(from, id);
                    } else {
                        input.admit(from, wire, self.options.queue_max)?;
                        self.barrier_arrived(id);
                    }
                }
                _ => return Err(StepError::Protocol(from)),
            },
            Wire::End if protocol == Protocol::LaiYang => return Err(StepError::Protocol(from)),
            Wire::End => {
                input.closing = true;
                input.queue.push_back(wire);
                self.end_arrived(from);
            }
            Wire::Data { ref message, .. } => {
                let message = message.clone();
                input.admit(from, wire, self.options.queue_max)?;
                self.record_arrival(from, &message);
            }
        }
        Ok(())
    }

    /// Handles the markers that are next, and delivers a message or an end if it may.
    fn next(&mut self, from: Channel) -> Result<(), StepError> {
        if from >= self.inputs.len() {
            return Err(StepError::NoChannel(from));
        }
        while self.is_ready(from) {
            match self.inputs[from].queue.pop_front() {
                Some(Wire::Marker { id, .. }) => self.barrier(from, id),
                Some(Wire::Data { colour, message }) => {
                    self.deliver(from, colour, message);
                    break;
                }
                Some(Wire::End) => {
                    self.end(from);
                    break;
                }
                None => break,
            }
        }
        Ok(())
    }

    /// The cut of an end comes before the application knows of it: what it then sends belongs after the cut too.
    fn end(&mut self, from: Channel) {
        self.inputs[from].ended = true;
        self.no_longer_wait(from);
        self.to_do.push_back(Output::Ended(from));
    }

    fn deliver(&mut self, from: Channel, colour: SnapshotId, message: M) {
        if self.options.protocol == Protocol::LaiYang {
            self.deliver_coloured(from, colour, message);
            return;
        }
        self.record_delivery(from, &message);
        self.to_do.push_back(Output::Deliver { from, message });
    }

    fn send(&mut self, to: Channel, message: M) -> Result<(), StepError> {
        if let Some(id) = self.stopped
            && !broken!(self.options, DoNotStop)
        {
            return Err(StepError::Stopped(id));
        }
        let colour = if self.options.protocol == Protocol::LaiYang {
            self.colour
        } else {
            SnapshotId::default()
        };
        let output = self.open_output(to)?;
        output.sent += 1;
        let wire = Wire::Data { colour, message };
        let late = matches!(
            output.queue.back(),
            Some(Wire::Marker {
                marker: Marker::InTurn,
                ..
            })
        );
        if late && broken!(self.options, MarkerLate) {
            let place = self.outputs[to].queue.len() - 1;
            self.outputs[to].queue.insert(place, wire);
        } else {
            self.outputs[to].queue.push_back(wire);
        }
        Ok(())
    }

    fn finish(&mut self, to: Channel) -> Result<(), StepError> {
        let output = self.open_output(to)?;
        output.finished = true;
        output.queue.push_back(Wire::End);
        Ok(())
    }

    fn open_output(&mut self, to: Channel) -> Result<&mut Outgoing<M>, StepError> {
        let output = self.outputs.get_mut(to).ok_or(StepError::NoChannel(to))?;
        if output.finished {
            return Err(StepError::Ended(to));
        }
        Ok(output)
    }

    fn transmit(&mut self, to: Channel) -> Result<(), StepError> {
        let output = self.outputs.get_mut(to).ok_or(StepError::NoChannel(to))?;
        let Some(wire) = output.queue.pop_front() else {
            return Ok(());
        };
        let marker = match wire {
            Wire::Marker { id, .. } => Some(id),
            _ => None,
        };
        self.to_do.push_back(Output::Transmit { to, wire });
        if let Some(id) = marker {
            self.complete_if_done(id);
        }
        Ok(())
    }
}

impl<M> Process<M> {
    /// Whether [`Input::Next`] has something to do for this input.
    #[must_use]
    pub fn is_ready(&self, from: Channel) -> bool {
        let stopped = self.stopped.is_some() && !broken!(self.options, DoNotStop);
        !stopped
            && self
                .inputs
                .get(from)
                .is_some_and(|input| input.behind.is_none() && !input.queue.is_empty())
    }

    /// Whether [`Input::Transmit`] has something to do for this output.
    #[must_use]
    pub fn has_output(&self, to: Channel) -> bool {
        self.queued_output(to) > 0
    }

    /// How much waits at this input: what the driver grants its sender as credit depends on it.
    #[must_use]
    pub fn queued_input(&self, from: Channel) -> usize {
        self.inputs.get(from).map_or(0, |input| input.queue.len())
    }

    /// How much waits at this output: an application should not go on above a limit.
    #[must_use]
    pub fn queued_output(&self, to: Channel) -> usize {
        self.outputs.get(to).map_or(0, |output| output.queue.len())
    }

    /// Whether an input waits behind a barrier.
    #[must_use]
    pub fn is_blocked(&self, from: Channel) -> bool {
        self.inputs
            .get(from)
            .is_some_and(|input| input.behind.is_some())
    }

    /// Whether the application knows of the end of this input.
    #[must_use]
    pub fn has_ended(&self, from: Channel) -> bool {
        self.inputs.get(from).is_some_and(|input| input.ended)
    }

    /// Whether the application knows of the end of every input.
    #[must_use]
    pub fn all_ended(&self) -> bool {
        self.inputs.iter().all(|input| input.ended)
    }

    /// The snapshot for which the world is stopped: the application may neither take nor send.
    #[must_use]
    pub fn stopped(&self) -> Option<SnapshotId> {
        self.stopped
    }

    /// The snapshots under way here.
    pub fn under_way(&self) -> impl Iterator<Item = SnapshotId> + '_ {
        self.cuts.keys().copied()
    }

    /// When [`Input::Tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        self.cuts.values().filter_map(|cut| cut.deadline).min()
    }
}

impl<M> Incoming<M> {
    fn new(edge: Edge) -> Self {
        Self {
            edge,
            queue: VecDeque::new(),
            behind: None,
            closing: false,
            ended: false,
            received: 0,
            restored: 0,
        }
    }

    fn admit(&mut self, from: Channel, wire: Wire<M>, queue_max: usize) -> Result<(), StepError> {
        if self.queue.len() >= queue_max {
            return Err(StepError::Full(from));
        }
        self.queue.push_back(wire);
        Ok(())
    }
}

impl<M> Default for Outgoing<M> {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            sent: 0,
            finished: false,
        }
    }
}
