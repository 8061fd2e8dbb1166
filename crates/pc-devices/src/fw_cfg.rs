//! The firmware configuration device: numbered items and named files that firmware reads a byte at
//! a time (QEMU, `docs/specs/fw_cfg.rst`, the traditional interface on I/O ports).

use std::collections::BTreeMap;

use thiserror::Error;

/// The selector at 0x510, the data register at 0x511.
///
/// Items are the host's; the guest only chooses one and reads it from its start. Without DMA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FwCfg {
    items: BTreeMap<u16, Vec<u8>>,
    /// Names in order, each with its key.
    files: BTreeMap<String, u16>,
    key: u16,
    offset: usize,
}

/// Which item the guest is reading, and how far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct FwCfgState {
    /// The selected key.
    pub key: u16,
    /// Bytes read since it was selected.
    pub offset: usize,
}

/// Why a file cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FwCfgError {
    /// A directory entry has room for 55 bytes and a zero.
    #[error("the name {0:?} is empty, has a zero byte, or is longer than 55 bytes")]
    Name(String),
    /// A directory entry counts bytes in 32 bits.
    #[error("{0:?} is 4 GiB long or longer")]
    TooLong(String),
    /// Keys 0x20 to 0x3fff are for files.
    #[error("there are {MAX_FILES} files already")]
    Full,
}

impl FwCfg {
    /// The port range: first port and count.
    pub const PORTS: &'static [(u16, u16)] = &[(0x510, 2)];
    /// Bytes of RAM, as a 64-bit number.
    pub const RAM_SIZE: u16 = 0x03;
    /// Processors that run at the start, as a 16-bit number.
    pub const PROCESSORS: u16 = 0x05;
    /// Most processors there can be, as a 16-bit number.
    pub const MAX_PROCESSORS: u16 = 0x0f;

    /// A device with its signature and no files.
    #[must_use]
    pub fn new() -> Self {
        let mut device = Self {
            items: BTreeMap::new(),
            files: BTreeMap::new(),
            key: 0,
            offset: 0,
        };
        device.insert(SIGNATURE, b"QEMU".to_vec());
        device.insert(INTERFACES, TRADITIONAL.to_le_bytes().to_vec());
        device.write_directory();
        device
    }

    /// Sets an item, in the byte order that the item's users expect (little-endian for numbers).
    pub fn insert(&mut self, key: u16, bytes: Vec<u8>) {
        self.items.insert(key, bytes);
    }

    /// Adds a file, or replaces the one of that name.
    ///
    /// # Errors
    ///
    /// [`FwCfgError`]; the device is unchanged then.
    pub fn insert_file(&mut self, name: &str, bytes: Vec<u8>) -> Result<(), FwCfgError> {
        if name.is_empty() || name.len() >= NAME_LENGTH || name.contains('\0') {
            return Err(FwCfgError::Name(name.to_owned()));
        }
        if u32::try_from(bytes.len()).is_err() {
            return Err(FwCfgError::TooLong(name.to_owned()));
        }
        let key = match (self.files.get(name), u16::try_from(self.files.len())) {
            (Some(&key), _) => key,
            (None, Ok(count)) if count < MAX_FILES => FIRST_FILE + count,
            _ => return Err(FwCfgError::Full),
        };
        self.files.insert(name.to_owned(), key);
        self.items.insert(key, bytes);
        self.write_directory();
        Ok(())
    }

    /// Reads the data register once for each byte, past an item's end as zero; other ports as 0xff.
    pub fn read(&mut self, port: u16, data: &mut [u8]) {
        if port != DATA {
            return data.fill(0xff);
        }
        let item = self.items.get(&self.key).map_or(&[][..], Vec::as_slice);
        for byte in data {
            *byte = item.get(self.offset).copied().unwrap_or(0);
            self.offset = self.offset.saturating_add(1);
        }
    }

    /// Selects an item when both bytes of the selector are written at once; ignores the rest. Items
    /// cannot be written.
    pub fn write(&mut self, port: u16, data: &[u8]) {
        if let (SELECTOR, &[low, high]) = (port, data) {
            self.key = u16::from_le_bytes([low, high]) & !WRITE_CHANNEL;
            self.offset = 0;
        }
    }

    /// What the guest has selected.
    #[must_use]
    pub fn state(&self) -> FwCfgState {
        FwCfgState {
            key: self.key,
            offset: self.offset,
        }
    }

    /// Puts the guest where it was: every state is a valid one.
    pub fn restore(&mut self, state: FwCfgState) {
        (self.key, self.offset) = (state.key, state.offset);
    }

    /// "An array of `fw_cfg` file structures", counted, in big-endian order.
    fn write_directory(&mut self) {
        let count = u32::try_from(self.files.len()).expect("at most MAX_FILES");
        let mut directory = count.to_be_bytes().to_vec();
        for (name, key) in &self.files {
            let size = u32::try_from(self.items[key].len()).expect("checked when added");
            directory.extend(size.to_be_bytes());
            directory.extend(key.to_be_bytes());
            directory.extend([0, 0]);
            let start = directory.len();
            directory.extend(name.as_bytes());
            directory.resize(start + NAME_LENGTH, 0);
        }
        self.insert(DIRECTORY, directory);
    }
}

impl Default for FwCfg {
    fn default() -> Self {
        Self::new()
    }
}

const SELECTOR: u16 = 0x510;
const DATA: u16 = 0x511;
const SIGNATURE: u16 = 0x00;
const INTERFACES: u16 = 0x01;
/// Bit 0: the traditional interface; bit 1 would be DMA.
const TRADITIONAL: u32 = 1;
const DIRECTORY: u16 = 0x19;
const FIRST_FILE: u16 = 0x20;
const MAX_FILES: u16 = 0x3fe0;
/// Bit 14 of a selector once asked for writing.
const WRITE_CHANNEL: u16 = 1 << 14;
const NAME_LENGTH: usize = 56;

#[cfg(test)]
mod tests {
    use super::*;

    fn item(device: &mut FwCfg, key: u16, length: usize) -> Vec<u8> {
        device.write(SELECTOR, &key.to_le_bytes());
        let mut bytes = vec![0; length];
        device.read(DATA, &mut bytes);
        bytes
    }

    #[test]
    fn the_signature_and_the_interface_are_there() {
        let mut device = FwCfg::new();
        assert_eq!(item(&mut device, 0, 5), b"QEMU\0");
        assert_eq!(item(&mut device, 1, 4), [1, 0, 0, 0]);
        assert_eq!(item(&mut device, 0x1234, 3), [0; 3]);
    }

    #[test]
    fn files_are_listed_by_name_and_read_by_key() {
        let mut device = FwCfg::new();
        device.insert_file("etc/b", vec![1, 2, 3]).unwrap();
        device.insert_file("etc/a", vec![9]).unwrap();
        device.insert_file("etc/b", vec![4, 5]).unwrap();
        let directory = item(&mut device, DIRECTORY, 4 + 2 * 64);
        assert_eq!(directory[..4], [0, 0, 0, 2]);
        assert_eq!(directory[4..14], [0, 0, 0, 1, 0, 0x21, 0, 0, b'e', b't']);
        assert_eq!(directory[68..76], [0, 0, 0, 2, 0, 0x20, 0, 0]);
        assert_eq!(directory[76..82], *b"etc/b\0");
        assert_eq!(item(&mut device, 0x20, 3), [4, 5, 0]);
    }

    #[test]
    fn reading_goes_on_where_it_was_until_an_item_is_selected() {
        let mut device = FwCfg::new();
        let mut byte = [0];
        assert_eq!(item(&mut device, 0, 1), b"Q");
        let state = device.state();
        device.read(DATA, &mut byte);
        assert_eq!(byte, *b"E");
        device.restore(state);
        device.read(DATA, &mut byte);
        assert_eq!(byte, *b"E");
        // Half a selector is none, and the write channel is the same item.
        device.write(SELECTOR, &[0]);
        device.read(DATA, &mut byte);
        assert_eq!(byte, *b"M");
        assert_eq!(item(&mut device, WRITE_CHANNEL, 1), b"Q");
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        let mut device = FwCfg::new();
        let before = device.clone();
        for name in ["", "a\0b", &"n".repeat(56)] {
            let refused = device.insert_file(name, vec![]);
            assert_eq!(refused, Err(FwCfgError::Name(name.into())));
        }
        assert_eq!(device, before);
        device.insert_file(&"n".repeat(55), vec![]).unwrap();
    }
}
