//! What a server counts, for Prometheus: text format 0.0.4 over HTTP.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use raft_log::{Raft, Standing};

/// Bytes of the longest request that is read.
const REQUEST_MAX: usize = 8 << 10;

#[derive(Debug, Default)]
pub(super) struct Counter(pub(super) AtomicU64);

#[derive(Debug, Default)]
pub(super) struct Metrics {
    pub(super) requests: Counter,
    pub(super) commands: Counter,
    pub(super) entries: Counter,
    pub(super) reads: Counter,
    pub(super) syncs: Counter,
    pub(super) messages_sent: Counter,
    pub(super) bad_messages: Counter,
    pub(super) bad_frames: Counter,
    pub(super) elections_won: Counter,
    pub(super) snapshots_taken: Counter,
    pub(super) snapshots_installed: Counter,
    term: Counter,
    commit: Counter,
    applied: Counter,
    last: Counter,
    leads: Counter,
}

impl Metrics {
    pub(super) fn observe(&self, raft: &Raft, applied: u64) {
        let leads = u64::from(raft.standing() == Standing::Leader);
        let last = raft.log().last().index;
        for (gauge, value) in [
            (&self.term, raft.term()),
            (&self.commit, raft.commit()),
            (&self.applied, applied),
            (&self.last, last),
            (&self.leads, leads),
        ] {
            gauge.0.store(value, Ordering::Relaxed);
        }
    }

    fn text(&self) -> String {
        let counters = [
            ("requests", "Requests of clients.", &self.requests),
            (
                "commands",
                "Commands run by the state machine.",
                &self.commands,
            ),
            ("entries", "Entries proposed.", &self.entries),
            ("reads", "Reads served.", &self.reads),
            ("syncs", "Commits of the log.", &self.syncs),
            (
                "messages_sent",
                "Messages to other servers.",
                &self.messages_sent,
            ),
            (
                "bad_messages",
                "Messages that no correct server sends.",
                &self.bad_messages,
            ),
            (
                "bad_frames",
                "Streams closed for what was on them.",
                &self.bad_frames,
            ),
            (
                "elections_won",
                "Times this server began to lead.",
                &self.elections_won,
            ),
            (
                "snapshots_taken",
                "Snapshots of the state machine.",
                &self.snapshots_taken,
            ),
            (
                "snapshots_installed",
                "Snapshots from a leader.",
                &self.snapshots_installed,
            ),
        ];
        let gauges = [
            ("term", "The term.", &self.term),
            (
                "commit_index",
                "The last entry known to be committed.",
                &self.commit,
            ),
            ("applied_index", "The last entry run.", &self.applied),
            ("last_index", "The last entry of the log.", &self.last),
            ("leader", "1 if this server leads.", &self.leads),
        ];
        let mut text = String::new();
        let counters =
            counters.map(|(name, help, of)| (format!("{name}_total"), help, of, "counter"));
        let gauges = gauges.map(|(name, help, of)| (name.to_owned(), help, of, "gauge"));
        for (name, help, of, kind) in counters.into_iter().chain(gauges) {
            let value = of.0.load(Ordering::Relaxed);
            // A string takes everything.
            let _ = writeln!(
                text,
                "# HELP raft_kv_{name} {help}\n# TYPE raft_kv_{name} {kind}\nraft_kv_{name} {value}"
            );
        }
        text
    }
}

/// Answers one request after the other, on a thread of its own.
pub(super) fn serve(address: SocketAddr, metrics: Arc<Metrics>) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Who does not read its answer does not get one.
            let _gone = answer(stream, &metrics).is_err();
        }
    });
    Ok(())
}

fn answer(mut stream: TcpStream, metrics: &Metrics) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    let mut request = Vec::new();
    let mut part = [0; 1024];
    let (status, text) = loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Request::new(&mut headers);
        match parsed.parse(&request) {
            Ok(status) if status.is_complete() => match (parsed.method, parsed.path) {
                (Some("GET"), Some("/metrics")) => break ("200 OK", metrics.text()),
                (Some("GET"), _) => break ("404 Not Found", "only /metrics\n".to_owned()),
                _ => break ("405 Method Not Allowed", "only GET\n".to_owned()),
            },
            Ok(_) if request.len() < REQUEST_MAX => {}
            _ => break ("400 Bad Request", String::new()),
        }
        let bytes = stream.read(&mut part)?;
        if bytes == 0 {
            return Ok(());
        }
        request.extend_from_slice(&part[..bytes]);
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )
}
