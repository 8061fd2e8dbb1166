//! Finding sensitive instructions in binaries.

use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter};

use crate::table::{Entry, classify};

/// A sensitive instruction in a binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its linear address.
    pub address: u64,
    /// Its bytes, at most 15.
    pub len: usize,
    /// What the table says of it.
    pub entry: &'static Entry,
    /// Its assembly text, Intel syntax.
    pub text: String,
}

/// Sweeps `code`, which lies at `address`, linearly, and lists the sensitive instructions in it.
///
/// `bits` is 16, 32 or 64. A sweep takes data between functions for code, so it can report what never runs, and miss an
/// instruction that starts inside another. After bytes that are no instruction it goes on with the next byte.
///
/// # Panics
///
/// When `bits` is none of the three.
pub fn scan(code: &[u8], address: u64, bits: u32) -> impl Iterator<Item = Finding> {
    let mut decoder = Decoder::with_ip(bits, code, address, DecoderOptions::NONE);
    let mut formatter = IntelFormatter::new();
    let mut instruction = Instruction::default();
    std::iter::from_fn(move || {
        while decoder.can_decode() {
            let start = decoder.position();
            decoder.decode_out(&mut instruction);
            if instruction.is_invalid() {
                // An instruction that does not exist has some length, of which only one byte is certain.
                let next = start + 1;
                decoder.set_ip(instruction.ip().wrapping_add(1));
                decoder.set_position(next).ok()?;
                continue;
            }
            if let Some(entry) = classify(&instruction) {
                let mut text = String::new();
                formatter.format(&instruction, &mut text);
                return Some(Finding {
                    address: instruction.ip(),
                    len: instruction.len(),
                    entry,
                    text,
                });
            }
        }
        None
    })
}

/// Why an ELF file cannot be scanned.
#[cfg(feature = "elf")]
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// Not ELF, or damaged.
    #[error("not a readable ELF file")]
    Elf(#[source] object::Error),
    /// Not for x86.
    #[error("the file is for {0}, not for x86")]
    Machine(String),
}

/// Scans every executable section of an ELF file.
///
/// # Errors
///
/// [`ScanError`] for what is not an x86 ELF file.
#[cfg(feature = "elf")]
pub fn scan_elf(file: &[u8]) -> Result<Vec<Finding>, ScanError> {
    use object::{Architecture, Object, ObjectSection, SectionKind};

    let elf = object::File::parse(file).map_err(ScanError::Elf)?;
    let bits = match elf.architecture() {
        Architecture::X86_64 => 64,
        Architecture::I386 => 32,
        other => return Err(ScanError::Machine(format!("{other:?}"))),
    };
    let mut findings = Vec::new();
    for section in elf
        .sections()
        .filter(|section| section.kind() == SectionKind::Text)
    {
        let code = section.data().map_err(ScanError::Elf)?;
        findings.extend(scan(code, section.address(), bits));
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_bytes_that_are_no_instruction() {
        // #UD bytes (06 does not exist in 64-bit code), nop, popfq, sidt [rax]
        let code = [0x06, 0x90, 0x9d, 0x0f, 0x01, 0x08];
        let found: Vec<_> = scan(&code, 0x1000, 64)
            .map(|f| (f.address, f.text))
            .collect();
        assert_eq!(
            found,
            [
                (0x1002, "popfq".to_owned()),
                (0x1003, "sidt [rax]".to_owned())
            ]
        );
    }

    #[test]
    fn the_end_may_cut_an_instruction() {
        assert_eq!(scan(&[0x0f], 0, 32).count(), 0);
    }

    #[cfg(feature = "elf")]
    #[test]
    fn what_is_not_elf_is_an_error() {
        assert!(matches!(scan_elf(b"MZ"), Err(ScanError::Elf(_))));
        assert!(scan_elf(&[]).is_err());
    }

    #[cfg(feature = "elf")]
    #[test]
    fn this_test_program_can_be_scanned() {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let findings = scan_elf(&program).unwrap();
        assert!(findings.iter().all(|finding| finding.len <= 15));
    }
}
