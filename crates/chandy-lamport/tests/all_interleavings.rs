//! Every interleaving of three processes.
#![cfg(feature = "sim")]

use chandy_lamport::sim::{Explored, Graph, Setup, explore};
use chandy_lamport::{Options, Protocol};

fn explored(protocol: Protocol, links: &[(usize, usize)], change: impl Fn(&mut Setup)) -> Explored {
    let mut setup = Setup {
        graph: Graph::of(3, links),
        options: Options::new(protocol),
        items: 1,
        hops: 3,
        fifo: protocol != Protocol::LaiYang,
        snapshots: 1,
        concurrent: 1,
        crashes: 0,
        aborts: 0,
        output_max: 2,
        anywhere: false,
    };
    change(&mut setup);
    let explored = explore(setup, STATES_MAX).unwrap_or_else(|(violation, steps)| {
        panic!("{protocol:?} of {links:?}: {violation} after {steps:?}")
    });
    eprintln!("{protocol:?} of {links:?}: {explored:?}");
    assert!(explored.complete, "every state was looked at: {explored:?}");
    assert!(explored.ends > 0, "some run ends");
    explored
}

const DIAMOND: &[(usize, usize)] = &[(0, 2), (1, 2)];
const CYCLE: &[(usize, usize)] = &[(0, 1), (1, 2), (2, 1)];
const STATES_MAX: usize = 2_000_000;

#[test]
fn two_sources_into_one() {
    for protocol in [
        Protocol::ChandyLamport,
        Protocol::Aligned,
        Protocol::AlignedCyclic,
        Protocol::Unaligned,
        Protocol::AlignedWithTimeout { timeout: 1 },
        Protocol::StopTheWorld,
        Protocol::LaiYang,
    ] {
        explored(protocol, DIAMOND, |_| {});
    }
}

#[test]
fn a_source_and_a_cycle() {
    for protocol in [
        Protocol::ChandyLamport,
        Protocol::AlignedCyclic,
        Protocol::Unaligned,
        Protocol::AlignedWithTimeout { timeout: 1 },
        Protocol::StopTheWorld,
        Protocol::LaiYang,
    ] {
        explored(protocol, CYCLE, |_| {});
    }
}

#[test]
fn a_crash_at_any_moment() {
    for protocol in [
        Protocol::ChandyLamport,
        Protocol::AlignedCyclic,
        Protocol::Unaligned,
        Protocol::StopTheWorld,
        Protocol::LaiYang,
    ] {
        explored(protocol, CYCLE, |setup| setup.crashes = 1);
    }
}

const TWO: [Protocol; 3] = [
    Protocol::ChandyLamport,
    Protocol::AlignedCyclic,
    Protocol::Unaligned,
];

#[test]
fn two_snapshots_at_once() {
    for protocol in TWO {
        explored(protocol, CYCLE, |setup| {
            setup.hops = 1;
            setup.snapshots = 2;
            setup.concurrent = 2;
            setup.aborts = u32::from(protocol != Protocol::ChandyLamport);
        });
    }
}
