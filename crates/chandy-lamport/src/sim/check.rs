//! What must hold of a cut.

use super::graph::Graph;
use super::world::Recording;
use crate::{Channel, Place, SnapshotId, StepError};

/// A rule that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A process refused what a correct driver told it.
    #[error("an input was refused: {0}")]
    Refused(StepError),
    /// A message was delivered twice.
    #[error("process {process} received a message of input {from} twice")]
    ReceivedTwice {
        /// The receiver.
        process: usize,
        /// The input.
        from: Channel,
    },
    /// A part is complete without a state.
    #[error("process {0} completed a snapshot without its state")]
    NoState(usize),
    /// More was received before the cut than was sent before it, or something is missing between the two.
    #[error("the cut of link {link} is inconsistent")]
    Inconsistent {
        /// The place in the graph's links.
        link: usize,
    },
    /// The messages of a channel are not in the order in which they were sent.
    #[error("what was recorded of link {link} is out of order")]
    Disordered {
        /// The place in the graph's links.
        link: usize,
    },
    /// A process of a stopped world went on.
    #[error("the world moved during snapshot {}", .0.0)]
    NotStopped(SnapshotId),
    /// Nothing can happen, and the snapshot is not complete.
    #[error("snapshot {} never completes", .0.0)]
    Unfinished(SnapshotId),
    /// A restored run ended otherwise than an undisturbed one.
    #[error("process {process} did not compute what an undisturbed run computes")]
    WrongResult {
        /// The process.
        process: usize,
    },
    /// Too many steps.
    #[error("the run does not end")]
    Endless,
}

/// Whether what each channel's sender sent before the cut is exactly what its receiver received before the cut, and
/// what was recorded in between.
pub(super) fn consistent(graph: &Graph, recording: &Recording) -> Result<(), Violation> {
    for (link, ends) in graph.links.iter().enumerate() {
        let (Some(sender), Some(receiver)) = (recording.get(&ends.from), recording.get(&ends.to))
        else {
            return Err(Violation::NoState(ends.from));
        };
        let (output, input) = (graph.output_of(link), graph.input_of(link));
        let at_receiver = receiver
            .recorded
            .iter()
            .filter(|(place, _)| *place == Place::In(input));
        let at_sender = sender
            .recorded
            .iter()
            .filter(|(place, _)| *place == Place::Out(output));
        let mut seen = receiver.program.received[input].clone();
        for (_, item) in at_receiver.chain(at_sender) {
            if !seen.add(item.number) {
                return Err(Violation::Inconsistent { link });
            }
        }
        if !seen.is_below(sender.program.sent[output]) {
            return Err(Violation::Inconsistent { link });
        }
    }
    Ok(())
}

/// Whether each channel's recorded messages are in the order in which they were sent.
pub(super) fn ordered(graph: &Graph, recording: &Recording) -> Result<(), Violation> {
    for link in 0..graph.links.len() {
        let ends = graph.links[link];
        let of = |process: usize, wanted: Place| {
            let recorded = recording.get(&process).map(|part| &part.recorded[..]);
            let recorded = recorded.unwrap_or_default().iter();
            recorded.filter(move |(place, _)| *place == wanted)
        };
        let numbers = of(ends.to, Place::In(graph.input_of(link)))
            .chain(of(ends.from, Place::Out(graph.output_of(link))))
            .map(|(_, item)| item.number);
        if !numbers.is_sorted() {
            return Err(Violation::Disordered { link });
        }
    }
    Ok(())
}
