//! Exits and interrupts per TCP segment, of an emulated and of a paravirtual network adapter.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod plot;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use boot::Net;
use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use run::{Counts, Prepared, SEGMENT};

/// Boot Debian on each adapter, send a TCP stream, and count what it cost.
#[derive(Debug, Parser)]
struct Args {
    /// Segments to send.
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    segments: u32,
    /// Delays of the adapter before it begins with what is queued, in microseconds.
    #[arg(long, value_delimiter = ',', default_value = "0,10,30,100,300,1000")]
    delays: Vec<u32>,
    /// Guest nanoseconds for each instruction: how fast the guest is beside its adapter.
    #[arg(long, value_name = "NS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=1000))]
    ns_per_instruction: u64,
    /// Let the adapters interrupt by their line, without MSI-X.
    #[arg(long)]
    intx: bool,
    /// Draw exits and interrupts against the delay into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write all counts into this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One run, without what booting costs.
#[derive(Clone, Debug, Serialize)]
struct Point {
    adapter: &'static str,
    delay_us: u32,
    segments: u64,
    bytes: u64,
    exits_per_segment: f64,
    interrupts_per_segment: f64,
    exits: Vec<(&'static str, u64)>,
}

fn main() -> ExitCode {
    match measure(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("table-6-2: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> Result<()> {
    let mut points = Vec::new();
    for (name, net) in ADAPTERS {
        let guest = Prepared::new(net, !args.intx, args.ns_per_instruction);
        let guest = guest.with_context(|| name.to_owned())?;
        for &delay_us in &args.delays {
            let delay = u64::from(delay_us) * 1_000;
            let boot = guest.run(0, delay).with_context(|| name.to_owned())?;
            let all = guest.run(args.segments, delay);
            let counts = all.with_context(|| name.to_owned())?.since(&boot);
            let point = point(name, delay_us, &counts);
            eprintln!(
                "{name}, {delay_us} us: {:.3} exits, {:.3} interrupts per segment",
                point.exits_per_segment, point.interrupts_per_segment
            );
            points.push(point);
        }
    }
    println!("{}", listing(&points, args));
    if let Some(path) = &args.svg {
        write(path, &plot::curves(&points))?;
    }
    if let Some(path) = &args.json {
        write(path, &serde_json::to_string_pretty(&points)?)?;
    }
    Ok(())
}

fn point(adapter: &'static str, delay_us: u32, counts: &Counts) -> Point {
    let exits = counts.exits.iter();
    Point {
        adapter,
        delay_us,
        segments: counts.segments,
        bytes: counts.bytes,
        exits_per_segment: ratio(counts.all_exits(), counts.segments),
        interrupts_per_segment: ratio(counts.interrupts, counts.segments),
        exits: exits
            .map(|(&name, &count)| (name, count))
            .filter(|&(_, count)| count > 0)
            .collect(),
    }
}

fn listing(points: &[Point], args: &Args) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "adapter",
        "delay, us",
        "segments",
        "bytes/segment",
        "exits/segment",
        "interrupts/segment",
        "of them, per segment",
    ]);
    for point in points {
        let mut exits = point.exits.clone();
        exits.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        let parts = exits
            .iter()
            .map(|&(name, count)| (name, ratio(count, point.segments)))
            .filter(|&(_, share)| share >= 0.005)
            .map(|(name, share)| format!("{name} {share:.2}"));
        table.add_row([
            point.adapter.to_owned(),
            point.delay_us.to_string(),
            point.segments.to_string(),
            (point.bytes / point.segments.max(1)).to_string(),
            format!("{:.3}", point.exits_per_segment),
            format!("{:.3}", point.interrupts_per_segment),
            parts.collect::<Vec<_>>().join(", "),
        ]);
    }
    for column in table.column_iter_mut().skip(1).take(5) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!(
        "{} writes of {SEGMENT} bytes into one TCP connection; the notes' table has 9 exits and 1 \
         interrupt per segment for e1000, 1/25 and 1/118 for virtio\n{table}",
        args.segments
    )
}

#[expect(clippy::cast_precision_loss, reason = "shown to three digits")]
fn ratio(count: u64, of: u64) -> f64 {
    count as f64 / of.max(1) as f64
}

fn write(path: &PathBuf, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

const ADAPTERS: [(&str, Net); 4] = [
    ("e1000", Net::E1000),
    ("virtio, flags", Net::VirtioFlags),
    ("virtio, EVENT_IDX", Net::Virtio),
    ("virtio, packed", Net::VirtioPacked),
];
