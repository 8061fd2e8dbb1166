//! Who belongs to the cluster, and what a majority of them is (Ongaro 2014, chapter 4).

use alloc::collections::BTreeSet;
use core::cmp::Reverse;

use smallvec::SmallVec;

use crate::{Index, NodeId};

/// The servers of a cluster; while it changes, of both the old and the new (joint consensus).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Membership {
    /// Who decides; while joint, who will.
    pub voters: BTreeSet<NodeId>,
    /// While joint, who decided before; else empty.
    pub outgoing: BTreeSet<NodeId>,
    /// Who receives the log but does not decide. One that is outgoing too still votes until the change is over.
    pub learners: BTreeSet<NodeId>,
    /// Which voters keep no commands and never lead: they vote and acknowledge by position alone.
    pub witnesses: BTreeSet<NodeId>,
}

/// Why a [`Membership`] cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// There is nobody who could lead, or a majority without anybody who could.
    #[error("a majority keeps no commands")]
    NoVoter,
    /// More than [`Membership::MEMBERS_MAX`].
    #[error("too many members")]
    TooMany,
    /// One end of a change names outgoing voters itself.
    #[error("one end of a change is itself joint")]
    Joint,
    /// A server is both voter and learner.
    #[error("server {0} is both voter and learner")]
    VoterAndLearner(NodeId),
    /// A witness must be a voter.
    #[error("witness {0} is not a voter")]
    WitnessWithoutVote(NodeId),
    /// A witness lacks the commands that another role needs: remove it, and add a server with an empty log.
    #[error("server {0} cannot stop or start being a witness")]
    WitnessChangesRole(NodeId),
}

/// How a vote stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tally {
    /// A majority agrees; while joint, a majority of each.
    Won,
    /// None can any more.
    Lost,
    /// It depends on those who have not answered.
    Open,
}

impl Membership {
    /// The most servers in a cluster, old and new ones together.
    pub const MEMBERS_MAX: usize = 127;

    /// These voters and nobody else.
    pub fn of(voters: impl IntoIterator<Item = NodeId>) -> Self {
        Self {
            voters: voters.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Whether a change is under way.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether `id` decides.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.outgoing.contains(&id)
    }

    /// Whether `id` votes without keeping commands.
    pub fn is_witness(&self, id: NodeId) -> bool {
        self.witnesses.contains(&id)
    }

    /// Whether `id` may be elected.
    pub fn may_lead(&self, id: NodeId) -> bool {
        self.is_voter(id) && !self.is_witness(id)
    }

    /// Everybody who receives the log.
    pub fn members(&self) -> BTreeSet<NodeId> {
        let voters = self.voters.union(&self.outgoing);
        voters.chain(&self.learners).copied().collect()
    }

    /// # Errors
    ///
    /// [`MembershipError`] if this cannot be the whole cluster.
    pub fn validate(&self) -> Result<(), MembershipError> {
        let sets = [
            &self.voters,
            &self.outgoing,
            &self.learners,
            &self.witnesses,
        ];
        if sets.iter().any(|set| set.len() > Self::MEMBERS_MAX)
            || self.members().len() > Self::MEMBERS_MAX
        {
            return Err(MembershipError::TooMany);
        }
        let witnesses = self.voters.intersection(&self.witnesses).count();
        if witnesses > self.voters.len() / 2 || self.voters.len() == witnesses {
            return Err(MembershipError::NoVoter);
        }
        if let Some(&id) = self.voters.intersection(&self.learners).next() {
            return Err(MembershipError::VoterAndLearner(id));
        }
        match self.witnesses.iter().find(|id| !self.is_voter(**id)) {
            Some(&id) => Err(MembershipError::WitnessWithoutVote(id)),
            None => Ok(()),
        }
    }

    /// The membership between this one and `target`: joint unless the voters stay the same.
    ///
    /// # Errors
    ///
    /// [`MembershipError`] if one of the two is joint, or they cannot follow each other.
    pub fn toward(&self, target: &Self) -> Result<Self, MembershipError> {
        if self.is_joint() {
            return Err(MembershipError::Joint);
        }
        self.before(target)
    }

    /// The same without a look at whether a change is under way.
    pub(crate) fn before(&self, target: &Self) -> Result<Self, MembershipError> {
        target.validate()?;
        if target.is_joint() {
            return Err(MembershipError::Joint);
        }
        let changed = self
            .members()
            .intersection(&target.members())
            .copied()
            .find(|&id| self.is_witness(id) != target.is_witness(id));
        if let Some(id) = changed {
            return Err(MembershipError::WitnessChangesRole(id));
        }
        if self.voters == target.voters {
            return Ok(target.clone());
        }
        let joint = Self {
            outgoing: self.voters.clone(),
            witnesses: self.witnesses.union(&target.witnesses).copied().collect(),
            ..target.clone()
        };
        joint.validate().map(|()| joint)
    }

    /// The membership after a joint one; of another, itself.
    pub fn leave(&self) -> Self {
        Self {
            voters: self.voters.clone(),
            outgoing: BTreeSet::new(),
            learners: self.learners.clone(),
            witnesses: self.witnesses.intersection(&self.voters).copied().collect(),
        }
    }

    /// The highest value that a majority has reached; while joint, a majority of each.
    pub fn reached(&self, value: impl Fn(NodeId) -> u64) -> Index {
        let incoming = majority_reached(&self.voters, &value);
        if self.is_joint() {
            incoming.min(majority_reached(&self.outgoing, &value))
        } else {
            incoming
        }
    }

    /// Whether a majority agrees; while joint, a majority of each.
    pub fn agreed(&self, yes: impl Fn(NodeId) -> bool) -> bool {
        self.reached(|id| u64::from(yes(id))) == 1
    }

    /// How a vote stands, if `vote` says who has answered what.
    pub fn tally(&self, vote: impl Fn(NodeId) -> Option<bool>) -> Tally {
        if self.agreed(|id| vote(id) == Some(true)) {
            Tally::Won
        } else if self.agreed(|id| vote(id) != Some(false)) {
            Tally::Open
        } else {
            Tally::Lost
        }
    }
}

/// An empty set has reached nothing.
fn majority_reached(set: &BTreeSet<NodeId>, value: &impl Fn(NodeId) -> u64) -> u64 {
    let mut values: SmallVec<[u64; 8]> = set.iter().map(|id| value(*id)).collect();
    values.sort_unstable_by_key(|value| Reverse(*value));
    values.get(set.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_majority_reaches_what_counting_says(values in prop::collection::vec(0u64..9, 1..12)) {
            let ids = 0..u64::try_from(values.len()).unwrap();
            let fast = Membership::of(ids).reached(|id| values[usize::try_from(id).unwrap()]);
            let by_majority = |limit: &u64| {
                values.iter().filter(|value| *value >= limit).count() > values.len() / 2
            };
            let slow = (0..9).filter(by_majority).max().unwrap();
            prop_assert_eq!(fast, slow);
        }
    }

    #[test]
    fn a_joint_cluster_needs_both_majorities() {
        let old = Membership::of([1, 2, 3]);
        let joint = old.toward(&Membership::of([3, 4, 5])).unwrap();
        assert!(joint.is_joint());
        assert!(!joint.agreed(|id| [1, 2].contains(&id)));
        assert!(!joint.agreed(|id| [4, 5].contains(&id)));
        assert!(joint.agreed(|id| [1, 3, 4].contains(&id)));
        assert_eq!(joint.tally(|id| (id > 3).then_some(false)), Tally::Lost);
        assert_eq!(joint.leave(), Membership::of([3, 4, 5]));
    }

    #[test]
    fn impossible_clusters_are_refused() {
        let three = Membership::of([1, 2, 3]);
        let mut odd = Membership::of([1]);
        odd.learners.insert(1);
        assert_eq!(three.toward(&odd), Err(MembershipError::VoterAndLearner(1)));
        let mut blind = three.clone();
        blind.witnesses.insert(3);
        assert_eq!(
            three.toward(&blind),
            Err(MembershipError::WitnessChangesRole(3))
        );
        blind.witnesses.insert(2);
        assert_eq!(blind.validate(), Err(MembershipError::NoVoter));
        assert_eq!(
            Membership::default().validate(),
            Err(MembershipError::NoVoter)
        );
    }
}
