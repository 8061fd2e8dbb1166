//! QEMU's e1000 beside ours: the same registers, rings and frames, one step after the other.
//!
//! QEMU runs with its processor halted and is driven through its qtest protocol; frames pass through
//! unix datagram sockets. Where QEMU is not installed the test says so and passes.
//!
//! Left out, because the two differ and we know why: timers (QEMU's run on the host's clock), reserved
//! bits, what `Compat` and the README list as not followed, and statistics: QEMU does not count frames
//! that are filtered (TPR, TORL), the bytes of inserted tags (TOTL), or segmented packets of one segment
//! (TSCTC), and takes broadcasts that RCTL.MPE let through for multicasts (BPRC, MPRC).

mod common;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use common::{
    EOP, IFCS, MAC, Machine, RING, RS, RX_RING, TSE, TX_BUFFERS, TX_RING, VLE, context, data,
    legacy, tcp,
};
use e1000::registers::*;
use e1000::vm_memory::{Bytes, GuestAddress};
use e1000::{Compat, RxOutcome};

/// QEMU with a halted processor and one e1000 at 00:04.0.
struct Qemu {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    wire: UnixDatagram,
    _directory: tempfile::TempDir,
}

/// Steps between two writes of RCTL.
const PHASE: u32 = 1_250;
const BAR: u64 = 0xfebc_0000;

impl Qemu {
    /// `None` where there is no QEMU.
    fn start() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        // At the reset vector: cli, hlt, and again.
        let mut rom = vec![0xf4; 0x1_0000];
        rom[0xfff0..0xfff4].copy_from_slice(&[0xfa, 0xf4, 0xeb, 0xfd]);
        std::fs::write(path("halt.bin"), rom).unwrap();
        let wire = UnixDatagram::bind(path("peer")).unwrap();
        let mut process = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg", "-machine", "pc", "-m", "64", "-nodefaults"])
            .args(["-display", "none", "-monitor", "none", "-serial", "none"])
            .arg("-bios")
            .arg(path("halt.bin"))
            .arg("-netdev")
            .arg(format!(
                "dgram,id=n0,local.type=unix,local.path={},remote.type=unix,remote.path={}",
                path("qemu").display(),
                path("peer").display()
            ))
            .args(["-device", "e1000,netdev=n0,mac=52:54:00:12:34:56,addr=4"])
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
            wire,
            _directory: directory,
        };
        qemu.configure();
        let there = qemu.wire.connect(qemu.socket());
        there.expect("QEMU bound its socket before it answered");
        qemu.wire.set_nonblocking(true).unwrap();
        Some(qemu)
    }

    fn socket(&self) -> impl AsRef<Path> + use<> {
        self._directory.path().join("qemu")
    }

    fn command(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap();
        loop {
            let mut answer = String::new();
            self.output.read_line(&mut answer).unwrap();
            if let Some(rest) = answer.strip_prefix("OK") {
                return rest.trim().to_owned();
            }
            assert!(answer.starts_with("IRQ"), "{line}: {answer}");
        }
    }

    fn configure(&mut self) {
        for (register, value) in [(0x10, BAR), (0x14, 0xc000), (0x04, 7)] {
            let address = 0x8000_2000_u64 | register;
            self.command(&format!("outl 0xcf8 {address:#x}"));
            self.command(&format!("outl 0xcfc {value:#x}"));
        }
    }

    fn set(&mut self, register: u32, value: u32) {
        let address = BAR + u64::from(register);
        self.command(&format!("writel {address:#x} {value:#x}"));
    }

    fn get(&mut self, register: u32) -> u32 {
        let address = BAR + u64::from(register);
        let answer = self.command(&format!("readl {address:#x}"));
        u32::from_str_radix(answer.trim_start_matches("0x"), 16).unwrap()
    }

    /// INTA#, by way of the status register of the configuration space.
    fn interrupt(&mut self) -> bool {
        self.command("outl 0xcf8 0x80002004");
        let answer = self.command("inl 0xcfc");
        let value = u32::from_str_radix(answer.trim_start_matches("0x"), 16).unwrap();
        value & 1 << 19 != 0
    }

    fn write(&mut self, address: u64, bytes: &[u8]) {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.command(&format!("write {address:#x} {:#x} 0x{hex}", bytes.len()));
    }

    fn read(&mut self, address: u64, length: usize) -> Vec<u8> {
        let answer = self.command(&format!("read {address:#x} {length:#x}"));
        let hex = answer.trim_start_matches("0x");
        (0..length)
            .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
            .collect()
    }

    fn frames(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = vec![0; 0x2_0000];
        while let Ok(length) = self.wire.recv(&mut buffer) {
            frames.push(buffer[..length].to_vec());
        }
        frames
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
    ours: Machine,
    qemu: Qemu,
    random: u64,
    step: u32,
}

impl Pair {
    fn new(qemu: Qemu, seed: u64) -> Self {
        let mut pair = Self {
            ours: Machine::new(Compat::Qemu),
            qemu,
            random: seed,
            step: 0,
        };
        for (register, value) in [
            (TDBAL, u32::try_from(TX_RING).unwrap()),
            (TDLEN, 16 * RING),
            (RDBAL, u32::try_from(RX_RING).unwrap()),
            (RDLEN, 16 * RING),
            (TCTL, TCTL_EN),
            (RCTL, RCTL_EN | RCTL_BAM),
            (RDT, RING - 1),
        ] {
            pair.set(register, value);
        }
        let mut ring = vec![0; 16 * usize::try_from(RING).unwrap()];
        pair.ours
            .memory
            .read_slice(&mut ring, GuestAddress(RX_RING))
            .unwrap();
        pair.qemu.write(RX_RING, &ring);
        pair
    }

    /// New receive modes. QEMU holds frames back for a second after each write of RCTL, and its link
    /// comes up by a timer.
    fn begin_phase(&mut self) {
        let bits = u32::try_from(self.below(1 << 32)).unwrap();
        let modes = RCTL_UPE | RCTL_MPE | RCTL_LPE | RCTL_BAM | RCTL_VFE | RCTL_SECRC;
        let fields = 3 << RCTL_MO_SHIFT | 3 << RCTL_RDMTS_SHIFT;
        self.set(RCTL, bits & (modes | fields) | RCTL_EN);
        std::thread::sleep(Duration::from_millis(1_100));
        self.qemu.get(ICR);
        self.ours.get(ICR);
    }

    /// Marsaglia's xorshift64.
    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }

    fn set(&mut self, register: u32, value: u32) {
        self.ours.set(register, value);
        self.qemu.set(register, value);
    }

    fn compare(&mut self, register: u32) -> u32 {
        let (ours, theirs) = (self.ours.get(register), self.qemu.get(register));
        assert_eq!(
            ours,
            theirs,
            "step {}, {} ({register:#x})",
            self.step,
            name(register)
        );
        ours
    }

    fn place(&mut self, address: u64, bytes: &[u8]) {
        self.ours
            .memory
            .write_slice(bytes, GuestAddress(address))
            .unwrap();
        self.qemu.write(address, bytes);
    }

    fn run(&mut self, steps: u32) {
        for step in 0..steps {
            self.step = step;
            if step.is_multiple_of(PHASE) {
                self.begin_phase();
            }
            match self.below(8) {
                0 => self.write_a_register(),
                1 => self.interrupt_causes(),
                2..=4 => self.transmit(),
                5..=6 => self.receive(),
                _ => self.read_registers(),
            }
            // QEMU spaces interrupts by 128 us of the host's time, whatever ITR says.
            let ours = self.ours.nic.interrupt();
            let agree = (0..100).any(|_| self.qemu.interrupt() == ours);
            assert!(agree, "step {step}: INTA# should be {ours}");
        }
    }

    fn write_a_register(&mut self) {
        let value = u32::try_from(self.below(1 << 32)).unwrap();
        let word = u32::try_from(self.below(128)).unwrap();
        match 1 + self.below(7) {
            1 => self.set(MTA + 4 * word, value),
            2 => self.set(VFTA + 4 * word, value),
            3 => self.set(RAL + 8, value),
            4 => self.set(RAL + 12, value & 0x8000_ffff),
            5 => {
                let control = self.compare(CTRL);
                self.set(CTRL, control & !CTRL_VME | value & CTRL_VME);
            }
            // The first three words are the address; the rest of the contents is the maker's.
            6 => self.set(EERD, (value % 3) << 8 | 1),
            _ => self.set(IMS, value & (ICR_TXDW | ICR_RXT0 | ICR_LSC | ICR_RXDMT0)),
        }
    }

    fn interrupt_causes(&mut self) {
        let value = 1 << self.below(8) & ICR_CAUSES;
        match self.below(4) {
            0 => self.set(ICS, value),
            1 => self.set(IMC, value),
            2 => self.set(ICR, value),
            _ => drop(self.compare(ICR)),
        }
    }

    fn read_registers(&mut self) {
        for register in [
            CTRL, STATUS, IMS, RCTL, TCTL, RDBAL, RDLEN, RDH, RDT, TDBAL, TDLEN, TDH, TDT, VET,
            PBA, EERD, GPTC, TPT, GPRC, BPTC, MPTC,
        ] {
            self.compare(register);
        }
        let register = u32::try_from(self.below(128)).unwrap();
        self.compare(MTA + 4 * register);
        self.compare(VFTA + 4 * register);
    }

    /// Bytes of a frame: a TCP packet whose first byte is sometimes to many.
    fn frame(&mut self, length: usize) -> Vec<u8> {
        let mut frame: Vec<u8> = (0..length)
            .map(|_| self.below(256).to_le_bytes()[0])
            .collect();
        let destination = match self.below(5) {
            0 => [0xff; 6],
            1 => MAC,
            2 => [0x01, 0, 0x5e, 1, 2, self.below(8).to_le_bytes()[0]],
            _ => [2, 2, 2, 2, 2, 2],
        };
        let count = length.min(6);
        frame[..count].copy_from_slice(&destination[..count]);
        if length >= 34 {
            frame[12..15].copy_from_slice(&[8, 0, 0x45]);
            if self.below(3) == 0 {
                frame[12..14].copy_from_slice(&[0x81, 0]);
            }
        }
        frame
    }

    /// A packet of a few descriptors of any kind.
    fn transmit(&mut self) {
        let length = usize::try_from(20 + self.below(2_500)).unwrap();
        let bytes = self.frame(length);
        self.place(TX_BUFFERS, &bytes);
        let length = u32::try_from(length).unwrap();
        let special = self.below(1 << 16) << 48;
        let last = EOP | if self.below(4) == 0 { 0 } else { RS };
        let mut descriptors = match self.below(3) {
            0 => {
                let command = last | IFCS | if self.below(2) == 0 { VLE } else { 0 };
                vec![legacy(TX_BUFFERS, u16::try_from(length).unwrap(), command)]
            }
            1 => {
                let mut fields = tcp(0, 0);
                fields.command &= !TSE;
                let half = length / 2;
                let options = u8::try_from(self.below(4)).unwrap();
                vec![
                    context(fields),
                    data(TX_BUFFERS, half, 0, options),
                    data(TX_BUFFERS + u64::from(half), length - half, last, 0),
                ]
            }
            _ => {
                let segment = u16::try_from(100 + self.below(900)).unwrap();
                let length = length.max(60);
                let payload = length - 54;
                vec![
                    context(tcp(payload, segment)),
                    data(TX_BUFFERS, length, TSE | last, 3),
                ]
            }
        };
        if let Some([_, word]) = descriptors.last_mut() {
            *word |= special;
        }
        let mut tail = self.compare(TDT);
        let first = tail;
        for [address, word] in &descriptors {
            let at = TX_RING + 16 * u64::from(tail);
            let bytes = [address.to_le_bytes(), word.to_le_bytes()].concat();
            self.place(at, &bytes);
            tail = (tail + 1) % RING;
        }
        self.ours.sent.clear();
        self.set(TDT, tail);
        self.compare(TDH);
        let theirs = self.qemu.frames();
        let ours = std::mem::take(&mut self.ours.sent);
        let lengths = |frames: &[Vec<u8>]| frames.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(
            lengths(&ours),
            lengths(&theirs),
            "step {}: lengths",
            self.step
        );
        for (index, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            assert_eq!(ours, theirs, "step {}: frame {index}", self.step);
        }
        for slot in 0..u32::try_from(descriptors.len()).unwrap() {
            let at = u64::from((first + slot) % RING);
            let theirs = self.qemu.read(TX_RING + 16 * at + 12, 1);
            assert_eq!(
                self.ours.tx_status(at),
                theirs[0],
                "step {}: status",
                self.step
            );
        }
    }

    fn receive(&mut self) {
        let length = usize::try_from(14 + self.below(1_600)).unwrap();
        let frame = self.frame(length);
        let before = self.compare(RDH);
        self.qemu.wire.send(&frame).unwrap();
        let outcome = self.ours.receive(&frame);
        let after = self.ours.get(RDH);
        // QEMU takes the frame in its own time; one that is filtered changes nothing to wait for.
        for _ in 0..200 {
            let seen = self.qemu.get(RDH);
            if seen == after && (seen != before || outcome != RxOutcome::Delivered) {
                break;
            }
        }
        for _ in 0..3 {
            let theirs = self.qemu.get(RDH);
            assert_eq!(
                after,
                theirs,
                "step {}: RDH, {outcome:?}, {length} bytes, {:x?}, RCTL {:#x}",
                self.step,
                &frame[..14],
                self.ours.get(RCTL)
            );
        }
        if outcome == RxOutcome::Delivered {
            let slot = u64::from(before);
            let (length, status, special, bytes) = self.ours.received(slot);
            let theirs = self.qemu.read(RX_RING + 16 * slot, 16);
            let u16_at = |at: usize| u16::from_le_bytes([theirs[at], theirs[at + 1]]);
            let step = self.step;
            assert_eq!(
                (length, status),
                (u16_at(8), theirs[12]),
                "step {step}: descriptor"
            );
            if status & 8 != 0 {
                assert_eq!(special, u16_at(14), "step {step}: tag");
            }
            let buffer = u64::from_le_bytes(theirs[..8].try_into().unwrap());
            // QEMU leaves the check sequence as it was.
            let bytes = &bytes
                [..bytes.len().min(frame.len().max(60)) - if status & 8 != 0 { 4 } else { 0 }];
            assert_eq!(
                bytes,
                self.qemu.read(buffer, bytes.len()),
                "step {step}: bytes"
            );
        }
        // As drivers do: QEMU adds to the status that it finds.
        for slot in 0..u64::from(RING) {
            self.place(RX_RING + 16 * slot + 8, &[0; 8]);
        }
        let tail = (after + RING - 1) % RING;
        self.set(RDT, tail);
    }
}

#[test]
fn ten_thousand_steps_like_qemu() {
    let steps = std::env::var("E1000_STEPS").ok();
    let steps = steps.and_then(|steps| steps.parse().ok()).unwrap_or(10_000);
    let Some(qemu) = Qemu::start() else {
        eprintln!("skipped: there is no qemu-system-x86_64 here");
        return;
    };
    Pair::new(qemu, 0x9e37_79b9_7f4a_7c15).run(steps);
}
