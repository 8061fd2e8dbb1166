//! Fault records as a driver reads them, and says them in the manner of Linux.

use vm_memory::GuestMemoryMmap;
use vtd::registers::{FRCD, FSTS};
use vtd::{Reason, SourceId, Unit};

/// Reads the fault records, one line each, and clears them.
pub(crate) fn take(unit: &mut Unit, memory: &GuestMemoryMmap) -> Vec<String> {
    let records = unit.capabilities().fault_records;
    let mut lines = Vec::new();
    for at in (FRCD..).step_by(16).take(records.into()) {
        let [low, high] = [at, at + 8].map(|at| {
            let mut bytes = [0; 8];
            unit.read(at, &mut bytes);
            u64::from_le_bytes(bytes)
        });
        if high >> 63 == 0 {
            continue;
        }
        lines.push(line(low, high));
        unit.write(memory, at + 12, &(1_u32 << 31).to_le_bytes());
    }
    unit.write(memory, FSTS, &1_u32.to_le_bytes());
    lines
}

/// VT-d 11.4.7.3: bits 15:0 of the high half are the source id, 39:32 the reason, bit 62 is set for a read.
fn line(low: u64, high: u64) -> String {
    let [source, second, .., number, _, _, _] = high.to_le_bytes();
    let source = SourceId(u16::from_le_bytes([source, second]));
    let reason = Reason::ALL.iter().find(|reason| reason.number() == number);
    let text = reason.map_or_else(String::new, ToString::to_string);
    if reason.is_some_and(|reason| reason.is_interrupt()) {
        let index = low >> 48;
        return format!(
            "DMAR: [INTR-REMAP] Request device [{source}] fault index {index:#x} [fault reason {number:#04x}] {text}"
        );
    }
    let kind = if high >> 62 & 1 != 0 { "Read" } else { "Write" };
    format!(
        "DMAR: [DMA {kind} NO_PASID] Request device [{source}] fault addr {low:#x} [fault reason {number:#04x}] {text}"
    )
}
