//! One server: sockets, log and state machine around [`Raft`], in one thread.
//!
//! Each turn takes all that has arrived, proposes it as one entry, lets the others have it, and makes it durable with one
//! commit while they do the same.

mod connection;
mod links;
mod metrics;
mod requests;
mod sockets;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token, Waker};
use raft_log::wal::{Files, Wal};
use raft_log::{
    Action, Entry, Index, Membership, Message, NodeId, Options, Position, Raft, Standing, Term,
};

use crate::folder;
use crate::message::Envelope;
use crate::protocol::{Effect, Reply};
use crate::store::Store;
use links::Links;
use metrics::Metrics;
use requests::{Asker, Get};
use sockets::Sockets;

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name.
    pub id: NodeId,
    /// Whose servers and clients it talks to.
    pub cluster: String,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where everybody listens, itself too.
    pub peers: BTreeMap<NodeId, String>,
    /// It is no first member, but waits to be added.
    pub join: bool,
    /// Its folder.
    pub folder: PathBuf,
    /// Silence after which somebody else may lead.
    pub election_timeout: Duration,
    /// Where `/metrics` is served.
    pub metrics: Option<SocketAddr>,
    /// Bytes of entries between two snapshots.
    pub snapshot_bytes: u64,
    /// Tests may cut it off.
    pub faults: bool,
}

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
/// Entries kept after a snapshot for slow followers, if they take no more than half as much as a snapshot is taken after.
const KEPT: usize = 1_000;
/// How often the state machine is made durable; the log runs again what came after.
const COMMIT_EVERY: Duration = Duration::from_secs(5);
/// Without anything to do for so long, the log makes its second headers durable.
const SETTLE_AFTER: Duration = Duration::from_millis(20);

type Snapshotted = Receiver<Result<(Position, Arc<[u8]>)>>;

/// A server that is ready to run.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    started: Instant,
    poll: Poll,
    waker: Arc<Waker>,
    sockets: Sockets,
    links: Links,
    raft: Raft,
    wal: Wal<Files>,
    unsynced: bool,
    store: Store,
    committed_at: Instant,
    /// Commands that the next entry will hold, and who asked for them.
    batch: Vec<u8>,
    batch_askers: Vec<Asker>,
    /// Who waits for which entry of which term.
    waiting: BTreeMap<Index, (Term, Vec<Asker>)>,
    /// Reads for the next round, by quorum and by lease.
    gets: [Vec<Get>; 2],
    rounds: BTreeMap<u64, Vec<Get>>,
    round: u64,
    /// Reads that wait for the state machine.
    ready: VecDeque<(Index, Vec<Get>)>,
    effects: Vec<(Position, Effect)>,
    snapshot: Option<Snapshotted>,
    snapshot_wanted: bool,
    bytes_since_snapshot: u64,
    /// Whom a test has cut it off from.
    cut: BTreeSet<NodeId>,
    lost: Option<(u64, u64)>,
    seen: (Term, Standing),
    metrics: Arc<Metrics>,
}

impl Server {
    /// Opens its folder and its sockets.
    ///
    /// # Errors
    ///
    /// If either is not to be had, in words.
    pub fn start(settings: Settings) -> Result<Self> {
        let members = if settings.join {
            Membership::default()
        } else {
            Membership::of(settings.peers.keys().copied())
        };
        let opened = folder::open(&settings.folder, &settings.cluster, settings.id, &members)?;
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(settings.listen)
            .with_context(|| format!("cannot listen on {}", settings.listen))?;
        poll.registry()
            .register(&mut listener, LISTENER, Interest::READABLE)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let metrics = Arc::new(Metrics::default());
        if let Some(address) = settings.metrics {
            metrics::serve(address, metrics.clone())
                .with_context(|| format!("cannot serve metrics on {address}"))?;
        }
        let options = options(&settings);
        let raft = Raft::new(options, &opened.boot, 0)?;
        let now = Instant::now();
        let links = Links::new(&settings, opened.store.addresses());
        Ok(Self {
            started: now,
            sockets: Sockets::new(listener, poll.registry().try_clone()?),
            poll,
            waker,
            links,
            seen: (raft.term(), raft.standing()),
            raft,
            wal: opened.wal,
            unsynced: false,
            store: opened.store,
            committed_at: now,
            batch: Vec::new(),
            batch_askers: Vec::new(),
            waiting: BTreeMap::new(),
            gets: [Vec::new(), Vec::new()],
            rounds: BTreeMap::new(),
            round: 0,
            ready: VecDeque::new(),
            effects: Vec::new(),
            snapshot: None,
            snapshot_wanted: false,
            bytes_since_snapshot: 0,
            cut: BTreeSet::new(),
            lost: opened.lost,
            metrics,
            settings,
        })
    }

    /// Serves until the disk fails.
    ///
    /// # Errors
    ///
    /// What failed. The log may hold what was not acknowledged, never less than what was.
    pub fn run(mut self) -> Result<()> {
        if let Some((first, last)) = self.lost {
            self.say(&format!(
                "the log lost entries {first} to {last}: they will come from the others"
            ));
        }
        let mut events = Events::with_capacity(1024);
        loop {
            let wait = if self.sockets.has_unread() {
                Duration::ZERO
            } else {
                let deadline = Duration::from_micros(self.raft.deadline());
                deadline.saturating_sub(self.started.elapsed())
            };
            let settles = !self.wal.is_settled() && wait >= SETTLE_AFTER;
            let idle = if settles { SETTLE_AFTER } else { COMMIT_EVERY };
            match self.poll.poll(&mut events, Some(wait.min(idle))) {
                Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                    return Err(error.into());
                }
                _ => {}
            }
            if settles && events.is_empty() {
                self.wal.settle().context("the log")?;
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.sockets.accept(),
                    WAKER => self.take_snapshot()?,
                    token => self.sockets.happened(token, event.is_readable()),
                }
            }
            self.hear()?;
            self.turn()?;
        }
    }

    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn say(&self, what: &str) {
        eprintln!("server {}: {what}", self.settings.id);
    }

    /// What has come in becomes one entry and one round of reads; what follows from it is done.
    fn turn(&mut self) -> Result<()> {
        let now = self.now();
        if now >= self.raft.deadline() {
            self.raft.tick(now);
        }
        self.propose();
        self.begin_reads();
        self.act()?;
        while self.unsynced {
            // The others work on it while this disk does.
            self.flush();
            self.unsynced = false;
            if let Some(ticket) = self.wal.sync().context("the log")? {
                let now = self.now();
                self.raft.stored(now, ticket);
            }
            self.metrics.syncs.add(1);
            self.act()?;
        }
        self.flush();
        self.look_around();
        self.keep_house()
    }

    fn flush(&mut self) {
        for peer in self.sockets.flush() {
            self.links.lost(peer, self.started.elapsed());
            self.raft.unreachable(peer);
        }
    }

    /// Does what Raft says until it says nothing more.
    fn act(&mut self) -> Result<()> {
        loop {
            let actions: Vec<_> = self.raft.actions().collect();
            if actions.is_empty() {
                return Ok(());
            }
            for action in actions {
                match action {
                    Action::Send { to, message } => self.send(to, message),
                    Action::Write(write) => {
                        self.wal.append(write)?;
                        self.unsynced = true;
                    }
                    Action::Apply(entries) => self.apply(&entries)?,
                    Action::Restore(snapshot) => {
                        self.store.restore(snapshot.last(), snapshot.data())?;
                        self.bytes_since_snapshot = 0;
                        self.learn_addresses();
                        let now = self.now();
                        self.raft.applied(now, snapshot.last().index);
                        self.metrics.snapshots_installed.add(1);
                    }
                    Action::ReadReady { id, index } => {
                        if let Some(gets) = self.rounds.remove(&id) {
                            self.ready.push_back((index, gets));
                        }
                        self.serve_reads()?;
                    }
                    Action::ReadFailed { id } => {
                        for get in self.rounds.remove(&id).unwrap_or_default() {
                            self.not_leader(get.asker);
                        }
                    }
                }
            }
        }
    }

    fn send(&mut self, to: NodeId, message: Message) {
        if self.cut.contains(&to) {
            return;
        }
        let now = self.started.elapsed();
        if let Some(token) = self.links.connect(to, now, &mut self.sockets) {
            self.sockets.push(token, &Envelope(message));
            self.metrics.messages_sent.add(1);
        }
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<()> {
        let mut effects = std::mem::take(&mut self.effects);
        let addresses = self.store.addresses().len();
        self.store
            .run(entries, |at, effect| effects.push((at, effect)))?;
        if addresses != self.store.addresses().len() {
            self.learn_addresses();
        }
        self.metrics
            .commands
            .add(u64::try_from(effects.len()).unwrap_or(0));
        self.answer(&effects);
        effects.clear();
        self.effects = effects;
        let size: u64 = entries.iter().map(Entry::size).sum();
        self.bytes_since_snapshot += size;
        let now = self.now();
        if let Some(last) = entries.last() {
            self.raft.applied(now, last.at.index);
        }
        self.serve_reads()
    }

    /// Tells whoever asked for the commands of an entry what they did; whose entry was replaced may ask again.
    fn answer(&mut self, effects: &[(Position, Effect)]) {
        for same in effects.chunk_by(|a, b| a.0 == b.0) {
            let at = same[0].0;
            while let Some(first) = self.waiting.first_entry() {
                if *first.key() > at.index {
                    break;
                }
                let (index, (term, askers)) = first.remove_entry();
                if index != at.index || term != at.term || askers.len() != same.len() {
                    askers.into_iter().for_each(|asker| self.not_leader(asker));
                    continue;
                }
                for (asker, (_, effect)) in askers.into_iter().zip(same) {
                    self.reply(asker, Reply::Effect(*effect));
                }
            }
        }
    }

    /// What changes with the role.
    fn look_around(&mut self) {
        let seen = (self.raft.term(), self.raft.standing());
        if seen == self.seen {
            return;
        }
        if seen.1 == Standing::Leader {
            self.say(&format!("leads term {}", seen.0));
            self.metrics.elections_won.add(1);
        } else if self.seen.1 == Standing::Leader {
            self.say(&format!("leads no more, in term {}", seen.0));
            let waiting = std::mem::take(&mut self.waiting);
            for asker in waiting.into_values().flat_map(|(_, askers)| askers) {
                self.not_leader(asker);
            }
            self.flush();
        }
        self.seen = seen;
    }

    /// Snapshots and commits of the state machine, when they are due.
    fn keep_house(&mut self) -> Result<()> {
        let due = self.bytes_since_snapshot >= self.settings.snapshot_bytes || self.snapshot_wanted;
        let news = self.store.applied().index > self.raft.log().snapshot().last().index;
        if due && news && self.snapshot.is_none() {
            self.begin_snapshot()?;
        } else if self.committed_at.elapsed() >= COMMIT_EVERY {
            self.committed_at = Instant::now();
            self.store.commit()?;
        }
        self.metrics.observe(&self.raft, self.store.applied().index);
        Ok(())
    }

    fn begin_snapshot(&mut self) -> Result<()> {
        self.snapshot_wanted = false;
        self.bytes_since_snapshot = 0;
        self.committed_at = Instant::now();
        let last = self.store.applied();
        let image = self.store.snapshot()?;
        let (tell, told) = mpsc::channel();
        let waker = self.waker.clone();
        thread::spawn(move || {
            let bytes = image().map_err(anyhow::Error::from);
            let told = tell.send(bytes.map(|bytes| (last, Arc::from(bytes))));
            // Without a server there is nobody to tell.
            let _gone = told.is_err() || waker.wake().is_err();
        });
        self.snapshot = Some(told);
        Ok(())
    }

    fn take_snapshot(&mut self) -> Result<()> {
        let Some(snapshot) = &self.snapshot else {
            return Ok(());
        };
        let Ok(made) = snapshot.try_recv() else {
            return Ok(());
        };
        self.snapshot = None;
        let (last, data) = made.context("a snapshot")?;
        let now = self.now();
        if self.raft.log().has(last) {
            let keep = self.kept(last.index);
            self.raft.compact(now, last, data, keep);
            self.metrics.snapshots_taken.add(1);
        }
        Ok(())
    }

    fn kept(&self, last: Index) -> u64 {
        let mut left = self.settings.snapshot_bytes / 2;
        let fits = |index: &Index| {
            let size = self.raft.log().entry(*index).map(Entry::size);
            let rest = size.and_then(|size| left.checked_sub(size));
            left = rest.unwrap_or(0);
            rest.is_some()
        };
        let before = (1..=last).rev().take_while(fits);
        u64::try_from(before.take(KEPT).count()).unwrap_or(0)
    }

    fn learn_addresses(&mut self) {
        self.links.learn(self.store.addresses());
    }
}

fn options(settings: &Settings) -> Options {
    let timeout = u64::try_from(settings.election_timeout.as_micros()).unwrap_or(u64::MAX);
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanos = clock.map_or(0, |time| u64::from(time.subsec_nanos()));
    Options {
        election_timeout: timeout,
        heartbeat_interval: (timeout / 5).max(1),
        lease_drift_percent: Some(1),
        // Different in each life, so that two servers do not stay in step.
        ..Options::new(settings.id, settings.id << 32 | nanos)
    }
}

/// What a server says of an address that is none.
///
/// # Errors
///
/// That.
pub fn resolve(address: &str) -> Result<SocketAddr> {
    use std::net::ToSocketAddrs;
    let mut found = address
        .to_socket_addrs()
        .with_context(|| format!("no address: {address}"))?;
    found.next().ok_or_else(|| anyhow!("no address: {address}"))
}
