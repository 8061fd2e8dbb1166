//! Small programs in each mode.

mod common;

use common::{CODE, Guest};
use iced_x86::code_asm::*;
use x86_dbt::Exit;

#[test]
fn real_mode_code_uses_segments() {
    let mut guest = Guest::real_mode(|a| {
        a.mov(ax, 0x2000).unwrap();
        a.mov(ds, ax).unwrap();
        a.mov(word_ptr(0x10), 0x1234).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(guest.run(), Exit::Halt);
    assert_eq!(guest.read_u32(0x2_0010) & 0xffff, 0x1234);
    assert_eq!(guest.cpu.retired(), 4);
}

#[test]
fn a_loop_retires_every_instruction() {
    let mut guest = Guest::long_mode(|a| {
        let mut top = a.create_label();
        a.mov(ecx, 1000).unwrap();
        a.xor(eax, eax).unwrap();
        a.set_label(&mut top).unwrap();
        a.add(rax, rcx).unwrap();
        a.dec(ecx).unwrap();
        a.jnz(top).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(guest.run(), Exit::Halt);
    assert_eq!(guest.gpr(0), 500_500);
    assert_eq!(guest.cpu.retired(), 3 + 3 * 1000);
}

#[test]
fn the_deadline_stops_between_two_instructions_of_a_block() {
    let mut guest = Guest::long_mode(|a| {
        for _ in 0..10 {
            a.inc(rax).unwrap();
        }
        a.hlt().unwrap();
    });
    guest.bare.deadline = 3;
    assert_eq!(guest.run(), Exit::Deadline);
    assert_eq!((guest.gpr(0), guest.cpu.retired()), (3, 3));
    guest.bare.deadline = 100;
    assert_eq!(guest.run(), Exit::Halt);
    assert_eq!(guest.gpr(0), 10);
}

#[test]
fn code_that_changes_its_own_next_instruction_runs_the_new_one() {
    let mut guest = Guest::protected_mode(|a| {
        let mut patched = a.create_label();
        a.mov(byte_ptr(CODE + 7), 0x43).unwrap();
        a.set_label(&mut patched).unwrap();
        a.inc(ecx).unwrap();
        a.hlt().unwrap();
    });
    // inc ecx (0x41) becomes inc ebx (0x43).
    assert_eq!(guest.run(), Exit::Halt);
    assert_eq!((guest.gpr(1), guest.gpr(3)), (0, 1));
}

#[test]
fn sse_and_x87_compute() {
    let mut guest = Guest::long_mode(|a| {
        a.mov(eax, 9).unwrap();
        a.cvtsi2sd(xmm1, eax).unwrap();
        a.sqrtsd(xmm2, xmm1).unwrap();
        a.cvttsd2si(ebx, xmm2).unwrap();
        a.fninit().unwrap();
        a.fld1().unwrap();
        a.fldpi().unwrap();
        a.faddp(st1, st0).unwrap();
        a.fistp(qword_ptr(0x8000)).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(guest.run(), Exit::Halt);
    assert_eq!(guest.gpr(3), 3);
    assert_eq!(guest.read_u64(0x8000), 4);
}

#[test]
fn a_rep_move_crosses_pages_and_can_be_interrupted() {
    let mut guest = Guest::long_mode(|a| {
        a.mov(esi, 0x2_0ff0).unwrap();
        a.mov(edi, 0x4_0008).unwrap();
        a.mov(ecx, 20_000).unwrap();
        a.rep().movsb().unwrap();
        a.hlt().unwrap();
    });
    let bytes: Vec<u8> = (0..20_000u32).map(|n| n.to_le_bytes()[0]).collect();
    guest.load(0x2_0ff0, &bytes);
    assert_eq!(guest.run(), Exit::Halt);
    let mut moved = vec![0; 20_000];
    vm_memory::Bytes::read_slice(&guest.memory, &mut moved, vm_memory::GuestAddress(0x4_0008))
        .unwrap();
    assert!(moved == bytes);
    assert_eq!(guest.cpu.retired(), 5);
}

#[test]
fn a_fault_with_no_handler_is_a_shutdown() {
    let mut guest = Guest::long_mode(|a| a.ud2().unwrap());
    assert_eq!(guest.run(), Exit::Shutdown);
}

#[test]
fn what_is_decoded_does_not_show_in_the_count_of_a_rep() {
    let retired = |executed: bool| {
        let mut guest = Guest::long_mode(|a| {
            if executed {
                a.call(0x3000).unwrap();
            } else {
                a.nop().unwrap();
            }
            a.mov(edi, 0x3000).unwrap();
            a.mov(ecx, 200).unwrap();
            a.rep().stosb().unwrap();
            a.hlt().unwrap();
        });
        guest.load(0x3000, &[0xc3]);
        guest.run();
        guest.cpu.retired()
    };
    // CALL and RET, against a NOP.
    assert_eq!(retired(true), retired(false) + 1);
}

#[test]
fn code_that_a_device_has_written_is_decoded_again() {
    let mut guest = Guest::long_mode(|a| {
        let mut again = a.create_label();
        a.mov(ecx, 40).unwrap();
        a.set_label(&mut again).unwrap();
        a.call(0x3000).unwrap();
        a.dec(ecx).unwrap();
        a.jnz(again).unwrap();
        a.hlt().unwrap();
    });
    let mut once = |code: &[u8]| {
        guest.load(0x3000, code);
        guest.bare.written.push((0x3000, 4));
        let mut state = guest.cpu.state();
        state.registers.rip = CODE;
        state.halted = false;
        guest.cpu.set_state(&state);
        guest.run();
        guest.gpr(0)
    };
    // mov al, 1; ret. Then mov al, 2; ret, after the first was translated.
    assert_eq!(once(&[0xb0, 1, 0xc3]), 1);
    assert_eq!(once(&[0xb0, 2, 0xc3]), 2);
}
