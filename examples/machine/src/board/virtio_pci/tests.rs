use std::sync::Arc;

use virtqueue::{DriverQueue, Segment};
use vm_memory::GuestAddress;

use super::*;
use crate::kernel::allocate_ram;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];

fn device() -> VirtioPci {
    device_and_function().0
}

fn device_and_function() -> (VirtioPci, ConfigSpace) {
    let ram = allocate_ram(1 << 20).unwrap();
    let memory = Rc::new(Dma::new(ram.clone()));
    let rings = RingMemory::Plain(Arc::new(ram));
    VirtioPci::new(MAC, NetFeatures::ALL, rings, memory, true)
}

/// The level of INTA#, and the messages' data.
fn interrupt(device: &mut VirtioPci, function: &ConfigSpace) -> (bool, Vec<u32>) {
    let mut messages = Vec::new();
    let level = device.interrupt(function, &mut |message| messages.push(message.data));
    (level, messages)
}

fn set(device: &mut VirtioPci, offset: u64, value: u32, length: usize) {
    device.write(COMMON + offset, &value.to_le_bytes()[..length]);
}

fn get(device: &mut VirtioPci, offset: u64, length: usize) -> u32 {
    let mut bytes = [0; 4];
    device.read(COMMON + offset, &mut bytes[..length]);
    u32::from_le_bytes(bytes)
}

/// What a driver does up to `DRIVER_OK`, with the transmit queue alone.
fn start(device: &mut VirtioPci, features: NetFeatures) {
    set(device, 0x14, 1, 1);
    set(device, 0x14, 3, 1);
    for half in 0..2 {
        let bits = features.0 >> (32 * half) & 0xffff_ffff;
        set(device, 0x08, half, 4);
        set(device, 0x0c, u32::try_from(bits).unwrap(), 4);
    }
    set(device, 0x14, 0xb, 1);
    assert_eq!(get(device, 0x14, 1) & 8, 8, "FEATURES_OK");
    set(device, 0x16, TRANSMIT, 2);
    for (register, address) in [(0x20, 0x1000), (0x28, 0x3000), (0x30, 0x4000)] {
        set(device, register, address, 4);
        set(device, register + 4, 0, 4);
    }
    set(device, 0x1c, 1, 2);
    set(device, 0x14, 0xf, 1);
}

#[test]
fn a_driver_starts_the_device_and_sends() {
    let (mut device, function) = device_and_function();
    start(&mut device, NetFeatures::VERSION_1);
    send(&mut device);
    assert_eq!(interrupt(&mut device, &function), (true, vec![]));
    let mut isr = [0];
    device.read(ISR, &mut isr);
    assert_eq!(isr, [1]);
    assert_eq!(interrupt(&mut device, &function), (false, vec![]));
    assert_eq!(device.exits().kicks, [0, 1, 0]);
}

/// A packet through the transmit queue, as its only one.
fn send(device: &mut VirtioPci) {
    let config = *device.queues.running(TRANSMIT).expect("it runs").config();
    let ring = device.rings.ring(&config).unwrap();
    let mut driver = DriverQueue::new(&config, ring, None).unwrap();
    let packet = Segment {
        address: GuestAddress(0x8000),
        length: 76,
    };
    driver.add(&[packet], &[]).unwrap();
    assert!(driver.publish().unwrap().is_due());
    device.write(NOTIFY + 4, &[1, 0]);
    assert!(device.has_work());
    let mut lengths = Vec::new();
    device.process(&mut |frame| lengths.push(frame.len()));
    assert_eq!(lengths, [64]);
}

/// Finds MSI-X and switches it on.
fn enable_messages(function: &mut ConfigSpace) {
    let mut at = [0x34];
    function.read(0x34, &mut at);
    loop {
        let mut head = [0; 2];
        function.read(at[0].into(), &mut head);
        if head[0] == 0x11 {
            break;
        }
        at[0] = head[1];
    }
    function.write(u16::from(at[0]) + 2, &0x8000_u16.to_le_bytes());
}

#[test]
fn each_queue_sends_the_message_of_its_vector() {
    let (mut device, mut function) = device_and_function();
    enable_messages(&mut function);
    set(&mut device, 0x16, TRANSMIT, 2);
    set(&mut device, 0x1a, 2, 2);
    assert_eq!(get(&mut device, 0x1a, 2), 2);
    start(&mut device, NetFeatures::VERSION_1);
    let entry = [0xfee0_0000, 0, 0x55, 0].map(u32::to_le_bytes);
    for (word, offset) in entry.iter().zip((TABLE + 32..).step_by(4)) {
        device.write(offset, word);
    }
    send(&mut device);
    assert_eq!(interrupt(&mut device, &function), (false, vec![0x55]));
    assert_eq!(interrupt(&mut device, &function), (false, vec![]));
    let mut isr = [0];
    device.read(ISR, &mut isr);
    assert_eq!(isr, [0], "4.1.4.5: messages leave it alone");
}

#[test]
fn a_masked_message_waits() {
    let (mut device, mut function) = device_and_function();
    enable_messages(&mut function);
    set(&mut device, 0x16, TRANSMIT, 2);
    set(&mut device, 0x1a, 0, 2);
    start(&mut device, NetFeatures::VERSION_1);
    send(&mut device);
    assert_eq!(interrupt(&mut device, &function), (false, vec![]));
    let mut pending = [0; 4];
    device.read(PENDING, &mut pending);
    assert_eq!(pending, [1, 0, 0, 0]);
    device.write(TABLE + 12, &[0; 4]);
    assert_eq!(interrupt(&mut device, &function), (false, vec![0]));
}

#[test]
fn a_vector_that_does_not_exist_reads_back_as_none() {
    let mut device = device();
    for register in [0x10, 0x1a] {
        set(&mut device, register, 3, 2);
        assert_eq!(get(&mut device, register, 2), 3);
        set(&mut device, register, 4, 2);
        assert_eq!(get(&mut device, register, 2), 0xffff);
    }
}

#[test]
fn a_running_queue_has_no_registers() {
    let mut device = device();
    start(&mut device, NetFeatures::VERSION_1);
    let before = *device.queues.running(TRANSMIT).unwrap().config();
    set(&mut device, 0x18, 3, 2);
    set(&mut device, 0x20, 0xffff_fff0, 4);
    set(&mut device, 0x1c, 1, 2);
    set(&mut device, 0x14, 0xf, 1);
    assert_eq!(*device.queues.running(TRANSMIT).unwrap().config(), before);
}

#[test]
fn kicks_for_queues_that_do_not_run_do_nothing() {
    let mut device = device();
    for offset in (NOTIFY..WINDOW).step_by(4) {
        device.write(offset, &[0; 2]);
    }
    assert!(!device.has_work());
    start(&mut device, NetFeatures::VERSION_1);
    device.write(NOTIFY, &[0; 2]);
    device.write(NOTIFY + 0xffc, &[0xff; 4]);
    assert!(!device.has_work(), "only the transmit queue runs");
    set(&mut device, 0x14, 0, 1);
    device.write(NOTIFY + 4, &[1, 0]);
    assert!(!device.has_work(), "after reset");
}

#[test]
fn features_that_are_not_offered_are_not_ok() {
    let mut device = device();
    set(&mut device, 0x08, 1, 4);
    set(&mut device, 0x0c, 1 << 31, 4);
    set(&mut device, 0x14, 0xb, 1);
    assert_eq!(get(&mut device, 0x14, 1), 3);
}

#[test]
fn rings_outside_memory_ask_for_a_reset() {
    let (mut device, function) = device_and_function();
    set(&mut device, 0x16, TRANSMIT, 2);
    set(&mut device, 0x20, 0xfeb0_0000, 4);
    set(&mut device, 0x1c, 1, 2);
    set(&mut device, 0x08, 1, 4);
    set(&mut device, 0x0c, 1, 4);
    set(&mut device, 0x14, 0xf, 1);
    assert_ne!(get(&mut device, 0x14, 1) & u32::from(NEEDS_RESET), 0);
    assert!(interrupt(&mut device, &function).0);
}

/// Any access in any order, with a frame now and then.
#[test]
fn registers_survive_a_driver_that_writes_anything() {
    let mut device = device();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |bound: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % bound
    };
    for round in 0..200_000 {
        if round % 1_000 == 0 {
            device.write(COMMON + 0x14, &[0]);
            start(&mut device, NetFeatures::VERSION_1);
        }
        let offset = match next(4) {
            0 => COMMON + next(0x38),
            1 => NOTIFY + next(16),
            _ => next(WINDOW),
        };
        let length = usize::try_from(next(9)).unwrap();
        let mut data = next(u64::MAX).to_le_bytes();
        match next(4) {
            0 => device.read(offset, &mut data[..length]),
            1 => {
                let _ = device.receive(&[0xff; 60]);
            }
            _ => device.write(offset, &data[..length]),
        }
        device.process(&mut |_| {});
        device.flush_receive();
    }
}

/// Tables of a remapping unit: three levels for the function at 00:03.0, whose low pages lead to themselves.
mod behind_a_unit {
    use std::sync::Mutex;

    use vm_memory::Bytes;
    use vtd::registers::{GCMD, IOTLB, IVT, RTADDR, SRTP, TE};
    use vtd::{Capabilities, SourceId, Unit};

    use super::*;
    use crate::kernel::Ram;

    const ROOT: u64 = 0x8_0000;
    const PAGES: u64 = 0x8_4000;
    const SOURCE: SourceId = SourceId::new(0, 3, 0);

    struct Machine {
        device: VirtioPci,
        unit: Arc<Mutex<Unit>>,
        ram: Ram,
    }

    impl Machine {
        fn new() -> Self {
            let ram = allocate_ram(1 << 20).unwrap();
            let unit = Arc::new(Mutex::new(Unit::new(Capabilities::legacy())));
            let memory = Rc::new(Dma::behind(Arc::clone(&unit), ram.clone(), SOURCE));
            let rings = RingMemory::Translated(Rc::clone(&memory));
            let features = NetFeatures(NetFeatures::ALL.0 | NetFeatures::ACCESS_PLATFORM.0);
            let (device, _) = VirtioPci::new(MAC, features, rings, memory, true);
            let machine = Self { device, unit, ram };
            let context = ROOT + 0x1000 + u64::from(SOURCE.function()) * 16;
            let words = [
                (ROOT, 0x8_1001),
                (context, 0x8_2001),
                (context + 8, 0x101),
                (0x8_2000, 0x8_3003),
                (0x8_3000, PAGES | 3),
            ];
            for (at, word) in words {
                machine.poke(at, word);
            }
            for page in 0..0x80 {
                machine.lead(page << 12, page << 12 | 3);
            }
            machine.command(RTADDR, &ROOT.to_le_bytes());
            machine.command(GCMD, &SRTP.to_le_bytes());
            machine.command(GCMD, &TE.to_le_bytes());
            machine
        }

        fn poke(&self, at: u64, word: u64) {
            self.ram.write_obj(word, GuestAddress(at)).unwrap();
        }

        /// Writes the entry of a page.
        fn lead(&self, page: u64, entry: u64) {
            self.poke(PAGES + (page >> 12) * 8, entry);
        }

        fn lead_rings(&self, base: u64) {
            for page in [0x1000, 0x2000, 0x3000, 0x4000] {
                self.lead(page, (base + page) | 3);
            }
        }

        fn command(&self, register: u64, bytes: &[u8]) {
            self.unit.lock().unwrap().write(&self.ram, register, bytes);
        }

        fn invalidate(&self) {
            self.command(IOTLB, &(IVT | 1 << 60).to_le_bytes());
        }

        /// Offers the packet at 0x8000 as the `count`th, in rings at `base`, and lets the device work.
        fn send(&mut self, base: u64, count: u16) -> usize {
            self.poke(base + 0x1000, 0x8000);
            self.poke(base + 0x1008, 76);
            let slot = base + 0x3004 + u64::from(count - 1) * 2;
            self.ram.write_obj(0_u16, GuestAddress(slot)).unwrap();
            let index = GuestAddress(base + 0x3002);
            self.ram.write_obj(count, index).unwrap();
            self.device.write(NOTIFY + 4, &[1, 0]);
            let mut frames = 0;
            self.device.process(&mut |_| frames += 1);
            frames
        }

        fn used(&self, base: u64) -> u16 {
            self.ram.read_obj(GuestAddress(base + 0x4002)).unwrap()
        }
    }

    #[test]
    fn rings_are_where_the_unit_says_at_each_access() {
        let mut machine = Machine::new();
        let [old, new] = [0x1_0000, 0x2_0000];
        machine.lead_rings(old);
        let features = NetFeatures(NetFeatures::VERSION_1.0 | NetFeatures::ACCESS_PLATFORM.0);
        start(&mut machine.device, features);
        assert_eq!((machine.send(old, 1), machine.used(old)), (1, 1));

        // The driver moves the rings; until it invalidates, the old place may be used, and is.
        machine.lead_rings(new);
        assert_eq!((machine.send(old, 2), machine.used(old)), (1, 2));
        let mut rings = vec![0; 0x5000];
        let at = GuestAddress(old);
        machine.ram.read_slice(&mut rings, at).unwrap();
        machine.ram.write_slice(&rings, GuestAddress(new)).unwrap();
        machine.invalidate();
        assert_eq!((machine.send(new, 3), machine.used(new)), (1, 3));
        assert_eq!(machine.used(old), 2);

        // It takes the used ring away: the device breaks, and memory stays as it is.
        machine.lead(0x4000, 0);
        machine.invalidate();
        machine.send(new, 4);
        assert_eq!((machine.used(old), machine.used(new)), (2, 3));
        assert_ne!(get(&mut machine.device, 0x14, 1) & 0x40, 0, "NEEDS_RESET");
        let faults = machine.unit.lock().unwrap().counters().faults_recorded;
        assert!(faults > 0);
    }

    #[test]
    fn a_driver_that_passes_the_unit_by_is_refused() {
        let mut machine = Machine::new();
        let device = &mut machine.device;
        set(device, 0x14, 3, 1);
        set(device, 0x08, 1, 4);
        set(device, 0x0c, 1, 4);
        set(device, 0x14, 0xb, 1);
        assert_eq!(get(device, 0x14, 1) & 8, 0, "FEATURES_OK");
    }
}
