//! Two functions with every kind of BAR, MSI and MSI-X behind mechanism #1.

use arbitrary::{Result, Unstructured};
use pci_config::{
    BarKind, Bdf, Bus, ConfigMechanism1, ConfigSpace, Header, InterruptPin, Msi, MsixTable,
};

use crate::hostile_state::hostile;

struct Pci {
    mechanism: ConfigMechanism1,
    bus: Bus<ConfigSpace>,
    bdf: Bdf,
    msi: Msi,
    msix: MsixTable,
}

/// Drives configuration space with `data`.
pub fn pci_config(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let mut pci = build();
    // Running out of data ends the run.
    while !u.is_empty() && pci.step(&mut u).is_ok() {}
}

fn build() -> Pci {
    let mut space = ConfigSpace::new(Header {
        vendor: 0x8086,
        device: 1,
        ..Header::default()
    });
    space
        .add_bar(
            0,
            BarKind::Memory32 {
                prefetchable: false,
            },
            0x1000,
        )
        .expect("free");
    space.add_bar(1, BarKind::Io, 32).expect("free");
    space
        .add_bar(2, BarKind::Memory64 { prefetchable: true }, 1 << 20)
        .expect("free");
    space.set_interrupt_pin(InterruptPin::B);
    let msi = Msi::add(&mut space, 32).expect("room");
    let msix = MsixTable::add(&mut space, 70, 0, 0, 0x800).expect("room");
    let bdf = Bdf::new(0, 3, 0).expect("in range");
    let mut bus = Bus::default();
    bus.insert(bdf, space).expect("free");
    Pci {
        mechanism: ConfigMechanism1::default(),
        bus,
        bdf,
        msi,
        msix,
    }
}

impl Pci {
    fn step(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        match u.int_in_range(0..=7)? {
            0..=3 => self.access(u)?,
            4 => self.access_table(u)?,
            5..=6 => self.raise(u)?,
            _ => self.restore(u)?,
        }
        self.check();
        Ok(())
    }

    fn access(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        if u.arbitrary()? {
            let address = 0x8000_1800 | u32::from(u.arbitrary::<u8>()?);
            self.mechanism
                .write(&mut self.bus, 0xcf8, &address.to_le_bytes());
        }
        let port = 0xcf8 + u.int_in_range(0..=8u16)?;
        let length = u.int_in_range(0..=8)?;
        if u.arbitrary()? {
            let data = u.bytes(length)?;
            self.mechanism.write(&mut self.bus, port, data);
        } else {
            self.mechanism
                .read(&mut self.bus, port, &mut vec![0; length]);
        }
        Ok(())
    }

    fn access_table(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let offset = u64::from(u.arbitrary::<u16>()? & 0x7ff);
        let length = *u.choose(&[4, 8, 1])?;
        self.msix.write_table(offset, u.bytes(length)?);
        self.msix.read_table(offset, &mut [0; 4]);
        self.msix.read_pending(offset, &mut [0; 8]);
        Ok(())
    }

    fn raise(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let vector = u.int_in_range(0..=69u8)?;
        let Self {
            bus,
            bdf,
            msi,
            msix,
            ..
        } = self;
        let space = bus.function_mut(*bdf).expect("inserted");
        msi.raise(space, vector);
        msix.raise(space, vector.into());
        for _ in 0..=32 {
            if msi.next_unmasked(space).is_none() {
                break;
            }
        }
        assert!(
            msi.next_unmasked(space).is_none(),
            "32 vectors pend at most"
        );
        msix.next_unmasked(space);
        space.set_interrupt_status(u.arbitrary()?);
        Ok(())
    }

    fn restore(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let space = self.bus.function_mut(self.bdf).expect("inserted");
        if let Some(state) = hostile(u, &space.state())? {
            let _ = space.restore(&state);
        }
        if let Some(state) = hostile(u, &self.msix.state())? {
            let _ = self.msix.restore(state);
        }
        Ok(())
    }

    /// Whatever was written, identity and BAR sizes stand.
    fn check(&mut self) {
        let space = self.bus.function_mut(self.bdf).expect("inserted");
        let mut identity = [0; 4];
        space.read(0, &mut identity);
        assert_eq!(identity, [0x86, 0x80, 1, 0]);
        for (index, size) in [(0, 0x1000), (1, 32), (2, 1 << 20)] {
            let bar = space.bar(index).expect("laid out");
            assert!(bar.size == size && bar.address.is_multiple_of(size));
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn smoke() {
        arbtest::arbtest(|u| {
            super::pci_config(u.bytes(u.len())?);
            Ok(())
        })
        .budget_ms(1_000);
    }
}
