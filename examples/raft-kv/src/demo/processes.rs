//! Servers as processes, each in a network namespace of its own where that is allowed.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use raft_kv::folder::flip_a_bit;

pub(crate) struct Processes {
    folder: PathBuf,
    pub(crate) cluster: String,
    addresses: BTreeMap<u64, String>,
    running: BTreeMap<u64, Child>,
    net: Option<Net>,
}

impl Processes {
    /// Room for `count` servers, of which none runs yet.
    pub(crate) fn new(folder: &Path, count: u64, namespaces: bool) -> Result<Self> {
        let net = namespaces.then(|| Net::new(count)).transpose()?;
        let mut held = Vec::new();
        let mut addresses = BTreeMap::new();
        for id in 1..=count {
            let address = if let Some(net) = &net {
                format!("{}:7000", net.host(id))
            } else {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                let address = listener.local_addr()?.to_string();
                held.push(listener); // until all are chosen, so that they differ
                address
            };
            addresses.insert(id, address);
        }
        Ok(Self {
            folder: folder.to_path_buf(),
            cluster: format!("demo-{}", process::id()),
            addresses,
            running: BTreeMap::new(),
            net,
        })
    }

    pub(crate) fn address(&self, id: u64) -> String {
        self.addresses[&id].clone()
    }

    pub(crate) fn data(&self, id: u64) -> PathBuf {
        self.folder.join(format!("server-{id}"))
    }

    /// Whether a cut is one of the network, which cuts clients off too.
    pub(crate) fn has_namespaces(&self) -> bool {
        self.net.is_some()
    }

    pub(crate) fn running(&self) -> Vec<u64> {
        self.running.keys().copied().collect()
    }

    /// Starts a server; one of `first` is a first member, any other joins.
    pub(crate) fn start(&mut self, id: u64, first: u64) -> Result<()> {
        let known = if id <= first { first } else { id };
        let peers = (1..=known).map(|peer| format!("{peer}={}", self.addresses[&peer]));
        let peers: Vec<_> = peers.collect();
        let mut command = self.command(id)?;
        command.args(["server", "--faults", "--election-timeout", "300"]);
        command.args(["--snapshot-mib", "1"]);
        command.args(["--id", &id.to_string(), "--cluster", &self.cluster]);
        command.args(["--peers", &peers.join(",")]);
        command.arg("--data").arg(self.data(id));
        if id > first {
            command.arg("--join");
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join(format!("server-{id}.log")))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.running.insert(id, command.spawn()?);
        Ok(())
    }

    /// This program, where that server is.
    pub(crate) fn command(&self, id: u64) -> Result<Command> {
        let program = env::current_exe()?;
        Ok(match &self.net {
            Some(net) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &net.space(id)]).arg(program);
                command
            }
            None => Command::new(program),
        })
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, id: u64) -> Result<()> {
        let mut child = self.running.remove(&id).context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Which servers have stopped by themselves.
    pub(crate) fn stopped(&mut self) -> Vec<u64> {
        let running = self.running.iter_mut();
        let stopped = running.filter_map(|(id, child)| match child.try_wait() {
            Ok(None) => None,
            _ => Some(*id),
        });
        stopped.collect()
    }

    /// Takes a server off the network, or puts it back. Whether there is a network to do that with.
    pub(crate) fn plug(&self, id: u64, plugged: bool) -> Result<bool> {
        let Some(net) = &self.net else {
            return Ok(false);
        };
        let state = if plugged { "up" } else { "down" };
        ip(&["link", "set", &net.cable(id), state])?;
        Ok(true)
    }

    /// Flips a bit in the middle of what a stopped server's log says, as a disk may. Which entry that hits.
    pub(crate) fn rot(&self, id: u64) -> Result<u64> {
        flip_a_bit(&self.data(id))
    }

    /// What the servers have said.
    pub(crate) fn sayings(&self) -> String {
        let logs = self.addresses.keys().map(|id| {
            let path = self.folder.join(format!("server-{id}.log"));
            fs::read_to_string(path).unwrap_or_default()
        });
        logs.collect()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for id in self.running() {
            // It may have stopped by itself.
            let _stopped = self.kill(id).is_err();
        }
    }
}

/// A bridge, and a namespace for each server with a cable to it.
struct Net {
    name: String,
    subnet: u32,
    servers: u64,
}

impl Net {
    fn new(servers: u64) -> Result<Self> {
        let pid = process::id();
        let net = Self {
            name: format!("rkv{}", pid % 100_000),
            subnet: pid % 256,
            servers,
        };
        ip(&["link", "add", &net.bridge(), "type", "bridge"])?;
        let host = format!("10.213.{}.254/24", net.subnet);
        ip(&["addr", "add", &host, "dev", &net.bridge()])?;
        ip(&["link", "set", &net.bridge(), "up"])?;
        for id in 1..=servers {
            let (space, cable) = (net.space(id), net.cable(id));
            ip(&["netns", "add", &space])?;
            ip(&[
                "link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &space,
            ])?;
            ip(&["link", "set", &cable, "master", &net.bridge(), "up"])?;
            let inside = |args: &[&str]| ip(&[&["-n", space.as_str()], args].concat());
            let address = format!("{}/24", net.host(id));
            inside(&["addr", "add", &address, "dev", "eth0"])?;
            inside(&["link", "set", "eth0", "up"])?;
            inside(&["link", "set", "lo", "up"])?;
        }
        Ok(net)
    }

    fn bridge(&self) -> String {
        format!("{}b", self.name)
    }

    fn space(&self, id: u64) -> String {
        format!("{}-{id}", self.name)
    }

    fn cable(&self, id: u64) -> String {
        format!("{}c{id}", self.name)
    }

    fn host(&self, id: u64) -> String {
        format!("10.213.{}.{id}", self.subnet)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for id in 1..=self.servers {
            // What was not made cannot be removed. A cable goes with its namespace.
            let _none = ip(&["netns", "del", &self.space(id)]).is_err();
        }
        let _none = ip(&["link", "del", &self.bridge()]).is_err();
    }
}

/// Whether this process may make namespaces, found out by making one.
pub(crate) fn may_make_namespaces() -> bool {
    Net::new(1).is_ok()
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output().context("ip")?;
    ensure!(
        output.status.success(),
        "ip {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    Ok(())
}
