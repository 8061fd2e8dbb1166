//! Planted bugs, for testing the tests. Without the feature no rule can be broken and nothing of this is compiled in.

/// A rule to break. Each is a bug that somebody shipped or a mistake that the literature warns of.
#[cfg(feature = "mutation")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutation {
    /// The longest log wins the vote, whatever its terms.
    VoteForLongestLog,
    /// The highest commit index wins the vote: every vote is given that the term allows.
    VoteForAnyLog,
    /// Vote more than once in a term.
    VoteTwice,
    /// The vote is not written.
    VoteNotPersisted,
    /// The term is not written.
    TermNotPersisted,
    /// Entries are acknowledged before they are on disk.
    AcknowledgeBeforeDurable,
    /// Votes are sent before they are on disk.
    VoteBeforeDurable,
    /// Entries of earlier terms are committed by counting (figure 8).
    CommitOldTerm,
    /// A new leader appends no entry of its own.
    NoEmptyEntry,
    /// A minority of one less than half and one commits.
    CommitWithoutMajority,
    /// Half of the votes elect.
    ElectWithoutMajority,
    /// A joint membership counts only the new voters.
    JointCountsNewOnly,
    /// A second change starts before the first is committed.
    OverlappingChanges,
    /// A change skips the joint phase.
    NoJointPhase,
    /// The entry before is not compared.
    NoPreviousCheck,
    /// An entry is taken for the same when its index is.
    CompareIndexOnly,
    /// The follower commits what the leader says although it has not matched it.
    CommitUnmatched,
    /// A rejected vote counts.
    CountRejection,
    /// A candidate counts answers of earlier terms.
    CountOldVotes,
    /// An answer to a pre-vote counts as a vote.
    CountPreVotes,
    /// Reads are served at once.
    ReadWithoutQuorum,
    /// A read is confirmed by answers to heartbeats sent before it.
    ReadByOldRound,
    /// A read is served before the leader knows what is committed.
    ReadBeforeOwnTerm,
    /// The lease is as long as the followers' timeout is at most.
    LeaseTooLong,
    /// The lease outlives a transfer.
    LeaseAfterTransfer,
    /// A restarted server votes at once, although it may have acknowledged a heartbeat.
    VoteAfterRestart,
    /// A snapshot that conflicts leaves the log as it is.
    SnapshotKeepsLog,
    /// A piece of one snapshot is added to another.
    MixChunks,
    /// A confirmed write counts although its entries have been replaced.
    AbaConfirmation,
    /// What the disk has lost no longer counts in votes.
    ForgetFloor,
    /// Messages of earlier terms are obeyed.
    ObeyOldTerm,
    /// A rejection counts as an acknowledgement of what it hints at.
    MatchedFromRejection,
    /// An acknowledgement of anything counts as one of everything.
    AcknowledgeAll,
}

#[cfg(feature = "mutation")]
impl Mutation {
    /// All of them.
    pub const ALL: [Self; 33] = [
        Self::VoteForLongestLog,
        Self::VoteForAnyLog,
        Self::VoteTwice,
        Self::VoteNotPersisted,
        Self::TermNotPersisted,
        Self::AcknowledgeBeforeDurable,
        Self::VoteBeforeDurable,
        Self::CommitOldTerm,
        Self::NoEmptyEntry,
        Self::CommitWithoutMajority,
        Self::ElectWithoutMajority,
        Self::JointCountsNewOnly,
        Self::OverlappingChanges,
        Self::NoJointPhase,
        Self::NoPreviousCheck,
        Self::CompareIndexOnly,
        Self::CommitUnmatched,
        Self::CountRejection,
        Self::CountOldVotes,
        Self::CountPreVotes,
        Self::ReadWithoutQuorum,
        Self::ReadByOldRound,
        Self::ReadBeforeOwnTerm,
        Self::LeaseTooLong,
        Self::LeaseAfterTransfer,
        Self::VoteAfterRestart,
        Self::SnapshotKeepsLog,
        Self::MixChunks,
        Self::AbaConfirmation,
        Self::ForgetFloor,
        Self::ObeyOldTerm,
        Self::MatchedFromRejection,
        Self::AcknowledgeAll,
    ];
}

/// Whether this rule is to be broken.
#[cfg(feature = "mutation")]
macro_rules! broken {
    ($options:expr, $rule:ident) => {
        $options.mutation == Some($crate::Mutation::$rule)
    };
}

/// Whether this rule is to be broken: never.
#[cfg(not(feature = "mutation"))]
macro_rules! broken {
    ($options:expr, $rule:ident) => {
        false
    };
}

pub(crate) use broken;
