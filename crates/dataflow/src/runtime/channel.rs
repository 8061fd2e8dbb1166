//! A channel between threads that holds so much and no more: what is free is its sender's credit.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use chandy_lamport::Wire;

use crate::Message;

#[derive(Debug)]
pub(super) struct Ring {
    queue: Mutex<VecDeque<Wire<Message>>>,
    /// Of the queue, so that looking at it takes no lock.
    length: AtomicUsize,
    capacity: usize,
}

impl Ring {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            queue: Mutex::new(VecDeque::new()),
            length: AtomicUsize::new(0),
            capacity,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        // One sender: it can only get less until that one sends.
        self.length.load(Ordering::Relaxed) < self.capacity
    }

    pub(super) fn push(&self, wire: Wire<Message>) {
        let mut queue = self.lock();
        queue.push_back(wire);
        self.length.store(queue.len(), Ordering::Release);
    }

    pub(super) fn pop(&self) -> Option<Wire<Message>> {
        if self.length.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut queue = self.lock();
        let wire = queue.pop_front();
        self.length.store(queue.len(), Ordering::Release);
        wire
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Wire<Message>>> {
        // Every change is a single call, so a panic elsewhere leaves it whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
