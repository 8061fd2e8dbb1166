//! Handing leadership over (Ongaro 2014, section 3.10), and letting go of a leader.

use crate::raft::Raft;
use crate::role::Role;
use crate::{Body, NodeId, ProposeError, Time};

/// A transfer under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Transfer {
    pub(crate) target: NodeId,
    /// When to give up and take proposals again.
    pub(crate) deadline: Time,
}

impl Raft {
    /// Asks `target` to take over as soon as it has the whole log. Proposals are refused meanwhile, for one election
    /// timeout at most; leases end with this leader's term.
    ///
    /// # Errors
    ///
    /// [`ProposeError`] if this server does not lead or the target cannot.
    pub fn transfer(&mut self, now: Time, target: NodeId) -> Result<(), ProposeError> {
        self.advance(now);
        let may_lead = self.log.membership().may_lead(target);
        let Role::Leader(leader) = &mut self.role else {
            return Err(ProposeError::NotLeader {
                leader: self.leader,
            });
        };
        if target == self.options.id || !may_lead {
            return Err(ProposeError::CannotLead(target));
        }
        let deadline = self.now.saturating_add(self.options.election_timeout);
        leader.transfer = Some(Transfer { target, deadline });
        leader.transferred = true;
        self.continue_transfer(target);
        self.flush();
        Ok(())
    }

    /// Tells the target once it has everything.
    pub(crate) fn continue_transfer(&mut self, from: NodeId) {
        let last = self.log.last().index;
        let Role::Leader(leader) = &self.role else {
            return;
        };
        let wanted = leader
            .transfer
            .as_ref()
            .is_some_and(|transfer| transfer.target == from);
        let ready = leader
            .progress
            .get(&from)
            .is_some_and(|progress| progress.matched == last);
        if wanted && ready {
            self.send(from, Body::TimeoutNow);
        }
    }

    /// The leader wants this server to lead.
    pub(crate) fn hear_timeout_now(&mut self) {
        if matches!(self.role, Role::Follower) && self.may_stand() {
            self.restart_election_timer();
            self.stand(false, true);
        }
    }

    /// Forgets who leads, because somebody who knows says that it is gone: it may then vote at once. Ignored where
    /// leases are in use, which rest on its not voting.
    pub fn forget_leader(&mut self) {
        if self.options.lease_drift_percent.is_none() && !matches!(self.role, Role::Leader(_)) {
            self.leader = None;
            self.contact = None;
        }
    }

    /// Stands for election now, if it may be elected and does not lead.
    pub fn campaign(&mut self, now: Time) {
        self.advance(now);
        if !matches!(self.role, Role::Leader(_)) {
            self.election_timeout();
        }
        self.flush();
    }
}
