//! Puts against etcd, in the manner of `raft-kv bench`: closed loop, each client with a connection of its own or a share
//! of some. Start three servers first; examples/raft-kv/README.md says how.

use std::env;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use etcd_client::{Client, Error, GetOptions};

/// How to ask: `etcd_puts ENDPOINT CLIENTS SECONDS CONNECTIONS put|get|get-stale [BYTES]`.
struct Load {
    endpoint: String,
    clients: usize,
    time: Duration,
    connections: usize,
    what: What,
    bytes: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum What {
    Put,
    Get,
    GetStale,
}

impl Load {
    fn parse() -> Option<Self> {
        let mut args = env::args().skip(1);
        let load = Self {
            endpoint: args.next()?,
            clients: args.next()?.parse().ok()?,
            time: Duration::from_secs(args.next()?.parse().ok()?),
            connections: args.next()?.parse().ok()?,
            what: match args.next()?.as_str() {
                "put" => What::Put,
                "get" => What::Get,
                "get-stale" => What::GetStale,
                _ => return None,
            },
            bytes: args.next().map_or(Some(16), |bytes| bytes.parse().ok())?,
        };
        (load.clients > 0 && load.connections > 0).then_some(load)
    }
}

fn main() -> ExitCode {
    let Some(load) = Load::parse() else {
        eprintln!("usage: etcd_puts ENDPOINT CLIENTS SECONDS CONNECTIONS put|get|get-stale [BYTES]");
        return ExitCode::from(2);
    };
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build();
    match runtime.map_err(Error::from).and_then(|runtime| runtime.block_on(run(&load))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("etcd_puts: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(load: &Load) -> Result<(), Error> {
    let mut connections = Vec::new();
    for _ in 0..load.connections.min(load.clients) {
        connections.push(Client::connect([&load.endpoint], None).await?);
    }
    let began = Instant::now();
    let end = began + load.time;
    let tasks: Vec<_> = (0..load.clients)
        .map(|number| {
            let client = connections[number % connections.len()].clone();
            tokio::spawn(ask(client, number, load.what, load.bytes, end))
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("a client does not panic")?);
    }
    let seconds = began.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)];
    println!(
        "etcd: {} clients, {} connections: {:.0} a second, p50 {:.3} ms, p99 {:.3} ms",
        load.clients,
        connections.len(),
        times.len() as f64 / seconds,
        at(50).as_secs_f64() * 1e3,
        at(99).as_secs_f64() * 1e3,
    );
    Ok(())
}

/// One after the other until the end; how long each took.
async fn ask(mut client: Client, number: usize, what: What, bytes: usize, end: Instant) -> Result<Vec<Duration>, Error> {
    let value = vec![b'v'; bytes];
    let mut times = Vec::new();
    let mut random = number as u64;
    while Instant::now() < end {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let key = format!("{:08}", (random >> 33) % 10_000);
        let asked = Instant::now();
        match what {
            What::Put => drop(client.put(key, value.clone(), None).await?),
            What::Get => drop(client.get(key, None).await?),
            What::GetStale => {
                drop(client.get(key, Some(GetOptions::new().with_serializable())).await?);
            }
        }
        times.push(asked.elapsed());
    }
    Ok(times)
}
