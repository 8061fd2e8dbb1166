//! 32-bit paging (SDM 4.3).
#![expect(
    clippy::cast_possible_truncation,
    reason = "the flags lie in the low half of an entry"
)]

use super::access::{Access, AccessKind};
use super::context::Context;
use super::fault::PageFault;
use super::long_mode::{attribute_bits, leaf_bits};
use super::spec::{ACCESSED, ADDRESS_4M, ADDRESS_4M_HIGH, ADDRESS_32, DIRTY, EASY, PAGE_SIZE};
use super::translation::{PageSize, Translation};
use crate::Gpa;
use crate::format::Format;

/// 32-bit paging, with 4 MiB pages if CR4.PSE is set.
pub(crate) struct Legacy;

impl Format for Legacy {
    type Context = Context;
    type Entry = u32;
    type Access = Access;
    type Translation = Translation;
    type Fault = PageFault;

    const NOTHING_DENIED: u32 = 0;

    fn root(context: &Context, _: u64, _: Access) -> Result<(u8, Gpa), PageFault> {
        Ok((2, context.root()))
    }

    fn offset(input: u64, level: u8) -> u64 {
        input >> (10 * level) & (1023 << 2)
    }

    fn passes(context: &Context, marking: bool, level: u8, entry: u32) -> bool {
        super::long_mode::passes(context, marking, level, entry.into())
    }

    fn refusal(
        context: &Context,
        input: u64,
        level: u8,
        entry: u32,
        access: Access,
    ) -> Option<PageFault> {
        super::long_mode::refusal(context, input, level, entry.into(), access)
    }

    fn is_leaf(context: &Context, level: u8, entry: u32) -> bool {
        level == 1 || u64::from(entry) & PAGE_SIZE != 0 && context.page_size_extensions()
    }

    fn table(entry: u32) -> Gpa {
        Gpa(u64::from(entry & ADDRESS_32))
    }

    fn deny(denied: u32, _: u8, entry: u32) -> u32 {
        denied | (entry ^ EASY as u32)
    }

    fn permits(context: &Context, denied: u32, _: u32, access: Access) -> bool {
        context.rights_permit(attribute_bits(denied.into()), 0, access)
    }

    #[cold]
    fn denial(context: &Context, input: u64, denied: u32, _: u32, access: Access) -> PageFault {
        context.denial(input, attribute_bits(denied.into()), 0, access)
    }

    fn mark_table(entry: u32) -> u32 {
        entry | ACCESSED as u32
    }

    fn mark_leaf(leaf: u32, access: Access) -> u32 {
        match access.kind {
            AccessKind::Write => leaf | (ACCESSED | DIRTY) as u32,
            AccessKind::Read | AccessKind::Fetch => leaf | ACCESSED as u32,
        }
    }

    fn translation(
        context: &Context,
        input: u64,
        level: u8,
        denied: u32,
        leaf: u32,
    ) -> Translation {
        let (size, page) = match level {
            1 => (PageSize::Size4K, u64::from(leaf & ADDRESS_32)),
            _ => (PageSize::Size4M, large_page(leaf)),
        };
        Translation {
            gpa: Gpa(page | input & size.offset_mask()),
            size,
            attributes: context.attributes(attribute_bits(denied.into()) | leaf_bits(leaf.into())),
            key: 0,
        }
    }
}

/// Address of a 4 MiB page: bits 20:13 hold bits 39:32 (PSE-36). Those that the processor does not
/// have were refused as reserved.
fn large_page(leaf: u32) -> u64 {
    u64::from(leaf & ADDRESS_4M) | u64::from(leaf & ADDRESS_4M_HIGH) << (32 - 13)
}
