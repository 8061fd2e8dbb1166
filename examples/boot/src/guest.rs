//! Which guest, on which network adapter.

use clap::ValueEnum;
use machine::AdapterKind;
use virtio_net::NetFeatures;

/// The guests that need no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Flavour {
    /// Debian's kernel for clouds, linux-image-cloud-amd64.
    Cloud,
    /// Debian's full kernel, linux-image-amd64.
    Full,
    /// A small program without an operating system.
    Embedded,
}

/// Network adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Net {
    /// Intel's 82540EM; its driver comes with Debian's full kernel.
    E1000,
    /// A virtio device with split queues and `EVENT_IDX`.
    Virtio,
    /// A virtio device whose notifications are held back by flags alone.
    VirtioFlags,
    /// A virtio device with packed queues.
    VirtioPacked,
}

impl Net {
    /// The adapter to put on the board.
    #[must_use]
    pub fn adapter(self) -> AdapterKind {
        let split = NetFeatures::ALL.without(NetFeatures::RING_PACKED);
        match self {
            Self::E1000 => AdapterKind::E1000,
            Self::Virtio => AdapterKind::Virtio(split),
            Self::VirtioFlags => AdapterKind::Virtio(split.without(NetFeatures::EVENT_IDX)),
            Self::VirtioPacked => AdapterKind::Virtio(NetFeatures::ALL),
        }
    }
}
