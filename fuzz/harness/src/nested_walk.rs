//! Hostile tables in every dimension: each walk ends after as many references as the levels allow, with
//! and without an observer the same, and EPT composed for a nested guest lets no more through.

use arbitrary::{Result, Unstructured};
use guest_paging::nested::{
    self, Composed, ComposedEpt, Failure, Ground, Layer, Nested, Purpose, Stage, StageAccess, Trace,
};
use guest_paging::vm_memory::GuestMemoryMmap;
use guest_paging::x86::{Access, AccessKind, Context, Processor, Registers, Vendor};
use guest_paging::{Gpa, Gva, PinnedMemory, ept};

use crate::hostile_tables::{near, scatter};

/// Reads tables, their roots and accesses from `data`, in this order.
pub fn nested_walk(data: &[u8]) {
    // An input that ends early has said all that it had to say.
    let _ = walk_all(&mut Unstructured::new(data));
}

fn walk_all(input: &mut Unstructured<'_>) -> Result<()> {
    let memory = memory(input)?;
    let guest = guest(input)?;
    let (upper, lower) = (ept(input)?, ept(input)?);
    let mut composed = ComposedEpt::new(8);
    for _ in 0..ACCESSES_MAX {
        let gva = Gva(input.arbitrary::<u64>()? & 0x7fff_ffff_ffff);
        let access = *input.choose(&Access::ALL)?;
        compare(&memory, &guest, &upper, &lower, gva, access);
        let gpa = Gpa(input.arbitrary::<u64>()? & 0xffff_ffff_ffff);
        compose(&memory, &mut composed, &upper, &lower, gpa, access.kind);
    }
    Ok(())
}

/// Probes, so that no walk changes what the next one finds; then one that marks.
fn compare(
    memory: &GuestMemoryMmap,
    guest: &Context,
    upper: &ept::Context,
    lower: &ept::Context,
    gva: Gva,
    access: Access,
) {
    let pinned = PinnedMemory::new(memory).expect("one aligned region");
    let silent = Stage::new(2, lower, Ground::new(&pinned, 2), ()).probing();
    let silent = Stage::new(1, upper, silent, ()).probing();
    let expected = nested::probe(&silent, guest, gva, access, &mut ());
    let trace = Trace::default();
    let traced = Stage::new(2, lower, Ground::new(&pinned, 2), &trace).probing();
    let traced = Stage::new(1, upper, traced, &trace).probing();
    let found: std::result::Result<Nested, Failure> =
        nested::probe(&traced, guest, gva, access, &mut &trace);
    assert_eq!(found, expected, "with an observer");
    let references = trace.take().len();
    assert!(references < 5 * 5 * 5, "{references} references");
    let marking = Stage::new(2, lower, Ground::new(&pinned, 2), ());
    let marking = Stage::new(1, upper, marking, ());
    if let (Ok(marked), Ok(probed)) = (
        nested::walk(&marking, guest, gva, access, &mut ()),
        expected,
    ) {
        // Flags may have changed an entry that a table elsewhere consists of, but not the place.
        assert_eq!(marked.guest.size, probed.guest.size);
    }
}

fn compose(
    memory: &GuestMemoryMmap,
    composed: &mut ComposedEpt,
    upper: &ept::Context,
    lower: &ept::Context,
    gpa: Gpa,
    kind: AccessKind,
) {
    let access = StageAccess {
        kind,
        purpose: Purpose::Translated,
        user_address: false,
    };
    let pinned = PinnedMemory::new(memory).expect("one aligned region");
    // Whatever was marked since may have been an entry of these tables too.
    composed.invept();
    let outcome = composed.violation(&pinned, lower, upper, gpa, access);
    let hardware = ept::Context::new(&CAPABILITIES, ComposedEpt::EPTP);
    let found = ept::walk(&*composed, &hardware, gpa, access, &mut ());
    match outcome {
        Composed::Filled => {
            let probing = Stage::new(2, lower, Ground::new(&pinned, 2), ()).probing();
            let below = Stage::new(1, upper, probing, ()).probing();
            let expected: std::result::Result<Gpa, Failure> = below.descend(gpa, access);
            if let (Ok(found), Ok(expected)) = (found, expected) {
                assert_eq!(found.address, expected);
            }
        }
        Composed::Reflect(_) | Composed::Own(_) => assert!(found.is_err(), "nothing was filled"),
    }
}

fn guest(input: &mut Unstructured<'_>) -> Result<Context> {
    let processor = Processor {
        vendor: *input.choose(&[Vendor::Intel, Vendor::Amd])?,
        maxphyaddr: 40,
        gib_pages: input.arbitrary()?,
        pse36: true,
    };
    let registers = Registers {
        cr0: 1 << 31 | input.arbitrary::<u64>()? & 1 << 16,
        cr3: near(input)?,
        cr4: 1 << 5,
        efer: 1 << 10 | 1 << 11,
        ..Registers::default()
    };
    Ok(Context::new(&processor, &registers))
}

fn ept(input: &mut Unstructured<'_>) -> Result<ept::Context> {
    let flags = input.arbitrary::<u64>()? & 1 << 6;
    Ok(ept::Context::new(
        &CAPABILITIES,
        near(input)? | flags | 3 << 3 | 6,
    ))
}

/// A few entries, each repeated over the memory.
fn memory(input: &mut Unstructured<'_>) -> Result<GuestMemoryMmap> {
    let entries = (0..input.int_in_range(1..=16)?)
        .map(|_| Ok(near(input)? | input.arbitrary::<u64>()? & 0xfff))
        .collect::<Result<Vec<u64>>>()?;
    Ok(scatter(&entries, input.arbitrary()?))
}

const CAPABILITIES: ept::Capabilities = ept::Capabilities {
    maxphyaddr: 40,
    execute_only: true,
    mib_pages: true,
    gib_pages: true,
    mode_based_execute: false,
};
const ACCESSES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::nested_walk;

    #[test]
    fn smoke() {
        arbtest::arbtest(|input| {
            nested_walk(input.bytes(input.len())?);
            Ok(())
        })
        .budget_ms(1000);
    }
}
