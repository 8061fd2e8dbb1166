//! Hostile paging structures: the walker must agree with the model of `guest-paging`'s tests, and
//! with itself on every way that it has to an answer.

use arbitrary::{Result, Unstructured};
use guest_paging::x86::{Access, Pdptes, Processor, Registers, Vendor};

use arena::{REGIONS, Random};
use model::{Image, Question};

#[path = "../../../crates/guest-paging/tests/support/arena.rs"]
#[expect(
    dead_code,
    reason = "the entries here are the input's, not random ones"
)]
mod arena;
#[path = "../../../crates/guest-paging/tests/support/model.rs"]
mod model;

/// Reads a processor, its registers, paging structures and accesses from `data`, in this order.
pub fn page_walk(data: &[u8]) {
    // An input that ends early has said all that it had to say.
    let _ = walk_all(&mut Unstructured::new(data));
}

fn walk_all(input: &mut Unstructured<'_>) -> Result<()> {
    let processor = processor(input)?;
    let registers = registers(input)?;
    let mut image = image(input)?;
    let memory = arena::memory(&image);
    for _ in 0..ACCESSES_MAX {
        let question = Question {
            processor,
            registers,
            gva: input.arbitrary()?,
            access: *input.choose(&Access::ALL)?,
            marking: input.arbitrary()?,
        };
        arena::compare(&memory, &mut image, &question);
    }
    Ok(())
}

fn processor(input: &mut Unstructured<'_>) -> Result<Processor> {
    Ok(Processor {
        vendor: *input.choose(&[Vendor::Intel, Vendor::Amd])?,
        maxphyaddr: input.int_in_range(32..=52)?,
        gib_pages: input.arbitrary()?,
        pse36: input.arbitrary()?,
    })
}

fn registers(input: &mut Unstructured<'_>) -> Result<Registers> {
    let pdptes = if input.arbitrary()? {
        Pdptes::Latched(input.arbitrary()?)
    } else {
        Pdptes::Memory
    };
    Ok(Registers {
        cr0: input.arbitrary()?,
        cr3: near(input)?,
        cr4: input.arbitrary()?,
        efer: input.arbitrary()?,
        pkru: input.arbitrary()?,
        pkrs: input.arbitrary()?,
        pdptes,
    })
}

/// Tables as a few entries, each repeated over the memory: random words rarely lead anywhere, and a
/// walk may come by any index.
fn image(input: &mut Unstructured<'_>) -> Result<Image> {
    let count = input.int_in_range(1..=ENTRIES_MAX)?;
    let entries = (0..count)
        .map(|_| entry(input))
        .collect::<Result<Vec<_>>>()?;
    let mut which = Random(input.arbitrary()?);
    let one = |which: &mut Random| usize::try_from(which.below(count as u64)).expect("below count");
    Ok(arena::image(&mut which, |which| entries[one(which)]))
}

fn entry(input: &mut Unstructured<'_>) -> Result<u64> {
    let flags: u64 = input.arbitrary()?;
    Ok(match input.int_in_range(0..=3)? {
        // As it comes.
        0 => flags,
        // A table or page in memory, with any flags.
        1 => near(input)? & !0xfff | flags & 0xfff,
        // The same, permitting nearly everything.
        2 => near(input)? & !0xfff | flags & 0xfe0 | 7,
        // Two 32-bit entries of that kind.
        _ => {
            let (low, high) = (near(input)? & !0xfff, near(input)? & !0xfff);
            low | 7 | flags & 0xfe0 | (high | 7 | flags >> 32 & 0xfe0) << 32
        }
    })
}

/// An address in memory or just beside it.
fn near(input: &mut Unstructured<'_>) -> Result<u64> {
    let (base, size) = *input.choose(&REGIONS)?;
    Ok(base + input.int_in_range(0..=size as u64 + 0xfff)?)
}

const ENTRIES_MAX: usize = 24;
const ACCESSES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::page_walk;

    #[test]
    fn smoke() {
        arbtest::arbtest(|input| {
            page_walk(input.bytes(input.len())?);
            Ok(())
        })
        .budget_ms(1000);
    }
}
