//! Instructions that trap often, and clusters of them: handled otherwise, with the same result.

mod common;

use common::{CODE, Guest};
use iced_x86::Mnemonic;
use iced_x86::code_asm::*;
use x86_dbt::{Cluster, ClusterPolicy, Exit, TranslatorStats};

/// Where there is no RAM: 1 GiB, mapped by a large page at 2 MiB.
const DEVICE: u64 = 0x20_0000;
const DATA: u64 = 0x8000;

/// Writes a counter to RSI 200 times, then to RDI 200 times, each time from the same instruction.
fn two_targets(a: &mut CodeAssembler) {
    let (mut again, mut turns) = (a.create_label(), a.create_label());
    a.mov(ebx, 2).unwrap();
    a.set_label(&mut again).unwrap();
    a.mov(ecx, 200).unwrap();
    a.set_label(&mut turns).unwrap();
    a.mov(dword_ptr(rsi), ecx).unwrap();
    a.add(rax, rcx).unwrap();
    // A jump through a register keeps the loop from being one unit that is never left.
    a.lea(rdx, ptr(turns)).unwrap();
    let mut out = a.create_label();
    a.dec(ecx).unwrap();
    a.jz(out).unwrap();
    a.jmp(rdx).unwrap();
    a.set_label(&mut out).unwrap();
    a.xchg(rsi, rdi).unwrap();
    a.dec(ebx).unwrap();
    a.jnz(again).unwrap();
    a.hlt().unwrap();
}

fn run(first: u64, second: u64, translate: Option<u32>) -> (Guest, TranslatorStats) {
    let mut guest = Guest::long_mode(two_targets);
    // The second 2 MiB lead to the device.
    guest.load(0x10_2008, &(0x4000_0000u64 | 0x87).to_le_bytes());
    guest.cpu.set_translation(translate);
    let mut state = guest.cpu.state();
    (state.registers.gpr[6], state.registers.gpr[7]) = (first, second);
    guest.cpu.set_state(&state);
    assert_eq!(guest.run(), Exit::Halt);
    let stats = guest.cpu.translator_stats();
    (guest, stats)
}

#[test]
fn an_instruction_that_traps_often_is_left_to_the_interpreter_until_it_cools() {
    let (translated, stats) = run(DEVICE, DATA, Some(2));
    assert_eq!((stats.adapted, stats.cooled), (1, 1), "{stats:?}");
    assert!(stats.simulated_trapped > 150, "{stats:?}");
    let (interpreted, none) = run(DEVICE, DATA, None);
    assert_eq!(none, TranslatorStats::default());
    assert_eq!(translated.cpu.state(), interpreted.cpu.state());
    assert_eq!(translated.cpu.retired(), interpreted.cpu.retired());
    assert_eq!(translated.bare.mmio, interpreted.bare.mmio);
    assert_eq!(translated.bare.mmio.len(), 200);
}

#[test]
fn memory_that_never_traps_is_never_left_to_the_interpreter() {
    let (_, stats) = run(DATA, DATA + 0x1000, Some(2));
    assert_eq!(
        (stats.adapted, stats.simulated_trapped),
        (0, 0),
        "{stats:?}"
    );
}

/// Sixty times a run of three port writes with a few instructions between.
fn port_runs(a: &mut CodeAssembler) {
    let mut turns = a.create_label();
    a.mov(ecx, 60).unwrap();
    a.set_label(&mut turns).unwrap();
    a.mov(edx, 0x70).unwrap();
    a.mov(eax, ecx).unwrap();
    a.out(dx, al).unwrap();
    a.inc(edx).unwrap();
    a.not(eax).unwrap();
    a.out(dx, al).unwrap();
    a.out(0x80, al).unwrap();
    a.dec(ecx).unwrap();
    a.jnz(turns).unwrap();
    a.hlt().unwrap();
}

#[test]
fn a_cluster_of_port_accesses_is_one_call_of_the_interpreter() {
    let run = |translate| {
        let mut guest = Guest::long_mode(port_runs);
        guest.cpu.set_translation(translate);
        assert_eq!(guest.run(), Exit::Halt);
        guest
    };
    let (translated, interpreted) = (run(Some(2)), run(None));
    assert_eq!(translated.cpu.state(), interpreted.cpu.state());
    assert_eq!(translated.bare.ports, interpreted.bare.ports);
    let stats = translated.cpu.translator_stats();
    assert!(stats.clusters > 50, "{stats:?}");
    // OUT, INC, NOT, OUT, OUT.
    assert!(stats.simulated >= 5 * stats.clusters, "{stats:?}");
}

#[test]
fn a_cluster_runs_in_the_interpreter_for_a_guest_of_anothers() {
    let mut guest = Guest::long_mode(port_runs);
    // Up to the first OUT, where a VMM on hardware would be called.
    for _ in 0..3 {
        assert_eq!(guest.cpu.step(&mut guest.bare), None);
    }
    let rip = guest.cpu.registers().rip;
    let mut code = [0; 64];
    for (at, byte) in (rip..).zip(&mut code) {
        *byte = guest.read_u32(at).to_le_bytes()[0];
    }
    let exits = |i: &iced_x86::Instruction| matches!(i.mnemonic(), Mnemonic::In | Mnemonic::Out);
    let cluster = Cluster::at(&code, rip, 64, ClusterPolicy::default(), exits);
    assert_eq!((cluster.exits, cluster.is_loop), (3, false));
    assert!(cluster.is_worth_it());
    let ran = guest.cpu.run_cluster(&mut guest.bare, &cluster, 100);
    assert_eq!(ran, u64::try_from(cluster.instructions).unwrap());
    assert_eq!(guest.cpu.registers().rip, cluster.rip.end);
    assert_eq!(guest.bare.ports, [(0x70, 60), (0x71, 195), (0x80, 195)]);
    assert!(guest.cpu.registers().rip > CODE);
    // Where it does not stand it does nothing.
    assert_eq!(guest.cpu.run_cluster(&mut guest.bare, &cluster, 100), 0);
}
