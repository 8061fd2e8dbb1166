//! What both ends say of a ring.

use clap::ValueEnum;
use vhost_user::RingSetup;
use virtqueue::{Config, Layout, QueueState, RingFeatures};

/// The ring formats, as the command line names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RingKind {
    /// Descriptor table, available ring, used ring.
    Split,
    /// One ring.
    Packed,
}

impl RingKind {
    /// The same for a queue.
    #[must_use]
    pub fn layout(self) -> Layout {
        match self {
            Self::Split => Layout::Split,
            Self::Packed => Layout::Packed,
        }
    }
}

/// Virtio features that both ends know beside the ring format.
pub const VERSION_1: u64 = 1 << 32;
/// `VIRTIO_F_RING_PACKED`.
pub const RING_PACKED: u64 = 1 << 34;
/// `VIRTIO_F_IN_ORDER`.
pub const IN_ORDER: u64 = 1 << 35;
/// `VIRTIO_F_INDIRECT_DESC`.
pub const INDIRECT_DESC: u64 = 1 << 28;
/// `VIRTIO_F_EVENT_IDX`.
pub const EVENT_IDX: u64 = 1 << 29;
/// `VIRTIO_NET_F_MRG_RXBUF`: a frame may be spread, which ours never is; DPDK's faster paths want it.
pub const MRG_RXBUF: u64 = 1 << 15;

/// The ring that features ask for.
#[must_use]
pub fn ring_features(features: u64) -> RingFeatures {
    RingFeatures {
        event_idx: features & EVENT_IDX != 0,
        indirect: features & INDIRECT_DESC != 0,
        in_order: features & IN_ORDER != 0,
    }
}

/// A queue that goes on where the front end says. Both positions are one: no chain is in flight.
#[must_use]
pub fn queue_state(setup: &RingSetup) -> QueueState {
    let packed = setup.features & RING_PACKED != 0;
    let base = u16::try_from(setup.base & 0xffff).unwrap_or(0);
    QueueState {
        config: Config {
            layout: if packed {
                Layout::Packed
            } else {
                Layout::Split
            },
            size: setup.size,
            descriptors: setup.descriptors,
            driver: setup.driver,
            device: setup.device,
            features: ring_features(setup.features),
        },
        next_avail: base,
        next_used: base,
        signalled: None,
        kicks_enabled: true,
    }
}

/// Where a queue stopped, as the protocol says it.
#[must_use]
pub fn base(state: &QueueState) -> u32 {
    let used = match state.config.layout {
        Layout::Split => 0,
        Layout::Packed => u32::from(state.next_used) << 16,
    };
    u32::from(state.next_avail) | used
}
