//! A cluster of processes to which everything happens while clients use it; at the end, the checker's verdict.

mod cells;
mod load;
mod processes;
mod screen;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use linearizability::{Budget, History, Outcome, check, timeline, verify};

use raft_kv::client::Client;
use raft_kv::protocol::{Currency, Operation, Request, Status};

use crate::{ClientArgs, admin};
use cells::Cells;
use load::Load;
use processes::{Processes, may_make_namespaces};
use screen::Screen;

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// First members.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(3..=7))]
    nodes: u64,
    /// About how long.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(5..=3600))]
    seconds: u64,
    /// No live table, only what happens.
    #[arg(long)]
    quiet: bool,
    /// How to cut a server off.
    #[arg(long, value_enum, default_value_t = Cut::Auto)]
    cut: Cut,
    /// Clients read whatever any server has and take it for the truth: the checker must object.
    #[arg(long)]
    stale: bool,
    /// Where to draw what the clients saw.
    #[arg(long, default_value = "raft-kv-timeline.html", value_name = "FILE")]
    timeline: PathBuf,
    /// Keep the servers' folders there.
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Cut {
    /// By namespaces if they may be made.
    Auto,
    /// By network namespaces: needs root and iproute2.
    Namespaces,
    /// The server itself drops what it would say or hear.
    Switch,
}

/// For everything that must happen sooner or later.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn run(args: &DemoArgs) -> Result<()> {
    let temporary = tempfile::tempdir()?;
    let folder = args.keep.as_deref().unwrap_or_else(|| temporary.path());
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let namespaces = match args.cut {
        Cut::Auto => may_make_namespaces(),
        Cut::Namespaces => true,
        Cut::Switch => false,
    };
    let mut demo = Demo {
        servers: Processes::new(folder, args.nodes + 1, namespaces)?,
        first: args.nodes,
        members: (1..=args.nodes).collect(),
        screen: Screen::new(args.quiet),
        phase: Duration::from_secs(args.seconds) / 6,
        stale: args.stale,
    };
    demo.run(&args.timeline)
        .inspect_err(|_| eprint!("the servers said:\n{}", demo.servers.sayings()))
}

struct Demo {
    servers: Processes,
    first: u64,
    /// Who should belong to the cluster.
    members: BTreeSet<u64>,
    screen: Screen,
    phase: Duration,
    stale: bool,
}

impl Demo {
    fn run(&mut self, page: &Path) -> Result<()> {
        let how = if self.servers.has_namespaces() {
            "each in a network namespace"
        } else {
            "on loopback"
        };
        self.say(&format!("{} servers, {how}", self.first));
        for id in 1..=self.first {
            self.servers.start(id, self.first)?;
        }
        self.until("a leader", |all| leader(all).is_some())?;
        let load = Load::start(&self.servers.cluster, &self.addresses(), self.stale);
        self.go_on(&load)?;
        self.kill_and_rot(&load)?;
        self.cut_off(&load)?;
        self.change_members(&load)?;
        let history = load.finish();
        self.agree()?;
        self.judge(history, page)
    }

    /// The leader dies, its disk lets a bit flip, and it comes back.
    fn kill_and_rot(&mut self, load: &Load) -> Result<()> {
        let victim = self.leader()?;
        self.servers.kill(victim)?;
        self.say(&format!("server {victim}, the leader, was killed"));
        let term = self.until("another leader", |all| leader(all).is_some())?;
        let next = leader(&term).map_or(0, |status| status.node);
        self.say(&format!("server {next} leads"));
        self.go_on(load)?;
        let entry = self.servers.rot(victim)?;
        self.say(&format!(
            "a bit was flipped in entry {entry} of server {victim}'s log, and it was started again"
        ));
        self.servers.start(victim, self.first)?;
        let all = self.until("the log's repair", |all| {
            let repaired =
                |status: &&Status| status.node == victim && status.lost.is_some() && status.whole;
            let found = all.iter().find(repaired);
            found.is_some_and(|found| found.applied > entry && found.applied == found.commit)
        })?;
        let found = all.iter().find(|status| status.node == victim);
        let (from, to) = found.and_then(|status| status.lost).unwrap_or_default();
        self.say(&format!(
            "server {victim} noticed, has had entries {from} to {to} from the others, and serves"
        ));
        self.go_on(load)
    }

    /// The leader is alone for a while, and then not.
    fn cut_off(&mut self, load: &Load) -> Result<()> {
        let victim = self.leader()?;
        self.put("first")?;
        self.cut(victim, true)?;
        self.say(&format!("server {victim}, the leader, was cut off"));
        self.until("another leader", |all| {
            leader(all).is_some_and(|status| status.node != victim)
        })?;
        self.put("second")?;
        let stale = self.ask_in(victim, "stale")?;
        let current = self.ask_in(victim, "linearizable")?;
        ensure!(
            stale.as_deref() == Some("first"),
            "a stale read tells {stale:?}"
        );
        ensure!(
            current.is_none(),
            "a server without a majority tells {current:?}"
        );
        self.say("cut off, it still tells the old value to who asks for a stale one, and nothing to others");
        self.go_on(load)?;
        self.cut(victim, false)?;
        self.say(&format!("server {victim} is back"));
        self.until("its catching up", |all| {
            let Some(leader) = leader(all) else {
                return false;
            };
            let found = all.iter().find(|status| status.node == victim);
            found.is_some_and(|found| {
                found.term == leader.term && found.applied + 50 >= leader.commit
            })
        })?;
        self.go_on(load)
    }

    /// A server joins; the leader leaves.
    fn change_members(&mut self, load: &Load) -> Result<()> {
        let new = self.first + 1;
        self.servers.start(new, self.first)?;
        let (id, address) = (new, self.servers.address(new));
        let to = self.to();
        admin::run(&admin::Admin::Add { id, address, to })?;
        self.members.insert(new);
        self.say(&format!("server {new} has joined"));
        self.go_on(load)?;
        let old = self.leader()?;
        let to = self.to();
        admin::run(&admin::Admin::Remove { id: old, to })?;
        self.members.remove(&old);
        self.servers.kill(old)?;
        self.say(&format!("server {old}, the leader, was removed"));
        self.until("another leader", |all| leader(all).is_some())?;
        self.go_on(load)
    }

    /// All servers come to the same place, and have the same there.
    fn agree(&mut self) -> Result<()> {
        let all = self.until("the same log everywhere", |all| {
            let same = all.windows(2).all(|two| two[0].applied == two[1].applied);
            same && all
                .iter()
                .all(|status| status.whole && status.applied == status.last)
        })?;
        ensure!(
            all.iter()
                .map(|status| status.node)
                .eq(self.members.iter().copied()),
            "not all members are there"
        );
        let mut states = BTreeSet::new();
        for status in &all {
            let address = [self.servers.address(status.node)];
            let mut client = Client::new(&self.servers.cluster, &address, PATIENCE);
            let keys = ["key-0", "key-1", "key-2", "key-3", "probe"];
            let values = keys.map(|key| client.get(key.as_bytes(), Currency::Stale).ok());
            states.insert(values.map(Option::unwrap_or_default).to_vec());
        }
        ensure!(
            states.len() == 1,
            "the servers hold different values: {states:?}"
        );
        self.say(&format!(
            "{} servers have run the same {} entries and hold the same",
            all.len(),
            all[0].applied
        ));
        Ok(())
    }

    fn judge(&mut self, history: load::History, page: &Path) -> Result<()> {
        let history = History::new(history)?;
        let outcome = check(&Cells, &history, Budget::default());
        fs::write(page, timeline(&history, &outcome))
            .with_context(|| page.display().to_string())?;
        let operations = history.operations();
        let unanswered = operations
            .iter()
            .filter(|one| one.response.is_none())
            .count();
        match &outcome {
            Outcome::Linearizable(witness) => verify(&Cells, &history, witness)?,
            Outcome::NotLinearizable(found) => bail!(
                "NOT linearizable: {} answers contradict each other, see {}",
                found.answered.len(),
                page.display()
            ),
            Outcome::Unknown(why) => bail!("not known whether it is linearizable: {why}"),
        }
        self.say(&format!(
            "linearizable: {} operations, {unanswered} of them never answered; drawn in {}",
            operations.len(),
            page.display()
        ));
        Ok(())
    }

    fn say(&mut self, what: &str) {
        self.screen.say(what);
    }

    fn to(&self) -> ClientArgs {
        ClientArgs {
            addresses: self.addresses(),
            cluster: self.servers.cluster.clone(),
            timeout: 20_000,
        }
    }

    /// Of the members.
    fn addresses(&self) -> Vec<String> {
        let members = self.members.iter();
        members.map(|id| self.servers.address(*id)).collect()
    }

    fn statuses(&mut self) -> Result<Vec<Status>> {
        let stopped = self.servers.stopped();
        ensure!(
            stopped.is_empty(),
            "servers {stopped:?} have stopped by themselves"
        );
        let mut all = Vec::new();
        for id in self.servers.running() {
            let address = [self.servers.address(id)];
            let timeout = Duration::from_millis(200);
            let status = Client::new(&self.servers.cluster, &address, timeout).status();
            all.extend(status.ok());
        }
        self.screen.show(&all);
        Ok(all)
    }

    fn until(&mut self, what: &str, wanted: impl Fn(&[Status]) -> bool) -> Result<Vec<Status>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let all = self.statuses()?;
            if wanted(&all) {
                return Ok(all);
            }
            ensure!(
                Instant::now() < deadline,
                "{what} did not come about in {PATIENCE:?}:\n{}",
                admin::table(&all)
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The clients have their time, and are answered.
    fn go_on(&mut self, load: &Load) -> Result<()> {
        let end = Instant::now() + self.phase / 2;
        let answered = || load.answered.load(std::sync::atomic::Ordering::Relaxed);
        let before = answered();
        self.until("an answer to 50 clients' questions", |_| {
            Instant::now() >= end && answered() >= before + 50
        })?;
        Ok(())
    }

    fn leader(&mut self) -> Result<u64> {
        let all = self.until("a leader", |all| leader(all).is_some())?;
        leader(&all)
            .map(|status| status.node)
            .context("nobody leads")
    }

    fn put(&self, value: &str) -> Result<()> {
        let mut client = self.to().client();
        client.write(Operation::Put {
            key: b"probe",
            value: value.as_bytes(),
        })?;
        Ok(())
    }

    fn cut(&self, victim: u64, cut: bool) -> Result<()> {
        if self.servers.plug(victim, !cut)? {
            return Ok(());
        }
        let others = self.members.iter().copied().filter(|id| *id != victim);
        let from = if cut {
            others.collect()
        } else {
            BTreeSet::new()
        };
        let address = [self.servers.address(victim)];
        let mut client = Client::new(&self.servers.cluster, &address, PATIENCE);
        Ok(client.order(&Request::Cut { from })?)
    }

    /// What a client on that server's side of the network is told.
    fn ask_in(&self, id: u64, read: &str) -> Result<Option<String>> {
        let mut command = self.servers.command(id)?;
        command.args(["get", "probe", "--read", read, "--timeout", "700"]);
        command.args(["--to", &self.servers.address(id)]);
        let output = command.output()?;
        let said = String::from_utf8(output.stdout)?.trim_end().to_owned();
        Ok(output.status.success().then_some(said))
    }
}

/// Who leads the latest term.
fn leader(all: &[Status]) -> Option<&Status> {
    let latest = all.iter().max_by_key(|status| status.term)?;
    let leads = |status: &&Status| status.role == "leader" && status.term == latest.term;
    all.iter().find(leads)
}
