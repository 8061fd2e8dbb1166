//! Features of the protocol itself.

/// The bit of the virtio features that says that there are protocol features; rings then start
/// disabled.
pub const VHOST_USER_F_PROTOCOL_FEATURES: u64 = 1 << 30;

/// A set of protocol features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ProtocolFeatures(pub u64);

impl ProtocolFeatures {
    /// `VHOST_USER_PROTOCOL_F_MQ`: the front end may ask how many queues there are.
    pub const MQ: Self = Self(1 << 0);
    /// `VHOST_USER_PROTOCOL_F_REPLY_ACK`: the front end may ask for an answer to any request.
    pub const REPLY_ACK: Self = Self(1 << 3);
    /// `VHOST_USER_PROTOCOL_F_STATUS`: the front end passes the device status on.
    pub const STATUS: Self = Self(1 << 16);

    /// All that [`Backend`](crate::Backend) knows.
    pub const ALL: Self = Self(Self::MQ.0 | Self::REPLY_ACK.0 | Self::STATUS.0);

    /// Whether all of `other` is in the set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}
