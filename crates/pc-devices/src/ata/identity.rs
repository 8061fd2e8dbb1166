//! What IDENTIFY DEVICE answers (ATA/ATAPI-6, table 27).

use super::SECTOR;

/// The 256 words of a disk of `sectors` sectors, as bytes.
pub(super) fn words(sectors: u64, multiple: u8) -> Vec<u8> {
    let mut words = [0u16; SECTOR / 2];
    let [low, high, higher, highest] = split(sectors.min(MAX_LBA_48));
    let [low_28, high_28, ..] = split(sectors.min(MAX_LBA_28));
    let cylinders = u16::try_from(sectors / (16 * 63)).unwrap_or(u16::MAX);
    words[0] = 0x0040;
    words[1] = cylinders.min(16383);
    (words[3], words[6]) = (16, 63);
    write_text(&mut words[10..20], "1");
    write_text(&mut words[23..27], "1");
    write_text(&mut words[27..47], "softmetal disk");
    words[47] = 0x8010;
    words[49] = LBA;
    // Words 54-58, 64-70 and 88 are valid.
    words[53] = 0b111;
    (words[54], words[55], words[56]) = (words[1], 16, 63);
    let [current_low, current_high, ..] = split(u64::from(words[1]) * 16 * 63);
    (words[57], words[58]) = (current_low, current_high);
    words[59] = if multiple > 0 {
        0x100 | u16::from(multiple)
    } else {
        0
    };
    (words[60], words[61]) = (low_28, high_28);
    // ATA-4, -5 and -6.
    words[80] = 0b111_0000;
    (words[83], words[84]) = (VALID | FLUSH_EXT | FLUSH | LBA_48, VALID);
    (words[86], words[87]) = (FLUSH_EXT | FLUSH | LBA_48, VALID);
    (words[100], words[101], words[102], words[103]) = (low, high, higher, highest);
    words.into_iter().flat_map(u16::to_le_bytes).collect()
}

fn split(number: u64) -> [u16; 4] {
    let [a, b, c, d, e, f, g, h] = number.to_le_bytes();
    [[a, b], [c, d], [e, f], [g, h]].map(u16::from_le_bytes)
}

/// Two characters a word, the first in its high byte, filled with spaces.
fn write_text(words: &mut [u16], text: &str) {
    let mut bytes = text.bytes().chain(std::iter::repeat(b' '));
    for word in words {
        let pair = [bytes.next(), bytes.next()].map(|byte| byte.unwrap_or(b' '));
        *word = u16::from_be_bytes(pair);
    }
}

const MAX_LBA_28: u64 = 0x0fff_ffff;
const MAX_LBA_48: u64 = 0xffff_ffff_ffff;
const LBA: u16 = 1 << 9;
const VALID: u16 = 1 << 14;
const LBA_48: u16 = 1 << 10;
const FLUSH: u16 = 1 << 12;
const FLUSH_EXT: u16 = 1 << 13;
