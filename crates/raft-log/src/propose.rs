//! Commands from clients.

use alloc::sync::Arc;
use core::ops::Range;

use crate::raft::Raft;
use crate::role::Role;
use crate::{Index, Payload, ProposeError, Time};

impl Raft {
    /// Appends commands to the log. They run on every server once they are committed, unless this server loses its
    /// leadership before; the entry at that index then has another term.
    ///
    /// # Errors
    ///
    /// [`ProposeError`]; then nothing was appended.
    pub fn propose(
        &mut self,
        now: Time,
        commands: impl IntoIterator<Item = Arc<[u8]>>,
    ) -> Result<Range<Index>, ProposeError> {
        self.advance(now);
        self.may_propose()?;
        let first = self.log.last().index + 1;
        for command in commands {
            self.append_own(Payload::Command(command));
        }
        self.replicate_new();
        self.flush();
        Ok(first..self.log.last().index + 1)
    }

    pub(crate) fn may_propose(&self) -> Result<(), ProposeError> {
        let Role::Leader(leader) = &self.role else {
            return Err(ProposeError::NotLeader {
                leader: self.leader,
            });
        };
        // Entries after the one that removes this leader might reach witnesses alone.
        let leaving = !self.log.membership().is_voter(self.options.id);
        if leader.transfer.is_some() || leaving {
            return Err(ProposeError::Transferring);
        }
        if leader.uncommitted_bytes > self.options.uncommitted_bytes {
            return Err(ProposeError::Overloaded);
        }
        Ok(())
    }

    pub(crate) fn replicate_new(&mut self) {
        self.replicate_to_each(false);
    }
}
