//! Memory full of the same few entries, so that walks through it go far, in circles and out of it.

use arbitrary::{Result, Unstructured};
use guest_paging::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Bytes of memory.
pub(crate) const SIZE: usize = 0x1_0000;

/// Each of `entries` at places that `which` decides; there is at least one.
pub(crate) fn scatter(entries: &[u64], mut which: u64) -> GuestMemoryMmap {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), SIZE)]).expect("64 KiB");
    for at in (0..SIZE as u64).step_by(8) {
        which = which
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let number = usize::try_from(which >> 40).expect("24 bits");
        let entry = entries[number % entries.len()];
        memory
            .write_obj(entry, GuestAddress(at))
            .expect("in the memory");
    }
    memory
}

/// A page in memory, or the one just beyond.
pub(crate) fn near(input: &mut Unstructured<'_>) -> Result<u64> {
    Ok(input.int_in_range(0..=SIZE as u64 / 4096)? << 12)
}
