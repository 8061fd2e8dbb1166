//! Processor time of this thread and of children.

use std::mem::MaybeUninit;
use std::process::Command;

/// Seconds that this thread has run.
pub(crate) fn thread_time() -> f64 {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the call fills the structure.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, time.as_mut_ptr()) };
    assert_eq!(failed, 0);
    // SAFETY: filled just above.
    let time = unsafe { time.assume_init() };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Seconds, user and system, that `command` used in all its threads.
pub(crate) fn child_time(command: &mut Command) -> f64 {
    let before = children();
    let status = command.status().expect("the command can be started");
    let _ = status;
    children() - before
}

fn children() -> f64 {
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: the call fills the structure.
    let failed = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) };
    assert_eq!(failed, 0);
    // SAFETY: filled just above.
    let usage = unsafe { usage.assume_init() };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}
