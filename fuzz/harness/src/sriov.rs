//! A physical function whose guest writes anything anywhere in 4 KiB, and to its virtual functions.

use arbitrary::{Result, Unstructured};
use pci_config::{
    BarKind, Bdf, Bus, ConfigSpace, Ecam, Header, PhysicalFunction, SriovConfig, add_express,
};

/// Drives a physical function with `data`.
pub fn sriov(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let own = Bdf::from_requester_id(8);
    let mut bus = Bus::default();
    bus.insert(own, function()).expect("free");
    // Running out of data ends the run.
    while !u.is_empty() && step(&mut bus, &mut u).is_ok() {
        check(bus.function_mut(own).expect("there"), own);
    }
}

fn function() -> PhysicalFunction {
    let header = Header {
        vendor: 0x8086,
        device: 1,
        ..Header::default()
    };
    let mut space = ConfigSpace::new(header);
    add_express(&mut space).expect("room");
    let small = BarKind::Memory32 {
        prefetchable: false,
    };
    let large = BarKind::Memory64 { prefetchable: true };
    let mut bars = [None; 6];
    (bars[0], bars[1]) = (Some((small, 0x100)), Some((large, 1 << 20)));
    let config = SriovConfig {
        total: TOTAL,
        first_offset: 3,
        stride: 2,
        device: 2,
        bars,
        template: ConfigSpace::virtual_function(header),
    };
    PhysicalFunction::new(space, config).expect("a layout")
}

fn step(bus: &mut Bus<PhysicalFunction>, u: &mut Unstructured<'_>) -> Result<()> {
    let function: u64 = if u.ratio(3, 4)? {
        8
    } else {
        u.int_in_range(0..=40)?
    };
    let register: u64 = if u.ratio(7, 8)? {
        u.int_in_range(0x100..=0x144)?
    } else {
        u.int_in_range(0..=0x1001)?
    };
    let offset = function << 12 | register;
    let mut data = [0; 8];
    let length = u.int_in_range(0..=8)?;
    if u.ratio(1, 4)? {
        Ecam::new(1).read(bus, offset, &mut data[..length]);
    } else {
        for byte in &mut data {
            *byte = *u.choose(&[0, 1, 2, 4, 5, 8, 9, 0x10, 0xff])?;
        }
        Ecam::new(1).write(bus, offset, &data[..length]);
    }
    Ok(())
}

/// What is enabled is what the registers say, windows lie apart, and a state is taken up again.
fn check(function: &PhysicalFunction, own: Bdf) {
    let state = function.state();
    let enabled = function.enabled();
    let expected = if state.control & 1 != 0 {
        state.number
    } else {
        0
    };
    assert_eq!(enabled, usize::from(expected));
    assert!(state.number <= TOTAL);
    for number in 0..enabled {
        let place = function.place(own, number).expect("far from the end");
        assert_eq!(usize::from(place.requester_id()), 8 + 3 + 2 * number);
        let space = function.virtual_function(number).expect("enabled");
        assert_eq!(space.u32(0), u32::MAX);
        for index in [0, 1] {
            if let Some(bar) = function.virtual_bar(number, index) {
                assert!(bar.address.is_multiple_of(bar.size) && bar.size >= 0x1000);
            }
        }
    }
    let mut fresh = self::function();
    fresh.restore(&state).expect("a state that was reached");
    assert_eq!(fresh.state(), state);
}

const TOTAL: u16 = 9;

#[cfg(test)]
mod tests {
    #[test]
    fn smoke() {
        arbtest::arbtest(|u| {
            super::sriov(u.bytes(u.len())?);
            Ok(())
        })
        .budget_ms(1_000);
    }
}
