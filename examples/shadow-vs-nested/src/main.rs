//! Guest kernels under shadow, nested and direct paging: what each costs, and where each wins.

mod direct;
mod kernel;
mod machine;
mod nested;
mod plot;
mod real;
mod shadowed;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use comfy_table::{Table, presets};
use direct::DirectPaging;
use guest_paging::shadow::{Config, RootPolicy, SyncPolicy, WritePolicy};
use guest_paging::vm_memory::GuestMemoryMmap;
use kernel::{Kernel, Workload};
use machine::{Cost, GUEST_FRAMES, Machine};
use nested::{EPT_FRAMES, NestedPaging};
use shadowed::Shadowed;

/// Run workloads of a guest kernel under each way to virtualize memory.
#[derive(Debug, Parser)]
struct Args {
    /// Only this workload; may be given more than once.
    #[arg(long, value_enum)]
    workload: Vec<Workload>,
    /// How often a workload repeats.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Cycles of an exit, for the last column.
    #[arg(long, default_value_t = 1500)]
    exit_cycles: u32,
    /// Cycles of a reference to a table.
    #[arg(long, default_value_t = 20)]
    reference_cycles: u32,
    /// Instead of the model: boot this kernel in x86-dbt, and hold each design to what it does.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Its initial RAM disk.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// Its command line.
    #[arg(long, default_value = "console=ttyS0 quiet cryptomgr.notests panic=-1")]
    cmdline: String,
    /// Its memory in MiB.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(64..=2048))]
    memory: u32,
    /// Draw cost against the price of an exit into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shadow-vs-nested: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let workloads = if args.workload.is_empty() && args.kernel.is_none() {
        Workload::ALL.to_vec()
    } else {
        args.workload.clone()
    };
    let mut measured = Vec::new();
    for workload in workloads {
        let costs = costs(workload, args.rounds).with_context(|| format!("{workload:?}"))?;
        print(
            &format!("{workload:?}, {} rounds", args.rounds),
            &costs,
            args,
        );
        measured.push((format!("{workload:?}"), costs));
    }
    if let Some(kernel) = &args.kernel {
        let (title, costs) = real::costs(kernel, args)?;
        print(&title, &costs, args);
        measured.push((title, costs));
    }
    if let Some(path) = &args.svg {
        let drawn = plot::panels(&measured, u64::from(args.reference_cycles));
        std::fs::write(path, drawn).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn print(title: &str, costs: &[(&'static str, Cost)], args: &Args) {
    let text = format!("{title}\n{}\n", listing(costs, args));
    // Who has closed the pipe has read enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// The ways to virtualize memory, each with its name.
fn costs(workload: Workload, rounds: u32) -> Result<Vec<(&'static str, Cost)>> {
    let mut costs = Vec::new();
    for (name, config, announced) in shadow_policies(GUEST_FRAMES)? {
        let memory = machine::memory(0)?;
        let machine = Shadowed::new(&memory, config, announced)?;
        costs.push((name, cost_of(workload, rounds, &memory, machine)?));
    }
    let memory = machine::memory(EPT_FRAMES)?;
    let machine = NestedPaging::new(&memory)?;
    costs.push(("nested", cost_of(workload, rounds, &memory, machine)?));
    for (name, batch_max) in [("direct, one by one", 1), ("direct, batched", 256)] {
        let memory = machine::memory(0)?;
        let machine = DirectPaging::new(&memory, batch_max)?;
        costs.push((name, cost_of(workload, rounds, &memory, machine)?));
    }
    Ok(costs)
}

fn cost_of<M: Machine>(
    workload: Workload,
    rounds: u32,
    memory: &GuestMemoryMmap,
    machine: M,
) -> Result<Cost> {
    let mut kernel = Kernel::boot(memory, machine)?;
    workload.run(&mut kernel, rounds)?;
    Ok(kernel.machine.cost())
}

/// Each adds one thing to the one before.
fn shadow_policies(frames: u64) -> Result<[(&'static str, Config, bool); 5]> {
    let simplest = Config {
        roots: RootPolicy::DiscardOnSwitch,
        sync: SyncPolicy::WriteProtect,
        writes: WritePolicy::Zap,
        ..Config::new(u32::try_from(frames)?, 1024)
    };
    let cached = Config {
        roots: RootPolicy::Cache(16),
        flood_writes: 3,
        ..simplest
    };
    let updating = Config {
        writes: WritePolicy::Update,
        ..cached
    };
    let unsync = Config {
        sync: SyncPolicy::OutOfSync,
        ..updating
    };
    Ok([
        ("shadow, discarded on switch", simplest, false),
        ("shadow, 16 roots", cached, false),
        ("  and updates on a write", updating, false),
        ("  and tables out of sync", unsync, false),
        ("shadow, writes announced", updating, true),
    ])
}

fn listing(costs: &[(&str, Cost)], args: &Args) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "",
        "exits",
        "for faults",
        "for writes",
        "for flushes",
        "references",
        "monitor's KiB",
        "Mcycles",
    ]);
    for (name, cost) in costs {
        let cycles = cost.cycles(
            u64::from(args.exit_cycles),
            u64::from(args.reference_cycles),
        );
        table.add_row([
            (*name).to_owned(),
            cost.exits.to_string(),
            cost.fault_exits.to_string(),
            cost.write_exits.to_string(),
            cost.flush_exits.to_string(),
            cost.references.to_string(),
            (cost.monitor_bytes / 1024).to_string(),
            format!("{}.{:02}", cycles / 1_000_000, cycles / 10_000 % 100),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::{Workload, costs};

    #[test]
    fn each_design_wins_where_the_literature_says() {
        let of = |workload| {
            costs(workload, 10)
                .unwrap()
                .into_iter()
                .collect::<std::collections::HashMap<_, _>>()
        };
        let fork = of(Workload::Fork);
        // Fewer exits where writes do not trap, fewer still where they are batched, none under nesting.
        assert!(fork["  and updates on a write"].exits < fork["shadow, 16 roots"].exits);
        assert!(fork["  and tables out of sync"].exits < fork["  and updates on a write"].exits);
        assert!(fork["direct, batched"].exits * 2 < fork["direct, one by one"].exits);
        assert_eq!(fork["nested"].exits, 0);
        // Roots that are kept pay where processes take turns.
        let switch = of(Workload::Switch);
        let (kept, discarded) = ("shadow, 16 roots", "shadow, discarded on switch");
        assert!(3 * switch[kept].exits < switch[discarded].exits);
        // A program that only misses the TLB pays several times the references under nesting.
        let memory = of(Workload::Memory);
        let (nested, shadow) = (memory["nested"], memory["shadow, 16 roots"]);
        assert!(
            nested.references > 2 * shadow.references,
            "{nested:?} {shadow:?}"
        );
    }
}
