//! The ways to attach the card, and what of memory each lets it reach.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use vm_memory::iommu::IommuMemory;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vtd::registers::{CCMD, GCMD, ICC, IOTLB, IVT, RTADDR, SRTP, TE};
use vtd::{
    Capabilities, DeviceView, Event, Features, Iova, Mapping, MappingObserver, Scope, Shadow,
    SourceId, Unit,
};

use crate::tables::{FIRST, SECOND, Tables, WRITE};
use crate::world::{BUFFER, BUFFER_PAGES, GUEST, GUEST_BYTES, KEYS, PAGE, World};

/// The card.
pub(crate) const CARD: SourceId = SourceId::new(0, 3, 0);
/// Where the guest's driver puts the buffer, among the addresses of the card.
pub(crate) const BUFFER_IOVA: u64 = 0xfff0_0000;
/// The page after it, where a careless driver puts too much.
const BEYOND_IOVA: u64 = BUFFER_IOVA + BUFFER_PAGES * PAGE;
/// Where the host's tables begin.
const HOST_TABLES: u64 = 1 << 20;
/// Where the guest's do, guest-physical.
const GUEST_TABLES: u64 = 3 << 20;
/// The domain of the card's guest.
const DOMAIN: u64 = 7;

/// How the card is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Design {
    None,
    OneDimension,
    Nested,
    Shadowed,
}

impl Design {
    pub(crate) const ALL: [Self; 4] =
        [Self::None, Self::OneDimension, Self::Nested, Self::Shadowed];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "no IOMMU",
            Self::OneDimension => "1-D: host's second stage",
            Self::Nested => "2-D: guest's first stage over it",
            Self::Shadowed => "2-D: guest's unit, copied",
        }
    }
}

/// A bus master with ill will, at the end of its bus.
pub(crate) struct Card {
    memory: IommuMemory<GuestMemoryMmap, DeviceView<GuestMemoryMmap>>,
    pub(crate) unit: Arc<Mutex<Unit>>,
}

impl Card {
    /// Attached as `design` says, under the name `source`. A careless guest maps its keys, too.
    pub(crate) fn attach(
        design: Design,
        world: &World,
        source: SourceId,
        careless: bool,
    ) -> Result<Self> {
        let unit = match design {
            Design::None => Unit::new(Capabilities::legacy()),
            Design::OneDimension => one_dimension(world)?,
            Design::Nested => nested(world, careless)?,
            Design::Shadowed => shadowed(world, careless)?,
        };
        let unit = Arc::new(Mutex::new(unit));
        let view = DeviceView::new(Arc::clone(&unit), world.host.clone(), source);
        let translated = design != Design::None;
        Ok(Self {
            memory: IommuMemory::new(world.host.clone(), view, translated, ()),
            unit,
        })
    }

    pub(crate) fn read(&self, address: u64) -> Option<u64> {
        self.memory.read_obj(GuestAddress(address)).ok()
    }

    pub(crate) fn write(&self, address: u64, value: u64) -> bool {
        self.memory.write_obj(value, GuestAddress(address)).is_ok()
    }

    pub(crate) fn with_unit<T>(&self, work: impl FnOnce(&mut Unit) -> T) -> T {
        work(&mut self.unit.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the guest's driver maps for the card: device address, guest-physical address, whether it may write.
fn buffer(careless: bool) -> impl Iterator<Item = (u64, u64, bool)> {
    let pages = (0..BUFFER_PAGES).map(|n| {
        let writable = n + 1 < BUFFER_PAGES;
        (BUFFER_IOVA + n * PAGE, BUFFER + n * PAGE, writable)
    });
    pages.chain(careless.then_some((BEYOND_IOVA, KEYS, true)))
}

/// The host's tables lead every guest-physical address to the guest's memory.
fn guest_memory(tables: &mut Tables<'_>) -> Result<u64> {
    let top = tables.page();
    for address in (0..GUEST_BYTES).step_by(0x1000) {
        tables.map(top, address, GUEST + address, SECOND)?;
    }
    Ok(top)
}

fn one_dimension(world: &World) -> Result<Unit> {
    let mut tables = Tables::new(&world.host, HOST_TABLES);
    let top = guest_memory(&mut tables)?;
    let root = legacy_root(&mut tables, top)?;
    let mut unit = Unit::new(Capabilities::legacy());
    enable(&mut unit, &world.host, root);
    Ok(unit)
}

/// Root and context table of legacy mode (VT-d 9.1 and 9.3): the card alone, four levels under `top`.
fn legacy_root(tables: &mut Tables<'_>, top: u64) -> Result<u64> {
    let (root, contexts) = (tables.page(), tables.page());
    tables.set(root, &[contexts | 1])?;
    let context = contexts + u64::from(CARD.function()) * 16;
    tables.set(context, &[top | 1, DOMAIN << 8 | 0b010])?;
    Ok(root)
}

/// Scalable mode: the guest's first stage, in its own memory, over the host's second.
fn nested(world: &World, careless: bool) -> Result<Unit> {
    let mut guest = Tables::new(&world.guest, GUEST_TABLES);
    let first = guest.page();
    for (iova, address, writable) in buffer(careless) {
        let bits = if writable { FIRST } else { FIRST & !WRITE };
        guest.map(first, iova, address, bits)?;
    }
    let mut tables = Tables::new(&world.host, HOST_TABLES);
    let second = guest_memory(&mut tables)?;
    let [root, contexts, directory, pasids] = [0; 4].map(|_| tables.page());
    tables.set(root, &[contexts | 1])?;
    let context = contexts + u64::from(CARD.function()) * 32;
    tables.set(context, &[directory | 1])?;
    tables.set(directory, &[pasids | 1])?;
    // PGTT: nested; AW: four levels (VT-d 9.6).
    tables.set(pasids, &[second | 3 << 6 | 2 << 2 | 1, DOMAIN, first])?;
    let mut unit = Unit::new(Capabilities::scalable());
    enable(&mut unit, &world.host, root | 1 << 10);
    Ok(unit)
}

/// A unit that the guest sees, in legacy mode; the host copies its mappings into tables of its own.
fn shadowed(world: &World, careless: bool) -> Result<Unit> {
    let mut guest = Tables::new(&world.guest, GUEST_TABLES);
    let top = guest.page();
    for (iova, address, writable) in buffer(careless) {
        let bits = if writable { SECOND } else { SECOND & !WRITE };
        guest.map(top, iova, address, bits)?;
    }
    let root = legacy_root(&mut guest, top)?;
    let mut seen = Unit::new(Capabilities {
        features: Capabilities::legacy().features | Features::CACHING_MODE,
        ..Capabilities::legacy()
    });
    enable(&mut seen, &world.guest, root);

    let mut tables = Tables::new(&world.host, HOST_TABLES);
    let top = tables.page();
    let mut copy = Copier(Vec::new());
    let mut shadow = Shadow::new(CARD, 1024);
    let mut scopes = vec![Scope::All];
    while let Some(event) = seen.next_event() {
        if let Event::MappingsChanged(scope) = event {
            scopes.push(scope);
        }
    }
    for scope in scopes {
        shadow.update(&mut seen, &world.guest, scope, &mut copy)?;
    }
    for (iova, mapping) in copy.0 {
        for offset in (0..mapping.bytes).step_by(0x1000) {
            let bits = u64::from(mapping.read) | u64::from(mapping.write) << 1;
            // A guest that maps what it does not have gets nothing.
            let inside = mapping.address + offset;
            if inside < GUEST_BYTES {
                tables.map(top, iova.0 + offset, GUEST + inside, bits)?;
            }
        }
    }
    let root = legacy_root(&mut tables, top)?;
    let mut unit = Unit::new(Capabilities::legacy());
    enable(&mut unit, &world.host, root);
    Ok(unit)
}

/// What the host would hand to VFIO.
struct Copier(Vec<(Iova, Mapping)>);

impl MappingObserver for Copier {
    fn map(&mut self, iova: Iova, mapping: Mapping) {
        self.0.push((iova, mapping));
    }

    fn unmap(&mut self, iova: Iova, mapping: Mapping) {
        self.0.retain(|&copied| copied != (iova, mapping));
    }
}

/// As a driver does: set the root table, invalidate, enable.
fn enable(unit: &mut Unit, memory: &GuestMemoryMmap, root: u64) {
    unit.write(memory, RTADDR, &root.to_le_bytes());
    unit.write(memory, GCMD, &SRTP.to_le_bytes());
    unit.write(memory, CCMD, &(ICC | 1 << 61).to_le_bytes());
    unit.write(memory, IOTLB, &(IVT | 1 << 60).to_le_bytes());
    unit.write(memory, GCMD, &TE.to_le_bytes());
}
