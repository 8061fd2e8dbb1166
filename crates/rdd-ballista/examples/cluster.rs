//! A scheduler and two executors as processes, and a job on them: `cluster sums`, `cluster pagerank`, with `--kill` an
//! executor dies with its blocks on the way. The result is checked.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

#[path = "../../../examples/pagerank/src/graph.rs"]
mod graph;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use rdd_ballista::{Cluster, Executor, Registry, serve_executor, serve_scheduler};

#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    what: What,
    /// Pairs to sum, or links to follow.
    #[arg(long, global = true, default_value_t = 1_000_000)]
    size: u64,
    /// Kill an executor as soon as it holds blocks.
    #[arg(long, global = true)]
    kill: bool,
    /// Tasks at a time on each executor.
    #[arg(long, global = true, default_value_t = 4)]
    slots: usize,
    /// Submit again what takes longer, in seconds.
    #[arg(long, global = true, default_value_t = 90)]
    patience: u64,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Sums by key, 8 map and 4 reduce tasks.
    Sums,
    /// Ten rounds of ranks over a generated graph.
    Pagerank,
    /// Serve as the scheduler.
    #[command(hide = true)]
    Scheduler { at: SocketAddr },
    /// Serve as an executor.
    #[command(hide = true)]
    Executor {
        scheduler: SocketAddr,
        at: SocketAddr,
        folder: PathBuf,
    },
}

fn registry() -> Arc<Registry> {
    let size = |arguments: &[u8]| u64::from_le_bytes(arguments.try_into().expect("8 bytes"));
    Arc::new(
        Registry::new()
            .with("sums", move |context, arguments| {
                let size = size(arguments);
                let pairs = context.generate(8, move |p| {
                    (0..size / 8).map(move |i| (i * 31 % (size / 10), 1 + p as u64 % 2))
                });
                rdd::collect_job(&pairs.reduce_by_key(4, |a, b| a + b))
            })
            .with("pagerank", move |context, arguments| {
                let links = graph::generated(context, size(arguments));
                rdd::collect_job(&graph::ranks(&links, 10))
            }),
    )
}

fn main() -> Result<()> {
    tokio::runtime::Runtime::new()?.block_on(run(&Args::parse()))
}

async fn run(args: &Args) -> Result<()> {
    match &args.what {
        What::Scheduler { at } => serve_scheduler(registry(), *at).await?,
        What::Executor {
            scheduler,
            at,
            folder,
        } => {
            let executor = Executor {
                scheduler: *scheduler,
                address: *at,
                slots: args.slots,
                folder,
            };
            serve_executor(registry(), &executor).await?;
        }
        What::Sums | What::Pagerank => drive(args).await?,
    }
    Ok(())
}

async fn drive(args: &Args) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut processes = Processes::start(args, folder.path())?;
    let cluster = Cluster {
        scheduler: format!("http://{}", processes.scheduler),
        store: format!("file://{}", folder.path().join("store").display()),
        hung_after: Duration::from_secs(args.patience),
        submissions_max: 3,
    };
    std::fs::create_dir(folder.path().join("store"))?;
    let victim = args.kill.then(|| processes.take_victim());
    let killer = std::thread::spawn(move || victim.map(kill_when_it_holds_blocks));
    let began = Instant::now();
    let size = args.size.to_le_bytes();
    match args.what {
        What::Sums => {
            let sums = cluster
                .collect::<(u64, u64)>(&registry(), "sums", &size)
                .await?;
            let total: u64 = sums.iter().map(|(_, sum)| sum).sum();
            println!("{} keys, sum {total}", sums.len());
            ensure!(total == args.size / 8 * 12, "not {}", args.size / 8 * 12);
        }
        _ => {
            let ranks = cluster
                .collect::<(u64, f64)>(&registry(), "pagerank", &size)
                .await?;
            let total: f64 = ranks.iter().map(|(_, rank)| rank).sum();
            println!("{} pages ranked, sum {total:.3}", ranks.len());
            let expected = on_this_machine(args.size)?;
            ensure!((total - expected).abs() < 0.001, "not {expected:.3}");
        }
    }
    println!("{:.1} s", began.elapsed().as_secs_f64());
    if let Some(killed) = killer.join().expect("no panic") {
        println!(
            "an executor died {:.1} s after it started",
            killed?.as_secs_f64()
        );
    }
    Ok(())
}

/// The same lineage, stage by stage, in this process.
fn on_this_machine(size: u64) -> Result<f64> {
    let context = rdd::Context::local(2)?;
    let ranks = graph::ranks(&graph::generated(&context, size), 10);
    Ok(ranks.values().sum()?)
}

/// Killed with the driver.
struct Processes {
    scheduler: SocketAddr,
    children: Vec<(Child, PathBuf)>,
}

impl Processes {
    fn start(args: &Args, folder: &Path) -> Result<Self> {
        let scheduler = free_address()?;
        let mut started = Self {
            scheduler,
            children: Vec::new(),
        };
        started.spawn(&["scheduler".to_owned(), scheduler.to_string()], folder)?;
        while std::net::TcpStream::connect(scheduler).is_err() {
            std::thread::sleep(Duration::from_millis(50));
        }
        for i in 0..2 {
            let own = folder.join(format!("executor-{i}"));
            std::fs::create_dir(&own)?;
            let at = free_address()?.to_string();
            let arguments = [
                "executor".to_owned(),
                scheduler.to_string(),
                at,
                own.display().to_string(),
                "--slots".to_owned(),
                args.slots.to_string(),
            ];
            started.spawn(&arguments, &own)?;
        }
        Ok(started)
    }

    fn spawn(&mut self, arguments: &[String], folder: &Path) -> Result<()> {
        let child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .spawn()
            .context("a process does not start")?;
        self.children.push((child, folder.to_owned()));
        Ok(())
    }

    fn take_victim(&mut self) -> (Child, PathBuf) {
        self.children.pop().expect("executors were started")
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for (child, _) in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn kill_when_it_holds_blocks((mut child, folder): (Child, PathBuf)) -> Result<Duration> {
    let began = Instant::now();
    while std::fs::read_dir(&folder)?.next().is_none() {
        if let Some(status) = child.try_wait()? {
            anyhow::bail!("the executor ended by itself: {status}");
        }
        ensure!(
            began.elapsed() < Duration::from_secs(120),
            "it never held blocks"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill()?;
    child.wait()?;
    std::fs::remove_dir_all(&folder)?;
    Ok(began.elapsed())
}

/// Two neighbouring ports that nobody listens on now.
fn free_address() -> Result<SocketAddr> {
    loop {
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let second = first.port().checked_add(1);
        if second.is_some_and(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()) {
            return Ok(first);
        }
    }
}
