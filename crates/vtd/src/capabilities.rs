//! What a unit offers, and the capability registers that tell software so (VT-d 11.4.2 and 11.4.3).

use crate::registers::{FRCD, IVA};

bitflags::bitflags! {
    /// What a unit can do beyond second-stage translation and queued invalidation.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Features: u32 {
        /// CAP.SSLPS bit 0: 2 MiB pages in the second stage.
        const PAGES_2M = 1 << 0;
        /// CAP.SSLPS bit 1: 1 GiB pages in the second stage.
        const PAGES_1G = 1 << 1;
        /// ECAP.PT: contexts may pass addresses through.
        const PASS_THROUGH = 1 << 2;
        /// ECAP.SC: bit 11 of a second-stage leaf forces snooping.
        const SNOOP_CONTROL = 1 << 3;
        /// CAP.CM: software must invalidate after it makes entries present, too; each
        /// invalidation is an [`Event::MappingsChanged`](crate::Event::MappingsChanged).
        const CACHING_MODE = 1 << 4;
        /// ECAP.IR: interrupt remapping.
        const INTERRUPT_REMAPPING = 1 << 5;
        /// ECAP.EIM: 32-bit destinations, for x2APIC.
        const EXTENDED_INTERRUPTS = 1 << 6;
        /// CAP.PI: posted interrupts.
        const POSTED_INTERRUPTS = 1 << 7;
        /// ECAP.DT: devices may keep translations of their own (ATS).
        const DEVICE_TLB = 1 << 8;
        /// ECAP.PRS: devices may ask for pages.
        const PAGE_REQUESTS = 1 << 9;
        /// ECAP.SMTS: scalable mode, with PASIDs.
        const SCALABLE = 1 << 10;
        /// ECAP.FSTS: first-stage translation.
        const FIRST_STAGE = 1 << 11;
        /// ECAP.NEST: first-stage over second-stage translation.
        const NESTED = 1 << 12;
        /// CAP.FS1GP: 1 GiB pages in the first stage.
        const FIRST_1G = 1 << 13;
        /// CAP.FS5LP: five levels in the first stage.
        const FIRST_5_LEVELS = 1 << 14;
        /// ECAP.SSADS: accessed and dirty flags in the second stage.
        const ACCESSED_DIRTY = 1 << 15;
        /// ECAP.SRS: requests with PASID may ask for privilege.
        const PRIVILEGED = 1 << 16;
        /// Records one fault of a requester at a time, as VT-d 7.2.1 lets hardware do.
        const COLLAPSE_FAULTS = 1 << 17;
        /// CAP.DRD and CAP.DWD: invalidation drains reads and writes. All do; this tells software.
        const DRAIN = 1 << 18;
        /// 39-bit addresses, by 3 levels: CAP.SAGAW bit 1.
        const WIDTH_39 = 1 << 19;
        /// 48-bit addresses, by 4 levels: CAP.SAGAW bit 2.
        const WIDTH_48 = 1 << 20;
        /// 57-bit addresses, by 5 levels: CAP.SAGAW bit 3.
        const WIDTH_57 = 1 << 21;
        /// ECAP.QI: queued invalidation. Interrupt remapping and scalable mode need it.
        const QUEUED_INVALIDATION = 1 << 22;
    }
}

/// What a unit is made to be. Start from [`legacy`](Self::legacy) or [`scalable`](Self::scalable).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Capabilities {
    /// What it can do.
    pub features: Features,
    /// Host address width: bits of a physical address, 32 to 52.
    pub host_address_bits: u8,
    /// Fault recording registers, 1 to 128.
    pub fault_records: u16,
    /// Bits of a domain id, an even number from 4 to 16.
    pub domain_bits: u8,
    /// Bits of a PASID that ECAP.PSS tells of, 1 to 20; without [`Features::SCALABLE`] it has no meaning.
    pub pasid_bits: u8,
    /// CAP.MAMV: largest address mask of a page-selective invalidation, 0 to 48.
    pub address_mask_max: u8,
    /// Translations that the IOTLB holds: a power of two from 4 to 262,144.
    pub iotlb_entries: u32,
}

impl Capabilities {
    /// Second-stage translation with 3 and 4 levels and all page sizes, pass-through, queued
    /// invalidation, and interrupt remapping for x2APIC; 46-bit physical addresses, 8 fault records.
    #[must_use]
    pub fn legacy() -> Self {
        Self {
            features: Features::PAGES_2M
                | Features::PAGES_1G
                | Features::PASS_THROUGH
                | Features::SNOOP_CONTROL
                | Features::INTERRUPT_REMAPPING
                | Features::EXTENDED_INTERRUPTS
                | Features::WIDTH_39
                | Features::WIDTH_48
                | Features::DRAIN
                | Features::QUEUED_INVALIDATION,
            host_address_bits: 46,
            fault_records: 8,
            domain_bits: 16,
            pasid_bits: 20,
            address_mask_max: 18,
            iotlb_entries: 4096,
        }
    }

    /// Everything that this crate models, except caching mode.
    #[must_use]
    pub fn scalable() -> Self {
        Self {
            features: Features::all() - Features::CACHING_MODE - Features::COLLAPSE_FAULTS,
            host_address_bits: 52,
            ..Self::legacy()
        }
    }

    /// Whether all of `features` are offered.
    #[must_use]
    pub fn has(&self, features: Features) -> bool {
        self.features.contains(features)
    }

    /// The widest address that second-stage translation takes, in bits: MGAW.
    #[must_use]
    pub fn guest_address_bits(&self) -> u8 {
        match self.features {
            features if features.contains(Features::WIDTH_57) => 57,
            features if features.contains(Features::WIDTH_48) => 48,
            _ => 39,
        }
    }

    /// Whether the second stage may have so many levels, 3 to 5.
    pub(crate) fn has_levels(&self, levels: u8) -> bool {
        match levels {
            3 => self.has(Features::WIDTH_39),
            4 => self.has(Features::WIDTH_48),
            5 => self.has(Features::WIDTH_57),
            _ => false,
        }
    }

    /// CAP, as software reads it.
    #[must_use]
    pub fn cap(&self) -> u64 {
        let domains = u64::from(self.domain_bits / 2 - 2);
        let levels = [
            (Features::WIDTH_39, 9),
            (Features::WIDTH_48, 10),
            (Features::WIDTH_57, 11),
        ];
        let flags = [
            (Features::CACHING_MODE, 7),
            (Features::PAGES_2M, 34),
            (Features::PAGES_1G, 35),
            (Features::DRAIN, 54),
            (Features::DRAIN, 55),
            (Features::FIRST_1G, 56),
            (Features::POSTED_INTERRUPTS, 59),
            (Features::FIRST_5_LEVELS, 60),
        ];
        domains
            | self.bits(&levels)
            | self.bits(&flags)
            | u64::from(self.guest_address_bits() - 1) << 16
            | (FRCD / 16) << 24
            | PSI
            | u64::from(self.fault_records - 1) << 40
            | u64::from(self.address_mask_max) << 48
    }

    /// ECAP, as software reads it.
    #[must_use]
    pub fn ecap(&self) -> u64 {
        let flags = [
            (Features::QUEUED_INVALIDATION, 1),
            (Features::DEVICE_TLB, 2),
            (Features::INTERRUPT_REMAPPING, 3),
            (Features::EXTENDED_INTERRUPTS, 4),
            (Features::PASS_THROUGH, 6),
            (Features::SNOOP_CONTROL, 7),
            (Features::NESTED, 26),
            (Features::PAGE_REQUESTS, 29),
            (Features::PRIVILEGED, 31),
            (Features::SCALABLE, 40),
            (Features::SCALABLE, 43),
            (Features::ACCESSED_DIRTY, 45),
            (Features::SCALABLE, 46),
            (Features::FIRST_STAGE, 47),
            // The RID_PASID field of context entries is heeded.
            (Features::SCALABLE, 49),
        ];
        let pasids = if self.has(Features::SCALABLE) {
            u64::from(self.pasid_bits - 1) << 35
        } else {
            0
        };
        let masks = if self.has(Features::INTERRUPT_REMAPPING) {
            MHMV
        } else {
            0
        };
        COHERENT | self.bits(&flags) | (IVA / 16) << 8 | masks | pasids
    }

    fn bits(&self, places: &[(Features, u32)]) -> u64 {
        let set = places.iter().filter(|(feature, _)| self.has(*feature));
        set.fold(0, |bits, (_, place)| bits | 1 << place)
    }

    /// # Panics
    ///
    /// Panics on a unit that cannot be: those who build it err.
    pub(crate) fn assert_consistent(&self) {
        let needs = |feature, other| !self.has(feature) || self.has(other);
        assert!(
            (32..=52).contains(&self.host_address_bits),
            "HAW is 32 to 52"
        );
        assert!((1..=128).contains(&self.fault_records), "1 to 128 records");
        let domain_bits = self.domain_bits;
        assert!(domain_bits.is_multiple_of(2) && (4..=16).contains(&domain_bits));
        assert!((1..=20).contains(&self.pasid_bits), "1 to 20 bits of PASID");
        assert!(
            self.address_mask_max <= 52,
            "an address has 52 bits of page"
        );
        assert!(
            self.features
                .intersects(Features::WIDTH_39 | Features::WIDTH_48 | Features::WIDTH_57),
            "some address width must be offered"
        );
        assert!(needs(
            Features::EXTENDED_INTERRUPTS,
            Features::INTERRUPT_REMAPPING
        ));
        assert!(needs(
            Features::POSTED_INTERRUPTS,
            Features::INTERRUPT_REMAPPING
        ));
        assert!(needs(
            Features::INTERRUPT_REMAPPING,
            Features::QUEUED_INVALIDATION
        ));
        assert!(needs(Features::SCALABLE, Features::QUEUED_INVALIDATION));
        assert!(needs(Features::DEVICE_TLB, Features::QUEUED_INVALIDATION));
        assert!(needs(Features::FIRST_STAGE, Features::SCALABLE));
        assert!(needs(Features::NESTED, Features::FIRST_STAGE));
        assert!(needs(
            Features::PAGE_REQUESTS,
            Features::DEVICE_TLB | Features::SCALABLE
        ));
        assert!(needs(Features::PRIVILEGED, Features::SCALABLE));
        assert!(needs(Features::ACCESSED_DIRTY, Features::SCALABLE));
    }
}

/// CAP.PSI: page-selective invalidation.
const PSI: u64 = 1 << 39;
/// ECAP.C: walks of the unit see what processors wrote.
const COHERENT: u64 = 1 << 0;
/// ECAP.MHMV: the largest index mask of an interrupt-entry-cache invalidation, all of them.
const MHMV: u64 = 0xf << 20;
