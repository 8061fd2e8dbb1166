//! A PCI function that is not the board's: another process has it, or the host's own hardware is it. The board
//! gives it a place, translates its accesses to memory, and delivers its interrupts.

mod capabilities;
mod memory;
mod range;

use std::fmt;
use std::io;

use pci_config::{BarKind, Bdf, Bus, ConfigSpace, Header, InterruptPin, Msi, MsiMessage};
use vtd::{Iova, Mapping, MappingObserver, Shadow, SourceId};

use super::dma::{Dma, Written};
use super::remapping::Remapping;
use crate::kernel::Ram;
use crate::layout::{ASSIGNED_IRQ, ASSIGNED_MEMORY, ASSIGNED_PORTS, ASSIGNED_SLOT};
use capabilities::{MessageTable, TablePlace};

pub use memory::DeviceMemory;
pub use range::DmaRange;
use range::ranges;

/// A device as whoever has it lets it be used. Regions are numbered as VFIO numbers those of a PCI function: 0 to 5
/// are the windows of the base address registers, [`CONFIGURATION`] is configuration space.
///
/// An error means that the device is gone: it is not asked again.
pub trait AssignedDevice {
    /// Bytes of a window; 0 if there is none.
    fn window(&self, bar: usize) -> u64;

    /// Reads a region. The device may use `memory` meanwhile.
    ///
    /// # Errors
    ///
    /// When the device is gone.
    fn read(
        &mut self,
        region: usize,
        offset: u64,
        data: &mut [u8],
        memory: &dyn DeviceMemory,
    ) -> io::Result<()>;

    /// Writes a region. The device may use `memory` meanwhile.
    ///
    /// # Errors
    ///
    /// When the device is gone.
    fn write(
        &mut self,
        region: usize,
        offset: u64,
        data: &[u8],
        memory: &dyn DeviceMemory,
    ) -> io::Result<()>;

    /// Says how the device tells of its interrupts from now on.
    ///
    /// # Errors
    ///
    /// When the device is gone, or cannot do that.
    fn set_signalling(&mut self, way: Signalling) -> io::Result<()>;

    /// The pin's level may be told of again.
    ///
    /// # Errors
    ///
    /// When the device is gone.
    fn unmask_pin(&mut self) -> io::Result<()>;

    /// Lets the device use memory by itself, and puts the numbers of the interrupts that it has told of since the
    /// last time into `vectors`; the pin is number 0.
    ///
    /// # Errors
    ///
    /// When the device is gone.
    fn poll(&mut self, vectors: &mut Vec<u16>, memory: &dyn DeviceMemory) -> io::Result<()>;

    /// Whether the device reaches memory by what [`map`](Self::map) told it, without asking.
    fn maps_memory(&self) -> bool;

    /// Lets the device reach a range of RAM, of whole pages of 4 KiB.
    ///
    /// # Errors
    ///
    /// When the device is gone, or has no room for another mapping.
    fn map(&mut self, range: &DmaRange) -> io::Result<()>;

    /// Takes back what [`map`](Self::map) gave.
    ///
    /// # Errors
    ///
    /// When the device is gone.
    fn unmap(&mut self, range: &DmaRange) -> io::Result<()>;
}

/// The region that is configuration space.
pub const CONFIGURATION: usize = 7;

/// How a device tells of its interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signalling {
    /// Not at all.
    Off,
    /// By its pin.
    Pin,
    /// By so many messages of MSI.
    Msi(u16),
    /// By so many messages of MSI-X.
    MsiX(u16),
}

/// What a board is built with to have such a device.
pub struct AssignedConfig {
    /// The device.
    pub device: Box<dyn AssignedDevice>,
    /// Memory that it may use.
    pub ram: Ram,
}

impl fmt::Debug for AssignedConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AssignedConfig").finish_non_exhaustive()
    }
}

/// Why a device cannot be given a place on the board.
#[derive(Debug, thiserror::Error)]
pub enum AssignError {
    /// It is gone already.
    #[error("the device does not answer")]
    Gone(#[from] io::Error),
    /// There is no function: the vendor id is 0xffff, as where nothing is.
    #[error("the device has no vendor")]
    Absent,
    /// A window that PCI does not have.
    #[error("window {bar} of {size:#x} bytes")]
    Window {
        /// Its number.
        bar: usize,
        /// Its bytes.
        size: u64,
        /// What is wrong with it.
        #[source]
        source: pci_config::BarError,
    },
    /// MSI or MSI-X that PCI does not have, or whose table and pending bits lie in different windows.
    #[error("interrupt messages that the board cannot deliver")]
    Messages,
}

/// What the device did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AssignedCounts {
    /// Interrupts delivered: the pin's rises, and messages.
    pub interrupts: u64,
    /// Ranges that were mapped for it.
    pub maps: u64,
    /// Ranges that were taken back.
    pub unmaps: u64,
}

pub(super) struct Assigned {
    device: Box<dyn AssignedDevice>,
    ram: Ram,
    memory: Dma,
    remapping: Option<Remapping>,
    shadow: Option<Shadow>,
    msi: Option<(Msi, u16)>,
    table: Option<MessageTable>,
    way: Signalling,
    command: u16,
    level: bool,
    look_at: u64,
    counts: AssignedCounts,
    failure: Option<io::Error>,
}

impl Assigned {
    /// Puts the function on the bus, as firmware would leave it.
    pub(super) fn new(
        config: AssignedConfig,
        bus: &mut Bus<ConfigSpace>,
        remapping: Option<&Remapping>,
    ) -> Result<Self, AssignError> {
        let AssignedConfig { mut device, ram } = config;
        let memory = match remapping {
            Some(remapping) => remapping.memory_of(place()),
            None => Dma::new(ram.clone()),
        };
        let nothing = memory.denied();
        let mut bytes = [0; 256];
        for (number, word) in bytes.chunks_exact_mut(4).enumerate() {
            device.read(CONFIGURATION, number as u64 * 4, word, &nothing)?;
        }
        let mut space = function(&bytes)?;
        for bar in 0..6 {
            add_window(&mut space, &bytes, bar, device.window(bar))?;
        }
        place_windows(&mut space);
        let msi = capabilities::add_msi(&mut space, &bytes)?;
        let table = match TablePlace::find(&bytes)? {
            Some(place) => Some(MessageTable::add(&mut space, place)?),
            None => None,
        };
        bus.insert(place(), space)
            .expect("the slot is free on a new board");
        let source = SourceId(place().requester_id());
        let mut assigned = Self {
            shadow: device
                .maps_memory()
                .then(|| Shadow::new(source, MAPPINGS_MAX)),
            device,
            ram,
            memory,
            remapping: remapping.cloned(),
            msi,
            table,
            way: Signalling::Off,
            command: 0,
            level: false,
            look_at: 0,
            counts: AssignedCounts::default(),
            failure: None,
        };
        if assigned.shadow.is_some() && assigned.remapping.is_none() {
            assigned.map_all()?;
        }
        Ok(assigned)
    }

    pub(super) fn counts(&self) -> AssignedCounts {
        self.counts
    }

    pub(super) fn failure(&self) -> Option<&io::Error> {
        self.failure.as_ref()
    }

    pub(super) fn take_written(&self) -> Option<Written> {
        self.memory.take_written()
    }

    /// Which window of the function answers at `address`, and at which offset.
    pub(super) fn offset(
        bus: &Bus<ConfigSpace>,
        address: u64,
        ports: bool,
    ) -> Option<(usize, u64)> {
        let space = bus.function(place())?;
        (0..6).find_map(|index| {
            let bar = space.bar(index)?;
            let offset = address.checked_sub(bar.address)?;
            let hit = bar.enabled && offset < bar.size && ports == (bar.kind == BarKind::Io);
            hit.then_some((index, offset))
        })
    }

    /// Leaves `data` as it is when the device is gone.
    pub(super) fn read(&mut self, bar: usize, offset: u64, data: &mut [u8]) {
        if let Some(table) = &self.table
            && table.read(bar, offset, data)
        {
            return;
        }
        if self.failure.is_some() {
            return;
        }
        let memory = self.memory.gated(self.command & BUS_MASTER != 0);
        let done = self.device.read(bar, offset, data, &memory);
        if done.is_err() {
            data.fill(0xff);
        }
        self.note(done);
        self.serviced();
    }

    pub(super) fn write(&mut self, bar: usize, offset: u64, data: &[u8]) {
        if let Some(table) = &mut self.table
            && table.write(bar, offset, data)
        {
            return;
        }
        if self.failure.is_some() {
            return;
        }
        let memory = self.memory.gated(self.command & BUS_MASTER != 0);
        let done = self.device.write(bar, offset, data, &memory);
        self.note(done);
        self.serviced();
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.failure.is_none().then_some(self.look_at)
    }

    /// Takes what the device has told of since the last look; messages go to `send`. The level of INTA#.
    pub(super) fn interrupt(
        &mut self,
        now: u64,
        bus: &mut Bus<ConfigSpace>,
        send: &mut dyn FnMut(MsiMessage),
    ) -> bool {
        let Some(space) = bus.function_mut(place()) else {
            return false;
        };
        self.follow(space);
        if now >= self.look_at {
            self.look_at = now.saturating_add(LOOK_NS);
            self.poll(space, send);
        }
        if let Some((msi, _)) = self.msi {
            msi.next_unmasked(space).map(&mut *send);
        }
        if let Some(table) = &mut self.table {
            table.next_unmasked(space).map(&mut *send);
        }
        space.set_interrupt_status(self.level);
        space.intx()
    }

    fn poll(&mut self, space: &mut ConfigSpace, send: &mut dyn FnMut(MsiMessage)) {
        if self.failure.is_some() {
            return;
        }
        let mut vectors = Vec::new();
        let memory = self.memory.gated(self.command & BUS_MASTER != 0);
        let done = self.device.poll(&mut vectors, &memory);
        self.note(done);
        for vector in vectors {
            self.raise(space, vector, send);
        }
    }

    /// Brings the device's mappings to what the unit's tables say.
    pub(super) fn follow_mappings(&mut self) {
        let (Some(remapping), Some(shadow)) = (&self.remapping, &mut self.shadow) else {
            return;
        };
        for scope in remapping.take_changed() {
            let mut copy = Copy {
                device: &mut *self.device,
                ram: &self.ram,
                memory: &self.memory,
                counts: &mut self.counts,
                done: Ok(()),
            };
            // Tables that cannot be copied map nothing; the guest hears of it from its device.
            let _ = remapping.copy(shadow, scope, &mut copy);
            let done = copy.done;
            note(&mut self.failure, done);
        }
    }

    fn map_all(&mut self) -> io::Result<()> {
        let everything = Mapping {
            address: 0,
            bytes: 1 << 52,
            read: true,
            write: true,
        };
        for range in ranges(&self.ram, 0, &everything) {
            self.device.map(&range)?;
            self.counts.maps += 1;
        }
        Ok(())
    }

    /// Tells the device what the guest has changed in its configuration space.
    fn follow(&mut self, space: &ConfigSpace) {
        let command = space.u16(COMMAND);
        if command != self.command {
            self.command = command;
            let memory = self.memory.gated(command & BUS_MASTER != 0);
            let bytes = command.to_le_bytes();
            let done = self
                .device
                .write(CONFIGURATION, COMMAND as u64, &bytes, &memory);
            self.note(done);
        }
        let way = self.signalling(space);
        if way != self.way {
            self.way = way;
            self.level = false;
            let done = self.device.set_signalling(way);
            self.note(done);
        }
    }

    fn signalling(&self, space: &ConfigSpace) -> Signalling {
        if let Some(table) = &self.table
            && table.is_enabled(space)
        {
            return Signalling::MsiX(table.vectors());
        }
        match self.msi {
            Some((msi, vectors)) if msi.is_enabled(space) => Signalling::Msi(vectors),
            _ if space.u16(COMMAND) & INTERRUPT_DISABLE == 0 => Signalling::Pin,
            _ => Signalling::Off,
        }
    }

    fn raise(&mut self, space: &mut ConfigSpace, vector: u16, send: &mut dyn FnMut(MsiMessage)) {
        self.counts.interrupts += 1;
        match (self.way, self.msi, &mut self.table) {
            (Signalling::Msi(_), Some((msi, _)), _) => {
                let vector = u8::try_from(vector).unwrap_or(u8::MAX);
                msi.raise(space, vector).map(send);
            }
            (Signalling::MsiX(_), _, Some(table)) => {
                table.raise(space, vector).map(send);
            }
            (Signalling::Pin, ..) => self.level = true,
            _ => {}
        }
    }

    /// Any access to a window may have served the device's interrupt: the level falls, and comes again if it is
    /// still up. The board has no other way to learn of it, and looks at once.
    fn serviced(&mut self) {
        self.look_at = 0;
        if std::mem::take(&mut self.level) {
            let done = self.device.unmask_pin();
            self.note(done);
        }
    }

    fn note(&mut self, done: io::Result<()>) {
        note(&mut self.failure, done);
    }
}

/// The first failure is kept.
fn note(failure: &mut Option<io::Error>, done: io::Result<()>) {
    if let Err(error) = done {
        failure.get_or_insert(error);
    }
}

/// The device's side of a copy of the unit's tables.
struct Copy<'a> {
    device: &'a mut dyn AssignedDevice,
    ram: &'a Ram,
    memory: &'a Dma,
    counts: &'a mut AssignedCounts,
    done: io::Result<()>,
}

impl Copy<'_> {
    fn note(&mut self, done: io::Result<()>) {
        if self.done.is_ok() {
            self.done = done;
        }
    }
}

impl MappingObserver for Copy<'_> {
    fn map(&mut self, iova: Iova, mapping: Mapping) {
        for range in ranges(self.ram, iova.0, &mapping) {
            self.counts.maps += 1;
            let done = self.device.map(&range);
            self.note(done);
        }
    }

    fn unmap(&mut self, iova: Iova, mapping: Mapping) {
        for range in ranges(self.ram, iova.0, &mapping) {
            self.counts.unmaps += 1;
            let done = self.device.unmap(&range);
            self.note(done);
            // Nobody has seen what the device wrote there.
            if range.write {
                self.memory.note(range.address, range.size);
            }
        }
    }
}

pub(super) fn place() -> Bdf {
    Bdf::new(0, ASSIGNED_SLOT, 0).expect("a place on bus 0")
}

/// The function's identity; what else it has is added as the board understands it.
fn function(bytes: &[u8; 256]) -> Result<ConfigSpace, AssignError> {
    let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    if word(0) == u16::MAX {
        return Err(AssignError::Absent);
    }
    let mut space = ConfigSpace::new(Header {
        vendor: word(0),
        device: word(2),
        revision: bytes[8],
        class: [bytes[11], bytes[10], bytes[9]],
        subsystem_vendor: word(0x2c),
        subsystem: word(0x2e),
        multi_function: false,
    });
    if bytes[INTERRUPT_PIN] != 0 {
        space.set_interrupt_pin(InterruptPin::A);
        space.set_interrupt_line(ASSIGNED_IRQ);
    }
    Ok(space)
}

fn add_window(
    space: &mut ConfigSpace,
    bytes: &[u8; 256],
    bar: usize,
    size: u64,
) -> Result<(), AssignError> {
    if size == 0 {
        return Ok(());
    }
    let flags = bytes[0x10 + 4 * bar];
    let prefetchable = flags & 1 << 3 != 0;
    let kind = match (flags & 1, flags >> 1 & 3) {
        (1, _) => BarKind::Io,
        (_, 2) => BarKind::Memory64 { prefetchable },
        _ => BarKind::Memory32 { prefetchable },
    };
    space
        .add_bar(bar, kind, size)
        .map_err(|source| AssignError::Window { bar, size, source })
}

/// Puts the windows where firmware would. What does not fit stays nowhere, for the guest to place.
fn place_windows(space: &mut ConfigSpace) {
    let (mut memory, mut ports) = (ASSIGNED_MEMORY, ASSIGNED_PORTS);
    for index in 0..6 {
        let Some(bar) = space.bar(index) else {
            continue;
        };
        let room = match bar.kind {
            BarKind::Io => &mut ports,
            _ => &mut memory,
        };
        let at = room.start.next_multiple_of(bar.size);
        if at + bar.size <= room.end {
            room.start = at + bar.size;
            let register = BAR0 + 4 * u16::try_from(index).expect("six of them");
            space.write(register, &at.to_le_bytes()[..4]);
        }
    }
}

const COMMAND: usize = 4;
const BAR0: u16 = 0x10;
const INTERRUPT_PIN: usize = 0x3d;
const BUS_MASTER: u16 = 1 << 2;
const INTERRUPT_DISABLE: u16 = 1 << 10;
/// How long the board waits until it looks at the device again.
const LOOK_NS: u64 = 100_000;
/// Pages that a device may have mapped: 256 MiB of small ones.
const MAPPINGS_MAX: usize = 1 << 16;
