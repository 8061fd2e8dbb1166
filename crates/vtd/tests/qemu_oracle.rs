//! QEMU's intel-iommu beside ours: the same registers, tables, descriptors and DMA, one step after the other.
//!
//! QEMU runs with its processor halted and is driven through its qtest protocol; its `edu` device does the
//! DMA, after 100 ms of a clock that leaps while the processor is idle.
//! Where QEMU is not installed the tests say so and pass.
//!
//! Left out, because QEMU 7.2 departs from the manual there: accesses that a cached entry denies (it records no
//! fault, and does not walk again), walks that meet both a denial and reserved bits (it reports what it meets
//! first, we report the bits), wait descriptors with SW and IF both or neither, FPD where the context sets
//! reserved bits (it records), IQERCD (it has none), and register invalidation while the queue is
//! enabled (it refuses).

mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use common::{CONTEXTS, Guest, QUEUE, ROOT, STATUS};
use vtd::registers::*;
use vtd::{AccessKind, Capabilities, Features, SourceId};

const UNIT: u64 = 0xfed9_0000;
const BAR: u64 = 0xfea0_0000;
const EDU: SourceId = SourceId::new(0, 4, 0);

/// QEMU with a halted processor, an IOMMU and an `edu` at 00:04.0.
struct Qemu {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _directory: tempfile::TempDir,
}

impl Qemu {
    /// `None` where there is no QEMU.
    fn start() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        // At the reset vector: cli, hlt, and again.
        let mut rom = vec![0xf4; 0x1_0000];
        rom[0xfff0..0xfff4].copy_from_slice(&[0xfa, 0xf4, 0xeb, 0xfd]);
        std::fs::write(directory.path().join("halt.bin"), rom).unwrap();
        let mut process = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg", "-icount", "shift=0,sleep=off"])
            .args(["-machine", "q35", "-m", "16", "-nodefaults"])
            .arg("-bios")
            .arg(directory.path().join("halt.bin"))
            .args(["-display", "none", "-monitor", "none", "-serial", "none"])
            .args(["-device", "intel-iommu,intremap=off,aw-bits=48"])
            .args(["-device", "edu,addr=4,dma_mask=0xffffffffffffffff"])
            .args(["-qtest", "stdio", "-qtest-log", "none"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut qemu = Self {
            process,
            input,
            output,
            _directory: directory,
        };
        for (register, value) in [(0x10, BAR), (0x04, 6)] {
            let address = 0x8000_2000_u64 | register;
            qemu.command(&format!("outl 0xcf8 {address:#x}"));
            qemu.command(&format!("outl 0xcfc {value:#x}"));
        }
        Some(qemu)
    }

    fn command(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        let rest = answer.strip_prefix("OK");
        rest.unwrap_or_else(|| panic!("{line}: {answer}"))
            .trim()
            .to_owned()
    }

    fn number(&mut self, line: &str) -> u64 {
        let answer = self.command(line);
        u64::from_str_radix(answer.trim_start_matches("0x"), 16).unwrap()
    }

    fn poke(&mut self, at: u64, value: u64) {
        self.command(&format!("writeq {at:#x} {value:#x}"));
    }

    /// Eight bytes from or to `iova`; the buffer's own bytes begin at 0x40000.
    fn dma(&mut self, iova: u64, write: bool) {
        let (from, to, command) = if write {
            (0x4_0000, iova, 3)
        } else {
            (iova, 0x4_0000, 1)
        };
        for (register, value) in [(0x80, from), (0x88, to), (0x90, 8), (0x98, command)] {
            self.poke(BAR + register, value);
        }
        let running = format!("readq {:#x}", BAR + 0x98);
        while self.number(&running) & 1 != 0 {}
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Both, kept in step.
struct Pair {
    ours: Guest,
    qemu: Qemu,
    random: u64,
    step: u32,
    /// What `edu` has in its buffer.
    buffer: u64,
    /// The last access and what became of it here.
    last: String,
}

/// Tables at fixed places, linked at random: the first is the root of every second stage.
const TABLES: u64 = 0x10_0000;
const TABLE_COUNT: u64 = 6;
/// Data pages.
const DATA: u64 = 0x40_0000;

impl Pair {
    fn start(seed: u64) -> Option<Self> {
        let qemu = Qemu::start()?;
        let mut capabilities = Capabilities::legacy();
        capabilities.host_address_bits = 48;
        capabilities.fault_records = 1;
        capabilities.features |= Features::COLLAPSE_FAULTS;
        capabilities.features -=
            Features::SNOOP_CONTROL | Features::INTERRUPT_REMAPPING | Features::EXTENDED_INTERRUPTS;
        Some(Self {
            ours: Guest::new(capabilities),
            qemu,
            random: seed,
            step: 0,
            buffer: 0,
            last: String::new(),
        })
    }

    /// Marsaglia's xorshift64.
    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn poke(&mut self, at: u64, value: u64) {
        self.ours.poke(at, value);
        self.qemu.poke(at, value);
    }

    fn set(&mut self, register: u64, value: u32) {
        self.ours.set(register, value);
        let at = UNIT + register;
        self.qemu.command(&format!("writel {at:#x} {value:#x}"));
    }

    fn set_quad(&mut self, register: u64, value: u64) {
        self.ours.set_quad(register, value);
        self.qemu.poke(UNIT + register, value);
    }

    fn compare(&mut self, register: u64, mask: u32) -> u32 {
        let theirs = self.qemu.number(&format!("readl {:#x}", UNIT + register));
        let theirs = u32::try_from(theirs).unwrap();
        let ours = self.ours.get(register);
        let (step, last) = (self.step, &self.last);
        assert_eq!(
            ours & mask,
            theirs & mask,
            "step {step}, register {register:#x}, {last}"
        );
        ours
    }

    fn compare_quad(&mut self, register: u64) -> u64 {
        let theirs = self.qemu.number(&format!("readq {:#x}", UNIT + register));
        let ours = self.ours.get_quad(register);
        let step = self.step;
        assert_eq!(
            ours, theirs,
            "step {step}, {register:#x}: {ours:#x}, theirs {theirs:#x}"
        );
        ours
    }

    fn compare_memory(&mut self, at: u64) -> u64 {
        let theirs = self.qemu.number(&format!("readq {at:#x}"));
        let ours = self.ours.peek(at);
        assert_eq!(ours, theirs, "step {}, memory at {at:#x}", self.step);
        ours
    }

    fn compare_registers(&mut self) {
        for register in [
            GSTS, FSTS, FECTL, FEDATA, FEADDR, ICS, IECTL, IEDATA, IEADDR,
        ] {
            self.compare(register, u32::MAX);
        }
        for register in [RTADDR, CCMD, IQH, IQT, IQA, FRCD] {
            self.compare_quad(register);
        }
        // PV means nothing while PP is clear: QEMU has some of its own "no PASID" there.
        self.compare(FRCD + 8, u32::MAX);
        let theirs = self.qemu.number(&format!("readl {:#x}", UNIT + FRCD + 12));
        let ours = self.ours.get(FRCD + 12);
        let denied_above = ours & 0xff == 0xc && matches!(theirs & 0xff, 5 | 6);
        let mask = if denied_above {
            0xf000_0000
        } else {
            0xf000_00ff
        };
        let (step, last) = (self.step, &self.last);
        assert_eq!(
            ours & mask,
            u32::try_from(theirs).unwrap() & mask,
            "step {step}, {last}"
        );
        let theirs = self.qemu.number(&format!("readq {:#x}", UNIT + IOTLB));
        assert_eq!(
            self.ours.get_quad(IOTLB) >> 57,
            theirs >> 57,
            "step {}",
            self.step
        );
    }

    fn command(&mut self, set: u32, clear: u32) {
        let status = self.compare(GSTS, u32::MAX) & (TE | QIE);
        self.set(GCMD, status & !clear | set);
    }

    fn table(&mut self) -> u64 {
        TABLES + self.below(TABLE_COUNT) * 0x1000
    }

    /// An entry of a table of the second stage: mostly the next table, or a page.
    fn entry(&mut self, table: u64) -> u64 {
        let rights = [0, 1, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3][usize::try_from(self.below(12)).unwrap()];
        let below = (table - TABLES) / 0x1000 + 1;
        let target = if self.one_in(12) {
            self.table()
        } else if below < 4 && !self.one_in(4) {
            TABLES + below * 0x1000
        } else {
            DATA + self.below(4) * 0x20_0000 + self.below(2) * 0x1000
        };
        let large = if target >= DATA && below < 4 && !self.one_in(6) {
            1 << 7
        } else {
            0
        };
        // The bits of an address inside a large page are reserved.
        let aligned = if large != 0 && below == 3 && !self.one_in(6) {
            !0x1f_f000
        } else {
            !0
        };
        let mut entry = target & aligned | large | rights;
        // Reserved or ignored; with all rights, or it matters which fault is found first.
        if self.one_in(12) {
            entry |=
                3 | 1 << [8, 11, 48, 51, 52, 61, 62, 63][usize::try_from(self.below(8)).unwrap()];
        }
        entry
    }

    /// Indices that addresses are made of, so that they meet the entries that there are.
    fn iova(&mut self) -> u64 {
        let mut iova = self.below(0x200) * 8;
        for level in 0..4 {
            iova |= self.below(2) << (12 + 9 * level);
        }
        if self.one_in(16) {
            // QEMU dispatches 52 bits.
            iova |= 1 << (39 + self.below(13));
        }
        iova
    }

    fn change_a_table(&mut self) {
        let table = self.table();
        let at = table + self.below(2) * 8;
        let entry = self.entry(table);
        self.poke(at, entry);
    }

    fn change_the_context(&mut self) {
        let at = CONTEXTS + u64::from(EDU.function()) * 16;
        // Three levels begin at the second table, or elsewhere.
        let three = self.below(2);
        let table = if self.one_in(12) {
            self.table()
        } else {
            TABLES + three * 0x1000
        };
        let present = u64::from(!self.one_in(12));
        let kind = if self.one_in(5) { self.below(4) } else { 0 };
        let mut low = table | kind << 2 | present;
        let width = if self.one_in(8) {
            self.below(8)
        } else {
            2 - three
        };
        let mut high = width | (1 + self.below(3)) << 8;
        if self.one_in(10) {
            match self.below(4) {
                0 => low |= 1 << 4,
                1 => high |= 1 << 7,
                2 => high |= 1 << 30,
                _ => low |= 1 << 50,
            }
        } else if self.one_in(8) {
            low |= 2;
        }
        self.poke(at, low);
        self.poke(at + 8, high);
        let root = match self.below(24) {
            0 => CONTEXTS,
            1 => CONTEXTS | 1 << 5 | 1,
            2 => CONTEXTS | 1 << 50 | 1,
            3 => 1 << 40 | 1,
            _ => CONTEXTS | 1,
        };
        self.poke(ROOT, root);
        let high = u64::from(self.one_in(24));
        self.poke(ROOT + 8, high);
    }

    fn submit(&mut self, descriptors: &[[u64; 2]]) {
        let mut tail = self.ours.get_quad(IQT);
        for [low, high] in descriptors {
            self.poke(QUEUE + tail, *low);
            self.poke(QUEUE + tail + 8, *high);
            tail = (tail + 16) % 0x1000;
        }
        self.set_quad(IQT, tail);
    }

    /// Invalidates all that a guest may have changed, in one of the ways there are.
    fn invalidate(&mut self) {
        let queued = self.ours.get(GSTS) & QIE != 0 && self.ours.get(FSTS) & FSTS_IQE == 0;
        if queued {
            let context = if self.one_in(2) {
                1 | 1 << 4
            } else {
                1 | 3 << 4 | u64::from(EDU.0) << 32
            };
            self.submit(&[
                [context, 0],
                [2 | 1 << 4, 0],
                [5 | 1 << 5 | 7 << 32, STATUS],
            ]);
            self.compare_memory(STATUS);
            return;
        }
        if self.ours.get(GSTS) & QIE != 0 {
            self.command(0, QIE);
        }
        self.set_quad(CCMD, ICC | 1 << 61);
        self.set_quad(IOTLB, IVT | 1 << 60);
    }

    /// Clears what was recorded.
    fn clear_faults(&mut self) {
        self.set(FRCD + 12, 1 << 31);
        self.set(FSTS, FSTS_PFO | FSTS_IQE);
        if self.one_in(4) {
            let mask = u32::try_from(self.below(2)).unwrap() << 31;
            self.set(FECTL, mask);
        }
    }

    /// Does the DMA on both sides, and tells whether it went through; a read's bytes are shown where they can be
    /// compared.
    fn access(&mut self, iova: u64, write: bool) -> bool {
        let kind = if write {
            AccessKind::Write
        } else {
            AccessKind::Read
        };
        let found = self.ours.translate(EDU, iova, kind);
        self.last = format!("{iova:#x} {kind:?}: {found:x?}");
        self.qemu.dma(iova, write);
        self.compare_registers();
        let in_memory = |at: &u64| usize::try_from(*at).unwrap() <= common::MEMORY - 8;
        let reached = found
            .ok()
            .map(|translation| translation.address)
            .filter(in_memory);
        match (reached, write) {
            (Some(at), true) => {
                self.ours.poke(at, self.buffer);
                self.compare_memory(at);
            }
            (Some(at), false) => {
                self.buffer = self.ours.peek(at);
                self.untranslated(0x9000, true);
                self.ours.poke(0x9000, self.buffer);
                self.compare_memory(0x9000);
            }
            // What QEMU's device got is nobody's business: its buffer is filled again.
            (None, false) => {
                self.untranslated(DATA, false);
                self.buffer = self.ours.peek(DATA);
            }
            (None, true) => {}
        }
        found.is_ok()
    }

    fn untranslated(&mut self, address: u64, write: bool) {
        self.command(0, TE);
        self.qemu.dma(address, write);
        self.command(TE, 0);
    }
}

#[test]
fn qemu_translates_as_we_do() {
    let scenarios = std::env::var("VTD_STEPS").ok();
    let scenarios = scenarios
        .and_then(|steps| steps.parse().ok())
        .unwrap_or(300);
    let Some(mut pair) = Pair::start(0x9e37_79b9_7f4a_7c15) else {
        eprintln!("skipped: there is no qemu-system-x86_64 here");
        return;
    };
    for page in 0..4_u64 {
        for (small, offset) in [(0, 0), (0x1000, 8)] {
            let at = DATA + page * 0x20_0000 + small + offset;
            pair.poke(at, 0x1111_0000 + at);
        }
    }
    pair.untranslated(DATA, false);
    pair.buffer = pair.ours.peek(DATA);
    pair.command(0, TE);
    pair.set_quad(IQA, QUEUE);
    pair.set_quad(RTADDR, ROOT);
    pair.command(SRTP, 0);
    pair.command(QIE, 0);
    pair.command(TE, 0);
    let (mut reached, mut blocked) = (0, 0);
    for step in 0..scenarios {
        pair.step = step;
        for _ in 0..=pair.below(6) {
            pair.change_a_table();
        }
        if pair.one_in(3) {
            pair.change_the_context();
        }
        pair.clear_faults();
        pair.invalidate();
        for _ in 0..=pair.below(3) {
            let mut iova = pair.iova();
            // QEMU lets all addresses pass, those too that the host does not have.
            if pair.ours.peek(CONTEXTS + u64::from(EDU.function()) * 16) & 0xc == 8 {
                iova &= (1 << 48) - 1;
            }
            let write = pair.one_in(2);
            let ok = pair.access(iova, write);
            reached += u32::from(ok);
            blocked += u32::from(!ok);
            pair.invalidate();
        }
        if pair.ours.get(GSTS) & QIE == 0 && pair.one_in(3) {
            pair.set_quad(IQT, 0);
            pair.command(QIE, 0);
        }
        pair.compare_registers();
    }
    eprintln!("{reached} accesses went through, {blocked} were blocked");
    assert!(reached > scenarios / 8 && blocked > scenarios / 8);
}

#[test]
fn qemu_runs_the_queue_as_we_do() {
    let Some(mut pair) = Pair::start(0x2545_f491_4f6c_dd1d) else {
        eprintln!("skipped: there is no qemu-system-x86_64 here");
        return;
    };
    pair.set_quad(IQA, QUEUE);
    pair.command(QIE, 0);
    let mut errors = 0;
    for step in 0..400 {
        pair.step = step;
        let count = 1 + pair.below(4);
        let mut descriptors = Vec::new();
        for _ in 0..count {
            descriptors.push(pair.descriptor());
        }
        pair.poke(STATUS, 0);
        pair.submit(&descriptors);
        pair.compare_memory(STATUS);
        pair.compare_registers();
        if pair.ours.get(FSTS) & FSTS_IQE != 0 {
            errors += 1;
            // Mend what is left of the queue. QEMU does not go on when the error is cleared.
            let (mut head, tail) = (pair.ours.get_quad(IQH), pair.ours.get_quad(IQT));
            while head != tail {
                pair.poke(QUEUE + head, 5 | 1 << 5 | 9 << 32);
                pair.poke(QUEUE + head + 8, STATUS);
                head = (head + 16) % 0x1000;
            }
            pair.set(FSTS, FSTS_IQE);
            pair.set_quad(IQT, tail);
            pair.compare_registers();
        }
        if pair.one_in(3) {
            pair.set(ICS, ICS_IWC);
        }
        if pair.one_in(5) {
            let mask = u32::try_from(pair.below(2)).unwrap() << 31;
            pair.set(IECTL, mask);
        }
    }
    eprintln!("{errors} queue errors");
    assert!(errors > 20);
}

impl Pair {
    /// Mostly legal.
    fn descriptor(&mut self) -> [u64; 2] {
        let granularity = self.below(4) << 4;
        let domain = self.below(4) << 16;
        let mut descriptor = match self.below(5) {
            0 => [
                1 | granularity | domain | self.below(4) << 48 | u64::from(EDU.0) << 32,
                0,
            ],
            1 => [
                2 | granularity | domain,
                self.below(20) | self.below(2) << 6 | self.below(8) << 12,
            ],
            2 => [5 | 1 << 4, 0],
            3 => [5 | 1 << 5 | self.below(1 << 32) << 32, STATUS],
            _ => [2 | 1 << 4, 0],
        };
        if self.one_in(12) {
            let word = usize::from(self.one_in(2));
            descriptor[word] ^= 1 << self.below(64);
        }
        // With both or neither QEMU departs from the manual.
        if descriptor[0] & 0xf == 5 && matches!(descriptor[0] >> 4 & 3, 0 | 3) {
            descriptor[0] = descriptor[0] & !0x30 | 0x10;
        }
        // A status elsewhere is one that we would not compare.
        if descriptor[0] & 0x2f == 0x25 {
            descriptor[1] = STATUS | descriptor[1] & 3;
        }
        descriptor
    }
}
