//! Clients that read and write all the while, and note what they saw and when.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use linearizability::{Operation as Noted, Response};
use raft_kv::client::{Client, ClientError};
use raft_kv::protocol::{Currency, Effect, Operation};

use super::cells::{Answer, Ask, What};

/// Clients.
const CLIENTS: u64 = 6;
/// Keys: few, so that clients meet.
const KEYS: u64 = 4;
/// Between an answer and the next question, so that the history can be looked at.
const PAUSE: Duration = Duration::from_millis(10);

pub(crate) type History = Vec<Noted<Ask, Answer>>;

/// The clients under way.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    pub(crate) answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<History>>,
}

impl Load {
    pub(crate) fn start(cluster: &str, addresses: &[String], stale: bool) -> Self {
        let (stop, answered) = (Arc::default(), Arc::default());
        let began = Instant::now();
        let clients = (1..=CLIENTS).map(|process| {
            let readers = addresses.iter().filter(|_| stale);
            let readers = readers.map(|address| {
                let address = std::slice::from_ref(address);
                Client::new(cluster, address, Duration::from_millis(100))
            });
            let mut one = One {
                process,
                readers: readers.collect(),
                client: Client::new(cluster, addresses, Duration::from_secs(1)),
                random: process,
                count: 0,
                began,
                answered: Arc::clone(&answered),
                history: Vec::new(),
            };
            let stop: Arc<AtomicBool> = Arc::clone(&stop);
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    one.turn();
                    thread::sleep(PAUSE);
                }
                one.history
            })
        });
        let clients = clients.collect();
        Self {
            stop,
            answered,
            clients,
        }
    }

    /// What all of them saw.
    pub(crate) fn finish(self) -> History {
        self.stop.store(true, Ordering::Relaxed);
        let all = self.clients.into_iter();
        all.flat_map(|client| client.join().expect("a client does not panic"))
            .collect()
    }
}

struct One {
    process: u64,
    client: Client,
    /// Of one server each, for stale reads.
    readers: Vec<Client>,
    random: u64,
    count: u64,
    began: Instant,
    answered: Arc<AtomicU64>,
    history: History,
}

impl One {
    fn turn(&mut self) {
        let key = format!("key-{}", self.below(KEYS));
        let what = self.choose();
        let invoked = self.now();
        let answer = self.ask(&key, &what);
        let returned = self.now();
        let response = match answer {
            Ok(output) => {
                self.answered.fetch_add(1, Ordering::Relaxed);
                Some(Response { output, returned })
            }
            // A read that was not answered changed nothing.
            Err(_) if what == What::Get => return,
            Err(_) => None,
        };
        self.history.push(Noted {
            process: self.process,
            input: Ask { key, what },
            invoked,
            response,
        });
    }

    fn choose(&mut self) -> What {
        self.count += 1;
        let value = format!("{}.{}", self.process, self.count);
        match self.below(10) {
            0..=3 => What::Get,
            4..=6 => What::Put(value),
            7 => What::Append(format!("+{value}")),
            8 => What::Delete,
            _ => What::Cas(None, value),
        }
    }

    fn ask(&mut self, key: &str, what: &What) -> Result<Answer, ClientError> {
        let key = key.as_bytes();
        let operation = match what {
            What::Get => {
                // A lease promises the same, as long as clocks run equally fast: they are one here.
                let lease = self.below(2) == 0;
                let currency = if lease {
                    Currency::Lease
                } else {
                    Currency::Linearizable
                };
                let any = self.below(u64::try_from(self.readers.len()).unwrap_or(0).max(1));
                let any = usize::try_from(any).unwrap_or(0);
                let value = match self.readers.get_mut(any) {
                    Some(reader) => reader.get(key, Currency::Stale)?,
                    None => self.client.get(key, currency)?,
                };
                let value = value.map(|value| String::from_utf8_lossy(&value).into_owned());
                return Ok(Answer::Value(value));
            }
            What::Put(value) => Operation::Put {
                key,
                value: value.as_bytes(),
            },
            What::Append(value) => Operation::Append {
                key,
                value: value.as_bytes(),
            },
            What::Delete => Operation::Delete { key },
            What::Cas(expected, value) => Operation::CompareAndSet {
                key,
                expected: expected.as_ref().map(String::as_bytes),
                value: value.as_bytes(),
            },
        };
        Ok(match self.client.write(operation)? {
            Effect::Swapped(swapped) => Answer::Swapped(swapped),
            _ => Answer::Done,
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005);
        self.random = self.random.wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % limit
    }
}
