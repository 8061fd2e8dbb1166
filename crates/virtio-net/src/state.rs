//! What the device needs to go on elsewhere.

use crate::control::Filter;
use crate::device::VirtioNet;
use crate::features::NetFeatures;

/// Saved state of the device; untrusted until [`VirtioNet::restore`] accepts it.
///
/// Its queues have states of their own. Counts are not part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct NetState {
    /// What the driver chose; empty when it has not.
    pub features: NetFeatures,
    /// Which frames it wants, and the device's address.
    pub filter: Filter,
    /// Whether the cable is in.
    pub link: bool,
    /// Whether the driver was asked to kick for receive buffers.
    pub waits_for_buffers: bool,
    /// Whether packets are queued that no kick may come for.
    pub transmit_pending: bool,
}

/// Receive chains that were popped for a frame which found too few: they cannot be saved, and go
/// with the next frame that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{count} receive chains are held for the next frame")]
pub struct HeldChains {
    /// How many.
    pub count: usize,
}

/// Why a saved state was turned down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetStateError {
    /// Features that the device does not offer, or that need others.
    #[error("features {features:#x} cannot be chosen")]
    Features {
        /// The bits.
        features: u64,
    },
    /// More addresses than the table holds.
    #[error("{count} addresses in the table")]
    Table {
        /// Addresses.
        count: usize,
    },
    /// VLANs are filtered without the feature, or the other way round, or one has no such number.
    #[error("the VLANs do not fit the features")]
    Vlans,
}

impl VirtioNet {
    /// A copy of the state.
    ///
    /// # Errors
    ///
    /// Fails while receive chains are held.
    pub fn state(&self) -> Result<NetState, HeldChains> {
        match self.stash.len() {
            0 => Ok(NetState {
                features: self.features,
                filter: self.filter.clone(),
                link: self.link,
                waits_for_buffers: self.waits_for_buffers,
                transmit_pending: self.transmit_pending,
            }),
            count => Err(HeldChains { count }),
        }
    }

    /// Takes a state up, in place of what the device is now.
    ///
    /// # Errors
    ///
    /// Names the first rule that is broken; nothing has changed then.
    pub fn restore(&mut self, state: NetState) -> Result<(), NetStateError> {
        let features = state.features;
        let chosen = features != NetFeatures::default();
        if chosen && !features.is_acceptable(self.offered()) {
            return Err(NetStateError::Features {
                features: features.0,
            });
        }
        let count = state.filter.table.len();
        if count > Filter::TABLE_MAX {
            return Err(NetStateError::Table { count });
        }
        let vlans = &state.filter.vlans;
        let numbers = vlans.iter().flatten().all(|vlan| *vlan < VLANS);
        if vlans.is_some() != features.contains(NetFeatures::CTRL_VLAN) || !numbers {
            return Err(NetStateError::Vlans);
        }
        self.reset();
        self.features = features;
        self.filter = state.filter;
        self.link = state.link;
        self.waits_for_buffers = state.waits_for_buffers;
        self.transmit_pending = state.transmit_pending;
        Ok(())
    }
}

/// IEEE 802.1Q: numbers have 12 bits.
const VLANS: u16 = 1 << 12;
