//! Random graphs, interleavings, crashes and aborts: every snapshot is a consistent cut, and what is restored from it
//! computes what an undisturbed run computes.
#![cfg(feature = "sim")]

use chandy_lamport::sim::{Graph, Outcome, Random, Setup, Violation, run};
use chandy_lamport::{Options, Protocol};

/// A run from a seed. What the protocol can do decides the graph.
fn setup(protocol: Protocol, seed: u64) -> Setup {
    let mut random = Random::new(seed);
    let graph = match (protocol, random.below(3)) {
        (Protocol::Aligned, _) | (_, 0) => Graph::acyclic(&mut random),
        (Protocol::ChandyLamport | Protocol::LaiYang | Protocol::Unaligned, 1) => {
            Graph::strongly_connected(&mut random)
        }
        _ => Graph::cyclic(&mut random),
    };
    let one_at_a_time = matches!(protocol, Protocol::LaiYang | Protocol::StopTheWorld);
    Setup {
        graph,
        options: Options::new(protocol),
        items: 12,
        hops: 8,
        fifo: protocol != Protocol::LaiYang,
        snapshots: 6,
        concurrent: if one_at_a_time {
            1
        } else {
            1 + random.below(3)
        },
        crashes: u32::try_from(random.below(4)).expect("small"),
        aborts: u32::try_from(random.below(3)).expect("small"),
        output_max: 1 + random.below(8),
        anywhere: false,
    }
}

const PROTOCOLS: [Protocol; 7] = [
    Protocol::ChandyLamport,
    Protocol::Aligned,
    Protocol::AlignedCyclic,
    Protocol::Unaligned,
    Protocol::AlignedWithTimeout { timeout: 5 },
    Protocol::StopTheWorld,
    Protocol::LaiYang,
];

const SEEDS: u64 = 1_000;

#[test]
fn every_protocol_cuts_consistently_and_restores() {
    for protocol in PROTOCOLS {
        let mut total = Outcome::default();
        for seed in 0..SEEDS {
            match run(setup(protocol, seed), seed) {
                Ok(outcome) => {
                    total.steps += outcome.steps;
                    total.completed += outcome.completed;
                }
                Err(violation) => panic!("{protocol:?}, seed {seed}: {violation}"),
            }
        }
        println!("{protocol:?}: {total:?}");
        assert!(total.completed > SEEDS, "snapshots complete");
    }
}

#[test]
fn snapshots_begun_anywhere_at_once_are_consistent() {
    for protocol in [Protocol::ChandyLamport, Protocol::Unaligned] {
        for seed in 0..500 {
            let mut random = Random::new(seed);
            let setup = Setup {
                graph: Graph::strongly_connected(&mut random),
                concurrent: 4,
                anywhere: true,
                ..setup(protocol, seed)
            };
            if let Err(violation) = run(setup, seed) {
                panic!("{protocol:?}, seed {seed}: {violation}");
            }
        }
    }
}

/// Chandy and Lamport's own assumption: without it their algorithm is wrong.
#[test]
fn chandy_lamport_needs_channels_in_order() {
    let inconsistent = (0..100).any(|seed| {
        let setup = Setup {
            fifo: false,
            crashes: 0,
            ..setup(Protocol::ChandyLamport, seed)
        };
        matches!(run(setup, seed), Err(Violation::Inconsistent { .. }))
    });
    assert!(inconsistent);
}
