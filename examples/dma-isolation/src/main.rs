//! A hostile bus master, and what each way to attach it lets it reach.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod design;
mod faults;
mod interrupts;
mod svg;
mod tables;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use comfy_table::{Table, presets};
use vtd::SourceId;

use design::{BUFFER_IOVA, CARD, Card, Design};
use world::{
    BUFFER_PAGES, GUEST, HOST_BYTES, HOST_KEYS, KEYS, MARK, Owner, PAGE, STRAY, TAG, World,
};

/// Let a hostile card read and write all that it can, without an IOMMU and behind one.
#[derive(Debug, Parser)]
struct Args {
    /// Draw who can reach what into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// The guest's driver maps a page of its kernel's keys, too: the program must notice.
    #[arg(long)]
    careless: bool,
}

/// Pages of each owner that a card has read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reached([[u64; 2]; 4]);

impl Reached {
    fn of(&self, owner: Owner) -> [u64; 2] {
        self.0[owner as usize]
    }

    fn count(&mut self, owner: Owner, write: bool) {
        self.0[owner as usize][usize::from(write)] += 1;
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => {
            println!("every access that is not the card's own was blocked where it should be");
            ExitCode::SUCCESS
        }
        Ok(false) => {
            println!("an access went through that should not, or one did not that should");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("dma-isolation: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    let mut right = true;
    let mut columns = Vec::new();
    let mut lines = Vec::new();
    for design in Design::ALL {
        let world = World::new()?;
        let card = Card::attach(design, &world, CARD, args.careless)?;
        let reached = sweep(&card, &world)?;
        right &= reached == allowed(design);
        lines.extend(probes(&card, &world).into_iter().map(|line| (design, line)));
        columns.push((design.name(), reached));
    }
    println!("{}", table(&columns));
    for (design, line) in &lines {
        println!("{:33} {line}", design.name());
    }
    right &= spoofed()?;
    right &= interrupts()?;
    if let Some(path) = &args.svg {
        std::fs::write(path, svg::picture(&columns)).with_context(|| path.display().to_string())?;
    }
    Ok(right)
}

/// The card reads and writes a word in every page of every address that it has heard of.
fn sweep(card: &Card, world: &World) -> Result<Reached> {
    let known = (0..HOST_BYTES).step_by(0x1000);
    let device = (0..16).map(|page| BUFFER_IOVA + page * PAGE);
    let mut reached = Reached::default();
    for page in known.chain(device) {
        let tag = card.read(page + TAG);
        if let Some(owner) = tag.and_then(world::owner_of_tag) {
            reached.count(owner, false);
        }
        if card.write(page + MARK, STRAY) {
            for owner in world.take_written()? {
                reached.count(owner, true);
            }
        }
    }
    // What was refused must not have happened.
    for owner in world.take_written()? {
        reached.count(owner, true);
    }
    card.with_unit(|unit| faults::take(unit, &world.host));
    Ok(reached)
}

/// What a card may reach, by design.
fn allowed(design: Design) -> Reached {
    let mut allowed = Reached::default();
    for owner in Owner::ALL {
        let pages = owner.pages();
        allowed.0[owner as usize] = match (design, owner) {
            (Design::None, _) => [pages; 2],
            (Design::OneDimension, Owner::Guest | Owner::Buffer) => [pages; 2],
            (Design::Nested | Design::Shadowed, Owner::Buffer) => [pages, pages - 1],
            _ => [0, 0],
        };
    }
    allowed
}

/// The keys of host and guest, by every address that they have, and the page that is only to be read.
fn probes(card: &Card, world: &World) -> Vec<String> {
    let _ = card.read(HOST_KEYS);
    let _ = card.read(KEYS);
    let _ = card.write(GUEST + KEYS, 0);
    let _ = card.write(BUFFER_IOVA + (BUFFER_PAGES - 1) * PAGE, 0);
    card.with_unit(|unit| faults::take(unit, &world.host))
}

fn table(columns: &[(&str, Reached)]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    let names = Owner::ALL.map(|owner| format!("{}, {} pages", owner.name(), owner.pages()));
    table.set_header(std::iter::once("pages read / written".to_owned()).chain(names));
    for (name, reached) in columns {
        let cells = Owner::ALL.map(|owner| {
            let [read, written] = reached.of(owner);
            format!("{read} / {written}")
        });
        table.add_row(std::iter::once((*name).to_owned()).chain(cells));
    }
    table
}

/// Under the name of a function that no table knows, the card reaches nothing. (Under that of one that is
/// there, it would reach what that one does: bridges stop it, not the unit.)
fn spoofed() -> Result<bool> {
    let mut right = true;
    for design in [Design::OneDimension, Design::Nested, Design::Shadowed] {
        let world = World::new()?;
        let card = Card::attach(design, &world, SourceId::new(0, 31, 7), false)?;
        right &= sweep(&card, &world)? == Reached::default();
        let _ = card.read(BUFFER_IOVA);
        let lines = card.with_unit(|unit| faults::take(unit, &world.host));
        right &= lines.len() == 1;
        for line in lines {
            println!("{:33} {line}", "as 00:1f.7");
        }
    }
    Ok(right)
}

fn interrupts() -> Result<bool> {
    let attempts = interrupts::attempts(&World::new()?)?;
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["the card sends", "without remapping", "with", "fault"]);
    let vector = |vector: Option<u8>| match vector {
        Some(vector) => format!("vector {vector:#x}"),
        None => "blocked".to_owned(),
    };
    for attempt in &attempts {
        let [with, without] = attempt.vectors.map(vector);
        let fault = attempt.faults.join("\n");
        table.add_row([attempt.what, &without, &with, &fault]);
    }
    println!("{table}");
    Ok(attempts.iter().all(interrupts::Attempt::is_right))
}
