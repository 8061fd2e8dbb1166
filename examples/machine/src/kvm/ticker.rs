//! A signal to the thread that runs the guest, again and again, so that `KVM_RUN` returns.
#![expect(unsafe_code, reason = "signals to one thread have no safe interface")]

use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use libc::{c_int, c_void, pthread_t, siginfo_t};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

/// Interrupts the thread that started it until it is dropped.
pub(super) struct Ticker {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Interrupts system calls of the calling thread every `period`.
    pub(super) fn start(period: Duration) -> io::Result<Self> {
        register_signal_handler(SIGRTMIN(), ignore).map_err(io::Error::from)?;
        let target = Caller::here();
        let (stop, stopped) = channel();
        let thread = thread::Builder::new()
            .name("ticker".into())
            .spawn(move || {
                while stopped.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                    // A thread that cannot be signalled is only late.
                    let _ = target.kill(SIGRTMIN());
                }
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // The thread does nothing that panics.
            let _ = thread.join();
        }
    }
}

struct Caller(pthread_t);

impl Caller {
    fn here() -> Self {
        // SAFETY: `pthread_self` has no preconditions.
        Self(unsafe { libc::pthread_self() })
    }
}

// SAFETY: the handle is that of the thread that called `Ticker::start`. It owns the `Ticker`, which
// is not `Send` past its stack frame in `KvmEngine::run` and whose drop ends the signalling thread
// before the frame, let alone the thread, is gone.
unsafe impl Killable for Caller {
    fn pthread_handle(&self) -> pthread_t {
        self.0
    }
}

/// The interruption is the effect.
extern "C" fn ignore(_: c_int, _: *mut siginfo_t, _: *mut c_void) {}
