//! openraft's, on one thread of tokio, with a log and a state machine in memory.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Debug, Display};
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::{Stream, TryStreamExt};
use openraft::alias::{EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf};
use openraft::entry::RaftEntry;
use openraft::error::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::storage::{
    EntryResponder, IOFlushed, LogState, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine,
};
use openraft::{Config, EntryPayload, OptionalSend};

#[derive(Clone, Debug)]
pub(crate) struct Command(Arc<[u8]>);

impl Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

openraft::declare_raft_types!(
    pub(crate) Types:
        D = Command,
        R = u64,
        NodeId = u64,
        Node = (),
);

type Raft = openraft::Raft<Types, Machine>;

/// Three servers of which the first leads.
pub(crate) struct Cluster {
    leader: Raft,
    runtime: tokio::runtime::Runtime,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let leader = runtime.block_on(start());
        Self { leader, runtime }
    }

    /// Writes so many commands, of which so many are under way at a time.
    pub(crate) fn write(&self, entries: u64, bytes: usize, window: u64) {
        let clients = (0..window).map(|_| {
            let leader = self.leader.clone();
            async move {
                for _ in 0..entries / window {
                    let command = Command(vec![7; bytes].into());
                    leader.client_write(command).await.expect("a leader takes commands");
                }
            }
        });
        let clients: Vec<_> = clients.collect();
        self.runtime.block_on(async {
            let tasks: Vec<_> = clients.into_iter().map(tokio::spawn).collect();
            for task in tasks {
                task.await.expect("a client");
            }
        });
    }
}

async fn start() -> Raft {
    let config = Config {
        heartbeat_interval: 1_000,
        election_timeout_min: 3_000,
        election_timeout_max: 6_000,
        ..Config::default()
    };
    let config = Arc::new(config.validate().expect("sound options"));
    let network = Network::default();
    for id in 1..=3 {
        let (log, machine) = (Log::default(), Machine::default());
        let raft = Raft::new(id, config.clone(), network.clone(), log, machine).await.expect("a server");
        network.servers().insert(id, raft);
    }
    let first = network.servers()[&1].clone();
    first.initialize(BTreeMap::from([1, 2, 3].map(|id| (id, ())))).await.expect("a new cluster");
    first.wait(None).state(openraft::ServerState::Leader, "elected").await.expect("a leader");
    first
}

#[derive(Clone, Default)]
struct Network(Arc<Mutex<HashMap<u64, Raft>>>);

struct Connection(Raft);

impl Network {
    fn servers(&self) -> MutexGuard<'_, HashMap<u64, Raft>> {
        self.0.lock().expect("no thread has failed")
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, (): &()) -> Connection {
        Connection(self.servers()[&target].clone())
    }
}

fn unreachable(error: impl std::error::Error + 'static) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(&error))
}

impl RaftNetworkV2<Types> for Connection {
    type SnapshotData = ();

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        self.0.append_entries(request).await.map_err(unreachable)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        _: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.0.vote(request).await.map_err(unreachable)
    }

    async fn full_snapshot(
        &mut self,
        _: VoteOf<Types>,
        _: SnapshotOf<Types, ()>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        unimplemented!("nobody falls behind that far")
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    entries: BTreeMap<u64, EntryOf<Types>>,
    vote: Option<VoteOf<Types>>,
    purged: Option<LogIdOf<Types>>,
}

impl Log {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().expect("no thread has failed")
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<EntryOf<Types>>, io::Error> {
        Ok(self.kept().entries.range(range).map(|(_, entry)| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<Types>>, io::Error> {
        Ok(self.kept().vote.clone())
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let kept = self.kept();
        let last = kept.entries.last_key_value().map(|(_, entry)| entry.log_id());
        Ok(LogState { last_purged_log_id: kept.purged, last_log_id: last.or(kept.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> Result<(), io::Error> {
        self.kept().vote = Some(vote.clone());
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, done: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = EntryOf<Types>> + OptionalSend,
    {
        self.kept().entries.extend(entries.into_iter().map(|entry| (entry.index(), entry)));
        done.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        self.kept().entries.split_off(&last.map_or(0, |last| last.index + 1));
        Ok(())
    }

    async fn purge(&mut self, last: LogIdOf<Types>) -> Result<(), io::Error> {
        let mut kept = self.kept();
        kept.entries = kept.entries.split_off(&(last.index + 1));
        kept.purged = Some(last);
        Ok(())
    }
}

#[derive(Clone, Default)]
pub(crate) struct Machine(Arc<Mutex<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>)>>);

impl RaftSnapshotBuilder<Types> for Machine {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, ()>, io::Error> {
        let (last_log_id, last_membership) = self.0.lock().expect("no thread has failed").clone();
        let meta = SnapshotMetaOf::<Types> { last_log_id, last_membership };
        Ok(SnapshotOf::<Types, ()> { meta, snapshot: () })
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = ();
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>), io::Error> {
        Ok(self.0.lock().expect("no thread has failed").clone())
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let mut state = self.0.lock().expect("no thread has failed");
            state.0 = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = &entry.payload {
                state.1 = StoredMembershipOf::<Types>::new(Some(entry.log_id), membership.clone());
            }
            if let Some(responder) = responder {
                responder.send(entry.log_id.index);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, _: &SnapshotMetaOf<Types>, (): ()) -> Result<(), io::Error> {
        unimplemented!("nobody falls behind that far")
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Types, ()>>, io::Error> {
        Ok(None)
    }
}
