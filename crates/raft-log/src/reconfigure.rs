//! Changes of membership by joint consensus (section 6; Ongaro 2014, section 4.3).

use alloc::sync::Arc;

use crate::mutation::broken;
use crate::progress::Progress;
use crate::raft::Raft;
use crate::role::Role;
use crate::{Index, Membership, Payload, ProposeError, Time};

impl Raft {
    /// Moves the cluster to `target`, through a joint membership if the voters change; each is in force from its entry
    /// on. The leader leaves the joint one by itself, and steps down if it is not a voter of the new one. Add servers as
    /// learners first: a voter with an empty log counts from the start.
    ///
    /// # Errors
    ///
    /// [`ProposeError`]; then nothing changes.
    pub fn change_membership(
        &mut self,
        now: Time,
        target: &Membership,
    ) -> Result<Index, ProposeError> {
        self.advance(now);
        self.may_propose()?;
        let settled =
            self.log.membership_index() <= self.commit && !self.log.membership().is_joint();
        let ready = settled && self.knows_commit();
        if !ready && !broken!(self.options, OverlappingChanges) {
            return Err(ProposeError::ChangePending);
        }
        let mut next = self.log.membership().before(target)?;
        if broken!(self.options, NoJointPhase) {
            next = next.leave();
        }
        let index = self.append_membership(next);
        self.flush();
        Ok(index)
    }

    fn append_membership(&mut self, membership: Membership) -> Index {
        let members = membership.members();
        let at = self.append_own(Payload::Membership(Arc::new(membership)));
        if let Role::Leader(leader) = &mut self.role {
            leader.progress.retain(|id, _| members.contains(id));
            for id in members.into_iter().filter(|id| *id != self.options.id) {
                leader
                    .progress
                    .entry(id)
                    .or_insert_with(|| Progress::new(at.index));
            }
        }
        self.replicate_to_all();
        at.index
    }

    /// A committed joint membership is left; a leader that is no voter any more has done its duty.
    pub(crate) fn continue_change(&mut self) {
        let membership = self.log.membership();
        if self.log.membership_index() > self.commit || !matches!(self.role, Role::Leader(_)) {
            return;
        }
        if membership.is_joint() {
            let next = membership.leave();
            self.append_membership(next);
            // With itself as the only voter that may commit at once.
            self.advance_commit();
        } else if !membership.is_voter(self.options.id) {
            self.follow(self.hard.term, None);
        }
    }
}
