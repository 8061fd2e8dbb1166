//! Hostile tables in both stages of Arm, of VT-d and of nested page tables: each walk ends after as many
//! references as the levels allow, with and without an observer the same, and a walk that marks leaves
//! one that does not the same place.

use std::fmt::Debug;

use arbitrary::{Result, Unstructured};
use guest_paging::arm::{self, Granule, Registers, Stage as ArmStage};
use guest_paging::nested::{self, Cause, Ground, GuestPaging, Stage, Structures, Trace};
use guest_paging::vm_memory::GuestMemoryMmap;
use guest_paging::x86::{self, Access, AccessKind, Processor, Vendor};
use guest_paging::{Gpa, Gva, Paging, PinnedMemory, npt, vtd};

use crate::hostile_tables::{near, scatter};

/// Reads tables, a pair of stages and accesses from `data`, in this order.
pub fn two_stages(data: &[u8]) {
    // An input that ends early has said all that it had to say.
    let _ = walk_all(&mut Unstructured::new(data));
}

fn walk_all(input: &mut Unstructured<'_>) -> Result<()> {
    let memory = memory(input)?;
    let sort: u8 = input.int_in_range(0..=2)?;
    match sort {
        0 => {
            let (upper, lower) = (arm_stage(input, true)?, arm_stage(input, false)?);
            for _ in 0..ACCESSES_MAX {
                let access = arm::Access {
                    kind: *input.choose(&KINDS)?,
                    el0: input.arbitrary()?,
                };
                compare(&memory, &upper, &lower, input.arbitrary()?, access);
            }
        }
        1 => {
            let (upper, lower) = (first_stage(input)?, second_stage(input)?);
            for _ in 0..ACCESSES_MAX {
                let access = *input.choose(&Access::ALL)?;
                compare(&memory, &upper, &lower, gva(input)?, access);
            }
        }
        _ => {
            let (upper, lower) = (first_stage(input)?, nested_page_tables(input)?);
            for _ in 0..ACCESSES_MAX {
                let access = *input.choose(&Access::ALL)?;
                compare(&memory, &upper, &lower, gva(input)?, access);
            }
        }
    }
    Ok(())
}

fn compare<C, S>(
    memory: &GuestMemoryMmap,
    upper: &C,
    lower: &S,
    input: C::Input,
    access: <C as Paging>::Access,
) where
    C: GuestPaging<Input: Copy, Translation: Debug + PartialEq>,
    Cause: From<C::Fault>,
    S: Structures,
{
    let pinned = PinnedMemory::new(memory).expect("one aligned region");
    let silent = Stage::new(1, lower, Ground::new(&pinned, 1), ()).probing();
    let expected = nested::probe(&silent, upper, input, access, &mut ());
    let trace = Trace::default();
    let traced = Stage::new(1, lower, Ground::new(&pinned, 1), &trace).probing();
    let found = nested::probe(&traced, upper, input, access, &mut &trace);
    assert_eq!(found, expected, "with an observer");
    let references = trace.take().len();
    assert!(references < 6 * 6, "{references} references");
    // May write to an entry that it has passed before: a table elsewhere may consist of it. It ends.
    let marking = Stage::new(1, lower, Ground::new(&pinned, 1), ());
    let _end = nested::walk(&marking, upper, input, access, &mut ());
}

fn arm_stage(input: &mut Unstructured<'_>, first: bool) -> Result<arm::Context> {
    let granule = *input.choose(&[Granule::Size4K, Granule::Size16K, Granule::Size64K])?;
    let tsz = input.int_in_range(16..=39)?;
    let levels = arm::stage_1_levels(granule, tsz);
    let stage = if first {
        ArmStage::One {
            upper: input.arbitrary()?,
            pan: input.arbitrary()?,
        }
    } else {
        ArmStage::Two
    };
    Ok(arm::Context::new(&Registers {
        stage,
        granule,
        tsz,
        output_bits: input.int_in_range(32..=48)?,
        levels,
        table: Gpa(near(input)?),
        hardware_access: input.arbitrary()?,
        hardware_dirty: input.arbitrary()?,
    }))
}

fn first_stage(input: &mut Unstructured<'_>) -> Result<x86::Context> {
    let stage = vtd::FirstStage {
        table: near(input)?,
        five_levels: input.arbitrary()?,
        write_protect: input.arbitrary()?,
        haw: input.int_in_range(32..=52)?,
        gib_pages: input.arbitrary()?,
    };
    Ok(stage.context())
}

fn second_stage(input: &mut Unstructured<'_>) -> Result<vtd::Context> {
    let capabilities = vtd::Capabilities {
        haw: input.int_in_range(32..=52)?,
        mib_pages: input.arbitrary()?,
        gib_pages: input.arbitrary()?,
        snoop_control: input.arbitrary()?,
        flags: input.arbitrary()?,
    };
    let levels = input.int_in_range(3..=5)?;
    Ok(vtd::Context::new(&capabilities, Gpa(near(input)?), levels))
}

/// In each format of a host: 32-bit, PAE, 4-level and 5-level paging.
fn nested_page_tables(input: &mut Unstructured<'_>) -> Result<npt::Context> {
    let (cr4, efer) = *input.choose(&[(0x10, 0), (0x20, 0x800), (0x20, 0xc00), (0x1020, 0xc00)])?;
    let registers = x86::Registers {
        cr0: 1 << 31 | 1 << 16,
        cr3: near(input)?,
        cr4,
        efer,
        ..x86::Registers::default()
    };
    let processor = Processor {
        vendor: Vendor::Amd,
        maxphyaddr: 48,
        gib_pages: true,
        pse36: true,
    };
    Ok(npt::Context::new(&processor, &registers))
}

fn gva(input: &mut Unstructured<'_>) -> Result<Gva> {
    Ok(Gva(input.arbitrary::<u64>()? & 0x7fff_ffff_ffff))
}

/// A few entries, each repeated over the memory.
fn memory(input: &mut Unstructured<'_>) -> Result<GuestMemoryMmap> {
    let entries = (0..input.int_in_range(1..=16)?)
        .map(|_| {
            let high = input.arbitrary::<u64>()? & 0xfff << 52;
            Ok(near(input)? | input.arbitrary::<u64>()? & 0xfff | high)
        })
        .collect::<Result<Vec<u64>>>()?;
    Ok(scatter(&entries, input.arbitrary()?))
}

const KINDS: [AccessKind; 3] = [AccessKind::Read, AccessKind::Write, AccessKind::Fetch];
const ACCESSES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::two_stages;

    #[test]
    fn smoke() {
        arbtest::arbtest(|input| {
            two_stages(input.bytes(input.len())?);
            Ok(())
        })
        .budget_ms(1000);
    }
}
