//! A nested walk, reference by reference.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod svg;
mod tables;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use comfy_table::{Table, presets};
use guest_paging::nested::{self, Failure, Ground, Layer, Nested, Stage, Trace};
use guest_paging::x86::{Access, Privilege};
use guest_paging::{Gva, PinnedMemory, Reference, ReferenceKind, Unbacked};
use tables::Tables;

/// Walk guest tables through a stack of stages.
#[derive(Debug, Parser)]
struct Args {
    /// A description of the tables; without it, the exam's.
    file: Option<PathBuf>,
    /// Draw the grid of the walk into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("nested-walk: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether the walk reached its goal.
fn run(args: &Args) -> Result<bool> {
    let tables = match &args.file {
        Some(file) => read(file)?,
        None => tables::parse(EXAM)?,
    };
    let (outcome, references) = walk(&tables)?;
    let spaces = spaces(tables.stages.len());
    println!("{}", listing(&references, spaces));
    let count = references.len();
    match outcome {
        Ok(nested) => println!(
            "{} {:#x} -> {} {} after {count} references",
            spaces[0],
            tables.gva,
            spaces[spaces.len() - 1],
            nested.address
        ),
        Err(failure) => println!("no translation after {count} references: {failure}"),
    }
    if let Some(path) = &args.svg {
        let drawn = svg::grid(&references, &spaces[1..]);
        std::fs::write(path, drawn).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(outcome.is_ok())
}

fn read(file: &Path) -> Result<Tables> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    tables::parse(&text).with_context(|| file.display().to_string())
}

fn walk(tables: &Tables) -> Result<(Result<Nested, Failure>, Vec<Reference>)> {
    let pinned = PinnedMemory::new(&tables.memory)?;
    let depth = u8::try_from(tables.stages.len())?;
    let trace = Trace::default();
    let ground = Ground::new(&pinned, depth);
    let outcome = over(tables, depth, &ground, &trace);
    Ok((outcome, trace.take()))
}

/// Puts the stages from `dimension` up to the first over `below`, and walks over them.
fn over(
    tables: &Tables,
    dimension: u8,
    below: &dyn Layer<Bottom = Unbacked, Error = Failure>,
    trace: &Trace,
) -> Result<Nested, Failure> {
    let mut listener = trace;
    let Some(index) = dimension.checked_sub(1) else {
        let access = Access::new(tables.kind, Privilege::User);
        return nested::walk(
            &below,
            &tables.guest,
            Gva(tables.gva),
            access,
            &mut listener,
        );
    };
    match &tables.stages[usize::from(index)] {
        tables::Stage::Ept(ept) => over(
            tables,
            index,
            &Stage::new(dimension, ept.as_ref(), below, trace),
            trace,
        ),
        tables::Stage::Npt(npt) => over(
            tables,
            index,
            &Stage::new(dimension, npt.as_ref(), below, trace),
            trace,
        ),
    }
}

fn listing(references: &[Reference], spaces: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["", "tables", "level", "entry at", "holds", "writes"]);
    for (number, reference) in (1..).zip(references) {
        let dimension = usize::from(reference.dimension);
        let (from, to) = (spaces[dimension], spaces[dimension + 1]);
        let written = match reference.kind {
            ReferenceKind::Update(value) => format!("{value:#x}"),
            ReferenceKind::Load | ReferenceKind::LostUpdate => String::new(),
        };
        table.add_row([
            format!("{number}"),
            format!("{from} -> {to}"),
            format!("{}", reference.level),
            format!("{to} {}", reference.at),
            format!("{:#x}", reference.entry),
            written,
        ]);
    }
    table
}

/// The address spaces of a stack.
fn spaces(stages: usize) -> &'static [&'static str] {
    &["GVA", "GPA", "HPA", "UPA", "TPA"][..stages + 2]
}

const EXAM: &str = include_str!("../exam.walk");

#[cfg(test)]
mod tests {
    use super::{EXAM, tables, walk};
    use guest_paging::Gpa;

    #[test]
    fn the_exam_ends_at_0xc123_after_26_references() {
        let (outcome, references) = walk(&tables::parse(EXAM).unwrap()).unwrap();
        assert_eq!(outcome.unwrap().address, Gpa(0xc123));
        assert_eq!(references.len(), 26);
    }
}
