//! The DMAR table, by which firmware tells an operating system of remapping units (VT-d chapter 8).

use acpi_tables::sdt::Sdt;

use crate::ids::SourceId;

/// A DMAR table in the making.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dmar {
    /// Bits of a physical address, 32 to 52.
    pub host_address_bits: u8,
    /// `INTR_REMAP`: the platform can remap interrupts.
    pub interrupt_remapping: bool,
    /// `X2APIC_OPT_OUT`: the operating system is asked not to use x2APIC mode.
    pub x2apic_opt_out: bool,
    /// The units.
    pub units: Vec<HardwareUnit>,
    /// Memory that devices need mapped to itself.
    pub reserved: Vec<ReservedMemory>,
    /// Root ports whose devices may use ATS.
    pub ats: Vec<AtsRootPorts>,
}

/// DRHD: a unit (VT-d 8.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HardwareUnit {
    /// Where its registers are, a multiple of 4 KiB.
    pub base: u64,
    /// The segment of its devices.
    pub segment: u16,
    /// `INCLUDE_PCI_ALL`: all devices of the segment that no other unit has; scopes name I/O APICs and
    /// HPETs then.
    pub include_all: bool,
    /// Its devices.
    pub scopes: Vec<DeviceScope>,
}

/// RMRR: reserved memory (VT-d 8.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservedMemory {
    /// The segment of its devices.
    pub segment: u16,
    /// The first byte, a multiple of 4 KiB.
    pub base: u64,
    /// The last byte, one less than a multiple of 4 KiB.
    pub limit: u64,
    /// The devices that use it.
    pub scopes: Vec<DeviceScope>,
}

/// ATSR: root ports with ATS (VT-d 8.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtsRootPorts {
    /// Their segment.
    pub segment: u16,
    /// `ALL_PORTS`: every root port; no scope is given then.
    pub all: bool,
    /// The root ports, each a [`DeviceScope::Bridge`].
    pub scopes: Vec<DeviceScope>,
}

/// A device structure (VT-d 8.3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceScope {
    /// A device on the bus that its source id names.
    Endpoint(SourceId),
    /// A bridge, and all behind it.
    Bridge(SourceId),
    /// An I/O APIC, by the id in the MADT, and the source id of its messages.
    IoApic(u8, SourceId),
    /// A HPET block, by its number, and the source id of its messages.
    Hpet(u8, SourceId),
}

impl Dmar {
    /// A table of one unit for everything, with interrupts of the I/O APIC `ioapic`, whose messages have the
    /// source id `source_id`. Interrupt remapping is offered if `capabilities` have it.
    #[must_use]
    pub fn of_one_unit(
        capabilities: &crate::Capabilities,
        base: u64,
        ioapic: u8,
        source_id: SourceId,
    ) -> Self {
        Self {
            host_address_bits: capabilities.host_address_bits,
            interrupt_remapping: capabilities.has(crate::Features::INTERRUPT_REMAPPING),
            x2apic_opt_out: false,
            units: vec![HardwareUnit {
                base,
                segment: 0,
                include_all: true,
                scopes: vec![DeviceScope::IoApic(ioapic, source_id)],
            }],
            reserved: Vec::new(),
            ats: Vec::new(),
        }
    }

    /// The table, with its checksum.
    ///
    /// # Panics
    ///
    /// Panics if the address width is not 32 to 52, or an address is not a multiple of 4 KiB.
    #[must_use]
    pub fn table(&self, oem: [u8; 6], oem_table: [u8; 8], oem_revision: u32) -> Sdt {
        assert!(
            (32..=52).contains(&self.host_address_bits),
            "HAW is 32 to 52"
        );
        let mut table = Sdt::new(*b"DMAR", 48, 1, oem, oem_table, oem_revision);
        table.write_u8(36, self.host_address_bits - 1);
        table.write_u8(
            37,
            u8::from(self.interrupt_remapping) | u8::from(self.x2apic_opt_out) << 1,
        );
        // "Ordered by type" (VT-d 8.2).
        let units = self.units.iter().map(HardwareUnit::bytes);
        let reserved = self.reserved.iter().map(ReservedMemory::bytes);
        let ats = self.ats.iter().map(AtsRootPorts::bytes);
        for structure in units.chain(reserved).chain(ats) {
            table.append_slice(&structure);
        }
        table
    }
}

impl HardwareUnit {
    fn bytes(&self) -> Vec<u8> {
        assert!(
            self.base.is_multiple_of(0x1000),
            "a unit begins with a page"
        );
        let mut body = vec![u8::from(self.include_all), 0];
        body.extend(self.segment.to_le_bytes());
        body.extend(self.base.to_le_bytes());
        structure(0, &body, &self.scopes)
    }
}

impl ReservedMemory {
    fn bytes(&self) -> Vec<u8> {
        let whole = self.base.is_multiple_of(0x1000) && self.limit & 0xfff == 0xfff;
        assert!(whole, "reserved memory has whole pages");
        let mut body = vec![0, 0];
        body.extend(self.segment.to_le_bytes());
        body.extend(self.base.to_le_bytes());
        body.extend(self.limit.to_le_bytes());
        structure(1, &body, &self.scopes)
    }
}

impl AtsRootPorts {
    fn bytes(&self) -> Vec<u8> {
        let mut body = vec![u8::from(self.all), 0];
        body.extend(self.segment.to_le_bytes());
        structure(2, &body, &self.scopes)
    }
}

/// Type, length, body and devices.
fn structure(kind: u16, body: &[u8], scopes: &[DeviceScope]) -> Vec<u8> {
    let scopes: Vec<u8> = scopes.iter().flat_map(DeviceScope::bytes).collect();
    let length = u16::try_from(4 + body.len() + scopes.len()).expect("a structure below 64 KiB");
    let header = [kind.to_le_bytes(), length.to_le_bytes()].concat();
    [&header, body, &scopes].concat()
}

impl DeviceScope {
    fn bytes(&self) -> [u8; 8] {
        let (kind, id, source_id) = match *self {
            Self::Endpoint(source_id) => (1, 0, source_id),
            Self::Bridge(source_id) => (2, 0, source_id),
            Self::IoApic(id, source_id) => (3, id, source_id),
            Self::Hpet(id, source_id) => (4, id, source_id),
        };
        let function = source_id.function();
        [
            kind,
            8,
            0,
            0,
            id,
            source_id.bus(),
            function >> 3,
            function & 7,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Capabilities;

    #[test]
    fn a_table_is_what_the_manual_lays_out() {
        let mut dmar = Dmar::of_one_unit(
            &Capabilities::legacy(),
            0xfed9_0000,
            2,
            SourceId::new(0xff, 0, 0),
        );
        dmar.ats.push(AtsRootPorts {
            segment: 0,
            all: true,
            scopes: Vec::new(),
        });
        dmar.reserved.push(ReservedMemory {
            segment: 0,
            base: 0xe000,
            limit: 0xefff,
            scopes: vec![DeviceScope::Endpoint(SourceId::new(0, 0x1d, 7))],
        });
        let table = dmar.table(*b"SOFTMT", *b"SOFTMACH", 1);
        let bytes = table.as_slice();
        assert_eq!(&bytes[..4], b"DMAR");
        assert_eq!(
            bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)),
            0
        );
        assert_eq!(bytes[4..8], [112, 0, 0, 0]);
        assert_eq!(bytes[36..48], [45, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let unit = [0, 0, 24, 0, 1, 0, 0, 0, 0, 0, 0xd9, 0xfe, 0, 0, 0, 0];
        assert_eq!(bytes[48..64], unit);
        assert_eq!(bytes[64..72], [3, 8, 0, 0, 2, 0xff, 0, 0]);
        let reserved = [1, 0, 32, 0, 0, 0, 0, 0, 0, 0xe0, 0, 0, 0, 0, 0, 0];
        assert_eq!(bytes[72..88], reserved);
        assert_eq!(bytes[96..104], [1, 8, 0, 0, 0, 0, 0x1d, 7]);
        assert_eq!(bytes[104..112], [2, 0, 8, 0, 1, 0, 0, 0]);
    }
}
