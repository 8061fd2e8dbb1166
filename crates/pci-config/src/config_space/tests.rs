use super::*;
use proptest::prelude::*;

/// The identity of Intel's 82540EM.
fn function() -> ConfigSpace {
    ConfigSpace::new(Header {
        vendor: 0x8086,
        device: 0x100e,
        revision: 3,
        class: [0x02, 0x00, 0x00],
        subsystem_vendor: 0x1af4,
        subsystem: 0x1100,
        multi_function: false,
    })
}

fn dword(space: &mut ConfigSpace, offset: u16) -> u32 {
    let mut data = [0; 4];
    space.read(offset, &mut data);
    u32::from_le_bytes(data)
}

fn put(space: &mut ConfigSpace, offset: u16, value: u32) {
    space.write(offset, &value.to_le_bytes());
}

#[test]
fn the_header_is_where_the_specification_puts_it() {
    let mut space = function();
    assert_eq!(dword(&mut space, 0x00), 0x100e_8086);
    assert_eq!(dword(&mut space, 0x08), 0x0200_0003);
    assert_eq!(dword(&mut space, 0x2c), 0x1100_1af4);
    put(&mut space, 0x00, u32::MAX);
    assert_eq!(dword(&mut space, 0x00), 0x100e_8086, "read only");
}

#[test]
fn a_memory_bar_answers_its_size() {
    let mut space = function();
    space
        .add_bar(
            0,
            BarKind::Memory32 {
                prefetchable: false,
            },
            0x2_0000,
        )
        .unwrap();
    put(&mut space, 0x10, u32::MAX);
    assert_eq!(dword(&mut space, 0x10), 0xfffe_0000);
    put(&mut space, 0x10, 0xfebc_0000);
    put(&mut space, 0x04, 0x2);
    assert_eq!(
        space.bar(0),
        Some(Bar {
            address: 0xfebc_0000,
            size: 0x2_0000,
            kind: BarKind::Memory32 {
                prefetchable: false
            },
            enabled: true
        })
    );
}

#[test]
fn an_io_bar_answers_its_size() {
    let mut space = function();
    space.add_bar(1, BarKind::Io, 64).unwrap();
    put(&mut space, 0x14, u32::MAX);
    assert_eq!(dword(&mut space, 0x14), 0xffff_ffc1);
    put(&mut space, 0x14, 0xc001);
    let bar = space.bar(1).unwrap();
    assert_eq!((bar.address, bar.enabled), (0xc000, false));
}

#[test]
fn a_64_bit_bar_takes_two_registers() {
    let mut space = function();
    let kind = BarKind::Memory64 { prefetchable: true };
    space.add_bar(4, kind, 1 << 33).unwrap();
    put(&mut space, 0x20, u32::MAX);
    put(&mut space, 0x24, u32::MAX);
    assert_eq!(
        (dword(&mut space, 0x20), dword(&mut space, 0x24)),
        (0xc, 0xffff_fffe)
    );
    put(&mut space, 0x24, 0x10);
    assert_eq!(space.bar(4).unwrap().address, 0x10_0000_0000);
    assert_eq!(
        space.add_bar(5, BarKind::Io, 16),
        Err(BarError::Taken { index: 5 })
    );
}

#[test]
fn bars_that_cannot_be_are_refused() {
    let mut space = function();
    let memory = BarKind::Memory32 {
        prefetchable: false,
    };
    assert_eq!(
        space.add_bar(6, memory, 16),
        Err(BarError::Index { index: 6 })
    );
    assert_eq!(
        space.add_bar(usize::MAX, memory, 16),
        Err(BarError::Index { index: usize::MAX })
    );
    let wide = BarKind::Memory64 {
        prefetchable: false,
    };
    assert_eq!(
        space.add_bar(5, wide, 16),
        Err(BarError::Index { index: 5 })
    );
    assert_eq!(
        space.add_bar(0, memory, 24),
        Err(BarError::Size { size: 24 })
    );
    assert_eq!(
        space.add_bar(0, BarKind::Io, 512),
        Err(BarError::Size { size: 512 })
    );
}

#[test]
fn capabilities_form_a_list() {
    let mut space = function();
    assert_eq!(dword(&mut space, 0x04) >> 20 & 1, 0);
    let first = space
        .add_capability(0x01, &[0x22, 0, 0, 0, 0, 0], &[0; 6])
        .unwrap();
    let second = space
        .add_capability(0x09, &[7, 1, 2, 3, 4], &[0, 0, 0, 0, 0xff])
        .unwrap();
    assert_eq!((first, second), (0x40, 0x48));
    assert_eq!(dword(&mut space, 0x04) >> 20 & 1, 1);
    assert_eq!(dword(&mut space, 0x34) & 0xff, 0x40);
    assert_eq!(dword(&mut space, 0x40), 0x0022_4801);
    assert_eq!(dword(&mut space, 0x48) & 0xffff, 0x0009);
    put(&mut space, 0x4c, u32::MAX);
    assert_eq!(dword(&mut space, 0x4c), 0x00ff_0302, "one byte is writable");
}

#[test]
fn a_full_list_is_refused() {
    let mut space = function();
    space.add_capability(9, &[0; 180], &[0; 180]).unwrap();
    let error = space.add_capability(9, &[0; 20], &[0; 20]).unwrap_err();
    assert_eq!(error, CapabilityError::NoRoom { length: 22 });
    space.add_capability(9, &[0; 6], &[0; 6]).unwrap();
    assert_eq!(
        space.add_capability(9, &[], &[]),
        Err(CapabilityError::NoRoom { length: 2 })
    );
}

#[test]
fn intx_is_status_without_disable() {
    let mut space = function();
    space.set_interrupt_pin(InterruptPin::A);
    space.set_interrupt_line(11);
    space.set_interrupt_status(true);
    assert!(space.intx());
    put(&mut space, 0x04, 1 << 10 | 1 << 2);
    assert!(!space.intx() && space.is_bus_master());
    put(&mut space, 0x3c, 5);
    assert_eq!(
        (space.interrupt_line(), dword(&mut space, 0x3c)),
        (5, 0x0105)
    );
}

#[test]
fn reads_past_the_end_are_all_ones() {
    let mut space = function();
    let mut data = [0; 4];
    space.read(0xfe, &mut data);
    assert_eq!(data, [0, 0, 0xff, 0xff]);
    space.read(u16::MAX, &mut data);
    assert_eq!(data, [0xff; 4]);
    space.write(0xfe, &[1; 9]);
    space.write(u16::MAX, &[1; 9]);
}

#[test]
fn a_saved_space_must_be_this_functions() {
    let mut space = function();
    space
        .add_bar(
            0,
            BarKind::Memory32 {
                prefetchable: false,
            },
            0x2_0000,
        )
        .unwrap();
    put(&mut space, 0x10, 0xfebc_0000);
    let state = space.state();
    let mut other = function();
    assert_eq!(other.restore(&state), Err(InvalidState { offset: 0x12 }));
    other
        .add_bar(
            0,
            BarKind::Memory32 {
                prefetchable: false,
            },
            0x2_0000,
        )
        .unwrap();
    other.restore(&state).unwrap();
    assert_eq!(other.bar(0), space.bar(0));
    assert_eq!(
        other.restore(&ConfigSpaceState { bytes: vec![] }),
        Err(InvalidState { offset: 0x100 })
    );
}

proptest! {
    /// Any write, then all ones, then any write: a BAR's address is always a multiple of its size.
    #[test]
    fn bar_addresses_are_aligned(shift in 4u32..=31, value: u32, cuts in prop::collection::vec((0u16..8, any::<[u8; 4]>(), 0usize..=4), 0..20)) {
        let mut space = function();
        let size = 1u64 << shift;
        space.add_bar(0, BarKind::Memory32 { prefetchable: true }, size).unwrap();
        put(&mut space, 0x10, value);
        for (offset, data, length) in cuts {
            space.write(0xe + offset, &data[..length]);
        }
        let bar = space.bar(0).unwrap();
        prop_assert_eq!(bar.address % size, 0);
        prop_assert_eq!(dword(&mut space, 0x10) & 0xf, 8);
    }
}
