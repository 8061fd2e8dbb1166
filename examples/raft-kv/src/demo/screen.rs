//! What happens, line by line, with a table below it that follows the servers.

use std::io::{IsTerminal, Write, stdout};
use std::time::Instant;

use crossterm::cursor::MoveUp;
use crossterm::queue;
use crossterm::terminal::{Clear, ClearType};
use raft_kv::protocol::Status;

use crate::admin;

pub(crate) struct Screen {
    live: bool,
    /// Lines of the table on the screen.
    lines: u16,
    began: Instant,
}

impl Screen {
    pub(crate) fn new(quiet: bool) -> Self {
        Self {
            live: !quiet && stdout().is_terminal(),
            lines: 0,
            began: Instant::now(),
        }
    }

    pub(crate) fn say(&mut self, what: &str) {
        self.wipe();
        println!("{:6.2} s  {what}", self.began.elapsed().as_secs_f64());
    }

    pub(crate) fn show(&mut self, all: &[Status]) {
        if !self.live {
            return;
        }
        self.wipe();
        let table = admin::table(all).to_string();
        println!("{table}");
        self.lines = u16::try_from(table.lines().count()).unwrap_or(0);
    }

    fn wipe(&mut self) {
        if self.lines > 0 {
            // A screen that cannot be written to shows nothing anyway.
            let _ = queue!(
                stdout(),
                MoveUp(self.lines),
                Clear(ClearType::FromCursorDown)
            );
            let _ = stdout().flush();
            self.lines = 0;
        }
    }
}
