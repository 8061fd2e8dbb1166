//! What does a chain cost the device side, beside `virtio-queue` and beside a loop by hand?
//!
//! Pop, walk, complete, publish, decide about the interrupt. The driver's part is the same few raw
//! stores for all, in the same thread, and is included. The loop by hand has cached pointers,
//! the same checks of indices and lengths, a list of the chain's buffers, and nothing else. All are measured in turns in one run;
//! ratios are the result.
#![expect(clippy::print_stdout, reason = "a bench reports")]

use std::hint::black_box;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use virtio_queue::{Queue, QueueT};
use virtqueue::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, VolatileMemory, VolatileSlice};
use virtqueue::{
    Chain, Config, DeviceQueue, DriverQueue, GuestRing, HostRing, Layout, Ring, RingFeatures,
    Segment,
};

criterion_group!(benches, chains);

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

const SIZE: u16 = 256;
const DESCRIPTORS: u64 = 0x1_0000;
const DRIVER: u64 = 0x2_0000;
const DEVICE: u64 = 0x3_0000;
const BUFFERS: u64 = 0x4_0000;

/// Chains in one measurement.
const CHAINS: u32 = 4096;

/// What is asked of every contender.
#[derive(Clone, Copy)]
struct Work {
    length: u16,
    batch: u16,
    event_idx: bool,
}

fn works() -> impl Iterator<Item = Work> {
    [1, 2].into_iter().flat_map(|length| {
        [1, 32].into_iter().flat_map(move |batch| {
            [false, true].map(|event_idx| Work {
                length,
                batch,
                event_idx,
            })
        })
    })
}

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
}

fn config(layout: Layout, work: Work) -> Config {
    Config {
        layout,
        size: SIZE,
        descriptors: DESCRIPTORS,
        driver: DRIVER,
        device: DEVICE,
        features: RingFeatures {
            event_idx: work.event_idx,
            ..RingFeatures::default()
        },
    }
}

/// The driver's part of a split queue: chains lie ready, publishing them is a store or two.
struct RawDriver<'m> {
    driver: VolatileSlice<'m>,
    index: u16,
    event_idx: bool,
}

impl<'m> RawDriver<'m> {
    fn new(memory: &'m GuestMemoryMmap, work: Work) -> Self {
        memory
            .write_slice(&[0; 8192], GuestAddress(DRIVER))
            .unwrap();
        memory
            .write_slice(&[0; 8192], GuestAddress(DEVICE))
            .unwrap();
        for index in 0..u64::from(SIZE) {
            let more = index % u64::from(work.length) + 1 < u64::from(work.length);
            let word = 64 | u64::from(more) << 32 | (index + 1) << 48;
            let at = DESCRIPTORS + 16 * index;
            memory
                .write_obj(BUFFERS + 64 * index, GuestAddress(at))
                .unwrap();
            memory.write_obj(word, GuestAddress(at + 8)).unwrap();
            let head = index * u64::from(work.length) % u64::from(SIZE);
            let head = u16::try_from(head).unwrap();
            memory
                .write_obj(head, GuestAddress(DRIVER + 4 + 2 * index))
                .unwrap();
        }
        let length = usize::from(6 + 2 * SIZE);
        let area = vm_memory_slice(memory, DRIVER, length);
        Self {
            driver: area,
            index: 0,
            event_idx: work.event_idx,
        }
    }

    #[inline(always)]
    fn publish(&mut self, count: u16) {
        if self.event_idx {
            self.word(usize::from(4 + 2 * SIZE))
                .store(self.index, Ordering::Relaxed);
        }
        self.index = self.index.wrapping_add(count);
        self.word(2).store(self.index, Ordering::Release);
    }

    #[inline(always)]
    fn word(&self, at: usize) -> &AtomicU16 {
        self.driver.get_atomic_ref(at).unwrap()
    }
}

fn vm_memory_slice(memory: &GuestMemoryMmap, at: u64, length: usize) -> VolatileSlice<'_> {
    use virtqueue::vm_memory::GuestMemoryBackend;
    memory.get_slice(GuestAddress(at), length).unwrap()
}

/// Something that takes a batch of chains and answers how many bytes they held.
trait Contender {
    fn batch(&mut self, count: u16) -> u64;
}

struct Ours<'m, R> {
    driver: RawDriver<'m>,
    queue: DeviceQueue<R>,
    chain: Chain,
}

impl<R: Ring> Contender for Ours<'_, R> {
    #[inline(always)]
    fn batch(&mut self, count: u16) -> u64 {
        self.driver.publish(count);
        let mut bytes = 0;
        while let Some(head) = self.queue.pop(&mut self.chain).unwrap() {
            black_box(&self.chain);
            bytes += self.chain.readable_bytes();
            self.queue.complete(head, 0).unwrap();
        }
        let _ = black_box(self.queue.flush().unwrap());
        bytes
    }
}

/// The same with the loop in the library.
struct Served<'m>(Ours<'m, HostRing<&'m GuestMemoryMmap>>);

impl Contender for Served<'_> {
    #[inline(always)]
    fn batch(&mut self, count: u16) -> u64 {
        let Ours {
            driver,
            queue,
            chain,
        } = &mut self.0;
        driver.publish(count);
        let mut bytes = 0;
        let served = queue.serve(chain, u16::MAX, |chain| {
            black_box(chain);
            bytes += chain.readable_bytes();
            0
        });
        served.unwrap();
        let _ = black_box(queue.flush().unwrap());
        bytes
    }
}

/// Both sides of a packed queue: there is no driver by hand that would be as honest.
struct Both<'m> {
    driver: DriverQueue<HostRing<&'m GuestMemoryMmap>>,
    device: DeviceQueue<HostRing<&'m GuestMemoryMmap>>,
    chain: Chain,
    length: u16,
}

impl Contender for Both<'_> {
    fn batch(&mut self, count: u16) -> u64 {
        let buffer = Segment {
            address: GuestAddress(BUFFERS),
            length: 64,
        };
        let buffers = [buffer; 2];
        for _ in 0..count {
            self.driver
                .add(&buffers[..usize::from(self.length)], &[])
                .unwrap();
        }
        let _ = black_box(self.driver.publish().unwrap());
        let mut bytes = 0;
        while let Some(head) = self.device.pop(&mut self.chain).unwrap() {
            bytes += self.chain.readable_bytes();
            self.device.complete(head, 0).unwrap();
        }
        let _ = black_box(self.device.flush().unwrap());
        while black_box(self.driver.take_used().unwrap()).is_some() {}
        bytes
    }
}

struct VirtioQueue<'m> {
    driver: RawDriver<'m>,
    memory: &'m GuestMemoryMmap,
    queue: Queue,
}

impl Contender for VirtioQueue<'_> {
    #[inline(always)]
    fn batch(&mut self, count: u16) -> u64 {
        self.driver.publish(count);
        let mut bytes = 0;
        while let Some(chain) = self.queue.pop_descriptor_chain(self.memory) {
            let head = chain.head_index();
            bytes += chain.map(|d| u64::from(d.len())).sum::<u64>();
            self.queue.add_used(self.memory, head, 0).unwrap();
        }
        let _ = black_box(self.queue.needs_notification(self.memory).unwrap());
        bytes
    }
}

/// The loop by hand.
struct ByHand<'m> {
    driver: RawDriver<'m>,
    descriptors: *const AtomicU64,
    avail: *const AtomicU16,
    used: *const AtomicU16,
    elements: *const AtomicU32,
    next: u16,
    event_idx: bool,
    /// The buffers of a chain, as a device wants them before it begins.
    buffers: Box<[(u64, u32)]>,
}

impl<'m> ByHand<'m> {
    fn new(memory: &'m GuestMemoryMmap, work: Work) -> Self {
        let at = |address| vm_memory_slice(memory, address, 8192).ptr_guard().as_ptr();
        let used = at(DEVICE);
        Self {
            driver: RawDriver::new(memory, work),
            descriptors: at(DESCRIPTORS).cast(),
            avail: at(DRIVER).cast(),
            used: used.cast(),
            elements: used.cast(),
            next: 0,
            event_idx: work.event_idx,
            buffers: vec![(0, 0); usize::from(SIZE)].into(),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "fields are cut out of words"
)]
impl Contender for ByHand<'_> {
    #[inline(always)]
    fn batch(&mut self, count: u16) -> u64 {
        self.driver.publish(count);
        let mut bytes = 0;
        let buffers = &mut *self.buffers;
        // SAFETY: `avail` points at the available ring, which is in the memory that `driver` borrows.
        let avail = unsafe { std::slice::from_raw_parts(self.avail, usize::from(SIZE) + 3) };
        let descriptors =
            // SAFETY: as above, for the descriptor table of `SIZE` entries.
            unsafe { std::slice::from_raw_parts(self.descriptors, 2 * usize::from(SIZE)) };
        // SAFETY: as above, for the used ring.
        let used = unsafe { std::slice::from_raw_parts(self.used, 4 * usize::from(SIZE) + 3) };
        let elements =
            // SAFETY: as above; the ring begins at a multiple of 4.
            unsafe { std::slice::from_raw_parts(self.elements, 2 * usize::from(SIZE) + 1) };
        let mut next = self.next;
        let old = next;
        let index = avail[1].load(Ordering::Acquire);
        if index.wrapping_sub(next) > SIZE {
            return 0;
        }
        while next != index {
            let slot = usize::from(next & (SIZE - 1));
            let head = load(avail, 2 + slot);
            if head >= SIZE {
                return 0;
            }
            let mut at = usize::from(head);
            let mut left = SIZE;
            loop {
                let address = load64(descriptors, 2 * at);
                let word = load64(descriptors, 2 * at + 1);
                let place = usize::from(SIZE - left);
                // SAFETY: `left` is at least 1 here, so `place` is below `SIZE`.
                *unsafe { buffers.get_unchecked_mut(place) } = (address, word as u32);
                bytes += u64::from(word as u32);
                let (flags, following) = ((word >> 32) as u16, (word >> 48) as u16);
                left -= 1;
                if flags & 1 == 0 {
                    break;
                }
                if following >= SIZE || left == 0 {
                    return 0;
                }
                at = usize::from(following);
            }
            black_box(&*buffers);
            store32(elements, 1 + 2 * slot, u32::from(head));
            store32(elements, 2 + 2 * slot, 0);
            next = next.wrapping_add(1);
        }
        self.next = next;
        used[1].store(next, Ordering::Release);
        fence(Ordering::SeqCst);
        let interrupt = if self.event_idx {
            let event = load(avail, 2 + usize::from(SIZE));
            next.wrapping_sub(event).wrapping_sub(1) < next.wrapping_sub(old)
        } else {
            load(avail, 0) & 1 == 0
        };
        let _ = black_box(interrupt);
        bytes
    }
}

#[inline(always)]
fn load(words: &[AtomicU16], at: usize) -> u16 {
    // SAFETY: callers keep `at` below the slice's length: slots are masked, heads checked.
    unsafe { words.get_unchecked(at) }.load(Ordering::Relaxed)
}

#[inline(always)]
fn load64(words: &[AtomicU64], at: usize) -> u64 {
    // SAFETY: as in `load`.
    unsafe { words.get_unchecked(at) }.load(Ordering::Relaxed)
}

#[inline(always)]
fn store32(words: &[AtomicU32], at: usize, value: u32) {
    // SAFETY: as in `load`.
    unsafe { words.get_unchecked(at) }.store(value, Ordering::Relaxed);
}

fn ours(memory: &GuestMemoryMmap, work: Work) -> Ours<'_, HostRing<&GuestMemoryMmap>> {
    let config = config(Layout::Split, work).activate().unwrap();
    Ours {
        driver: RawDriver::new(memory, work),
        queue: DeviceQueue::new(&config, HostRing::new(&config, memory).unwrap()),
        chain: Chain::new(&config),
    }
}

fn looked_up(memory: &GuestMemoryMmap, work: Work) -> Ours<'_, GuestRing<&GuestMemoryMmap>> {
    let config = config(Layout::Split, work).activate().unwrap();
    Ours {
        driver: RawDriver::new(memory, work),
        queue: DeviceQueue::new(&config, GuestRing::new(&config, memory)),
        chain: Chain::new(&config),
    }
}

fn both(layout: Layout, memory: &GuestMemoryMmap, work: Work) -> Both<'_> {
    let config = config(layout, work).activate().unwrap();
    let ring = || HostRing::new(&config, memory).unwrap();
    Both {
        driver: DriverQueue::new(&config, ring(), None).unwrap(),
        device: DeviceQueue::new(&config, ring()),
        chain: Chain::new(&config),
        length: work.length,
    }
}

fn virtio_queue(memory: &GuestMemoryMmap, work: Work) -> VirtioQueue<'_> {
    let mut queue = Queue::new(SIZE).unwrap();
    queue
        .try_set_desc_table_address(GuestAddress(DESCRIPTORS))
        .unwrap();
    queue
        .try_set_avail_ring_address(GuestAddress(DRIVER))
        .unwrap();
    queue
        .try_set_used_ring_address(GuestAddress(DEVICE))
        .unwrap();
    queue.set_event_idx(work.event_idx);
    queue.set_ready(true);
    VirtioQueue {
        driver: RawDriver::new(memory, work),
        memory,
        queue,
    }
}

/// Nanoseconds per chain.
fn time(contender: &mut impl Contender, work: Work) -> f64 {
    let batches = CHAINS / u32::from(work.batch);
    let begin = Instant::now();
    for _ in 0..batches {
        let bytes = contender.batch(work.batch);
        assert_eq!(
            bytes,
            64 * u64::from(work.length) * u64::from(work.batch),
            "all chains came"
        );
    }
    begin.elapsed().as_secs_f64() * 1e9 / f64::from(CHAINS)
}

fn report(rounds: usize) {
    println!(
        "ns per chain, medians of {rounds} rounds; ratios are medians of each round's ratio\n\
         chain batch suppression | by hand  serve    pop  pop, looked up  virtio-queue | serve, pop / by hand | virtio-queue / serve, pop | both sides: split packed"
    );
    for work in works() {
        let memories = [(); 7].map(|()| memory());
        let mut hand = ByHand::new(&memories[0], work);
        let mut served = Served(ours(&memories[6], work));
        let mut ours = ours(&memories[1], work);
        let mut looked_up = looked_up(&memories[2], work);
        let mut peer = virtio_queue(&memories[3], work);
        let mut split = both(Layout::Split, &memories[4], work);
        let mut packed = both(Layout::Packed, &memories[5], work);
        let mut samples: [Vec<f64>; 11] = Default::default();
        for _ in 0..rounds {
            let times = [
                time(&mut hand, work),
                time(&mut served, work),
                time(&mut ours, work),
                time(&mut looked_up, work),
                time(&mut peer, work),
                time(&mut split, work),
                time(&mut packed, work),
            ];
            let ratios = [
                times[1] / times[0],
                times[2] / times[0],
                times[4] / times[1],
                times[4] / times[2],
            ];
            for (samples, value) in samples.iter_mut().zip(times.iter().chain(&ratios)) {
                samples.push(*value);
            }
        }
        let [
            hand,
            served,
            popped,
            looked_up,
            peer,
            split,
            packed,
            a,
            b,
            c,
            d,
        ] = samples.map(median);
        let suppression = if work.event_idx { "event" } else { "flags" };
        println!(
            "{:5} {:5} {suppression:>11} | {hand:7.2} {served:6.2} {popped:6.2} {looked_up:15.2} {peer:13.2} | {a:12.2} {b:7.2} | {c:17.1} {d:7.1} | {split:17.2} {packed:6.2}",
            work.length, work.batch
        );
    }
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// The same for the record.
fn chains(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("virtqueue");
    group.warm_up_time(Duration::from_millis(200));
    group.measurement_time(Duration::from_millis(800));
    for work in works().filter(|work| work.length == 1) {
        let memory = memory();
        let id = format!("batch-{}-event-{}", work.batch, work.event_idx);
        group.throughput(Throughput::Elements(u64::from(work.batch)));
        let mut queue = ours(&memory, work);
        group.bench_function(BenchmarkId::new("ours", &id), |bencher| {
            bencher.iter(|| queue.batch(work.batch));
        });
        let mut queue = virtio_queue(&memory, work);
        group.bench_function(BenchmarkId::new("virtio-queue", &id), |bencher| {
            bencher.iter(|| queue.batch(work.batch));
        });
    }
    group.finish();
}
