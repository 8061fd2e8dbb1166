//! The graph and the rounds.

use rdd::{Context, Rdd};

/// A number for each page.
pub(crate) type Ranks = Rdd<(u64, f64)>;

/// `edges` links among 100,000 pages; low numbers are linked to far more often.
pub(crate) fn generated(context: &Context, edges: u64) -> Rdd<(u64, Vec<u64>)> {
    let parts = 4;
    let links = context.generate(parts, move |p| {
        let p = p as u64;
        let mut state = p + 1;
        (edges * p / 4..edges * (p + 1) / 4).map(move |_| {
            (
                random(&mut state) % 100_000,
                random(&mut state) % (1 << (random(&mut state) % 17)),
            )
        })
    });
    links.group_by_key(parts).cache().set_name("links")
}

/// The ranks after `iterations` rounds, all 1 before.
pub(crate) fn ranks(links: &Rdd<(u64, Vec<u64>)>, iterations: u32) -> Ranks {
    (0..iterations).fold(links.map_values(|_| 1.0), |ranks, _| round(links, &ranks).1)
}

/// What each page is given, and its rank then: a link is followed with probability 0.85.
pub(crate) fn round(links: &Rdd<(u64, Vec<u64>)>, ranks: &Ranks) -> (Ranks, Ranks) {
    let given = links.join(ranks, 4).flat_map(|(_, (to, rank))| {
        let share = rank / to.len() as f64;
        to.into_iter().map(move |page| (page, share))
    });
    let sums = given.reduce_by_key(4, |a, b| a + b);
    let ranks = sums.map_values(|sum| 0.85 * sum + 0.15);
    (sums, ranks)
}

fn random(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) ^ (*state << 20)
}
