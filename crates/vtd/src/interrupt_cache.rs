//! The interrupt entry cache (VT-d 6.2.6).

/// Entries that are kept.
const ENTRIES: usize = 1024;

/// A direct-mapped cache of entries of the interrupt-remapping table. Those not present are never cached.
#[derive(Clone, Debug)]
pub(crate) struct InterruptCache {
    entries: Vec<Option<(u16, [u64; 2])>>,
}

impl InterruptCache {
    pub(crate) fn new() -> Self {
        Self {
            entries: vec![None; ENTRIES],
        }
    }

    pub(crate) fn get(&self, index: u16) -> Option<[u64; 2]> {
        let (found, entry) = self.entries[usize::from(index) % ENTRIES]?;
        (found == index).then_some(entry)
    }

    pub(crate) fn insert(&mut self, index: u16, entry: [u64; 2]) {
        self.entries[usize::from(index) % ENTRIES] = Some((index, entry));
    }

    pub(crate) fn invalidate_all(&mut self) {
        self.entries.fill(None);
    }

    /// Invalidates the `2^mask` entries around `index`, `mask` being 0 to 31.
    pub(crate) fn invalidate(&mut self, index: u16, mask: u32) {
        for entry in &mut self.entries {
            if entry.is_some_and(|(found, _)| u32::from(found ^ index) >> mask == 0) {
                *entry = None;
            }
        }
    }
}
