//! Translated code across changes of the address space: what one program's page held must not run in another's.

mod common;

use common::{CODE, Guest};
use iced_x86::code_asm::*;
use x86_dbt::Exit;

/// PML4 tables of the two spaces; their other tables lie behind them, a page each.
const ROOTS: [u64; 2] = [0x10_0000, 0x11_0000];
/// The page that each space has elsewhere.
const SHARED: u64 = 0x4000;
const TURNS: u64 = 300;

fn page_table(root: u64) -> u64 {
    root + 0x3000
}

/// Maps 1 MiB and what lies behind it at itself, and `SHARED` at `target`.
fn map(guest: &Guest, root: u64, target: u64) {
    for table in 0..3 {
        let entry = root + (table + 1) * 0x1000;
        guest.load(root + table * 0x1000, &(entry | 7).to_le_bytes());
    }
    for page in 0..512u64 {
        guest.load(page_table(root) + page * 8, &(page << 12 | 7).to_le_bytes());
    }
    guest.load(
        page_table(root) + 8 * (SHARED >> 12),
        &(target | 7).to_le_bytes(),
    );
}

/// Two entries that add to RAX and to RBX, and go on to each other's page by a direct jump.
fn function(guest: &Guest, at: u64, amount: i32) {
    let mut code = CodeAssembler::new(64).unwrap();
    code.add(rax, amount).unwrap();
    code.ret().unwrap();
    let bytes = code.assemble(SHARED).unwrap();
    guest.load(at, &bytes);
    let mut code = CodeAssembler::new(64).unwrap();
    code.add(rbx, amount * 2).unwrap();
    code.ret().unwrap();
    let bytes = code.assemble(SHARED + 0x100).unwrap();
    guest.load(at + 0x100, &bytes);
}

/// Calls the page in both spaces by turns, directly and through a register; the second space's entry is changed while the
/// first is in force.
fn calls(a: &mut CodeAssembler) {
    let mut top = a.create_label();
    let entry = page_table(ROOTS[1]) + 8 * (SHARED >> 12);
    a.mov(edx, 0x4100).unwrap();
    a.mov(rcx, TURNS).unwrap();
    a.set_label(&mut top).unwrap();
    for root in ROOTS {
        a.mov(rsi, root).unwrap();
        a.mov(cr3, rsi).unwrap();
        a.call(SHARED).unwrap();
        a.call(rdx).unwrap();
        a.call(SHARED).unwrap();
        if root == ROOTS[0] {
            // 0x6000 and 0x7000 by turns.
            a.mov(rdi, entry).unwrap();
            a.xor(qword_ptr(rdi), 0x1000).unwrap();
        }
    }
    a.dec(rcx).unwrap();
    a.jnz(top).unwrap();
    a.hlt().unwrap();
}

fn run(translate: Option<u32>) -> (u64, u64, u64) {
    let mut guest = Guest::long_mode(calls);
    map(&guest, ROOTS[0], 0x5000);
    map(&guest, ROOTS[1], 0x6000);
    for (at, amount) in [(0x5000, 1), (0x6000, 1000), (0x7000, 1_000_000)] {
        function(&guest, at, amount);
    }
    guest.cpu.set_translation(translate);
    let mut registers = guest.cpu.registers();
    assert_eq!(registers.rip, CODE);
    (registers.gpr[0], registers.gpr[3]) = (0, 0);
    guest.cpu.set_registers(&registers);
    assert_eq!(guest.run(), Exit::Halt);
    (guest.gpr(0), guest.gpr(3), guest.cpu.retired())
}

#[test]
fn code_runs_from_where_the_address_space_has_it() {
    let (a, b, _) = run(Some(0));
    // Twice and once a turn; the second space has 0x7000 first.
    let sum = TURNS + TURNS / 2 * 1000 + TURNS / 2 * 1_000_000;
    assert_eq!((a, b), (2 * sum, 2 * sum));
}

#[test]
fn translation_changes_neither_results_nor_counts() {
    let expected = run(None);
    for threshold in [0, 1, 3, 16] {
        assert_eq!(run(Some(threshold)), expected);
    }
}
