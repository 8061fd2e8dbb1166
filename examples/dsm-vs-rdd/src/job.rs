//! The job that is watched: rounds of ranks over generated links.

use std::sync::Arc;

use anyhow::Result;
use rdd::{Context, Directory, Faults, Rdd, RunCounts, ThreadOptions, Threads};

/// How large it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) links: u64,
    pub(crate) rounds: usize,
    pub(crate) workers: u32,
}

impl Size {
    fn partitions(self) -> usize {
        self.workers as usize
    }

    fn pages(self) -> u64 {
        (self.links / 10).max(1)
    }
}

/// What happens to it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trouble {
    pub(crate) faults: Faults,
    pub(crate) no_backups: bool,
    /// Write the ranks out after this round.
    pub(crate) checkpoint_after: Option<usize>,
}

/// What it did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    /// Rounded, since the order of additions may differ.
    pub(crate) sum: String,
    pub(crate) counts: RunCounts,
    /// Bytes of blocks in memory at the end.
    pub(crate) memory: usize,
    /// Bytes on disk of the checkpoint.
    pub(crate) checkpoint: u64,
    pub(crate) milliseconds: u128,
}

pub(crate) fn run(size: Size, trouble: Trouble) -> Result<Run> {
    let mut options = ThreadOptions {
        workers: size.workers,
        faults: trouble.faults,
        ..ThreadOptions::default()
    };
    if trouble.no_backups {
        options.limits.backup_percent = 0;
    }
    let threads = Arc::new(Threads::new(options)?);
    let context = Context::new(threads.clone(), size.partitions());
    let folder = tempfile::tempdir()?;
    let storage = Arc::new(Directory::new(folder.path())?);
    let began = std::time::Instant::now();
    let links = links(&context, size);
    let mut ranks = links.map_values(|_| 1.0);
    for number in 1..=size.rounds {
        ranks = round(&links, &ranks, size.partitions());
        if trouble.checkpoint_after == Some(number) {
            ranks = ranks.checkpoint(storage.clone(), "ranks")?;
        }
    }
    let sum = format!("{:.6}", ranks.values().sum()?);
    Ok(Run {
        sum,
        counts: threads.counts(),
        memory: threads.memory_used(),
        checkpoint: bytes_below(folder.path())?,
        milliseconds: began.elapsed().as_millis(),
    })
}

/// Shuffles in the lineage, with the links where their keys are and with them anywhere.
pub(crate) fn shuffles(size: Size) -> Result<(usize, usize)> {
    let context = Context::local(1)?;
    let count = |links: &Rdd<(u64, Vec<u64>)>| {
        let start = links.map_values(|_| 1.0);
        let ranks =
            (0..size.rounds).fold(start, |ranks, _| round(links, &ranks, size.partitions()));
        let wide = |rdd: &Arc<rdd::Lineage>| {
            let all = rdd.dependencies().iter();
            all.filter(|d| matches!(d, rdd::Dependency::Wide(_)))
                .count()
        };
        ranks.lineage().ancestry().iter().map(wide).sum()
    };
    let placed = links(&context, size);
    // A map may change keys, so that nobody knows any more where they are.
    let anywhere = placed.map(|pair| pair);
    Ok((count(&placed), count(&anywhere)))
}

fn links(context: &Context, size: Size) -> Rdd<(u64, Vec<u64>)> {
    let (parts, pages) = (size.partitions(), size.pages());
    let made = context.generate(parts, move |p| {
        let bound = |i: usize| size.links * i as u64 / parts as u64;
        let mut state = p as u64 + 1;
        (bound(p)..bound(p + 1)).map(move |_| {
            (
                random(&mut state) % pages,
                random(&mut state) % (1 + random(&mut state) % pages),
            )
        })
    });
    made.group_by_key(parts).cache().set_name("links")
}

fn round(links: &Rdd<(u64, Vec<u64>)>, ranks: &Rdd<(u64, f64)>, parts: usize) -> Rdd<(u64, f64)> {
    let given = links.join(ranks, parts).flat_map(|(_, (to, rank))| {
        let share = rank / to.len() as f64;
        to.into_iter().map(move |page| (page, share))
    });
    given
        .reduce_by_key(parts, |a, b| a + b)
        .map_values(|sum| 0.85 * sum + 0.15)
}

fn random(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) ^ (*state << 20)
}

fn bytes_below(folder: &std::path::Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() {
            bytes_below(&entry.path())?
        } else {
            entry.metadata()?.len()
        };
    }
    Ok(bytes)
}
