//! The thread that writes snapshots, so that no task waits for the storage.

use std::sync::mpsc::{Receiver, Sender};

use chandy_lamport::{Event, SnapshotId, Storage, Task as TaskId};

use crate::persist::Persister;
use crate::task::Capture;

/// What it is told.
#[derive(Debug)]
pub(super) enum Chore {
    Capture(Capture),
    Manifest {
        id: SnapshotId,
        name: String,
        bytes: Vec<u8>,
    },
    Completed(SnapshotId),
    Aborted(SnapshotId),
    Rebase(TaskId),
    Delete(String),
}

/// What it tells.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) event: Event,
    /// How many bytes it has written so far.
    pub(super) bytes: u64,
    /// Why it failed.
    pub(super) error: Option<String>,
}

pub(super) fn keep<S: Storage>(
    storage: &mut S,
    increments_max: usize,
    chores: &Receiver<Chore>,
    done: &Sender<Done>,
) where
    S::Error: std::fmt::Display,
{
    let mut persister = Persister::new(increments_max);
    for chore in chores {
        let (event, error) = match chore {
            Chore::Capture(capture) => {
                let id = capture.id;
                match persister.write(storage, capture) {
                    Ok(event) => (event, None),
                    Err(error) => (Event::Declined(id), Some(error.to_string())),
                }
            }
            Chore::Manifest { id, name, bytes } => match storage.put(&name, &bytes) {
                Ok(()) => (Event::Written(id), None),
                Err(error) => (Event::NotWritten(id), Some(error.to_string())),
            },
            Chore::Completed(id) => {
                persister.completed(id);
                continue;
            }
            Chore::Aborted(id) => {
                persister.aborted(id);
                continue;
            }
            Chore::Rebase(task) => {
                persister.rebase(task);
                continue;
            }
            Chore::Delete(name) => {
                // What stays is found and removed by the next recovery.
                _ = storage.delete(&name);
                continue;
            }
        };
        let bytes = persister.bytes();
        if done
            .send(Done {
                event,
                bytes,
                error,
            })
            .is_err()
        {
            return;
        }
    }
}
