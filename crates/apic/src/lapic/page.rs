//! The register page as one block of bytes, the layout that hypervisors exchange.

use super::LocalApic;
use super::registers::*;

impl LocalApic {
    /// The first KiB of the xAPIC page: each register in the first four bytes of its sixteen.
    ///
    /// Reads no register with a side effect and counts nothing.
    #[must_use]
    pub fn register_page(&self) -> [u8; 1024] {
        let mut page = [0; 1024];
        for register in 0..64u8 {
            let value = match register {
                ID => u32::from(self.s.xapic_id) << 24,
                LDR => self.s.ldr,
                DFR => self.s.dfr,
                ICR_HIGH => {
                    let [.., e, f, g, h] = self.s.icr.to_le_bytes();
                    u32::from_le_bytes([e, f, g, h])
                }
                _ => self.read_common(register).unwrap_or(0),
            };
            let at = usize::from(register) * 16;
            page[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        page
    }
}
