//! The terminal: what the guest prints goes to standard output, what is typed goes to the guest.

use std::io::{self, IsTerminal, Read, Write};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crossterm::terminal;

/// What the guest has printed; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Console(Arc<Mutex<Printed>>);

#[derive(Debug, Default)]
struct Printed {
    /// The latest output, long enough to look for a text in.
    recent: Vec<u8>,
    bytes: u64,
}

impl Console {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Whether `text` is in what was printed lately.
    pub(crate) fn has_printed(&self, text: &str) -> bool {
        let printed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        printed
            .recent
            .windows(text.len().max(1))
            .any(|window| window == text.as_bytes())
    }

    /// How many bytes were printed.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut printed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        printed.bytes += bytes.len() as u64;
        printed.recent.extend_from_slice(bytes);
        let excess = printed.recent.len().saturating_sub(RECENT_MAX);
        if excess > RECENT_MAX {
            printed.recent.drain(..excess);
        }
        io::stdout().write_all(bytes)?;
        io::stdout().flush()?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

/// What is typed, byte by byte, while this lives; a terminal is in raw mode meanwhile.
#[derive(Debug)]
pub(crate) struct Keyboard {
    typed: Receiver<Vec<u8>>,
    raw: bool,
    escaped: bool,
}

/// Something typed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    ForGuest(Vec<u8>),
    Quit,
}

impl Keyboard {
    pub(crate) fn new() -> Self {
        let raw = io::stdin().is_terminal() && terminal::enable_raw_mode().is_ok();
        let (sender, typed) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = [0; 256];
            while let Ok(count @ 1..) = io::stdin().read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            typed,
            raw,
            escaped: false,
        }
    }

    /// What was typed since the last call. Ctrl-A starts a command: `x` quits, Ctrl-A is Ctrl-A itself.
    pub(crate) fn take(&mut self) -> Option<Typed> {
        let bytes: Vec<u8> = self.typed.try_iter().flatten().collect();
        if bytes.is_empty() {
            return None;
        }
        if !self.raw {
            return Some(Typed::ForGuest(bytes));
        }
        self.interpret(&bytes)
    }

    fn interpret(&mut self, bytes: &[u8]) -> Option<Typed> {
        let mut for_guest = Vec::new();
        for &byte in bytes {
            match (std::mem::take(&mut self.escaped), byte) {
                (true, b'x') => return Some(Typed::Quit),
                (false, CTRL_A) => self.escaped = true,
                (_, byte) => for_guest.push(byte),
            }
        }
        Some(Typed::ForGuest(for_guest))
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        if self.raw {
            let _ = terminal::disable_raw_mode();
        }
    }
}

const RECENT_MAX: usize = 64 << 10;
const CTRL_A: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_split_over_writes_is_found() {
        let mut console = Console::new();
        console.write_all(b"softmetal: user sp").unwrap();
        assert!(!console.has_printed("user space"));
        console.write_all(b"ace is up\n").unwrap();
        assert!(console.has_printed("user space"));
    }

    #[test]
    fn ctrl_a_x_quits_and_ctrl_a_twice_is_one() {
        let (_, typed) = mpsc::channel();
        let mut keyboard = Keyboard {
            typed,
            raw: false,
            escaped: false,
        };
        assert_eq!(
            keyboard.interpret(b"a\x01\x01b"),
            Some(Typed::ForGuest(b"a\x01b".to_vec()))
        );
        assert_eq!(
            keyboard.interpret(b"\x01"),
            Some(Typed::ForGuest(Vec::new()))
        );
        assert_eq!(keyboard.interpret(b"x"), Some(Typed::Quit));
    }
}
