//! Shuffle blocks and spill runs, hostile and damaged.

use std::path::PathBuf;

use arbitrary::Unstructured;
use rdd::{RunReader, decode, encode};

type Element = (u64, (String, Option<Vec<u8>>));

/// Decodes `data` as it is, behind a header with the right checksum, and a good block with one change.
pub fn rdd_blocks(data: &[u8]) {
    read(data);
    // Bytes are decoded as themselves, so this is `data` as the payload of a whole block of another type.
    let mut framed = encode(data);
    if decode::<Element>(&framed).is_ok() {
        assert_eq!(decode::<u8>(&framed).as_deref(), Ok(data));
    }
    read(&framed);
    let mut changes = Unstructured::new(data);
    let (Ok(at), Ok(bit)) = (changes.arbitrary::<usize>(), changes.int_in_range(0..=7u8)) else {
        return;
    };
    let at = at % framed.len();
    framed[at] ^= 1 << bit;
    assert!(decode::<u8>(&framed).is_err(), "a changed block was read");
    let Ok(values) = changes.arbitrary::<Vec<Element>>() else {
        return;
    };
    assert_eq!(decode(&encode(&values)).as_ref(), Ok(&values));
}

fn read(bytes: &[u8]) {
    if let Ok(values) = decode::<Element>(bytes) {
        assert_eq!(decode(&encode(&values)), Ok(values));
    }
    let run = RunReader::<Element, _>::new(bytes, PathBuf::new());
    // A run is at most as many blocks as there are lengths in it, and ends after its first error.
    let failed = run.filter(Result::is_err).take(2).count();
    assert!(failed <= 1);
}

#[test]
fn smoke() {
    arbtest::arbtest(|u| {
        rdd_blocks(u.bytes(u.len())?);
        Ok(())
    })
    .budget_ms(1000);
}
