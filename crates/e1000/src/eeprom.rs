//! The 64 words of the EEPROM, read by EERD or bit by bit as a Microwire part: 5.3 to 5.5 and 13.4.3.

/// Words in the EEPROM.
pub(crate) const WORDS: usize = 64;

/// The part and the pins that EECD shows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct EepromState {
    /// The contents.
    pub words: Vec<u16>,
    /// The pins that software drives: SK, CS, DI, and the request bit.
    pub pins: u32,
    /// Bits shifted in since the part was selected.
    pub shifted_in: u32,
    /// How many of them; counting stops at the length of a command.
    pub bits_in: u8,
    /// Bits yet to shift out, the next in bit 16.
    pub shift_out: u32,
    /// The word that comes after, for reads that go on.
    pub next_word: u8,
    /// Bits of the present word that were shifted out.
    pub bits_out: u8,
    /// DO, the pin that the part drives.
    pub data_out: bool,
}

impl EepromState {
    /// Contents for an adapter with this address, with the checksum of 5.6.35.
    pub(crate) fn new(mac: [u8; 6]) -> Self {
        let mut words = vec![0; WORDS];
        for (word, bytes) in words.iter_mut().zip(mac.as_chunks().0) {
            *word = u16::from_le_bytes(*bytes);
        }
        // Compatibility words, then the ids that the configuration space takes: 5.6.
        let rest = [
            0x0000, 0x0000, 0x0000, 0x0000, 0x3000, 0x1000, 0x6403, 0x100e, 0x8086, 0x100e, 0x8086,
            0x3040,
        ];
        words[3..3 + rest.len()].copy_from_slice(&rest);
        let sum = words
            .iter()
            .fold(0, |sum: u16, word| sum.wrapping_add(*word));
        words[WORDS - 1] = CHECKSUM.wrapping_sub(sum);
        Self {
            words,
            pins: 0,
            shifted_in: 0,
            bits_in: 0,
            shift_out: 0,
            next_word: 0,
            bits_out: 0,
            data_out: true,
        }
    }

    /// EECD as software reads it.
    pub(crate) fn read_eecd(&self) -> u32 {
        let grant = if self.pins & REQ != 0 { GNT } else { 0 };
        let data = if self.data_out { DO } else { 0 };
        // A 64-word Microwire part: the size and type bits are 0.
        self.pins | grant | data | PRES | FWE_DISABLED
    }

    pub(crate) fn write_eecd(&mut self, value: u32) {
        let before = self.pins;
        self.pins = value & PINS;
        if self.pins & CS == 0 {
            self.bits_in = 0;
            self.shifted_in = 0;
            self.bits_out = 0;
            self.data_out = true;
            return;
        }
        let rises = self.pins & SK != 0 && before & SK == 0;
        if rises {
            self.clock_in();
        }
    }

    /// A rising edge of SK: a bit goes in until the command is whole, bits come out after it.
    fn clock_in(&mut self) {
        if self.bits_in == COMMAND_BITS {
            self.shift();
            return;
        }
        let bit = u32::from(self.pins & DI != 0);
        // A start bit of 1 begins a command.
        if self.bits_in == 0 && bit == 0 {
            return;
        }
        self.shifted_in = self.shifted_in << 1 | bit;
        self.bits_in += 1;
        if self.bits_in == COMMAND_BITS {
            self.begin();
        }
    }

    /// The command is whole: of its opcodes only READ does anything here. The part drives a zero
    /// ahead of the data.
    fn begin(&mut self) {
        self.data_out = false;
        self.bits_out = 0;
        if self.shifted_in >> ADDRESS_BITS == OPCODE_READ {
            self.next_word = u8::try_from(self.shifted_in & ADDRESS).unwrap_or(0);
        } else {
            // Writes and erasures are not taken; the part says that it is ready.
            self.data_out = true;
            self.bits_in = 0;
            self.shifted_in = 0;
        }
    }

    fn shift(&mut self) {
        if self.bits_out == 0 {
            self.shift_out = u32::from(self.word(self.next_word));
            self.next_word = (self.next_word + 1) & 0x3f;
        }
        self.data_out = self.shift_out & 0x8000 != 0;
        self.shift_out = self.shift_out << 1 & 0xffff;
        self.bits_out = (self.bits_out + 1) % 16;
    }

    /// The word that an address of any width names: the part has six address lines.
    pub(crate) fn word(&self, address: u8) -> u16 {
        self.words[usize::from(address & 0x3f)]
    }

    /// EERD after software wrote `value`: 13.4.4. The read is done at once.
    pub(crate) fn read_by_eerd(&self, value: u32) -> u32 {
        let [_, address, ..] = value.to_le_bytes();
        if value & EERD_START == 0 {
            return value & 0x0000_ff00;
        }
        u32::from(self.word(address)) << 16 | u32::from(address) << 8 | EERD_DONE
    }

    pub(crate) fn is_valid(&self) -> bool {
        self.words.len() == WORDS
            && self.pins & !PINS == 0
            && self.bits_in <= COMMAND_BITS
            && self.shifted_in < 1 << COMMAND_BITS
            && self.shift_out <= 0xffff
            && self.next_word < 64
            && self.bits_out < 16
    }
}

// EECD, 13.4.3.
const SK: u32 = 1 << 0;
const CS: u32 = 1 << 1;
const DI: u32 = 1 << 2;
const DO: u32 = 1 << 3;
const FWE_DISABLED: u32 = 0b01 << 4;
const REQ: u32 = 1 << 6;
const GNT: u32 = 1 << 7;
const PRES: u32 = 1 << 8;
const PINS: u32 = SK | CS | DI | REQ;
// EERD.
const EERD_START: u32 = 1 << 0;
const EERD_DONE: u32 = 1 << 4;
/// A start bit, two of opcode, six of address.
const COMMAND_BITS: u8 = 9;
const ADDRESS_BITS: u8 = 6;
const ADDRESS: u32 = 0x3f;
const OPCODE_READ: u32 = 0b110;
const CHECKSUM: u16 = 0xbaba;

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];

    /// Reads a word as drivers do: command out on DI, sixteen bits in on DO.
    fn read_bit_by_bit(eeprom: &mut EepromState, address: u32) -> u16 {
        eeprom.write_eecd(REQ | CS);
        let command = OPCODE_READ << ADDRESS_BITS | address;
        for bit in (0..COMMAND_BITS).rev() {
            let di = if command >> bit & 1 != 0 { DI } else { 0 };
            eeprom.write_eecd(REQ | CS | di);
            eeprom.write_eecd(REQ | CS | di | SK);
        }
        let mut word = 0;
        for _ in 0..16 {
            eeprom.write_eecd(REQ | CS | SK);
            eeprom.write_eecd(REQ | CS);
            eeprom.write_eecd(REQ | CS | SK);
            word = word << 1 | u16::from(eeprom.read_eecd() & DO != 0);
        }
        eeprom.write_eecd(0);
        word
    }

    #[test]
    fn both_ways_of_reading_agree_and_the_checksum_is_right() {
        let mut eeprom = EepromState::new(MAC);
        let mut sum = 0_u16;
        for address in 0..64 {
            let word = read_bit_by_bit(&mut eeprom, address);
            assert_eq!(
                eeprom.read_by_eerd(address << 8 | 1),
                u32::from(word) << 16 | address << 8 | 0x10
            );
            sum = sum.wrapping_add(word);
        }
        assert_eq!(sum, CHECKSUM);
        assert_eq!(eeprom.word(0), 0x5452);
    }

    #[test]
    fn the_pins_are_granted_when_asked_for() {
        let mut eeprom = EepromState::new(MAC);
        assert_eq!(eeprom.read_eecd() & GNT, 0);
        eeprom.write_eecd(REQ);
        assert_eq!(eeprom.read_eecd() & GNT, GNT);
    }
}
