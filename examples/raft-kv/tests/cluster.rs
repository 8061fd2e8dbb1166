//! Servers as processes, killed and damaged.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use raft_kv::client::{Client, ClientError};
use raft_kv::folder::flip_a_bit;
use raft_kv::protocol::{Currency, Effect, Operation, Request, Status};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

struct Cluster {
    folder: TempDir,
    addresses: BTreeMap<u64, String>,
    running: BTreeMap<u64, Child>,
}

fn free_addresses(count: usize) -> Vec<String> {
    let bind = |_| TcpListener::bind("127.0.0.1:0").unwrap();
    let held: Vec<_> = (0..count).map(bind).collect();
    let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
    held.iter().map(address).collect()
}

impl Cluster {
    fn start() -> Self {
        let mut cluster = Self {
            folder: TempDir::new().unwrap(),
            addresses: (1..).zip(free_addresses(3)).collect(),
            running: BTreeMap::new(),
        };
        for id in 1..=3 {
            cluster.spawn(id, &[]);
        }
        cluster
    }

    fn data(&self, id: u64) -> PathBuf {
        self.folder.path().join(id.to_string())
    }

    fn command(&self, id: u64) -> Command {
        let peers = self.addresses.iter();
        let peers: Vec<_> = peers.map(|(id, at)| format!("{id}={at}")).collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_raft-kv"));
        command.args([
            "server",
            "--id",
            &id.to_string(),
            "--peers",
            &peers.join(","),
        ]);
        command.arg("--data").arg(self.data(id));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn spawn(&mut self, id: u64, more: &[&str]) {
        let child = self.command(id).args(more).spawn().unwrap();
        self.running.insert(id, child);
    }

    /// SIGKILL.
    fn kill(&mut self, id: u64) {
        let mut child = self.running.remove(&id).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn client(&self) -> Client {
        let addresses: Vec<_> = self.addresses.values().cloned().collect();
        Client::new("raft-kv", &addresses, PATIENCE)
    }

    fn status(&self, id: u64) -> Option<Status> {
        let address = [self.addresses[&id].clone()];
        Client::new("raft-kv", &address, Duration::from_millis(300))
            .status()
            .ok()
    }

    fn until<T>(&self, what: &str, found: impl Fn(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            assert!(Instant::now() < deadline, "{what} did not come about");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn leader(&self) -> u64 {
        self.until("a leader", |cluster| {
            let all = cluster.running.keys().filter_map(|id| cluster.status(*id));
            let latest = all.max_by_key(|status| (status.term, status.role == "leader"))?;
            (latest.role == "leader").then_some(latest.node)
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.running.values_mut() {
            let _stopped = child.kill().is_err() | child.wait().is_err();
        }
    }
}

fn put<'a>(key: &'a str, value: &'a [u8]) -> Operation<'a> {
    let key = key.as_bytes();
    Operation::Put { key, value }
}

#[test]
fn no_acknowledged_write_is_lost_when_the_leader_is_killed() {
    let mut cluster = Cluster::start();
    let leader = cluster.leader();
    let (stop, written) = (AtomicBool::new(false), AtomicUsize::new(0));
    let acknowledged = thread::scope(|scope| {
        let writers = (0..4).map(|writer| {
            let mut client = cluster.client();
            let (stop, written) = (&stop, &written);
            scope.spawn(move || {
                let mut keys = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let key = format!("{writer}-{}", keys.len());
                    client.write(put(&key, key.as_bytes())).unwrap();
                    keys.push(key);
                    written.fetch_add(1, Ordering::Relaxed);
                }
                keys
            })
        });
        let writers: Vec<_> = writers.collect();
        let reach = |count| {
            while written.load(Ordering::Relaxed) < count {
                thread::sleep(Duration::from_millis(1));
            }
        };
        reach(100);
        let pid = cluster.running[&leader].id().to_string();
        assert!(
            Command::new("kill")
                .args(["-9", &pid])
                .status()
                .unwrap()
                .success()
        );
        reach(written.load(Ordering::Relaxed) + 100);
        stop.store(true, Ordering::Relaxed);
        writers
            .into_iter()
            .flat_map(|writer| writer.join().unwrap())
            .collect::<Vec<_>>()
    });
    cluster.kill(leader);
    let mut client = cluster.client();
    for key in &acknowledged {
        let value = client.get(key.as_bytes(), Currency::Linearizable).unwrap();
        assert_eq!(value.as_deref(), Some(key.as_bytes()), "{key} is lost");
    }
    // Also not by the one that was killed, once it is back.
    cluster.spawn(leader, &[]);
    let last = cluster.until("its catching up", |cluster| {
        let all: Vec<_> = (1..=3).map_while(|id| cluster.status(id)).collect();
        let same = all.len() == 3 && all.iter().all(|status| status.applied == all[0].commit);
        same.then(|| acknowledged.last().unwrap())
    });
    let mut client = Client::new("raft-kv", &[cluster.addresses[&leader].clone()], PATIENCE);
    let value = client.get(last.as_bytes(), Currency::Stale).unwrap();
    assert_eq!(value.as_deref(), Some(last.as_bytes()));
}

#[test]
fn a_write_sent_again_takes_effect_once() {
    let mut cluster = Cluster::start();
    let mut client = cluster.client();
    let append = |value: &'static [u8]| Operation::Append { key: b"k", value };
    client.write_as(1, append(b"a")).unwrap();
    let leader = cluster.leader();
    client.write_as(2, append(b"b")).unwrap();
    cluster.kill(leader);
    // As if the answer had been lost with the leader.
    assert_eq!(client.write_as(2, append(b"b")).unwrap(), Effect::Done);
    assert_eq!(
        client.write_as(1, append(b"a")).unwrap(),
        Effect::Superseded
    );
    let key = b"k";
    let swap = Operation::CompareAndSet {
        key,
        expected: Some(b"ab"),
        value: b"c",
    };
    assert_eq!(
        client.write_as(3, swap.clone()).unwrap(),
        Effect::Swapped(true)
    );
    assert_eq!(
        client.write_as(3, swap.clone()).unwrap(),
        Effect::Swapped(true)
    );
    assert_eq!(client.write_as(4, swap).unwrap(), Effect::Swapped(false));
    assert_eq!(
        client.get(key, Currency::Linearizable).unwrap().unwrap(),
        b"c"
    );
    assert_eq!(client.get(key, Currency::Lease).unwrap().unwrap(), b"c");
}

#[test]
fn a_damaged_log_is_repaired_from_the_others() {
    let mut cluster = Cluster::start();
    let mut client = cluster.client();
    for count in 0..40 {
        client.write(put(&format!("k{count}"), b"value")).unwrap();
    }
    // Of the leader, for which it is hardest.
    let victim = cluster.leader();
    cluster.kill(victim);
    let entry = flip_a_bit(&cluster.data(victim)).unwrap();
    // The state goes too: it is made again from the log.
    fs::write(cluster.data(victim).join("state.redb"), b"no database").unwrap();
    cluster.spawn(victim, &[]);
    let status = cluster.until("the repair", |cluster| {
        cluster.status(victim).filter(|status| {
            status.whole && status.applied == status.commit && status.applied > entry
        })
    });
    assert_eq!(status.lost.unwrap().0, entry);
    let mut client = Client::new("raft-kv", &[cluster.addresses[&victim].clone()], PATIENCE);
    for count in 0..40 {
        let value = client
            .get(format!("k{count}").as_bytes(), Currency::Stale)
            .unwrap();
        assert_eq!(value.as_deref(), Some(b"value".as_slice()));
    }
    // The repair is on its disk: it finds nothing amiss any more.
    cluster.kill(victim);
    cluster.spawn(victim, &[]);
    let status = cluster.until("its return", |cluster| cluster.status(victim));
    assert_eq!(status.lost, None);
}

#[test]
fn who_comes_late_gets_a_snapshot_and_members_change() {
    let mut cluster = Cluster::start();
    for id in 1..=3 {
        cluster.kill(id);
        cluster.spawn(id, &["--snapshot-mib", "1"]);
    }
    let value = vec![b'v'; 100_000];
    let mut client = cluster.client();
    for count in 0..40 {
        client
            .write(put(&format!("k{}", count % 5), &value))
            .unwrap();
    }
    cluster.until("a snapshot", |cluster| {
        cluster
            .status(cluster.leader())
            .filter(|status| status.snapshot > 10)
    });
    let metrics = free_addresses(2);
    cluster.addresses.insert(4, metrics[0].clone());
    cluster.spawn(4, &["--join", "--metrics", &metrics[1]]);
    let (old, to) = (
        cluster.leader().to_string(),
        cluster
            .addresses
            .values()
            .cloned()
            .collect::<Vec<_>>()
            .join(","),
    );
    let admin = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_raft-kv"));
        let output = command
            .arg("admin")
            .args(args)
            .args(["--to", &to])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    admin(&["add", "4", &metrics[0]]);
    admin(&["transfer", "4"]);
    admin(&["remove", &old]);
    assert_eq!(cluster.leader(), 4);
    let status = cluster.status(4).unwrap();
    assert!(status.voters.contains(&4) && status.voters.len() == 3);
    assert_eq!(
        client.get(b"k3", Currency::Linearizable).unwrap().unwrap(),
        value
    );
    let mut stream = TcpStream::connect(&metrics[1]).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(
        answer.contains("\nraft_kv_snapshots_installed_total 1\n"),
        "{answer}"
    );
    assert!(answer.contains("\nraft_kv_leader 1\n"), "{answer}");
}

/// Until it stops by itself.
fn refusal(mut command: Command) -> String {
    let Output { status, stderr, .. } = command.stderr(Stdio::piped()).output().unwrap();
    assert_eq!(status.code(), Some(2));
    String::from_utf8(stderr).unwrap()
}

#[test]
fn a_server_says_why_it_does_not_start() {
    let mut cluster = Cluster::start();
    cluster.leader();
    let again = refusal(cluster.command(1));
    assert!(again.contains("another server uses"), "{again}");
    cluster.kill(2);
    let mut other_cluster = cluster.command(2);
    other_cluster.args(["--cluster", "another"]);
    let wrong = refusal(other_cluster);
    assert!(
        wrong.contains("belongs to cluster raft-kv, server 2, not to cluster another"),
        "{wrong}"
    );
    let moved = cluster.folder.path().join("1");
    cluster.kill(1);
    fs::rename(cluster.data(2), cluster.folder.path().join("kept")).unwrap();
    fs::rename(moved, cluster.data(2)).unwrap();
    let wrong = refusal(cluster.command(2));
    assert!(
        wrong.contains("belongs to cluster raft-kv, server 1, not to"),
        "{wrong}"
    );
    let port = refusal({
        let mut command = cluster.command(1);
        command.args(["--listen", &cluster.addresses[&3]]);
        command
    });
    assert!(port.contains("cannot listen on"), "{port}");
    fs::remove_dir_all(cluster.data(1).join("log")).unwrap();
    let gone = refusal(cluster.command(1));
    assert!(gone.contains("remove it from the cluster"), "{gone}");
}

#[test]
fn a_client_says_why_it_gives_up() {
    let mut cluster = Cluster::start();
    cluster.leader();
    let addresses: Vec<_> = cluster.addresses.values().cloned().collect();
    let mut stranger = Client::new("another", &addresses, PATIENCE);
    let refused = stranger.status().unwrap_err().to_string();
    assert!(
        refused.contains("this is cluster raft-kv, not another"),
        "{refused}"
    );
    let mut client = cluster.client();
    let refused = client
        .order(&Request::Cut { from: [1].into() })
        .unwrap_err();
    assert!(matches!(refused, ClientError::Refused(_)));
    let long = vec![0; raft_kv::protocol::VALUE_MAX + 1];
    assert!(matches!(
        client.write(put("k", &long)),
        Err(ClientError::Refused(_))
    ));
    cluster.kill(1);
    cluster.kill(2);
    let mut hasty = Client::new("raft-kv", &addresses, Duration::from_millis(300));
    assert!(matches!(
        hasty.write(put("k", b"v")),
        Err(ClientError::Timeout(_))
    ));
}
