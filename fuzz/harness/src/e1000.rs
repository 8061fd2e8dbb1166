//! The network adapter under a driver that writes anything, a network that sends anything and a
//! clock that jumps.

use ::e1000::registers::*;
use ::e1000::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use ::e1000::{Compat, E1000, E1000Config, PACKET_MAX, RxOutcome};
use arbitrary::{Result, Unstructured};

use crate::hostile_state::hostile;

const MEMORY: usize = 0x4_0000;

/// Drives an adapter with `data`.
pub fn e1000(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let memory: GuestMemoryMmap =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
    let compat = if u.arbitrary().unwrap_or(false) {
        Compat::Qemu
    } else {
        Compat::Datasheet
    };
    let mac = [0x52, 0x54, 0, 1, 2, 3];
    let mut nic = E1000::new(E1000Config { mac, compat });
    let mut now = 0;
    while !u.is_empty() {
        if step(&mut u, &memory, &mut nic, &mut now).is_err() {
            break;
        }
    }
}

fn step(
    u: &mut Unstructured<'_>,
    memory: &GuestMemoryMmap,
    nic: &mut E1000,
    now: &mut u64,
) -> Result<()> {
    match u.int_in_range(0..=11)? {
        0..=2 => {
            let (register, value) = (register(u)?, value(u)?);
            nic.write(register, &value.to_le_bytes());
        }
        3 => {
            let mut data = vec![0; u.int_in_range(0..=9)?];
            let offset = register(u)?.wrapping_add(u.int_in_range(0..=3)?);
            nic.read(offset, &mut data);
            nic.write(offset, u.bytes(data.len())?);
        }
        4 => {
            let (offset, length) = (u.int_in_range(0..=8)?, u.int_in_range(0..=8)?);
            nic.io_write(offset, u.bytes(length)?);
            nic.io_read(offset, &mut vec![0; length]);
        }
        5..=7 => descriptor(u, memory)?,
        8 => process(memory, nic),
        9 => {
            let frame = vec![u.arbitrary()?; u.int_in_range(0..=17_000)?];
            let fits = nic.can_receive(frame.len().max(60));
            let outcome = nic.receive(memory, &frame);
            if outcome == RxOutcome::NoBuffers {
                assert!(!fits, "a frame that fits is never lost");
            }
        }
        10 => {
            *now = match (nic.next_deadline(), u.arbitrary()?) {
                (Some(deadline), true) => deadline,
                _ => now.saturating_add(u.arbitrary::<u32>()?.into()),
            };
            nic.advance(*now);
            let missed = nic.next_deadline().is_some_and(|deadline| deadline <= *now);
            assert!(
                !missed || *now == u64::MAX,
                "a deadline that is met goes away"
            );
        }
        _ => {
            if let Some(state) = hostile(u, &nic.state())?
                && let Ok(restored) = E1000::try_from(state)
            {
                *nic = restored;
                *now = 0;
            }
        }
    }
    Ok(())
}

/// One lap at most, and no frame that the wire could not carry.
fn process(memory: &GuestMemoryMmap, nic: &mut E1000) {
    let before = nic.counts().tx_descriptors;
    nic.process(memory, &mut |frame| {
        assert!(!frame.is_empty());
        assert!(frame.len() <= PACKET_MAX + 4);
    });
    assert!(nic.counts().tx_descriptors - before <= 0xffff);
    assert!(!nic.has_work());
}

/// A register, those that start things more often.
fn register(u: &mut Unstructured<'_>) -> Result<u64> {
    const OFTEN: [u32; 18] = [
        CTRL, MDIC, EECD, EERD, ICS, IMS, RCTL, TCTL, TDBAL, TDLEN, TDH, TDT, RDBAL, RDLEN, RDH,
        RDT, RDTR, TIDV,
    ];
    if u.ratio(1, 8)? {
        return u.arbitrary();
    }
    if u.ratio(1, 4)? {
        return Ok(u64::from(u.int_in_range(0..=0x17ff_u32)? * 4));
    }
    Ok(u64::from(*u.choose(&OFTEN)?))
}

fn value(u: &mut Unstructured<'_>) -> Result<u32> {
    match u.int_in_range(0..=3)? {
        0 => u.arbitrary(),
        1 => Ok(u32::from(u.arbitrary::<u16>()?)),
        2 => Ok(u.int_in_range(0..=16)?),
        _ => Ok(1 << u.int_in_range(0..=31)?),
    }
}

/// A descriptor of some kind, in the first page, where rings tend to be.
fn descriptor(u: &mut Unstructured<'_>, memory: &GuestMemoryMmap) -> Result<()> {
    let at = 16 * u.int_in_range(0..=255_u64)?;
    let address: u64 = if u.ratio(1, 4)? {
        u.arbitrary()?
    } else {
        u.int_in_range(0..=u64::try_from(MEMORY).expect("small"))?
    };
    let word: u64 = if u.ratio(1, 4)? {
        u.arbitrary()?
    } else {
        let length = u64::from(u.arbitrary::<u16>()? >> u.int_in_range(0..=12)?);
        let kind = u64::from(u.arbitrary::<bool>()?);
        let command = u64::from(u.arbitrary::<u8>()?);
        let rest = u64::from(u.arbitrary::<u32>()?);
        length | kind << 20 | command << 24 | rest << 32
    };
    memory
        .write_obj([address, word], GuestAddress(at))
        .expect("inside");
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn smoke() {
        arbtest::arbtest(|u| {
            super::e1000(u.bytes(u.len())?);
            Ok(())
        })
        .budget_ms(1_000);
    }
}
