//! Feature bits: virtio 1.3, 5.1.3 and 6.

use virtqueue::RingFeatures;

/// A set of feature bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct NetFeatures(pub u64);

impl NetFeatures {
    /// The device takes packets with partial checksums.
    pub const CSUM: Self = Self(1 << 0);
    /// The driver takes frames whose checksums were checked already, and believes that.
    pub const GUEST_CSUM: Self = Self(1 << 1);
    /// The device has an address of its own.
    pub const MAC: Self = Self(1 << 5);
    /// The device segments TCP over IPv4.
    pub const HOST_TSO4: Self = Self(1 << 11);
    /// The device segments TCP over IPv6.
    pub const HOST_TSO6: Self = Self(1 << 12);
    /// The driver merges receive buffers.
    pub const MRG_RXBUF: Self = Self(1 << 15);
    /// The configuration has a link status.
    pub const STATUS: Self = Self(1 << 16);
    /// There is a control queue.
    pub const CTRL_VQ: Self = Self(1 << 17);
    /// The control queue sets receive modes.
    pub const CTRL_RX: Self = Self(1 << 18);
    /// The control queue filters VLANs.
    pub const CTRL_VLAN: Self = Self(1 << 19);
    /// The control queue sets the address.
    pub const CTRL_MAC_ADDR: Self = Self(1 << 23);
    /// Descriptors may be indirect.
    pub const INDIRECT_DESC: Self = Self(1 << 28);
    /// Notifications wait for positions.
    pub const EVENT_IDX: Self = Self(1 << 29);
    /// Not a legacy device.
    pub const VERSION_1: Self = Self(1 << 32);
    /// Addresses are those of the platform's IOMMU.
    pub const ACCESS_PLATFORM: Self = Self(1 << 33);
    /// Queues are packed.
    pub const RING_PACKED: Self = Self(1 << 34);
    /// Buffers are used in order.
    pub const IN_ORDER: Self = Self(1 << 35);

    /// All that the device can do by itself: [`ACCESS_PLATFORM`](Self::ACCESS_PLATFORM) is for who hands memory to it.
    pub const ALL: Self = Self(
        Self::CSUM.0
            | Self::GUEST_CSUM.0
            | Self::MAC.0
            | Self::HOST_TSO4.0
            | Self::HOST_TSO6.0
            | Self::MRG_RXBUF.0
            | Self::STATUS.0
            | Self::CTRL_VQ.0
            | Self::CTRL_RX.0
            | Self::CTRL_VLAN.0
            | Self::CTRL_MAC_ADDR.0
            | Self::INDIRECT_DESC.0
            | Self::EVENT_IDX.0
            | Self::VERSION_1.0
            | Self::RING_PACKED.0
            | Self::IN_ORDER.0,
    );

    /// Whether all bits of `other` are in the set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The set without the bits of `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// What the set says about rings.
    #[must_use]
    pub fn ring(self) -> RingFeatures {
        RingFeatures {
            event_idx: self.contains(Self::EVENT_IDX),
            indirect: self.contains(Self::INDIRECT_DESC),
            in_order: self.contains(Self::IN_ORDER),
        }
    }

    /// Whether a driver may accept this set of a device that offers `offered`: 5.1.3.1, and no
    /// legacy drivers.
    #[must_use]
    pub fn is_acceptable(self, offered: Self) -> bool {
        let needs = |feature, other| !self.contains(feature) || self.contains(other);
        offered.contains(self)
            && self.contains(Self::VERSION_1)
            // 6.1: a device may refuse a driver whose addresses are not those it asks for.
            && (!offered.contains(Self::ACCESS_PLATFORM) || self.contains(Self::ACCESS_PLATFORM))
            && needs(Self::HOST_TSO4, Self::CSUM)
            && needs(Self::HOST_TSO6, Self::CSUM)
            && needs(Self::CTRL_RX, Self::CTRL_VQ)
            && needs(Self::CTRL_VLAN, Self::CTRL_VQ)
            && needs(Self::CTRL_MAC_ADDR, Self::CTRL_VQ)
    }
}
