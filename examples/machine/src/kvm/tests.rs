//! Small guests on the host's KVM. They skip loudly where there is none.

use std::io;
use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::board::{BoardConfig, Outcome};
use crate::kernel::{allocate_ram, write_boot_tables};

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Run {
    stop: Stop,
    output: String,
    board: Board,
}

/// Runs `code` from `start` in 1 MiB of RAM, `None` (said aloud) without KVM.
fn run(code: &[u8], start: &StartState, chipset: Chipset, controllers: Controllers) -> Option<Run> {
    let ram = allocate_ram(1 << 20).unwrap();
    write_boot_tables(&ram).unwrap();
    ram.write_slice(code, GuestAddress(CODE)).unwrap();
    let mut engine = match KvmEngine::new(&ram, start, chipset, controllers) {
        Ok(engine) => engine,
        Err(error) => {
            eprintln!("skipped: {error}: {:?}", std::error::Error::source(&error));
            return None;
        }
    };
    let output = Shared::default();
    let mut board = Board::new(BoardConfig {
        chipset,
        processors: 1,
        ram: 1 << 20,
        unix_seconds: 0,
        ns_per_instruction: 1,
        test_device: None,
        disk: None,
        firmware_files: Vec::new(),
        console: Box::new(output.clone()),
        network: None,
        x2apic: true,
        iommu: None,
    });
    let stop = engine.run(&mut board, Duration::from_secs(20)).unwrap();
    let output = String::from_utf8(output.0.lock().unwrap().clone()).unwrap();
    Some(Run {
        stop,
        output,
        board,
    })
}

/// mov dx, 0x3f8; mov al, 'o'; out dx, al; mov al, 'k'; out dx, al; mov al, 7; out 0xf4, al
const PRINT_16: &[u8] = &[
    0xba, 0xf8, 0x03, 0xb0, b'o', 0xee, 0xb0, b'k', 0xee, 0xb0, 0x07, 0xe6, 0xf4, 0xf4,
];
/// The same with a 32-bit immediate for EDX.
const PRINT_64: &[u8] = &[
    0xba, 0xf8, 0x03, 0x00, 0x00, 0xb0, b'o', 0xee, 0xb0, b'k', 0xee, 0xb0, 0x07, 0xe6, 0xf4, 0xf4,
];
const CODE: u64 = 0x1_0000;

#[test]
fn kvm_real_mode_guest_prints_and_exits() {
    let start = StartState::real_mode(0x1000, 0);
    let Some(run) = run(PRINT_16, &start, Chipset::M0, Controllers::Board) else {
        return;
    };
    assert_eq!(run.stop, Stop::Outcome(Outcome::DebugExit(7)));
    assert_eq!(run.output, "ok");
}

#[test]
fn kvm_long_mode_guest_prints_and_exits_under_both_controllers() {
    for controllers in [Controllers::Kernel, Controllers::Board] {
        let start = StartState::linux_64(CODE);
        let Some(run) = run(PRINT_64, &start, Chipset::M1, controllers) else {
            return;
        };
        assert_eq!(
            run.stop,
            Stop::Outcome(Outcome::DebugExit(7)),
            "{controllers:?}"
        );
        assert_eq!(run.output, "ok");
        assert_eq!(run.board.exits().count(), 2);
    }
}

#[test]
fn kvm_halt_without_interrupts_ends_the_run() {
    let start = StartState::linux_64(CODE);
    let Some(run) = run(&[0xf4], &start, Chipset::M0, Controllers::Board) else {
        return;
    };
    assert_eq!(run.stop, Stop::Halted);
}

#[test]
fn kvm_triple_fault_is_a_shutdown() {
    // ud2 with an empty IDT.
    let mut start = StartState::linux_64(CODE);
    start.idt.limit = 0;
    let Some(run) = run(&[0x0f, 0x0b], &start, Chipset::M0, Controllers::Board) else {
        return;
    };
    assert_eq!(run.stop, Stop::Shutdown);
}

#[test]
fn kvm_the_boards_timer_interrupts_a_real_mode_guest() {
    let mut code = Vec::new();
    let out = |code: &mut Vec<u8>, port: u8, value: u8| code.extend([0xb0, value, 0xe6, port]);
    // Interrupt vector 0x20 leads to the handler at 0x1000:0x100.
    code.extend([0x31, 0xc0, 0x8e, 0xd8]); // xor ax, ax; mov ds, ax
    code.extend([0xc7, 0x06, 0x80, 0x00, 0x00, 0x01]); // mov word [0x80], 0x100
    code.extend([0xc7, 0x06, 0x82, 0x00, 0x00, 0x10]); // mov word [0x82], 0x1000
    for (port, value) in [
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 4),
        (0x21, 1),
        (0x21, 0xfe),
    ] {
        out(&mut code, port, value);
    }
    // One shot of 100 pulses.
    for (port, value) in [(0x43, 0x30), (0x40, 100), (0x40, 0)] {
        out(&mut code, port, value);
    }
    code.extend([0xfb, 0xf4, 0xeb, 0xfd]); // sti; again: hlt; jmp again
    code.resize(0x100, 0x90);
    out(&mut code, 0xf4, 9);
    let start = StartState::real_mode(0x1000, 0);
    let Some(run) = run(&code, &start, Chipset::M0, Controllers::Board) else {
        return;
    };
    assert_eq!(run.stop, Stop::Outcome(Outcome::DebugExit(9)));
    assert_eq!(run.board.acknowledged()[0], 1);
}

#[test]
fn string_accesses_are_split() {
    let ends = |length| {
        each_port_access(length)
            .map(|part| part.end)
            .collect::<Vec<_>>()
    };
    assert_eq!(ends(2), [2]);
    assert_eq!(ends(3), [1, 2, 3]);
    assert!(ends(0).is_empty());
}
