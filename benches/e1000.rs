//! What does a frame cost the adapter's model, beside a copy of the same bytes?
//!
//! A batch of 32 frames: descriptors written, the bell rung, frames handed out or in. The copy is from
//! guest memory into a buffer of the host's. All are measured in turns in one run; criterion's own
//! figures follow for the record.
#![expect(clippy::print_stdout, reason = "a bench reports")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use e1000::registers::*;
use e1000::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use e1000::{Compat, E1000, E1000Config, RxOutcome};

criterion_group!(benches, frames);

fn main() {
    let rounds = if std::env::args().any(|argument| argument == "--test") {
        1
    } else {
        101
    };
    report(rounds);
    benches();
    Criterion::default().configure_from_args().final_summary();
}

const TX_RING: u64 = 0x1000;
const RX_RING: u64 = 0x3000;
const BUFFERS: u64 = 0x1_0000;
const RING: u32 = 256;
/// Packets in a batch.
const BATCH: u32 = 32;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Frames of this length from legacy descriptors.
    Send(u16),
    /// Packets of 64 KiB in segments of 1460, with checksums.
    Segment,
    /// Frames of this length.
    Receive(u16),
}

const WORKS: [Work; 5] = [
    Work::Send(60),
    Work::Send(1500),
    Work::Segment,
    Work::Receive(60),
    Work::Receive(1500),
];

/// Payload of a segmented packet.
const PAYLOAD: u32 = 0xfa00;

impl Work {
    fn name(self) -> String {
        match self {
            Self::Send(length) => format!("send {length} B"),
            Self::Segment => "segment 64000 B".to_owned(),
            Self::Receive(length) => format!("receive {length} B"),
        }
    }

    /// Bytes of guest memory that pass for each packet.
    fn bytes(self) -> usize {
        match self {
            Self::Send(length) | Self::Receive(length) => usize::from(length),
            Self::Segment => usize::try_from(PAYLOAD + 54).unwrap(),
        }
    }

    /// The descriptors of a packet.
    fn descriptors(self) -> Vec<[u64; 2]> {
        match self {
            Self::Send(length) => vec![[BUFFERS, u64::from(length) | 0x0b << 24]],
            Self::Segment => {
                let context = [
                    14 | 24 << 8 | 33 << 16 | 34 << 32 | 50 << 40,
                    u64::from(PAYLOAD) | 0x27 << 24 | 54 << 40 | 1460 << 48,
                ];
                let data = u64::from(PAYLOAD + 54) | 1 << 20 | 0x2d << 24 | 3 << 40;
                vec![context, [BUFFERS, data]]
            }
            Self::Receive(_) => Vec::new(),
        }
    }
}

struct Adapter {
    nic: E1000,
    memory: GuestMemoryMmap,
    descriptors: Vec<[u64; 2]>,
    frame: Vec<u8>,
    tail: u32,
    work: Work,
}

impl Adapter {
    fn new(work: Work) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
        let mac = [0x52, 0x54, 0, 0, 0, 1];
        let compat = Compat::Datasheet;
        let mut nic = E1000::new(E1000Config { mac, compat });
        let registers = [
            (TDBAL, 0x1000),
            (TDLEN, 16 * RING),
            (RDBAL, 0x3000),
            (RDLEN, 16 * RING),
            (RDT, RING - 1),
            (TCTL, TCTL_EN | TCTL_PSP),
            (RCTL, RCTL_EN | RCTL_BAM | RCTL_SECRC),
        ];
        for (register, value) in registers {
            nic.write(register.into(), &u32::to_le_bytes(value));
        }
        for slot in 0..u64::from(RING) {
            let buffer = [BUFFERS + 0x800 * slot, 0];
            memory
                .write_obj(buffer, GuestAddress(RX_RING + 16 * slot))
                .unwrap();
        }
        let mut frame = vec![0xff; work.bytes().min(1514)];
        frame[12..14].copy_from_slice(&[8, 0]);
        memory
            .write_slice(&[0x45; 64], GuestAddress(BUFFERS))
            .unwrap();
        Self {
            nic,
            memory,
            descriptors: work.descriptors(),
            frame,
            tail: 0,
            work,
        }
    }

    /// A batch; the bytes that went through.
    fn batch(&mut self) -> usize {
        let mut bytes = 0;
        if let Work::Receive(_) = self.work {
            for _ in 0..BATCH {
                let outcome = self.nic.receive(&self.memory, black_box(&self.frame));
                assert_eq!(outcome, RxOutcome::Delivered);
                bytes += self.frame.len();
            }
            self.tail = (self.tail + BATCH) % RING;
            let tail = (self.tail + RING - 1) % RING;
            self.nic.write(RDT.into(), &tail.to_le_bytes());
            return bytes;
        }
        for _ in 0..BATCH {
            for descriptor in &self.descriptors {
                let at = GuestAddress(TX_RING + 16 * u64::from(self.tail));
                self.memory.write_obj(*descriptor, at).unwrap();
                self.tail = (self.tail + 1) % RING;
            }
        }
        self.nic.write(TDT.into(), &self.tail.to_le_bytes());
        self.nic
            .process(&self.memory, &mut |frame| bytes += black_box(frame).len());
        bytes
    }
}

fn copies(memory: &GuestMemoryMmap, into: &mut [u8]) {
    for _ in 0..BATCH {
        memory.read_slice(into, GuestAddress(BUFFERS)).unwrap();
        black_box(&*into);
    }
}

/// Nanoseconds per packet.
fn time(mut batch: impl FnMut()) -> f64 {
    let begin = Instant::now();
    for _ in 0..8 {
        batch();
    }
    begin.elapsed().as_secs_f64() * 1e9 / f64::from(8 * BATCH)
}

fn report(rounds: usize) {
    println!(
        "ns per packet, medians of {rounds} rounds\n{:16} {:>8} {:>8} {:>6}",
        "", "model", "copy", "ratio"
    );
    for work in WORKS {
        let mut adapter = Adapter::new(work);
        let mut buffer = vec![0; work.bytes()];
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
        let (mut model, mut copy) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            model.push(time(|| {
                assert!(adapter.batch() >= work.bytes());
            }));
            copy.push(time(|| copies(&memory, &mut buffer)));
        }
        let (model, copy) = (median(model), median(copy));
        println!(
            "{:16} {model:8.1} {copy:8.1} {:6.1}",
            work.name(),
            model / copy
        );
    }
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("e1000");
    group.warm_up_time(Duration::from_millis(200));
    group.measurement_time(Duration::from_millis(800));
    for work in WORKS {
        let mut adapter = Adapter::new(work);
        let bytes = work.bytes() * usize::try_from(BATCH).unwrap();
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(work.name()), |bencher| {
            bencher.iter(|| adapter.batch());
        });
    }
    group.finish();
}
