//! Planted bugs, for testing the tests. Without the feature no rule can be broken and nothing of this is compiled in.

/// A rule to break: the wrong variants that the literature and the lectures warn of, and likely slips.
#[cfg(feature = "mutation")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutation {
    /// The state is taken at the first barrier, and no channel waits.
    DoNotWait,
    /// Channels wait for all barriers, but the first barrier lets them all go.
    UnblockEarly,
    /// Back edges are not recorded.
    ForgetBackEdges,
    /// Back edges are waited for as all others are.
    WaitForBackEdges,
    /// Channels are not recorded.
    ForgetChannels,
    /// What is received before the cut is recorded as well.
    RecordBeforeCut,
    /// Recording goes on after the marker.
    RecordAfterMarker,
    /// A message sent after the cut goes before the marker.
    MarkerLate,
    /// The queues at the inputs are not recorded when a marker overtakes them.
    ForgetInputQueues,
    /// The queues at the outputs are not recorded when a marker overtakes them.
    ForgetOutputQueues,
    /// What arrives after an overtaking marker elsewhere is not recorded.
    ForgetArrivals,
    /// The timeout forgets the queues of inputs that have no barrier yet.
    ForgetQueuesAtTimeout,
    /// A stopped world goes on taking messages.
    DoNotStop,
    /// A message from after the sender's cut is delivered before the receiver's own.
    IgnoreColour,
    /// Lai and Yang's snapshot is complete at the markers, whatever is missing.
    IgnoreCount,
    /// The coordinator completes a snapshot when half of the processes have acknowledged.
    CompleteAtHalf,
    /// Sinks commit before the manifest is durable.
    CommitEarly,
    /// What a retained snapshot shares with an expired one is deleted.
    DeleteShared,
    /// The newest manifest is loaded, whatever its checksum.
    LoadTorn,
    /// Sinks are not told again to commit what a restored snapshot had prepared.
    ForgetCommit,
}

#[cfg(feature = "mutation")]
impl Mutation {
    /// Those of a process, each with an inconsistent or unfinished snapshot in some run.
    pub const OF_PROCESSES: [Self; 15] = [
        Self::DoNotWait,
        Self::UnblockEarly,
        Self::ForgetBackEdges,
        Self::WaitForBackEdges,
        Self::ForgetChannels,
        Self::RecordBeforeCut,
        Self::RecordAfterMarker,
        Self::MarkerLate,
        Self::ForgetInputQueues,
        Self::ForgetOutputQueues,
        Self::ForgetArrivals,
        Self::ForgetQueuesAtTimeout,
        Self::DoNotStop,
        Self::IgnoreColour,
        Self::IgnoreCount,
    ];

    /// Those of the coordinator.
    pub const OF_COORDINATOR: [Self; 5] = [
        Self::CompleteAtHalf,
        Self::CommitEarly,
        Self::DeleteShared,
        Self::LoadTorn,
        Self::ForgetCommit,
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
        $crate::mutation::never(&$options, stringify!($rule))
    };
}

/// Nothing that a compiler would call constant.
#[cfg(not(feature = "mutation"))]
#[inline(always)]
pub(crate) fn never<O>(_options: &O, _rule: &str) -> bool {
    false
}

pub(crate) use broken;
