//! What an admin does.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Subcommand;
use comfy_table::{Table, presets};

use raft_kv::client::Client;
use raft_kv::protocol::{Request, Status};

use crate::ClientArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum Admin {
    /// A table of all servers that answer.
    Status {
        #[command(flatten)]
        to: ClientArgs,
    },
    /// Add a server that was started with --join: first it learns the log, then it votes.
    Add {
        id: u64,
        address: String,
        #[command(flatten)]
        to: ClientArgs,
    },
    /// Remove a server; stop it afterwards, and never start its folder again.
    Remove {
        id: u64,
        #[command(flatten)]
        to: ClientArgs,
    },
    /// Hand leadership over.
    Transfer {
        id: u64,
        #[command(flatten)]
        to: ClientArgs,
    },
    /// Have every server named take a snapshot now.
    Snapshot {
        #[command(flatten)]
        to: ClientArgs,
    },
}

pub(crate) fn run(what: &Admin) -> Result<()> {
    match what {
        Admin::Status { to } => println!("{}", table(&statuses(to))),
        Admin::Add { id, address, to } => add(to, *id, address)?,
        Admin::Remove { id, to } => remove(to, *id)?,
        Admin::Transfer { id, to } => {
            let mut leader = leader(to)?;
            leader.client.order(&Request::Transfer { to: *id })?;
            wait(to, |status| status.leader == Some(*id))?;
        }
        Admin::Snapshot { to } => {
            for address in &to.addresses {
                let mut only = to.clone();
                only.addresses = vec![address.clone()];
                only.client().order(&Request::Snapshot)?;
            }
        }
    }
    Ok(())
}

/// A client of the leader, and what the leader says of itself.
struct Leader {
    client: Client,
    status: Status,
}

/// How every server is that is known and answers.
fn statuses(to: &ClientArgs) -> Vec<Status> {
    let mut known = to.addresses.clone();
    let mut found: Vec<Status> = Vec::new();
    let mut next = 0;
    while let Some(address) = known.get(next).cloned() {
        next += 1;
        let timeout = Duration::from_millis(to.timeout.min(500));
        let Ok(status) = Client::new(&to.cluster, &[address], timeout).status() else {
            continue;
        };
        for (_, address) in &status.addresses {
            if !known.contains(address) {
                known.push(address.clone());
            }
        }
        if found.iter().all(|other| other.node != status.node) {
            found.push(status);
        }
    }
    found.sort_by_key(|status| status.node);
    found
}

fn leader(to: &ClientArgs) -> Result<Leader> {
    let status = wait(to, |status| status.role == "leader")?;
    let address = status.addresses.iter().find(|(id, _)| *id == status.node);
    let mut only = to.clone();
    only.addresses = vec![address.map_or_else(String::new, |(_, address)| address.clone())];
    Ok(Leader {
        client: only.client(),
        status,
    })
}

/// Until a server is as wanted; of several, that of the latest term.
fn wait(to: &ClientArgs, wanted: impl Fn(&Status) -> bool) -> Result<Status> {
    let deadline = Instant::now() + Duration::from_millis(to.timeout);
    loop {
        let found = statuses(to).into_iter().filter(|status| wanted(status));
        if let Some(status) = found.max_by_key(|status| status.term) {
            return Ok(status);
        }
        ensure!(
            Instant::now() < deadline,
            "the cluster is not as wanted in time"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

fn add(to: &ClientArgs, id: u64, address: &str) -> Result<()> {
    let Leader { mut client, status } = leader(to)?;
    let (voters, mut learners) = (status.voters, status.learners);
    if voters.contains(&id) {
        return Ok(());
    }
    client.order(&Request::Address {
        node: id,
        address: address.to_owned(),
    })?;
    learners.insert(id);
    client.order(&Request::Members {
        voters: voters.clone(),
        learners: learners.clone(),
    })?;
    let caught_up = |status: &Status| {
        let has = status.matched.iter().find(|(node, _)| *node == id);
        has.is_some_and(|(_, matched)| *matched + 100 >= status.commit)
    };
    wait(to, |status| status.role == "leader" && caught_up(status))?;
    learners.remove(&id);
    change(to, |voters| {
        voters.insert(id);
    })
}

fn remove(to: &ClientArgs, id: u64) -> Result<()> {
    change(to, |voters| {
        voters.remove(&id);
    })
}

/// Changes who decides, and waits until that is so.
fn change(to: &ClientArgs, change: impl Fn(&mut std::collections::BTreeSet<u64>)) -> Result<()> {
    let Leader { mut client, status } = leader(to)?;
    let mut voters = status.voters;
    change(&mut voters);
    let learners = status.learners.difference(&voters).copied().collect();
    client.order(&Request::Members {
        voters: voters.clone(),
        learners,
    })?;
    wait(to, |status| {
        status.voters == voters && status.outgoing.is_empty() && status.commit == status.last
            || status.role == "leader" && status.voters == voters && status.outgoing.is_empty()
    })?;
    Ok(())
}

pub(crate) fn table(statuses: &[Status]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "server", "role", "term", "leader", "last", "commit", "applied", "snapshot", "log",
    ]);
    for status in statuses {
        let log = match (status.lost, status.whole) {
            (None, _) => "whole".to_owned(),
            (Some((first, last)), false) => format!("lacks {first} to {last}"),
            (Some((first, last)), true) => format!("repaired {first} to {last}"),
        };
        let leader = status
            .leader
            .map_or_else(|| "-".to_owned(), |id| id.to_string());
        table.add_row([
            status.node.to_string(),
            status.role.clone(),
            status.term.to_string(),
            leader,
            status.last.to_string(),
            status.commit.to_string(),
            status.applied.to_string(),
            status.snapshot.to_string(),
            log,
        ]);
    }
    table
}
