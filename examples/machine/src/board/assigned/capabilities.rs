//! The interrupt messages of a device that is not the board's, which the board delivers.

use pci_config::{ConfigSpace, Msi, MsiMessage, MsixTable};

use super::AssignError;

/// Gives the function as many messages of MSI as the device has, if it has any.
pub(super) fn add_msi(
    space: &mut ConfigSpace,
    bytes: &[u8; 256],
) -> Result<Option<(Msi, u16)>, AssignError> {
    let Some(at) = find(bytes, MSI) else {
        return Ok(None);
    };
    let capable = u32::from(bytes[at + 2] >> 1 & 7).min(5);
    let vectors = 1u8 << capable;
    match Msi::add(space, vectors) {
        Ok(msi) => Ok(Some((msi, vectors.into()))),
        Err(_) => Err(AssignError::Messages),
    }
}

/// Where a device has its table of MSI-X.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TablePlace {
    vectors: u16,
    bar: u8,
    table: u32,
    pending: u32,
}

impl TablePlace {
    pub(super) fn find(bytes: &[u8; 256]) -> Result<Option<Self>, AssignError> {
        let Some(at) = find(bytes, MSIX) else {
            return Ok(None);
        };
        let word = |at: usize| {
            let word = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
            u32::from_le_bytes(word)
        };
        let (table, pending) = (word(at + 4), word(at + 8));
        if table & BAR != pending & BAR {
            return Err(AssignError::Messages);
        }
        let control = u16::from_le_bytes([bytes[at + 2], bytes[at + 3]]);
        Ok(Some(Self {
            vectors: (control & 0x7ff) + 1,
            bar: bytes[at + 4] & 7,
            table: table & !BAR,
            pending: pending & !BAR,
        }))
    }
}

/// The board's own table, in place of the device's.
#[derive(Debug)]
pub(super) struct MessageTable {
    place: TablePlace,
    table: MsixTable,
}

impl MessageTable {
    pub(super) fn add(space: &mut ConfigSpace, place: TablePlace) -> Result<Self, AssignError> {
        let TablePlace {
            vectors,
            bar,
            table,
            pending,
        } = place;
        match MsixTable::add(space, vectors, bar, table, pending) {
            Ok(table) => Ok(Self { place, table }),
            Err(_) => Err(AssignError::Messages),
        }
    }

    pub(super) fn vectors(&self) -> u16 {
        self.place.vectors
    }

    pub(super) fn is_enabled(&self, space: &ConfigSpace) -> bool {
        self.table.is_enabled(space)
    }

    pub(super) fn raise(&mut self, space: &ConfigSpace, vector: u16) -> Option<MsiMessage> {
        (vector < self.place.vectors)
            .then(|| self.table.raise(space, vector))
            .flatten()
    }

    pub(super) fn next_unmasked(&mut self, space: &ConfigSpace) -> Option<MsiMessage> {
        self.table.next_unmasked(space)
    }

    /// Answers a read of the table or the pending bits; `false` if it is neither.
    pub(super) fn read(&self, bar: usize, offset: u64, data: &mut [u8]) -> bool {
        match self.part(bar, offset) {
            Some(Part::Table(offset)) => self.table.read_table(offset, data),
            Some(Part::Pending(offset)) => self.table.read_pending(offset, data),
            None => return false,
        }
        true
    }

    /// Takes a write likewise; pending bits cannot be written.
    pub(super) fn write(&mut self, bar: usize, offset: u64, data: &[u8]) -> bool {
        match self.part(bar, offset) {
            Some(Part::Table(offset)) => self.table.write_table(offset, data),
            Some(Part::Pending(_)) => {}
            None => return false,
        }
        true
    }

    fn part(&self, bar: usize, offset: u64) -> Option<Part> {
        let TablePlace {
            vectors,
            bar: own,
            table,
            pending,
        } = self.place;
        let within = |start: u32, length: u64| {
            let offset = offset.checked_sub(start.into())?;
            (bar == usize::from(own) && offset < length).then_some(offset)
        };
        let vectors = u64::from(vectors);
        let table = within(table, vectors * 16).map(Part::Table);
        table.or_else(|| within(pending, vectors.div_ceil(64) * 8).map(Part::Pending))
    }
}

enum Part {
    Table(u64),
    Pending(u64),
}

/// Where the capability is, if all of it lies in the space. A list that goes in circles ends.
fn find(bytes: &[u8; 256], id: u8) -> Option<usize> {
    if bytes[STATUS] & HAS_LIST == 0 {
        return None;
    }
    let mut at = usize::from(bytes[LIST] & !3);
    for _ in 0..LONGEST_LIST {
        if at < 0x40 || at + 12 > bytes.len() {
            return None;
        }
        if bytes[at] == id {
            return Some(at);
        }
        at = usize::from(bytes[at + 1] & !3);
    }
    None
}

const STATUS: usize = 6;
const HAS_LIST: u8 = 1 << 4;
const LIST: usize = 0x34;
const LONGEST_LIST: usize = 48;
const MSI: u8 = 0x05;
const MSIX: u8 = 0x11;
const BAR: u32 = 7;

#[cfg(test)]
mod tests {
    use super::*;

    fn with_list(capabilities: &[(usize, &[u8])]) -> [u8; 256] {
        let mut bytes = [0; 256];
        bytes[STATUS] = HAS_LIST;
        bytes[LIST] = u8::try_from(capabilities[0].0).unwrap();
        for (at, contents) in capabilities {
            bytes[*at..at + contents.len()].copy_from_slice(contents);
        }
        bytes
    }

    #[test]
    fn a_table_is_found_behind_other_capabilities() {
        let msix = [0x11, 0, 3, 0x80, 4, 0x20, 0, 0, 4, 0x30, 0, 0];
        let bytes = with_list(&[(0x40, &[1, 0x50]), (0x50, &msix)]);
        let place = TablePlace {
            vectors: 4,
            bar: 4,
            table: 0x2000,
            pending: 0x3000,
        };
        assert_eq!(TablePlace::find(&bytes).unwrap(), Some(place));
    }

    #[test]
    fn a_list_in_a_circle_or_past_the_end_has_an_end() {
        let circle = with_list(&[(0x40, &[1, 0x44]), (0x44, &[1, 0x40])]);
        assert_eq!(find(&circle, MSI), None);
        let past = with_list(&[(0x40, &[1, 0xf8]), (0xf8, &[0x05, 0])]);
        assert_eq!(find(&past, MSI), None);
        let header = with_list(&[(0x40, &[1, 0x10])]);
        assert_eq!(find(&header, MSI), None);
    }

    #[test]
    fn a_table_apart_from_its_pending_bits_is_refused() {
        let msix = [0x11, 0, 3, 0, 4, 0, 0, 0, 2, 0, 0, 0];
        TablePlace::find(&with_list(&[(0x40, &msix)])).unwrap_err();
    }
}
