//! The wrong variants of the literature and the lectures: each of them is found.
#![cfg(all(feature = "sim", feature = "mutation"))]

use chandy_lamport::sim::{Graph, Random, Setup, Violation, run};
use chandy_lamport::{Mutation, Options, Protocol};

/// The protocol that a rule belongs to.
fn protocol(mutation: Mutation) -> Protocol {
    match mutation {
        Mutation::DoNotWait | Mutation::UnblockEarly => Protocol::Aligned,
        Mutation::ForgetBackEdges | Mutation::WaitForBackEdges | Mutation::RecordBeforeCut => {
            Protocol::AlignedCyclic
        }
        Mutation::ForgetInputQueues | Mutation::ForgetOutputQueues | Mutation::ForgetArrivals => {
            Protocol::Unaligned
        }
        Mutation::ForgetQueuesAtTimeout => Protocol::AlignedWithTimeout { timeout: 1 },
        Mutation::DoNotStop => Protocol::StopTheWorld,
        Mutation::IgnoreColour | Mutation::IgnoreCount => Protocol::LaiYang,
        _ => Protocol::ChandyLamport,
    }
}

fn setup(mutation: Mutation, seed: u64) -> Setup {
    let mut random = Random::new(seed);
    let protocol = protocol(mutation);
    let graph = match protocol {
        Protocol::Aligned => Graph::acyclic(&mut random),
        _ => Graph::cyclic(&mut random),
    };
    let mut options = Options::new(protocol);
    options.mutation = Some(mutation);
    Setup {
        graph,
        options,
        items: 12,
        hops: 8,
        fifo: protocol != Protocol::LaiYang,
        snapshots: 2,
        concurrent: 1,
        crashes: 0,
        aborts: 0,
        output_max: 4,
        anywhere: false,
    }
}

fn first_violation(mutation: Mutation) -> Option<(u64, Violation)> {
    (0..1_000).find_map(|seed| Some((seed, run(setup(mutation, seed), seed).err()?)))
}

#[test]
fn each_is_found() {
    for mutation in Mutation::OF_PROCESSES {
        let found = first_violation(mutation);
        println!("{mutation:?}: {found:?}");
        assert!(found.is_some(), "{mutation:?} is not found");
    }
}

/// "What if the router does not wait for all barriers?" The checkpoints are inconsistent.
#[test]
fn a_router_that_does_not_wait_cuts_inconsistently() {
    let found = first_violation(Mutation::DoNotWait);
    assert!(matches!(found, Some((_, Violation::Inconsistent { .. }))));
}

/// "Can't wait for the barrier on all input streams": it never comes.
#[test]
fn waiting_for_a_back_edge_never_ends() {
    let found = first_violation(Mutation::WaitForBackEdges);
    assert!(matches!(found, Some((_, Violation::Unfinished(_)))));
}

/// "Store back edge channel messages": without them the checkpoint is inconsistent.
#[test]
fn a_cycle_without_its_back_edges_cuts_inconsistently() {
    let found = first_violation(Mutation::ForgetBackEdges);
    assert!(matches!(found, Some((_, Violation::Inconsistent { .. }))));
}
