//! What becomes of interrupts that the card sends: it writes what it likes to where local APICs listen.

use anyhow::Result;
use vtd::registers::{GCMD, IRE, IRTA, SIRTP, TE};
use vtd::{Capabilities, RemappedInterrupt, SourceId, Unit};

use crate::design::CARD;
use crate::faults;
use crate::tables::Tables;
use crate::world::World;

/// An attempt and its end.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) what: &'static str,
    /// The vector that a processor gets, with and without remapping.
    pub(crate) vectors: [Option<u8>; 2],
    /// What it ought to be with remapping.
    pub(crate) wanted: Option<u8>,
    /// The fault that is recorded.
    pub(crate) faults: Vec<String>,
}

impl Attempt {
    pub(crate) fn is_right(&self) -> bool {
        self.vectors[0] == self.wanted && self.faults.len() == usize::from(self.wanted.is_none())
    }
}

/// Another function, whose interrupt the card would like to send.
const NIC: SourceId = SourceId::new(0, 5, 0);
const CARD_VECTOR: u8 = 0x41;
const NIC_VECTOR: u8 = 0x51;
/// Where the host's interrupt-remapping table lies: its first entry is the card's, its second the NIC's.
const TABLE: u64 = 0x28_0000;

pub(crate) fn attempts(world: &World) -> Result<Vec<Attempt>> {
    let tables = Tables::new(&world.host, TABLE);
    for (index, (source, vector)) in (0..).zip([(CARD, CARD_VECTOR), (NIC, NIC_VECTOR)]) {
        // Present, fixed; source validation against all of the source id (VT-d 9.10).
        let high = 1 << 18 | u64::from(source.0);
        tables.set(TABLE + index * 16, &[u64::from(vector) << 16 | 1, high])?;
    }
    let mut unit = Unit::new(Capabilities::legacy());
    let mut plain = Unit::new(Capabilities::legacy());
    // S: 2^8 entries.
    unit.write(&world.host, IRTA, &(TABLE | 7).to_le_bytes());
    unit.write(&world.host, GCMD, &SIRTP.to_le_bytes());
    unit.write(&world.host, GCMD, &(IRE | TE).to_le_bytes());
    let attempts = [
        ("its own entry", remappable(0), 0, Some(CARD_VECTOR)),
        (
            "its own entry, with a vector of its choice",
            remappable(0),
            0xef,
            Some(CARD_VECTOR),
        ),
        ("the NIC's entry", remappable(1), 0, None),
        ("an entry that is not there", remappable(9), 0, None),
        ("vector 0xef in the clear", 0xfee0_0000, 0xef, None),
        ("an NMI in the clear", 0xfee0_0000, 0x400 | NMI, None),
    ];
    let outcome = |unit: &mut Unit, address, data| {
        let sent = unit.remap(&world.host, CARD, address, data);
        sent.ok().and_then(|sent| match sent {
            RemappedInterrupt::Compatibility { data, .. } => Some(data.to_le_bytes()[0]),
            RemappedInterrupt::Remapped(message) => Some(message.vector),
            RemappedInterrupt::Posted { .. } => None,
        })
    };
    let attempt = |(what, address, data, wanted)| Attempt {
        what,
        vectors: [
            outcome(&mut unit, address, data),
            outcome(&mut plain, address, data),
        ],
        wanted,
        faults: faults::take(&mut unit, &world.host),
    };
    Ok(attempts.into_iter().map(attempt).collect())
}

/// The address that names an entry (VT-d 5.1.3), without a subhandle.
fn remappable(index: u64) -> u64 {
    0xfee0_0010 | index << 5
}

/// The vector that an NMI comes with, whatever the message says.
const NMI: u32 = 2;
