//! The control queue: virtio 1.3, 5.1.6.5.

use std::collections::BTreeSet;

/// What the control queue has set: which frames the driver wants.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Filter {
    /// The device's own address.
    pub mac: [u8; 6],
    /// All frames.
    pub promiscuous: bool,
    /// All multicast frames.
    pub all_multicast: bool,
    /// Further addresses, at most [`TABLE_MAX`](Self::TABLE_MAX); with more, all frames pass.
    pub table: BTreeSet<[u8; 6]>,
    /// The table had no room for all.
    pub overflowed: bool,
    /// VLANs, if the driver filters them.
    pub vlans: Option<BTreeSet<u16>>,
}

/// What a command did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// `VIRTIO_NET_OK`.
    Ok,
    /// `VIRTIO_NET_ERR`: not known, or malformed; nothing changed.
    Error,
}

impl Filter {
    /// Addresses that the table holds.
    pub const TABLE_MAX: usize = 64;

    /// Only the device's own address, and broadcasts.
    #[must_use]
    pub fn new(mac: [u8; 6], filters_vlans: bool) -> Self {
        Self {
            mac,
            promiscuous: false,
            all_multicast: false,
            table: BTreeSet::new(),
            overflowed: false,
            vlans: filters_vlans.then(BTreeSet::new),
        }
    }

    /// Does what a command says: class, command, data.
    pub fn command(&mut self, bytes: &[u8]) -> Ack {
        let done = match bytes {
            [RX, RX_PROMISC, on] => set(&mut self.promiscuous, *on),
            [RX, RX_ALLMULTI, on] => set(&mut self.all_multicast, *on),
            [MAC, MAC_ADDR_SET, rest @ ..] => self.set_mac(rest),
            [MAC, MAC_TABLE_SET, rest @ ..] => self.set_table(rest),
            [VLAN, VLAN_ADD, a, b] => self.vlan(u16::from_le_bytes([*a, *b]), true),
            [VLAN, VLAN_DEL, a, b] => self.vlan(u16::from_le_bytes([*a, *b]), false),
            _ => None,
        };
        match done {
            Some(()) => Ack::Ok,
            None => Ack::Error,
        }
    }

    /// Whether the driver wants a frame.
    #[must_use]
    pub fn accepts(&self, frame: &[u8]) -> bool {
        let Some(&destination) = frame.first_chunk::<6>() else {
            return false;
        };
        if let (Some(vlans), [0x81, 0x00, high, low]) = (&self.vlans, vlan_tag(frame)) {
            let vlan = u16::from_be_bytes([high, low]) & 0xfff;
            if !vlans.contains(&vlan) {
                return false;
            }
        }
        let multicast = destination[0] & 1 != 0;
        self.promiscuous
            || destination == self.mac
            || destination == [0xff; 6]
            || multicast && self.all_multicast
            || self.overflowed
            || self.table.contains(&destination)
    }

    fn set_mac(&mut self, bytes: &[u8]) -> Option<()> {
        self.mac = bytes.try_into().ok()?;
        Some(())
    }

    /// Two tables, unicast and multicast, each behind its length.
    fn set_table(&mut self, mut bytes: &[u8]) -> Option<()> {
        let mut table = BTreeSet::new();
        let mut overflowed = false;
        for _ in 0..2 {
            let (length, rest) = bytes.split_first_chunk::<4>()?;
            let entries = usize::try_from(u32::from_le_bytes(*length)).ok()?;
            let (addresses, rest) = rest.split_at_checked(entries.checked_mul(6)?)?;
            for address in addresses.as_chunks().0 {
                if table.len() < Self::TABLE_MAX {
                    table.insert(*address);
                } else {
                    overflowed = true;
                }
            }
            bytes = rest;
        }
        self.table = table;
        self.overflowed = overflowed;
        Some(())
    }

    fn vlan(&mut self, vlan: u16, add: bool) -> Option<()> {
        let vlans = self.vlans.as_mut()?;
        if vlan > 0xfff {
            return None;
        }
        if add {
            vlans.insert(vlan);
        } else {
            vlans.remove(&vlan);
        }
        Some(())
    }
}

fn set(flag: &mut bool, on: u8) -> Option<()> {
    *flag = match on {
        0 => false,
        1 => true,
        _ => return None,
    };
    Some(())
}

/// The four bytes behind the addresses; zeros where there are none.
fn vlan_tag(frame: &[u8]) -> [u8; 4] {
    let tag = frame.get(12..16).and_then(|bytes| bytes.try_into().ok());
    tag.unwrap_or_default()
}

// Classes and commands.
const RX: u8 = 0;
const RX_PROMISC: u8 = 0;
const RX_ALLMULTI: u8 = 1;
const MAC: u8 = 1;
const MAC_TABLE_SET: u8 = 0;
const MAC_ADDR_SET: u8 = 1;
const VLAN: u8 = 2;
const VLAN_ADD: u8 = 0;
const VLAN_DEL: u8 = 1;
