//! Descriptors of the invalidation queue (VT-d 6.5.2).

use crate::capabilities::{Capabilities, Features};
use crate::event::ResponseCode;
use crate::ids::{DomainId, Iova, Pasid, SourceId, u16_at, u32_at};

/// What a descriptor asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Descriptor {
    /// Granularity 1 to 3.
    Contexts {
        granularity: u64,
        word: u64,
    },
    /// Granularity 1 to 3, the word with the domain, and address with mask.
    Iotlb {
        granularity: u64,
        word: u64,
        address: u64,
    },
    DeviceTlb {
        source_id: SourceId,
        pasid: Option<Pasid>,
        address: u64,
        size: bool,
        global: bool,
    },
    /// `None` is all of them, otherwise index and mask.
    InterruptEntries(Option<(u16, u32)>),
    Wait(Wait),
    PasidIotlb {
        domain: DomainId,
        pasid: Pasid,
        pages: Option<u64>,
    },
    PasidCache {
        granularity: u64,
        domain: DomainId,
        pasid: Pasid,
    },
    PageResponse {
        source_id: SourceId,
        pasid: Option<Pasid>,
        group: u16,
        code: ResponseCode,
    },
}

/// A wait descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    /// IF.
    pub(crate) interrupt: bool,
    /// SW: where to write what.
    pub(crate) status: Option<(u64, u32)>,
}

/// Why a descriptor is none: IQERCD.IQEI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum QueueError {
    InvalidTail = 1,
    Fetch = 2,
    InvalidType = 3,
    ReservedField = 4,
    InvalidWidth = 5,
    TailMisaligned = 6,
}

/// Decodes the words of a descriptor; of one with 128 bits the last two are 0.
pub(crate) fn decode(
    words: [u64; 4],
    wide: bool,
    capabilities: &Capabilities,
) -> Result<Descriptor, QueueError> {
    let [w0, w1, w2, w3] = words;
    let has = |feature| capabilities.has(feature);
    let kind = w0 & 0xf | w0 >> 5 & 0x70;
    let exists = match kind {
        1 | 2 | 5 => true,
        3 => has(Features::DEVICE_TLB),
        4 => has(Features::INTERRUPT_REMAPPING),
        6 | 7 => has(Features::SCALABLE),
        8 => has(Features::SCALABLE | Features::DEVICE_TLB),
        9 => has(Features::PAGE_REQUESTS),
        _ => false,
    };
    if !exists {
        return Err(QueueError::InvalidType);
    }
    if kind == 9 && !wide {
        return Err(QueueError::InvalidWidth);
    }
    let (reserved0, reserved1) = RESERVED[usize::try_from(kind).expect("1 to 9")];
    // A page response gives back the private data of the request in its second half.
    let upper = if kind == 9 { 0 } else { w2 | w3 };
    if w0 & reserved0 | w1 & reserved1 | upper != 0 {
        return Err(QueueError::ReservedField);
    }
    let granularity = w0 >> 4 & 3;
    let domain = DomainId(u16_at(w0, 16));
    let pasid = Pasid::from_bits(w0, 32);
    Ok(match kind {
        1 if granularity != 0 => Descriptor::Contexts {
            granularity,
            word: w0,
        },
        2 if granularity != 0 && (granularity != 3 || is_legal_mask(w1, capabilities)) => {
            Descriptor::Iotlb {
                granularity,
                word: w0 >> 16,
                address: w1,
            }
        }
        3 => Descriptor::DeviceTlb {
            source_id: SourceId(u16_at(w0, 32)),
            pasid: None,
            address: w1 & !0xfff,
            size: w1 & 1 != 0,
            global: false,
        },
        4 if w0 & 1 << 4 == 0 => Descriptor::InterruptEntries(None),
        4 => Descriptor::InterruptEntries(Some((u16_at(w0, 32), u32_at(w0, 27) & 0x1f))),
        5 => Descriptor::Wait(Wait {
            interrupt: w0 & 1 << 4 != 0,
            status: (w0 & 1 << 5 != 0).then(|| (w1 & !3, u32_at(w0, 32))),
        }),
        6 if granularity == 2 => Descriptor::PasidIotlb {
            domain,
            pasid,
            pages: None,
        },
        6 if granularity == 3 && is_legal_mask(w1, capabilities) => Descriptor::PasidIotlb {
            domain,
            pasid,
            pages: Some(w1),
        },
        7 if granularity != 2 => Descriptor::PasidCache {
            granularity,
            domain,
            pasid,
        },
        8 => Descriptor::DeviceTlb {
            source_id: SourceId(u16_at(w0, 16)),
            pasid: Some(pasid),
            address: w1 & !0xfff,
            size: w1 & 1 << 11 != 0,
            global: w1 & 1 != 0,
        },
        9 => Descriptor::PageResponse {
            source_id: SourceId(u16_at(w0, 16)),
            pasid: (w0 & 1 << 4 != 0).then_some(pasid),
            group: u16_at(w1, 3) & 0x1ff,
            code: response(w0 >> 12 & 0xf).ok_or(QueueError::ReservedField)?,
        },
        _ => return Err(QueueError::ReservedField),
    })
}

/// AM is at most what CAP.MAMV says.
fn is_legal_mask(word: u64, capabilities: &Capabilities) -> bool {
    word & 0x3f <= u64::from(capabilities.address_mask_max)
}

fn response(code: u64) -> Option<ResponseCode> {
    Some(match code {
        0 => ResponseCode::Success,
        1 => ResponseCode::InvalidRequest,
        15 => ResponseCode::Failure,
        _ => return None,
    })
}

/// Reserved bits of the first two words by type.
const RESERVED: [(u64, u64); 10] = [
    (0, 0),
    (0xfffc_0000_0000_f1c0, !0),
    (0xffff_ffff_0000_f100, 0xf80),
    // MIP and PFSID tell how to pace, and which function to tell.
    (0x000f_0000_ffe0_01f0, 0xffe),
    (0xffff_0000_07ff_f1e0, !0),
    (0x0000_0000_ffff_f100, 0x3),
    (0xfff0_0000_0000_f1c0, 0xf80),
    (0xfff0_0000_0000_f1c0, !0),
    (0x0000_0000_0000_0000, 0x7fe),
    (0xfff0_0000_0000_01c0, 0xffff_ffff_ffff_f003),
];

/// The bytes of a device-TLB invalidation (PCI Express ATS 10.3.8): with S the lowest clear bit from 12 on tells
/// their number.
pub(crate) fn device_range(address: u64, size: bool) -> (Iova, u8) {
    if !size {
        return (Iova(address), 12);
    }
    let ones = (address >> 12).trailing_ones();
    let inside_bits = 13 + ones;
    if inside_bits >= 64 {
        return (Iova(0), 64);
    }
    let bits = u8::try_from(inside_bits).expect("below 64");
    (Iova(address >> inside_bits << inside_bits), bits)
}
