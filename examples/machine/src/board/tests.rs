use super::*;
use std::io;
use std::sync::{Arc, Mutex};
use x86_dbt::{Clock, InterruptSource, Mmio, PortIo};

/// Output that the test can look at.
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

fn board(chipset: Chipset) -> (Board, Shared) {
    let output = Shared::default();
    let board = Board::new(BoardConfig {
        chipset,
        processors: 1,
        ram: 128 << 20,
        unix_seconds: 1_000_000_000,
        ns_per_instruction: 10,
        test_device: None,
        disk: None,
        firmware_files: Vec::new(),
        console: Box::new(output.clone()),
        network: None,
        x2apic: true,
        iommu: None,
    });
    (board, output)
}

fn out(board: &mut Board, port: u16, value: u8) {
    board.port_write(port, &[value]);
}

fn inb(board: &mut Board, port: u16) -> u8 {
    let mut data = [0];
    board.port_read(port, &mut data);
    data[0]
}

fn init_pic(board: &mut Board) {
    for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 1)] {
        out(board, port, value);
    }
    for (port, value) in [(0xa0, 0x11), (0xa1, 0x38), (0xa1, 2), (0xa1, 1)] {
        out(board, port, value);
    }
}

/// Channel 0 at 100 Hz, as Linux programs it.
fn init_pit(board: &mut Board) {
    for (port, value) in [(0x43, 0x34), (0x40, 0x9c), (0x40, 0x2e)] {
        out(board, port, value);
    }
}

fn lapic_write(board: &mut Board, offset: u64, value: u32) {
    board.mmio_write(0xfee0_0000 + offset, &value.to_le_bytes());
}

fn ioapic_route(board: &mut Board, pin: u8, entry: u32) {
    for (select, value) in [(0x11 + 2 * pin, 0), (0x10 + 2 * pin, entry)] {
        board.mmio_write(0xfec0_0000, &u32::from(select).to_le_bytes());
        board.mmio_write(0xfec0_0010, &value.to_le_bytes());
    }
}

#[test]
fn the_timer_interrupts_at_its_deadline_in_both_chipsets() {
    for chipset in [Chipset::M0, Chipset::M1] {
        let (mut board, _) = board(chipset);
        init_pic(&mut board);
        init_pit(&mut board);
        let mut ticks = 0;
        let mut retired = 0;
        while board.now() < 1_000_000_000 {
            retired = board.deadline();
            board.set_retired(retired);
            if board.interrupt_pending() {
                assert_eq!(board.acknowledge(), Some(0x30));
                out(&mut board, 0x20, 0x20);
                ticks += 1;
            }
        }
        // The edge of programming the timer waits; of the hundred behind it the last is 16 us late.
        assert_eq!(ticks, 100, "{chipset:?}");
        assert!(retired > 99_000_000);
    }
}

#[test]
fn idle_time_is_skipped_to_the_next_interrupt() {
    let (mut board, _) = board(Chipset::M0);
    assert!(!board.skip_idle(), "nothing is programmed");
    init_pic(&mut board);
    init_pit(&mut board);
    while board.interrupt_pending() {
        board.acknowledge();
        out(&mut board, 0x20, 0x20);
    }
    assert!(board.skip_idle());
    assert!(board.interrupt_pending());
    assert_eq!(board.now() / 1_000_000, 10);
}

#[test]
fn the_ioapic_routes_the_timer_through_pin_2() {
    let (mut board, _) = board(Chipset::M1);
    out(&mut board, 0x21, 0xff);
    out(&mut board, 0xa1, 0xff);
    ioapic_route(&mut board, 2, 0x30);
    init_pit(&mut board);
    assert!(board.skip_idle());
    assert_eq!(board.acknowledge(), Some(0x30));
    lapic_write(&mut board, 0xb0, 0);
    assert!(board.skip_idle());
    assert_eq!(board.acknowledge(), Some(0x30));
}

#[test]
fn the_local_apic_timer_wakes_an_idle_processor() {
    let (mut board, _) = board(Chipset::M1);
    lapic_write(&mut board, 0x3e0, 0b1011);
    lapic_write(&mut board, 0x320, 0xec);
    lapic_write(&mut board, 0x380, 12_345);
    assert!(board.skip_idle());
    assert_eq!((board.now(), board.acknowledge()), (12_345, Some(0xec)));
    // TSC deadline, through MSRs.
    lapic_write(&mut board, 0xb0, 0);
    lapic_write(&mut board, 0x320, 0x4_00ec);
    assert!(board.msr_write(0x6e0, 50_000));
    assert!(board.skip_idle());
    assert_eq!((board.tsc(), board.acknowledge()), (50_000, Some(0xec)));
}

#[test]
fn m0_has_no_apic() {
    let (mut board, _) = board(Chipset::M0);
    assert_eq!(board.msr_read(0x1b), None);
    let mut data = [0; 4];
    board.mmio_read(0xfee0_0030, &mut data);
    assert_eq!(data, [0xff; 4]);
    assert_eq!(inb(&mut board, 0x608), 0xff);
}

#[test]
fn the_serial_line_prints_and_interrupts() {
    let (mut board, output) = board(Chipset::M1);
    init_pic(&mut board);
    "hello"
        .bytes()
        .for_each(|byte| out(&mut board, 0x3f8, byte));
    assert_eq!(*output.0.lock().unwrap(), b"hello");
    out(&mut board, 0x3f9, 1);
    board.push_input(b"a");
    assert_eq!(board.acknowledge(), Some(0x34));
    assert_eq!(inb(&mut board, 0x3f8), b'a');
}

#[test]
fn power_off_needs_the_s5_type() {
    let (mut board, _) = board(Chipset::M1);
    board.port_write(0x604, &0x3400u16.to_le_bytes());
    assert_eq!(board.outcome(), Some(Outcome::PowerOff));
    assert_eq!(board.deadline(), 0, "the processor returns at once");
}

#[test]
fn every_way_to_reset_resets() {
    for (port, value) in [(0x64, 0xfe), (0x92, 0x01), (0xcf9, 0x06)] {
        let (mut board, _) = board(Chipset::M1);
        out(&mut board, port, value);
        assert_eq!(board.outcome(), Some(Outcome::Reset), "{port:#x}");
    }
}

#[test]
fn the_power_button_raises_the_sci() {
    let (mut board, _) = board(Chipset::M1);
    init_pic(&mut board);
    board.port_write(0x602, &0x0100u16.to_le_bytes());
    board.press_power_button();
    assert_eq!(board.acknowledge(), Some(0x39));
    // Level triggered: again after EOI until the status is cleared.
    out(&mut board, 0xa0, 0x20);
    out(&mut board, 0x20, 0x20);
    assert!(board.interrupt_pending());
    board.port_write(0x600, &0x0100u16.to_le_bytes());
    assert!(!board.interrupt_pending());
}

#[test]
fn debug_ports_report() {
    let (mut board, _) = board(Chipset::M0);
    board.set_retired(7);
    out(&mut board, 0x3f0, 123);
    out(&mut board, 0x402, b'!');
    out(&mut board, 0xf4, 3);
    assert_eq!(board.booted_at(), Some(70));
    assert_eq!(board.take_debug_output(), b"!");
    assert_eq!(board.outcome(), Some(Outcome::DebugExit(3)));
}

#[test]
fn exits_are_counted_by_device() {
    let (mut board, _) = board(Chipset::M0);
    inb(&mut board, 0x71);
    out(&mut board, 0x70, 0);
    inb(&mut board, 0x2f9);
    let exits: Vec<_> = board.exits().collect();
    assert_eq!(
        exits,
        [
            (
                Device::Mc146818,
                Exits {
                    reads: 1,
                    writes: 1
                }
            ),
            (
                Device::UnassignedPort,
                Exits {
                    reads: 1,
                    writes: 0
                }
            )
        ]
    );
    for (index, device) in Device::ALL.into_iter().enumerate() {
        assert_eq!(device as usize, index);
    }
}

#[test]
fn a_late_machine_catches_up_in_bounded_work() {
    let (mut board, _) = board(Chipset::M0);
    init_pic(&mut board);
    // The shortest period there is, and an hour of absence.
    for (port, value) in [(0x43, 0x34), (0x40, 2), (0x40, 0)] {
        out(&mut board, port, value);
    }
    board.skip_idle_to(3_600_000_000_000);
    assert!(board.next_deadline().unwrap() > 3_600_000_000_000);
}

#[test]
fn the_host_bridge_answers_beside_the_reset_register() {
    let (mut board, _) = board(Chipset::M1);
    board.port_write(0xcf8, &0x8000_0000u32.to_le_bytes());
    let mut id = [0; 4];
    board.port_read(0xcfc, &mut id);
    assert_eq!(u32::from_le_bytes(id), 0x1237_8086);
    assert_eq!(board.outcome(), None);
    board.port_write(0xcf9, &[6]);
    assert_eq!(board.outcome(), Some(Outcome::Reset));
}

/// A board with a remapping unit and the bus master for test guests, and its memory.
fn board_behind_a_unit() -> (Board, Ram) {
    let ram = crate::kernel::allocate_ram(1 << 20).unwrap();
    let board = Board::new(BoardConfig {
        chipset: Chipset::M1,
        processors: 1,
        ram: 1 << 20,
        unix_seconds: 0,
        ns_per_instruction: 10,
        test_device: Some(ram.clone()),
        disk: None,
        firmware_files: Vec::new(),
        console: Box::new(io::sink()),
        network: None,
        x2apic: true,
        iommu: Some(IommuConfig {
            capabilities: vtd::Capabilities::legacy(),
            ram: ram.clone(),
        }),
    });
    (board, ram)
}

fn unit_write(board: &mut Board, register: u64, value: u32) {
    board.mmio_write(crate::layout::IOMMU + register, &value.to_le_bytes());
}

fn unit_read(board: &mut Board, register: u64) -> u32 {
    let mut data = [0; 4];
    board.mmio_read(crate::layout::IOMMU + register, &mut data);
    u32::from_le_bytes(data)
}

/// Has the bus master write eight bytes of zero to an address.
fn edu_dma(board: &mut Board, address: u64) {
    let edu = u64::from(crate::layout::EDU_MEMORY);
    for (register, value) in [(0x80, 0x4_0000), (0x88, address), (0x90, 8), (0x98, 3)] {
        board.mmio_write(edu + register, &value.to_le_bytes());
    }
}

#[test]
fn a_function_is_held_to_its_tables_and_its_fault_interrupts() {
    use vm_memory::{Bytes, GuestAddress};
    use vtd::registers::{FEADDR, FECTL, FEDATA, FRCD, GCMD, RTADDR, SRTP, TE};

    let (mut board, ram) = board_behind_a_unit();
    let words = || [0x5000, 0x6000].map(|at| ram.read_obj::<u64>(GuestAddress(at)).unwrap());
    for at in [0x5000, 0x6000] {
        ram.write_obj(u64::MAX, GuestAddress(at)).unwrap();
    }
    lapic_write(&mut board, 0xf0, 0x1ff);
    // Memory and bus master of 00:04.0.
    board.port_write(0xcf8, &0x8000_2004_u32.to_le_bytes());
    board.port_write(0xcfc, &6_u16.to_le_bytes());
    edu_dma(&mut board, 0x5000);
    assert_eq!(words(), [0, u64::MAX], "as it is, until it is enabled");
    assert_eq!(board.take_written(), Some((0x5000, 8)));

    for (register, value) in [(FEDATA, 0x61), (FEADDR, 0xfee0_0000), (FECTL, 0)] {
        unit_write(&mut board, register, value);
    }
    unit_write(&mut board, RTADDR, 0x1_0000);
    unit_write(&mut board, GCMD, SRTP);
    unit_write(&mut board, GCMD, TE);
    edu_dma(&mut board, 0x6000);
    assert_eq!(words(), [0, u64::MAX]);
    assert_eq!(board.take_written(), None);
    assert_eq!(board.acknowledge(), Some(0x61));
    assert_eq!(unit_read(&mut board, FRCD + 8), 0x20, "who");
    assert_eq!(unit_read(&mut board, FRCD + 12), 1 << 31 | 1, "why");
}

#[test]
fn the_ioapic_and_functions_are_held_to_the_interrupt_table() {
    use vm_memory::{Bytes, GuestAddress};
    use vtd::registers::{GCMD, IRE, IRTA, SIRTP};

    let (mut board, ram) = board_behind_a_unit();
    lapic_write(&mut board, 0xf0, 0x1ff);
    out(&mut board, 0x21, 0xff);
    out(&mut board, 0xa1, 0xff);
    init_pit(&mut board);
    // Entry 1: vector 0x52, for the I/O APIC's source id alone.
    let entry = [0x52_0001, 1 << 18 | u64::from(crate::layout::IOAPIC_SOURCE)];
    for (at, word) in (0x2_0010..).step_by(8).zip(entry) {
        ram.write_obj::<u64>(word, GuestAddress(at)).unwrap();
    }
    unit_write(&mut board, IRTA, 0x2_0007);
    unit_write(&mut board, GCMD, SIRTP);
    unit_write(&mut board, GCMD, IRE);
    // In the clear: blocked. By index: the entry's vector, not the pin's.
    ioapic_route(&mut board, 2, 0x30);
    assert!(board.skip_idle());
    assert_eq!(board.acknowledge(), None);
    board.mmio_write(0xfec0_0000, &0x15_u32.to_le_bytes());
    board.mmio_write(0xfec0_0010, &(1_u32 << 17 | 1 << 16).to_le_bytes());
    assert!(board.skip_idle());
    assert_eq!(board.acknowledge(), Some(0x52));
}
