//! What a driver programs into a queue, and the same once it is known to be sound.

/// Which of the two ring formats a queue has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Layout {
    /// Descriptor table, available ring and used ring: virtio 1.3, 2.7.
    Split,
    /// One ring of descriptors and two event suppression structures: virtio 1.3, 2.8.
    Packed,
}

/// Negotiated features that change what is in a ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RingFeatures {
    /// `VIRTIO_F_EVENT_IDX`: notifications wait for a position in the ring.
    pub event_idx: bool,
    /// `VIRTIO_F_INDIRECT_DESC`: a descriptor may point to a table of descriptors.
    pub indirect: bool,
    /// `VIRTIO_F_IN_ORDER`: the device uses buffers in the order in which they were made available.
    pub in_order: bool,
}

/// A queue as the driver described it; untrusted until [`activate`](Self::activate) accepts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Config {
    /// Ring format.
    pub layout: Layout,
    /// Number of descriptors: 1 to 32768, and a power of two if split.
    pub size: u16,
    /// Guest physical address of the descriptor area, a multiple of 16.
    pub descriptors: u64,
    /// Of the driver area (available ring, driver event suppression): a multiple of 2, of 4 if packed.
    pub driver: u64,
    /// Of the device area (used ring, device event suppression): a multiple of 4.
    pub device: u64,
    /// Negotiated features.
    pub features: RingFeatures,
}

/// A configuration that was checked, and that nothing changes any more.
///
/// Queues are made from it alone. Since a queue keeps its own copy, a register that the driver
/// writes after activation cannot reach a running queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ActiveConfig(Config);

/// Why a configuration was turned down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The size is 0, above 32768, or, in a split queue, no power of two.
    #[error("queue size {size} is not allowed")]
    Size {
        /// The size that was asked for.
        size: u16,
    },
    /// An area is not aligned as its format requires.
    #[error("{area:?} area at {address:#x} is not aligned to {alignment} bytes")]
    Misaligned {
        /// Which area.
        area: Area,
        /// Where it was to begin.
        address: u64,
        /// The alignment it needs, in guest memory and in the host's mapping.
        alignment: u64,
    },
    /// An area reaches past the end of the address space.
    #[error("{area:?} area at {address:#x} wraps around")]
    Wraps {
        /// Which area.
        area: Area,
        /// Where it was to begin.
        address: u64,
    },
    /// An area does not lie in one piece of memory: in a hole, on a device, or across regions.
    #[error("{area:?} area at {address:#x} is not in one region of memory")]
    NotInMemory {
        /// Which area.
        area: Area,
        /// Where it was to begin.
        address: u64,
    },
}

/// One of the three areas of a queue: virtio 1.3, 2.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Area {
    /// Descriptor table or descriptor ring.
    Descriptors,
    /// Written by the driver: available ring or driver event suppression.
    Driver,
    /// Written by the device: used ring or device event suppression.
    Device,
}

impl Config {
    /// Checks size, alignments and ends of the areas, and freezes them.
    ///
    /// # Errors
    ///
    /// Names the first rule that is broken.
    pub fn activate(self) -> Result<ActiveConfig, ConfigError> {
        let size = self.size;
        let allowed = match self.layout {
            Layout::Split => size.is_power_of_two() && size <= SIZE_MAX,
            Layout::Packed => (1..=SIZE_MAX).contains(&size),
        };
        if !allowed {
            return Err(ConfigError::Size { size });
        }
        let active = ActiveConfig(self);
        for area in Area::ALL {
            active.check(area)?;
        }
        Ok(active)
    }
}

impl ActiveConfig {
    /// The frozen values.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0
    }

    /// Guest physical address of an area.
    #[must_use]
    pub fn address(&self, area: Area) -> u64 {
        match area {
            Area::Descriptors => self.0.descriptors,
            Area::Driver => self.0.driver,
            Area::Device => self.0.device,
        }
    }

    /// Length of an area in bytes: virtio 1.3, 2.7 and 2.8.10. The event field that follows a split
    /// ring is counted whether or not `VIRTIO_F_EVENT_IDX` was negotiated.
    #[must_use]
    pub fn length(&self, area: Area) -> usize {
        let size = usize::from(self.0.size);
        match (area, self.0.layout) {
            (Area::Descriptors, _) => 16 * size,
            (Area::Driver, Layout::Split) => 6 + 2 * size,
            (Area::Device, Layout::Split) => 6 + 8 * size,
            (_, Layout::Packed) => 4,
        }
    }

    /// Alignment of an area in bytes.
    #[must_use]
    pub fn alignment(&self, area: Area) -> u64 {
        match (area, self.0.layout) {
            (Area::Descriptors, _) => 16,
            (Area::Driver, Layout::Split) => 2,
            (Area::Driver, Layout::Packed) | (Area::Device, _) => 4,
        }
    }

    fn check(&self, area: Area) -> Result<(), ConfigError> {
        let address = self.address(area);
        let alignment = self.alignment(area);
        if !address.is_multiple_of(alignment) {
            return Err(ConfigError::Misaligned {
                area,
                address,
                alignment,
            });
        }
        // The widening is exact: an area is at most 512 KiB long.
        match address.checked_add(self.length(area) as u64) {
            Some(_) => Ok(()),
            None => Err(ConfigError::Wraps { area, address }),
        }
    }
}

impl Area {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Descriptors, Self::Driver, Self::Device];
}

/// Virtio 1.3, 2.6 and 2.8: the largest queue.
const SIZE_MAX: u16 = 32768;
