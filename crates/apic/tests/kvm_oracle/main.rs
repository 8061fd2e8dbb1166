//! Random requests through this model and through KVM's in-kernel APICs, compared after each.
//!
//! Register accesses are made by a few instructions of guest code in long mode, so that KVM's own
//! register model is what answers. Skips loudly where there is no `/dev/kvm`.
//!
//! Left out because KVM differs from the SDM (September 2023, volume 3), which the model follows: ESR
//! and vectors below 16 (11.5.3: KVM keeps no ESR and takes the vectors), the trigger mode of ICR (11.6.1:
//! ignored but for INIT; KVM sets TMR by it), LVT delivery status and remote IRR (11.5.1: read only; KVM
//! lets software write them), and what the modules name. Timer counts are left out because KVM's run on
//! host time.

mod machine;
mod x2apic;
mod xapic;

use std::fmt::Debug;

use apic::LocalApicConfig;
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestCaseResult, TestRunner};

/// What KVM's first processor is like.
const CONFIG: LocalApicConfig = LocalApicConfig {
    id: 0,
    bootstrap: true,
    x2apic: true,
    virtual_wire: false,
    timer_hz: 1_000_000_000,
    tsc_hz: 1_000_000_000,
    physical_address_bits: 40,
};

/// Checks up to 150 random steps `cases` times, or as often as `KVM_ORACLE_CASES` says.
fn run<S: Clone + Debug>(
    cases: u32,
    step: impl Strategy<Value = S>,
    check: impl Fn(&[S]) -> TestCaseResult,
) {
    let asked = std::env::var("KVM_ORACLE_CASES").ok();
    let config = Config {
        cases: asked.map_or(cases, |asked| asked.parse().expect("a number of cases")),
        max_shrink_iters: 500,
        source_file: Some(file!()),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..Config::default()
    };
    let steps = prop::collection::vec(step, 1..150);
    if let Err(error) = TestRunner::new(config).run(&steps, |steps| check(&steps)) {
        panic!("{error}");
    }
}
