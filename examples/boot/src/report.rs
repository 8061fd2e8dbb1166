//! The table at the end: what the guest cost.

use std::io::{self, Write};
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use e1000::registers;
use machine::{Adapter, Board, Counters, DbtCost, Engine, IotlbCounters, VirtioPci};

pub(crate) struct Report<'a> {
    pub(crate) elapsed: Duration,
    /// When user space came up.
    pub(crate) ready: Option<Duration>,
    pub(crate) engine: &'a Engine,
    pub(crate) board: &'a Board,
}

impl Report<'_> {
    /// Prints to standard error, so that standard output is the guest's alone.
    pub(crate) fn print(&self) {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["", "count", "per million instructions"]);
        let cost = match self.engine {
            Engine::Dbt(engine) => Some(engine.cost()),
            Engine::Lockstep(engine) => Some(engine.subject().cost()),
            Engine::Kvm(_) => None,
        };
        // In lockstep two processors share the time.
        let lockstep = matches!(self.engine, Engine::Lockstep(_));
        self.times(&mut table, cost.as_ref().filter(|_| !lockstep));
        if let Engine::Lockstep(engine) = self.engine {
            let compared = grouped(engine.compared());
            table.add_row(["comparisons with the interpreter", &compared, ""]);
        }
        let instructions = cost.map(|cost| cost.instructions);
        if let Some(cost) = &cost {
            costs(&mut table, cost);
        }
        let mut exits: Vec<_> = self.board.exits().collect();
        exits.sort_by_key(|(_, exits)| std::cmp::Reverse(exits.reads + exits.writes));
        for (device, exits) in exits {
            let label = format!(
                "{} ({} reads, {} writes)",
                device.name(),
                exits.reads,
                exits.writes
            );
            row(&mut table, &label, exits.reads + exits.writes, instructions);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        eprintln!("{table}");
        if let Some((unit, iotlb)) = self.board.remapping_counters() {
            remapping(&unit, &iotlb);
        }
        match self.board.network() {
            Some(Adapter::E1000(nic)) => e1000_exits(nic),
            Some(Adapter::Virtio(device)) => virtio_exits(device),
            None => {}
        }
    }

    /// One line on standard output by which two runs can be compared.
    pub(crate) fn print_digest(&self) {
        let Engine::Dbt(engine) = self.engine else {
            return;
        };
        match engine.digest() {
            Ok(digest) => {
                let count = engine.cost().instructions;
                let line = format!("icount: {count} instructions, final state {digest:016x}\n");
                // A pipe that is closed wants no line.
                let _ = io::stdout().write_all(line.as_bytes());
            }
            Err(error) => eprintln!("boot: no digest: {error}"),
        }
    }

    fn times(&self, table: &mut Table, cost: Option<&DbtCost>) {
        table.add_row(["wall time", &seconds(self.elapsed), ""]);
        if let Some(cost) = cost {
            table.add_row(["of it executing", &seconds(cost.busy), ""]);
        }
        if let Some(ready) = self.ready {
            table.add_row(["user space reached after", &seconds(ready), ""]);
        }
        table.add_row([
            "guest time",
            &seconds(Duration::from_nanos(self.board.now())),
            "",
        ]);
        if let Some(cost) = cost {
            table.add_row(["speed", &format!("{:.1} MIPS", mips(cost, cost.busy)), ""]);
        }
    }
}

/// What the remapping unit did.
fn remapping(unit: &Counters, iotlb: &IotlbCounters) {
    eprintln!(
        "remapping: {} translations cached, {} walked; {} interrupts, {} blocked; {} invalidations; {} faults",
        grouped(iotlb.hits),
        grouped(unit.walks),
        grouped(unit.interrupts_remapped),
        grouped(unit.interrupts_blocked),
        grouped(unit.descriptors),
        grouped(unit.faults_recorded + unit.faults_unrecorded),
    );
}

/// What the adapter cost, by register and by frame.
fn e1000_exits(nic: &e1000::E1000) {
    let counts = nic.counts();
    let frames = counts.tx_frames + counts.rx_frames;
    eprintln!(
        "network: {} frames out, {} in, {} bytes, {} interrupts",
        grouped(counts.tx_frames),
        grouped(counts.rx_frames),
        grouped(counts.tx_bytes + counts.rx_bytes),
        grouped(counts.interrupts.raised),
    );
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["register", "reads", "writes", "exits per frame"]);
    let mut exits: Vec<_> = nic.exits().collect();
    exits.sort_by_key(|exits| std::cmp::Reverse(exits.reads + exits.writes));
    for exits in exits.iter().take(REGISTERS_SHOWN) {
        table.add_row([
            registers::name(exits.register),
            &grouped(exits.reads),
            &grouped(exits.writes),
            &ratio(exits.reads + exits.writes, frames),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    eprintln!("{table}");
}

/// The same of a virtio device, by structure.
fn virtio_exits(device: &VirtioPci) {
    let counts = device.net().counts();
    let exits = device.exits();
    let frames = counts.tx_frames + counts.rx_frames;
    eprintln!(
        "network: {} frames out in {} packets, {} in, {} bytes, {} interrupts",
        grouped(counts.tx_frames),
        grouped(counts.tx_packets),
        grouped(counts.rx_frames),
        grouped(counts.tx_bytes + counts.rx_bytes),
        grouped(device.interrupts()),
    );
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["structure", "exits", "exits per frame"]);
    let [receive, transmit, control] = exits.kicks;
    for (name, count) in [
        ("kick, receive", receive),
        ("kick, transmit", transmit),
        ("kick, control", control),
        ("ISR", exits.isr),
        ("common configuration", exits.common),
        ("device configuration", exits.device),
    ] {
        table.add_row([name, &grouped(count), &ratio(count, frames)]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    eprintln!("{table}");
}

fn costs(table: &mut Table, cost: &DbtCost) {
    let all = Some(cost.instructions);
    row(table, "instructions", cost.instructions, None);
    row(table, "interrupts", cost.stats.interrupts, all);
    for (vector, &count) in cost
        .stats
        .exceptions
        .iter()
        .enumerate()
        .filter(|(_, count)| **count > 0)
    {
        let name = EXCEPTIONS.get(vector).copied().unwrap_or("reserved");
        row(table, &format!("exceptions, {name}"), count, all);
    }
    row(table, "TLB fills", cost.tlb.fills, all);
    let translator = &cost.translator;
    row(table, "blocks translated", translator.units, all);
    for (label, count) in [
        ("entries into translated code", translator.entries),
        ("instructions it had interpreted", translator.simulated),
        ("... without a template", translator.simulated_untranslated),
        (
            "... at a device or traced page",
            translator.simulated_trapped,
        ),
        ("... in runs of several", translator.clusters),
        ("instructions left out as they trap", translator.adapted),
        ("... and taken in again", translator.cooled),
    ] {
        row(table, label, count, all);
    }
    row(table, "blocks decoded", cost.stats.blocks_decoded, all);
    row(
        table,
        "blocks dropped, their code was written",
        cost.stats.blocks_invalidated,
        all,
    );
}

fn row(table: &mut Table, label: &str, count: u64, instructions: Option<u64>) {
    let rate = instructions
        .filter(|&all| all > 0)
        .map(|all| per_million(count, all));
    table.add_row([label, &grouped(count), &rate.unwrap_or_default()]);
}

/// One line while nothing is printed yet.
pub(crate) fn progress(engine: &Engine, elapsed: Duration) -> String {
    let cost = match engine {
        Engine::Dbt(engine) => Some(engine.cost()),
        Engine::Lockstep(engine) => Some(engine.subject().cost()),
        Engine::Kvm(_) => None,
    };
    match cost {
        Some(cost) => {
            let millions = cost.instructions / 1_000_000;
            format!(
                "booting: {millions} M instructions, {:.0} MIPS, {}",
                mips(&cost, cost.busy),
                seconds(elapsed)
            )
        }
        None => format!("booting: {}", seconds(elapsed)),
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown to three digits")]
fn mips(cost: &DbtCost, elapsed: Duration) -> f64 {
    cost.instructions as f64 / elapsed.as_secs_f64().max(1e-9) / 1e6
}

#[expect(clippy::cast_precision_loss, reason = "shown to three digits")]
fn per_million(count: u64, all: u64) -> String {
    format!("{:.1}", count as f64 * 1e6 / all as f64)
}

#[expect(clippy::cast_precision_loss, reason = "shown to three digits")]
fn ratio(count: u64, of: u64) -> String {
    format!("{:.2}", count as f64 / of.max(1) as f64)
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// Digits in threes.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Registers in the table, the most used first.
const REGISTERS_SHOWN: usize = 10;

const EXCEPTIONS: [&str; 20] = [
    "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "9", "#TS", "#NP", "#SS", "#GP",
    "#PF", "15", "#MF", "#AC", "#MC", "#XM",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_from_the_right() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(1_234), "1,234");
        assert_eq!(grouped(420_000_000), "420,000,000");
    }
}
