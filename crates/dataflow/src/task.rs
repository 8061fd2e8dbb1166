//! One task: its operators behind the queues of a snapshot protocol. Without threads, clocks or I/O of its own.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use chandy_lamport::{
    Channel, Input, Options, Output, Place as ChannelPlace, Process, SnapshotId, Task as TaskId,
    Time, Wire,
};

use crate::body::{Body, Captured, Emitter, Poll, Restored, Saved};
use crate::{Job, Message, TaskError};

/// A running task.
pub struct Task {
    id: TaskId,
    groups: std::ops::Range<u32>,
    process: Process<Message>,
    body: Box<dyn Body>,
    emitter: Emitter,
    inputs: Vec<bool>,
    outputs: usize,
    source: Source,
    /// Of a task with back edges: nothing is under way, so nothing can come round.
    cycles_closed: bool,
    finished: bool,
    next_input: Channel,
    captured: BTreeMap<SnapshotId, Capture>,
    captures: u64,
    events: VecDeque<TaskEvent>,
}

/// Of a source: what it said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The task has none.
    None,
    Reads,
    Ended,
}

/// What happened in a task.
#[derive(Debug)]
pub enum TaskEvent {
    /// Its part of a snapshot is there, to be written.
    Captured(Capture),
    /// It has no part of this snapshot.
    Declined(SnapshotId),
    /// Its inputs have ended and all it made has been sent or committed but for the last snapshot.
    Finished,
}

/// A task's part of a snapshot, before it is bytes.
#[derive(Debug)]
pub struct Capture {
    /// The snapshot.
    pub id: SnapshotId,
    /// The task.
    pub task: TaskId,
    /// Its key groups.
    pub groups: std::ops::Range<u32>,
    /// Where its source goes on, or how far its watermark was.
    pub cursor: Vec<u8>,
    /// What its sink has prepared.
    pub transactions: Vec<u8>,
    /// Its keyed state.
    pub state: Option<Arc<dyn Saved>>,
    /// What was in its channels.
    pub channels: Vec<(ChannelPlace, Message)>,
}

impl Task {
    /// A task of a job, at the beginning or as a snapshot had it.
    ///
    /// # Errors
    ///
    /// A snapshot of something else, or a source or sink that is not there.
    ///
    /// # Panics
    ///
    /// If the job has no such task.
    pub fn new(
        job: &Job,
        task: usize,
        options: Options,
        restored: Option<(&Restored<'_>, Vec<(ChannelPlace, Message)>)>,
    ) -> Result<Self, TaskError> {
        let site = job.site(task);
        let mut body = job.body(task);
        let (restored, recorded) = match restored {
            Some((restored, recorded)) => (restored.clone(), recorded),
            None => (Restored::default(), Vec::new()),
        };
        body.restore(&restored)?;
        let outputs = site.outputs.len();
        let process = Process::restore(options, job.edges(task), outputs, recorded)?;
        let tasks = job.parallelism()[&site.id.operator];
        let back = |&link: &usize| job.links()[link].back;
        Ok(Self {
            id: site.id,
            groups: job.key_groups().range(site.id.subtask, tasks),
            process,
            body,
            emitter: Emitter::default(),
            inputs: site.inputs.iter().map(back).collect(),
            outputs,
            source: if job.is_source(task) {
                Source::Reads
            } else {
                Source::None
            },
            cycles_closed: false,
            finished: false,
            next_input: 0,
            captured: BTreeMap::new(),
            captures: 0,
            events: VecDeque::new(),
        })
    }

    /// Which task it is.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// Something has come in.
    ///
    /// # Errors
    ///
    /// A peer that breaks the protocol, or a sink that fails at a cut.
    pub fn arrive(
        &mut self,
        now: Time,
        from: Channel,
        wire: Wire<Message>,
    ) -> Result<(), TaskError> {
        self.tell(now, Input::Arrive { from, wire })
    }

    /// Whether an input, where so much may wait, takes more. In a stopped world nothing is taken from the queue, and yet
    /// the marker at the end of what is under way must come: it has room for that.
    #[must_use]
    pub fn has_room(&self, from: Channel, capacity: usize) -> bool {
        self.process.queued_input(from) < capacity || self.process.stopped().is_some()
    }

    /// How much waits at an output.
    #[must_use]
    pub fn queued_output(&self, to: Channel) -> usize {
        self.process.queued_output(to)
    }

    /// What comes next from an output's queue.
    ///
    /// # Errors
    ///
    /// A sink that fails at a cut.
    pub fn transmit(&mut self, now: Time, to: Channel) -> Result<Option<Wire<Message>>, TaskError> {
        self.process.step(now, Input::Transmit(to))?;
        let mut sent = None;
        let outputs: Vec<_> = self.process.outputs().collect();
        for output in outputs {
            match output {
                Output::Transmit { wire, .. } => sent = Some(wire),
                other => self.obey(now, other)?,
            }
        }
        Ok(sent)
    }

    /// Does a little: takes one message, or reads its source once. Whether there was anything to do.
    ///
    /// # Errors
    ///
    /// Whatever stops the task.
    pub fn work(&mut self, now: Time) -> Result<bool, TaskError> {
        if self
            .process
            .next_deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            self.tell(now, Input::Tick)?;
        }
        if self.source == Source::Reads && self.process.stopped().is_none() {
            return self.read(now);
        }
        for _ in 0..self.inputs.len() {
            let from = self.next_input;
            self.next_input = (from + 1) % self.inputs.len();
            if self.process.is_ready(from) {
                self.tell(now, Input::Next(from))?;
                self.finish_if_ended(now)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads its source once, as another replica has or will: so many records, or, where this one is the first, as many as
    /// there are. Says how many, or nothing if there are none now; 0 is the end.
    ///
    /// # Errors
    ///
    /// Whatever stops the task.
    pub fn read_as(
        &mut self,
        now: Time,
        agreed: Option<usize>,
    ) -> Result<Option<usize>, TaskError> {
        match agreed {
            Some(0) | None => {}
            Some(count) => {
                self.body.poll_again(count, &mut self.emitter)?;
                self.send(now)?;
                return Ok(agreed);
            }
        }
        let moved = self.read(now)?;
        Ok(match self.source {
            Source::Ended => Some(0),
            _ => moved.then(|| self.body.polled()),
        })
    }

    fn read(&mut self, now: Time) -> Result<bool, TaskError> {
        let poll = self.body.poll(&mut self.emitter)?;
        self.send(now)?;
        if poll == Poll::Ended {
            self.source = Source::Ended;
            self.finish_if_ended(now)?;
        }
        Ok(poll != Poll::Idle)
    }

    /// Whether its source, if it has one, may have more.
    #[must_use]
    pub fn reads(&self) -> bool {
        self.source == Source::Reads
    }

    /// Whether everything that can come without going round has come.
    #[must_use]
    pub fn forward_ended(&self) -> bool {
        let inputs = self.inputs.iter().enumerate();
        let mut forward = inputs.filter(|(_, back)| !**back);
        self.source != Source::Reads && forward.all(|(from, _)| self.process.has_ended(from))
    }

    /// Whether it has sent its ends.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Nothing is under way anywhere and no source has more: whatever waits for records to come round need not.
    ///
    /// # Errors
    ///
    /// Whatever stops the task.
    pub fn close_cycles(&mut self, now: Time) -> Result<(), TaskError> {
        self.cycles_closed = true;
        self.finish_if_ended(now)
    }

    fn finish_if_ended(&mut self, now: Time) -> Result<(), TaskError> {
        let loops = self.inputs.iter().any(|back| *back);
        if self.finished || !self.forward_ended() || (loops && !self.cycles_closed) {
            return Ok(());
        }
        self.finished = true;
        for to in 0..self.outputs {
            self.tell(now, Input::Finish(to))?;
        }
        self.events.push_back(TaskEvent::Finished);
        Ok(())
    }

    /// The coordinator asks for a snapshot.
    ///
    /// # Errors
    ///
    /// A sink that cannot prepare.
    pub fn initiate(&mut self, now: Time, id: SnapshotId) -> Result<(), TaskError> {
        self.tell(now, Input::Initiate(id))
    }

    /// The coordinator has given a snapshot up.
    ///
    /// # Errors
    ///
    /// Those of [`initiate`](Self::initiate).
    pub fn abort(&mut self, now: Time, id: SnapshotId) -> Result<(), TaskError> {
        self.captured.remove(&id);
        self.tell(now, Input::Abort(id))
    }

    /// A snapshot is complete.
    ///
    /// # Errors
    ///
    /// A sink that cannot commit.
    pub fn completed(&mut self, now: Time, id: SnapshotId) -> Result<(), TaskError> {
        self.body.completed(id)?;
        self.tell(now, Input::Resume(id))
    }

    /// Nothing will fail any more: sinks commit what they have.
    ///
    /// # Errors
    ///
    /// A sink that cannot commit.
    pub fn commit_rest(&mut self) -> Result<(), TaskError> {
        self.body.finish()
    }

    /// Sends batches even when they are empty, so that receivers can take their inputs in turn.
    pub fn keep_empty_batches(&mut self) {
        self.emitter.keep_empty = true;
    }

    /// Takes the next message of this input, and of no other. Whether there was one.
    ///
    /// # Errors
    ///
    /// Whatever stops the task.
    pub fn take_from(&mut self, now: Time, from: Channel) -> Result<bool, TaskError> {
        let ready = self.process.is_ready(from);
        if ready {
            self.tell(now, Input::Next(from))?;
            self.finish_if_ended(now)?;
        }
        Ok(ready)
    }

    /// Whether an input has ended.
    #[must_use]
    pub fn has_ended(&self, from: Channel) -> bool {
        self.process.has_ended(from)
    }

    /// How many times its state was taken.
    #[must_use]
    pub fn captures(&self) -> u64 {
        self.captures
    }

    /// Whether it may not go on until a snapshot of the stopped world is complete.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.process.stopped().is_some()
    }

    /// What happened since the last call.
    pub fn events(&mut self) -> impl Iterator<Item = TaskEvent> + use<'_> {
        self.events.drain(..)
    }

    /// When [`work`](Self::work) has something to do even if nothing comes.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        self.process.next_deadline()
    }

    fn tell(&mut self, now: Time, input: Input<Message>) -> Result<(), TaskError> {
        self.process.step(now, input)?;
        let outputs: Vec<_> = self.process.outputs().collect();
        for output in outputs {
            self.obey(now, output)?;
        }
        Ok(())
    }

    fn obey(&mut self, now: Time, output: Output<Message>) -> Result<(), TaskError> {
        match output {
            Output::Deliver { from, message } => {
                self.body.message(from, message, &mut self.emitter)?;
                self.send(now)?;
            }
            Output::Ended(from) => {
                self.body.ended(from, &mut self.emitter)?;
                self.send(now)?;
            }
            Output::TakeState(id) => {
                let Captured {
                    cursor,
                    transactions,
                    state,
                    extra,
                } = self.body.capture(id)?;
                let capture = Capture {
                    id,
                    task: self.id,
                    groups: self.groups.clone(),
                    // A task that reads a source has no watermark to keep.
                    cursor: if self.source == Source::None {
                        extra
                    } else {
                        cursor
                    },
                    transactions,
                    state,
                    channels: Vec::new(),
                };
                self.captured.insert(id, capture);
                self.captures += 1;
            }
            Output::Record { id, place, message } => {
                if let Some(capture) = self.captured.get_mut(&id) {
                    capture.channels.push((place, message));
                }
            }
            Output::Complete(id) => {
                let capture = self.captured.remove(&id);
                self.events.extend(capture.map(TaskEvent::Captured));
            }
            Output::Declined(id) => {
                self.captured.remove(&id);
                self.events.push_back(TaskEvent::Declined(id));
            }
            Output::Transmit { .. } => unreachable!("only Input::Transmit transmits"),
        }
        Ok(())
    }

    fn send(&mut self, now: Time) -> Result<(), TaskError> {
        for (to, message) in self.emitter.sends.drain(..) {
            self.process.step(now, Input::Send { to, message })?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "task {}.{}", self.id.operator, self.id.subtask)
    }
}
