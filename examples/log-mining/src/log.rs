//! A log of a cluster's services: level, time, service and message, with tabs between them.

use std::io::{self, Write};

/// Writes `lines` lines. One in ten is an error.
pub(crate) fn write(to: impl Write, lines: u64) -> io::Result<()> {
    let mut to = io::BufWriter::new(to);
    let mut state = 1;
    for line in 0..lines {
        let level = match random(&mut state, 20) {
            0 | 1 => "ERROR",
            2..=4 => "WARN",
            _ => "INFO",
        };
        let (hour, minute) = (line * 24 / lines, random(&mut state, 60));
        let service = SERVICES[random(&mut state, 4)];
        let node = random(&mut state, 64);
        let message = if level == "INFO" {
            "served"
        } else {
            "timed out"
        };
        writeln!(
            to,
            "{level}\t{hour:02}:{minute:02}\t{service}\tnode {node} {message} request {line}"
        )?;
    }
    to.flush()
}

/// Whether the line is of this service. The message may not name another.
pub(crate) fn is_of(line: &str, service: &str) -> bool {
    line.contains(service)
}

/// The time, where the line has one.
pub(crate) fn time(line: &str) -> Option<String> {
    line.split('\t').nth(1).map(str::to_owned)
}

/// The service, where the line names one.
pub(crate) fn service(line: &str) -> Option<String> {
    line.split('\t').nth(2).map(str::to_owned)
}

fn random(state: &mut u64, below: usize) -> usize {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    usize::try_from(*state >> 33).unwrap_or(0) % below
}

const SERVICES: [&str; 4] = ["HDFS", "MySQL", "Kafka", "NGINX"];
