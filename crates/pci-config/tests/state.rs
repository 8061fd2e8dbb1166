//! A saved state survives as text, and fits only the function it was taken from.
#![cfg(feature = "serde")]

use pci_config::{BarKind, ConfigSpace, ConfigSpaceState, Header, MsixState, MsixTable};

fn function(vectors: u16) -> (ConfigSpace, MsixTable) {
    let mut space = ConfigSpace::new(Header {
        vendor: 0x1af4,
        device: 0x1041,
        ..Header::default()
    });
    let kind = BarKind::Memory64 { prefetchable: true };
    space.add_bar(0, kind, 1 << 14).unwrap();
    let table = MsixTable::add(&mut space, vectors, 0, 0, 1 << 13).unwrap();
    (space, table)
}

#[test]
fn a_function_goes_on_from_its_text() {
    let (mut space, mut table) = function(3);
    space.write(0x10, &0x1234_4000u32.to_le_bytes());
    space.write(0x04, &[0x06]);
    // Vector 2: address, data, unmasked.
    for (offset, value) in [(32, 0xfee0_0000u32), (40, 0x41), (44, 0)] {
        table.write_table(offset, &value.to_le_bytes());
    }

    let space_text = serde_json::to_string(&space.state()).unwrap();
    let table_text = serde_json::to_string(&table.state()).unwrap();
    let (mut restored, mut restored_table) = function(3);
    let state: ConfigSpaceState = serde_json::from_str(&space_text).unwrap();
    restored.restore(&state).unwrap();
    let state: MsixState = serde_json::from_str(&table_text).unwrap();
    restored_table.restore(state).unwrap();

    assert_eq!(restored.bar(0), space.bar(0));
    assert_eq!(restored.bar(0).unwrap().address, 0x1234_4000);
    for (offset, value) in [(32, 0xfee0_0000u32), (40, 0x41), (44, 0)] {
        let mut word = [0; 4];
        restored_table.read_table(offset, &mut word);
        assert_eq!(word, value.to_le_bytes(), "at {offset}");
    }
}

#[test]
fn a_state_of_another_function_is_refused() {
    let (space, table) = function(3);
    let (mut other, mut other_table) = function(4);
    assert!(
        other.restore(&space.state()).is_err(),
        "the capability says how many vectors"
    );
    assert!(other_table.restore(table.state()).is_err());
}
