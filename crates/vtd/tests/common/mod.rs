//! A guest's side of the unit: tables, queue, registers.
#![expect(dead_code, reason = "each test file uses a part")]

use vtd::registers::*;
use vtd::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vtd::{AccessKind, Capabilities, Event, Fault, Iova, Request, SourceId, Translation, Unit};

pub(crate) const MEMORY: usize = 16 << 20;
pub(crate) const ROOT: u64 = 0x1000;
pub(crate) const CONTEXTS: u64 = 0x2000;
pub(crate) const QUEUE: u64 = 0x3000;
pub(crate) const STATUS: u64 = 0x4000;
pub(crate) const INTERRUPTS: u64 = 0x5000;
/// Tables are made from here on.
pub(crate) const TABLES: u64 = 0x10_0000;
pub(crate) const NIC: SourceId = SourceId::new(0, 2, 0);

pub(crate) struct Guest {
    pub(crate) unit: Unit,
    pub(crate) memory: GuestMemoryMmap,
    pub(crate) next_table: u64,
    /// Descriptors of 256 bits.
    pub(crate) wide: bool,
}

impl Guest {
    pub(crate) fn new(capabilities: Capabilities) -> Self {
        Self {
            unit: Unit::new(capabilities),
            memory: GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap(),
            next_table: TABLES,
            wide: false,
        }
    }

    pub(crate) fn get(&mut self, register: u64) -> u32 {
        let mut data = [0; 4];
        self.unit.read(register, &mut data);
        u32::from_le_bytes(data)
    }

    pub(crate) fn get_quad(&mut self, register: u64) -> u64 {
        let mut data = [0; 8];
        self.unit.read(register, &mut data);
        u64::from_le_bytes(data)
    }

    pub(crate) fn set(&mut self, register: u64, value: u32) {
        self.unit
            .write(&self.memory, register, &value.to_le_bytes());
    }

    pub(crate) fn set_quad(&mut self, register: u64, value: u64) {
        self.unit
            .write(&self.memory, register, &value.to_le_bytes());
    }

    pub(crate) fn poke(&self, at: u64, value: u64) {
        self.memory.write_obj(value, GuestAddress(at)).unwrap();
    }

    pub(crate) fn peek(&self, at: u64) -> u64 {
        self.memory.read_obj(GuestAddress(at)).unwrap()
    }

    /// A page of zeros.
    pub(crate) fn table(&mut self) -> u64 {
        self.next_table += 0x1000;
        self.next_table - 0x1000
    }

    /// As drivers do: the status with one command more or less.
    pub(crate) fn command(&mut self, command: u32) {
        let status = self.get(GSTS) & (TE | QIE | IRE | CFI);
        self.set(GCMD, status | command);
    }

    pub(crate) fn drop_command(&mut self, command: u32) {
        let status = self.get(GSTS) & (TE | QIE | IRE | CFI);
        self.set(GCMD, status & !command);
    }

    /// A root table, with translation enabled, and a queue.
    pub(crate) fn enable(&mut self) {
        self.set_quad(RTADDR, ROOT);
        self.command(SRTP);
        self.enable_queue();
        self.command(TE);
    }

    pub(crate) fn enable_queue(&mut self) {
        self.set_quad(IQT, 0);
        self.set_quad(IQA, QUEUE | if self.wide { IQA_DW } else { 0 });
        self.command(QIE);
    }

    /// A legacy context for `source` of `levels` levels.
    pub(crate) fn context(
        &mut self,
        source: SourceId,
        domain: u16,
        kind: u64,
        table: u64,
        levels: u64,
    ) {
        let contexts = CONTEXTS + u64::from(source.bus()) * 0x10_0000;
        self.poke(ROOT + u64::from(source.bus()) * 16, contexts | 1);
        let at = contexts + u64::from(source.function()) * 16;
        self.poke(at, table | kind << 2 | 1);
        self.poke(at + 8, u64::from(domain) << 8 | (levels - 2));
    }

    /// Maps a page in a second stage of `levels` levels at `root`; the last level of the walk is `leaf`.
    pub(crate) fn map(&mut self, root: u64, levels: u32, iova: u64, entry: u64, leaf: u32) {
        let mut table = root;
        for level in (leaf + 1..=levels).rev() {
            let at = table + (iova >> (3 + 9 * level) & 0x1ff) * 8;
            if self.peek(at) & 3 == 0 {
                let next = self.table();
                self.poke(at, next | 3);
            }
            table = self.peek(at) & !0xfff;
        }
        let at = table + (iova >> (3 + 9 * leaf) & 0x1ff) * 8;
        let large = if leaf > 1 { 1 << 7 } else { 0 };
        self.poke(at, if entry & 3 == 0 { entry } else { entry | large });
    }

    /// Where the level 2 entry of an address is; made, if there is none.
    pub(crate) fn walk_to_directory(&mut self, root: u64, iova: u64) -> u64 {
        let mut table = root;
        for level in [4, 3] {
            let at = table + (iova >> (3 + 9 * level) & 0x1ff) * 8;
            if self.peek(at) & 3 == 0 {
                let next = self.table();
                self.poke(at, next | 3);
            }
            table = self.peek(at) & !0xfff;
        }
        table + (iova >> 21 & 0x1ff) * 8
    }

    /// Puts descriptors into the queue and lets them run.
    pub(crate) fn submit(&mut self, descriptors: &[[u64; 2]]) {
        let step = if self.wide { 32 } else { 16 };
        let mut tail = self.get_quad(IQT);
        for [low, high] in descriptors {
            self.poke(QUEUE + tail, *low);
            self.poke(QUEUE + tail + 8, *high);
            if self.wide {
                self.poke(QUEUE + tail + 16, 0);
                self.poke(QUEUE + tail + 24, 0);
            }
            tail = (tail + step) % 0x1000;
        }
        self.set_quad(IQT, tail);
    }

    /// A wait descriptor: answers whether its status was written.
    pub(crate) fn wait(&mut self) -> bool {
        self.poke(STATUS, 0);
        self.submit(&[[5 | 1 << 5 | 0x1234 << 32, STATUS]]);
        self.peek(STATUS) == 0x1234
    }

    pub(crate) fn translate(
        &mut self,
        source: SourceId,
        iova: u64,
        kind: AccessKind,
    ) -> Result<Translation, Fault> {
        let request = Request::new(source, Iova(iova), kind);
        self.unit.translate(&self.memory, &request)
    }

    pub(crate) fn read(&mut self, iova: u64) -> Result<u64, u8> {
        let found = self.translate(NIC, iova, AccessKind::Read);
        found.map(|t| t.address).map_err(|f| f.reason.number())
    }

    pub(crate) fn write(&mut self, iova: u64) -> Result<u64, u8> {
        let found = self.translate(NIC, iova, AccessKind::Write);
        found.map(|t| t.address).map_err(|f| f.reason.number())
    }

    pub(crate) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.unit.next_event()).collect()
    }
}

/// A guest with the NIC in domain 1, a second stage of 4 levels, and translation on.
pub(crate) fn legacy() -> (Guest, u64) {
    let mut guest = Guest::new(Capabilities::legacy());
    let root = guest.table();
    guest.context(NIC, 1, 0, root, 4);
    guest.enable();
    (guest, root)
}
