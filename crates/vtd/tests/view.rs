//! Guest memory behind a unit.
#![cfg(feature = "iommu")]

mod common;

use std::sync::{Arc, Mutex};

use common::{NIC, legacy};
use vtd::vm_memory::iommu::IommuMemory;
use vtd::vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};
use vtd::{DeviceView, Event, SourceId, Unit};

type Behind = IommuMemory<GuestMemoryMmap, DeviceView<GuestMemoryMmap>>;

/// The NIC's memory: its pages 1 and 2 are at 0x9000 and 0x7000, the third at 0x5000 is read-only.
fn behind() -> (Behind, Arc<Mutex<Unit>>, GuestMemoryMmap) {
    let (mut guest, root) = legacy();
    guest.map(root, 4, 0x1000, 0x9000 | 3, 1);
    guest.map(root, 4, 0x2000, 0x7000 | 3, 1);
    guest.map(root, 4, 0x3000, 0x5000 | 1, 1);
    let memory = guest.memory.clone();
    let unit = Arc::new(Mutex::new(guest.unit));
    let view = DeviceView::new(Arc::clone(&unit), memory.clone(), NIC);
    (
        IommuMemory::new(memory.clone(), view, true, ()),
        unit,
        memory,
    )
}

#[test]
fn dma_goes_where_the_tables_lead() {
    let (device, _, memory) = behind();
    let bytes: Vec<u8> = (0..=255).cycle().take(0x1800).collect();
    device.write_slice(&bytes, GuestAddress(0x1400)).unwrap();
    let mut halves = vec![0; 0xc00];
    memory
        .read_slice(&mut halves, GuestAddress(0x9400))
        .unwrap();
    assert_eq!(halves, bytes[..0xc00]);
    memory
        .read_slice(&mut halves, GuestAddress(0x7000))
        .unwrap();
    assert_eq!(halves, bytes[0xc00..]);
    let mut back = vec![0; 0x1800];
    device.read_slice(&mut back, GuestAddress(0x1400)).unwrap();
    assert_eq!(back, bytes);
}

#[test]
fn what_is_not_permitted_fails_and_is_recorded() {
    let (device, unit, _) = behind();
    assert!(device.read_obj::<u64>(GuestAddress(0x3000)).is_ok());
    assert!(device.write_obj(0_u64, GuestAddress(0x3000)).is_err());
    assert!(device.read_obj::<u64>(GuestAddress(0x4000)).is_err());
    assert_eq!(unit.lock().unwrap().counters().faults_recorded, 2);
    assert_eq!(unit.lock().unwrap().next_event(), None::<Event>);
}

#[test]
fn ranges_at_the_ends_of_addresses_are_answers() {
    let (device, ..) = behind();
    for (address, length) in [(u64::MAX, 2), (u64::MAX, 1), (0, usize::MAX), (0x1000, 0)] {
        let slices = device.get_slices(GuestAddress(address), length, Permissions::Read);
        let whole = slices.is_ok_and(|mut slices| slices.all(|slice| slice.is_ok()));
        assert_eq!(whole, length == 0, "{address:#x} {length}");
    }
}

#[test]
fn another_device_sees_nothing_of_it() {
    let (_, unit, memory) = behind();
    let view = DeviceView::new(unit, memory.clone(), SourceId::new(0, 9, 0));
    let other = IommuMemory::new(memory, view, true, ());
    assert!(other.read_obj::<u8>(GuestAddress(0x1000)).is_err());
}
