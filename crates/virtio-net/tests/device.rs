//! The device under our own driver side.

use virtio_net::virtqueue::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use virtio_net::virtqueue::{
    ChainError, Config, DeviceQueue, DriverQueue, HostRing, Layout, Notify, QueueError, Segment,
};
use virtio_net::{HeldChains, NetFeatures, NetState, NetStateError, RxOutcome, VirtioNet};

const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
const BUFFERS: u64 = 0x1_0000;

type Ring<'m> = HostRing<&'m GuestMemoryMmap>;

/// A device with one queue, which a test uses as it likes.
struct Machine<'m> {
    net: VirtioNet,
    memory: &'m GuestMemoryMmap,
    driver: DriverQueue<Ring<'m>>,
    queue: DeviceQueue<Ring<'m>>,
}

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap()
}

fn union(features: &[NetFeatures]) -> NetFeatures {
    let bits = features.iter().fold(0, |bits, feature| bits | feature.0);
    NetFeatures(bits | NetFeatures::VERSION_1.0)
}

impl<'m> Machine<'m> {
    fn new(memory: &'m GuestMemoryMmap, features: &[NetFeatures]) -> Self {
        let mut net = VirtioNet::new(MAC, NetFeatures::ALL);
        assert!(net.negotiate(union(features)));
        let packed = net.features().contains(NetFeatures::RING_PACKED);
        let config = Config {
            layout: if packed {
                Layout::Packed
            } else {
                Layout::Split
            },
            size: 16,
            descriptors: 0x1000,
            driver: 0x2000,
            device: 0x3000,
            features: net.features().ring(),
        };
        let config = config.activate().unwrap();
        let ring = || HostRing::new(&config, memory).unwrap();
        Self {
            net,
            memory,
            driver: DriverQueue::new(&config, ring(), None).unwrap(),
            queue: DeviceQueue::new(&config, ring()),
        }
    }

    /// Queues a packet behind a header, and answers what the device sends.
    fn send(&mut self, header: [u8; 12], packet: &[u8]) -> Vec<Vec<u8>> {
        let at = |offset| GuestAddress(BUFFERS + offset);
        self.memory.write_slice(&header, at(0)).unwrap();
        self.memory.write_slice(packet, at(12)).unwrap();
        let length = u32::try_from(packet.len()).unwrap();
        let buffers = [
            Segment {
                address: at(0),
                length: 12,
            },
            Segment {
                address: at(12),
                length,
            },
        ];
        let count = if packet.is_empty() { 1 } else { 2 };
        self.driver.add(&buffers[..count], &[]).unwrap();
        let _ = self.driver.publish().unwrap();
        let mut frames = Vec::new();
        let sent = self
            .net
            .transmit(&mut self.queue, self.memory, &mut |frame| {
                frames.push(frame.to_vec());
            });
        assert_eq!(sent, Ok(Notify::Send));
        assert!(self.driver.take_used().unwrap().is_some());
        frames
    }

    /// Gives the device buffers of these lengths.
    fn give(&mut self, lengths: &[u32]) {
        for (index, &length) in (0..).zip(lengths) {
            let address = GuestAddress(BUFFERS + 0x1000 * index);
            self.driver
                .add(&[], &[Segment { address, length }])
                .unwrap();
        }
        let _ = self.driver.publish().unwrap();
    }

    fn receive(&mut self, frame: &[u8]) -> RxOutcome {
        let outcome = self
            .net
            .receive(&mut self.queue, self.memory, frame)
            .unwrap();
        let _ = self.net.flush_receive(&mut self.queue).unwrap();
        outcome
    }

    fn command(&mut self, bytes: &[u8]) -> u8 {
        let address = GuestAddress(BUFFERS);
        self.memory.write_slice(bytes, address).unwrap();
        let length = u32::try_from(bytes.len()).unwrap();
        let ack = GuestAddress(BUFFERS + 0x2000);
        self.memory.write_obj(0xee_u8, ack).unwrap();
        let answer = Segment {
            address: ack,
            length: 1,
        };
        self.driver
            .add(&[Segment { address, length }], &[answer])
            .unwrap();
        let _ = self.driver.publish().unwrap();
        let _ = self.net.control(&mut self.queue, self.memory).unwrap();
        assert_eq!(self.driver.take_used().unwrap().unwrap().written, 1);
        self.memory.read_obj(ack).unwrap()
    }
}

fn frame(length: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..=255).cycle().take(length).collect();
    frame[..6].fill(0xff);
    frame
}

/// Flags, segmentation, headers, segment, checksum start and offset.
fn header(flags: u8, kind: u8, segment: u16, start: u16, offset: u16) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[0] = flags;
    bytes[1] = kind;
    bytes[4..6].copy_from_slice(&segment.to_le_bytes());
    bytes[6..8].copy_from_slice(&start.to_le_bytes());
    bytes[8..10].copy_from_slice(&offset.to_le_bytes());
    bytes
}

/// The ones' complement sum, two bytes at a time.
fn ones(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

/// A TCP packet over IPv4 with the whole pseudo-header's sum where the driver leaves it.
fn tcp4(payload: usize) -> Vec<u8> {
    let mut packet = frame(54 + payload);
    let length = u16::try_from(40 + payload).unwrap().to_be_bytes();
    packet[12..14].copy_from_slice(&[8, 0]);
    packet[14..34].copy_from_slice(&[
        0x45, 0, length[0], length[1], 0x12, 0x34, 0x40, 0, 64, 6, 0xab, 0xcd, 10, 0, 2, 15, 10, 0,
        2, 2,
    ]);
    packet[34..54].copy_from_slice(&[
        4, 210, 0, 80, 255, 255, 255, 0, 0, 0, 0, 1, 0x50, 0x19, 255, 255, 0, 0, 0, 0,
    ]);
    let tcp = u16::try_from(20 + payload).unwrap().to_be_bytes();
    let sum = ones(&[10, 0, 2, 15, 10, 0, 2, 2, 0, 6, tcp[0], tcp[1]]);
    packet[50..52].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn assert_checksums(segment: &[u8]) {
    assert_eq!(ones(&segment[14..34]), 0xffff, "IP");
    let length = u16::try_from(segment.len() - 34).unwrap().to_be_bytes();
    let covered = [&segment[26..34], &[0, 6], &length, &segment[34..]].concat();
    assert_eq!(ones(&covered), 0xffff, "TCP");
}

#[test]
fn a_packet_goes_out_as_it_is() {
    for extra in [
        NetFeatures::EVENT_IDX,
        NetFeatures::RING_PACKED,
        NetFeatures::IN_ORDER,
    ] {
        let memory = memory();
        let mut machine = Machine::new(&memory, &[extra]);
        for length in [14, 60, 1514, 1400, 15] {
            // Flags without CSUM mean nothing.
            let frames = machine.send(header(1, 0, 0, 5000, 0), &frame(length));
            // With EVENT_IDX an interrupt is sent once it is asked for again.
            let _ = machine.driver.enable_interrupts().unwrap();
            assert_eq!(frames, [frame(length)]);
        }
        assert_eq!(machine.net.counts().tx_frames, 5);
    }
}

#[test]
fn partial_checksums_are_finished() {
    let memory = memory();
    let mut machine = Machine::new(&memory, &[NetFeatures::CSUM]);
    let mut packet = tcp4(100);
    packet[24..26].fill(0);
    let sum = !ones(&packet[14..34]);
    packet[24..26].copy_from_slice(&sum.to_be_bytes());
    let frames = machine.send(header(1, 0, 0, 34, 16), &packet);
    assert_checksums(&frames[0]);
}

#[test]
fn segments_are_whole_packets() {
    for (payload, segment) in [
        (1, 1460),
        (1460, 1460),
        (10_000, 1448),
        (60_000, 88),
        (4380, 1460),
    ] {
        let memory = memory();
        let mut machine = Machine::new(&memory, &[NetFeatures::CSUM, NetFeatures::HOST_TSO4]);
        let packet = tcp4(payload);
        let frames = machine.send(header(1, 1, segment, 34, 16), &packet);
        assert_eq!(frames.len(), payload.div_ceil(segment.into()));
        let mut carried = Vec::new();
        for (index, frame) in frames.iter().enumerate() {
            assert_checksums(frame);
            let sequence = u32::from_be_bytes(frame[38..42].try_into().unwrap());
            let before = u32::try_from(carried.len()).unwrap();
            assert_eq!(sequence, 0xffff_ff00_u32.wrapping_add(before));
            assert_eq!(
                frame[47],
                if index + 1 == frames.len() {
                    0x19
                } else {
                    0x10
                }
            );
            carried.extend_from_slice(&frame[54..]);
        }
        assert_eq!(carried, packet[54..]);
    }
}

#[test]
fn headers_that_do_not_fit_drop_the_packet() {
    let memory = memory();
    let mut machine = Machine::new(&memory, &[NetFeatures::CSUM, NetFeatures::HOST_TSO4]);
    let headers = [
        header(1, 0, 0, 60, 16),
        header(1, 0, 0, u16::MAX, u16::MAX),
        header(1, 1, 0, 34, 16),
        header(1, 1, 100, 34, 6),
        header(0, 1, 100, 34, 16),
        header(1, 1, 100, 20, 16),
        header(1, 1, 100, 59, 16),
        header(1, 4, 100, 34, 16),
        header(1, 3, 100, 34, 16),
        header(1, 0x7f, 100, 34, 16),
    ];
    for (dropped, header) in (1..).zip(headers) {
        assert!(machine.send(header, &frame(60)).is_empty(), "{header:?}");
        assert_eq!(machine.net.counts().tx_malformed, dropped);
    }
    assert!(machine.send(header(0, 0, 0, 0, 0), &frame(13)).is_empty());
    assert!(machine.send(header(0, 0, 0, 0, 0), &[]).is_empty());
    assert_eq!(machine.send(header(0, 0, 0, 0, 0), &frame(60)), [frame(60)]);
}

#[test]
fn a_frame_arrives_behind_its_header() {
    let memory = memory();
    let mut machine = Machine::new(&memory, &[]);
    machine.give(&[2048]);
    assert_eq!(machine.receive(&frame(100)), RxOutcome::Delivered);
    let used = machine.driver.take_used().unwrap().unwrap();
    assert_eq!(used.written, 112);
    let mut bytes = [0; 112];
    memory
        .read_slice(&mut bytes, GuestAddress(BUFFERS))
        .unwrap();
    assert_eq!(bytes[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(bytes[12..], frame(100));
}

#[test]
fn a_frame_is_spread_over_merged_buffers() {
    for extra in [NetFeatures::IN_ORDER, NetFeatures::RING_PACKED] {
        let memory = memory();
        let mut machine = Machine::new(&memory, &[NetFeatures::MRG_RXBUF, extra]);
        machine.give(&[400, 300, 700, 500]);
        assert_eq!(machine.receive(&frame(1000)), RxOutcome::Delivered);
        let used = std::iter::from_fn(|| machine.driver.take_used().unwrap());
        let lengths: Vec<_> = used.map(|used| used.written).collect();
        assert_eq!(lengths, [400, 300, 312]);
        let count: u16 = memory.read_obj(GuestAddress(BUFFERS + 10)).unwrap();
        assert_eq!(count, 3);
        let mut carried = vec![0; 1012];
        for (at, length, buffer) in [(0, 400, 0), (400, 300, 1), (700, 312, 2)] {
            let piece = &mut carried[at..at + length];
            memory
                .read_slice(piece, GuestAddress(BUFFERS + 0x1000 * buffer))
                .unwrap();
        }
        assert_eq!(carried[12..], frame(1000));
        assert_eq!(machine.net.counts().rx_merged, 2);
    }
}

/// Buffers that are too few for a frame are kept for it.
#[test]
fn a_frame_waits_for_buffers_and_the_driver_is_asked_for_a_kick() {
    let memory = memory();
    let features = [NetFeatures::MRG_RXBUF, NetFeatures::EVENT_IDX];
    let mut machine = Machine::new(&memory, &features);
    machine.give(&[500]);
    assert_eq!(machine.receive(&frame(900)), RxOutcome::NoBuffers);
    assert_eq!(machine.driver.take_used(), Ok(None));
    let address = GuestAddress(BUFFERS + 0x9000);
    let buffer = Segment {
        address,
        length: 500,
    };
    machine.driver.add(&[], &[buffer]).unwrap();
    assert_eq!(machine.driver.publish(), Ok(Notify::Send), "the kick");
    assert_eq!(machine.receive(&frame(900)), RxOutcome::Delivered);
    let used = std::iter::from_fn(|| machine.driver.take_used().unwrap());
    assert_eq!(
        used.map(|used| used.written).collect::<Vec<_>>(),
        [500, 412]
    );
}

#[test]
fn a_driver_that_does_not_merge_loses_what_does_not_fit() {
    let memory = memory();
    let mut machine = Machine::new(&memory, &[]);
    machine.give(&[100, 2000]);
    assert_eq!(machine.receive(&frame(200)), RxOutcome::Dropped);
    assert_eq!(machine.driver.take_used().unwrap().unwrap().written, 0);
    assert_eq!(machine.receive(&frame(200)), RxOutcome::Delivered);
}

#[test]
fn buffers_outside_memory_drop_the_frame() {
    let memory = memory();
    let mut machine = Machine::new(&memory, &[]);
    let outside = Segment {
        address: GuestAddress(0xfebc_0000),
        length: 2000,
    };
    machine.driver.add(&[], &[outside]).unwrap();
    let _ = machine.driver.publish().unwrap();
    assert_eq!(machine.receive(&frame(60)), RxOutcome::Dropped);
    machine.driver.add(&[outside], &[]).unwrap();
    let _ = machine.driver.publish().unwrap();
    let mut sent = 0;
    let result = machine
        .net
        .transmit(&mut machine.queue, &memory, &mut |_| sent += 1);
    assert!(result.is_ok() && sent == 0);
}

#[test]
fn a_malformed_chain_asks_for_a_reset() {
    let memory = memory();
    let mut machine = Machine::new(&memory, &[]);
    memory
        .write_obj([0_u64, 12 | 4 << 32], GuestAddress(0x1000))
        .unwrap();
    memory.write_obj(1_u16, GuestAddress(0x2002)).unwrap();
    let error = machine
        .net
        .transmit(&mut machine.queue, &memory, &mut |_| {});
    let source = ChainError::IndirectNotNegotiated;
    assert_eq!(error, Err(QueueError::Chain { head: 0, source }));
}

#[test]
fn the_control_queue_says_which_frames_are_wanted() {
    let memory = memory();
    let features = [
        NetFeatures::CTRL_VQ,
        NetFeatures::CTRL_RX,
        NetFeatures::CTRL_VLAN,
    ];
    let mut machine = Machine::new(&memory, &features);
    let to = |first: &[u8]| [first, &frame(60)[first.len()..]].concat();
    let other = to(&[2, 2, 2, 2, 2, 2]);
    let multicast = to(&[1, 0, 0x5e, 0, 0, 1]);
    let accepts = |machine: &Machine<'_>, frame: &[u8]| machine.net.filter().accepts(frame);
    assert!(accepts(&machine, &to(&MAC)) && accepts(&machine, &frame(60)));
    assert!(!accepts(&machine, &other) && !accepts(&machine, &multicast));
    assert_eq!(machine.command(&[0, 1, 1]), 0);
    assert!(accepts(&machine, &multicast) && !accepts(&machine, &other));
    assert_eq!(machine.command(&[0, 1, 0]), 0);
    assert_eq!(
        machine.command(&[1, 0, 1, 0, 0, 0, 2, 2, 2, 2, 2, 2, 0, 0, 0, 0]),
        0
    );
    assert!(accepts(&machine, &other));
    assert_eq!(machine.command(&[1, 1, 2, 3, 4, 5, 6, 7]), 0);
    assert!(accepts(&machine, &to(&[2, 3, 4, 5, 6, 7])));
    let tagged = [&[0xff; 6][..], &[0; 6], &[0x81, 0, 0, 9], &[0; 44]].concat();
    assert!(!accepts(&machine, &tagged));
    assert_eq!(machine.command(&[2, 0, 9, 0]), 0);
    assert!(accepts(&machine, &tagged));
    assert_eq!(machine.command(&[2, 1, 9, 0]), 0);
    assert!(!accepts(&machine, &tagged));
    let malformed: [&[u8]; 8] = [
        &[0],
        &[9, 9],
        &[0, 0, 2],
        &[0, 0, 1, 1],
        &[1, 1, 1],
        &[1, 0, 255, 255, 255, 255],
        &[1, 0, 2, 0, 0, 0, 1, 2, 3],
        &[2, 0, 0, 0x10],
    ];
    for bytes in malformed {
        assert_eq!(machine.command(bytes), 1, "{bytes:?}");
    }
}

#[test]
fn features_that_need_others_are_refused_without_them() {
    let mut net = VirtioNet::new(MAC, NetFeatures::ALL.without(NetFeatures::RING_PACKED));
    for refused in [
        NetFeatures(0),
        union(&[NetFeatures::HOST_TSO4]),
        union(&[NetFeatures::CTRL_RX]),
        union(&[NetFeatures::RING_PACKED]),
        union(&[NetFeatures(1 << 63)]),
    ] {
        assert!(!net.negotiate(refused), "{refused:?}");
    }
    assert!(net.negotiate(union(&[NetFeatures::CTRL_VQ, NetFeatures::CTRL_RX])));
}

#[test]
fn the_configuration_has_address_and_link() {
    let memory = memory();
    let mut machine = Machine::new(&memory, &[NetFeatures::STATUS]);
    let mut config = [0xff; 16];
    machine.net.read_config(0, &mut config);
    assert_eq!(
        config,
        [0x52, 0x54, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    assert!(machine.net.set_link(false) && !machine.net.set_link(false));
    let mut status = [0xff; 2];
    machine.net.read_config(6, &mut status);
    assert_eq!(status, [0, 0]);
    machine.net.read_config(u64::MAX, &mut status);
    assert_eq!(machine.receive(&frame(60)), RxOutcome::Filtered);
}

/// A TCP segment with all its checksums.
fn finished(payload: usize) -> Vec<u8> {
    let memory = memory();
    let mut machine = Machine::new(&memory, &[NetFeatures::CSUM]);
    let mut frames = machine.send(header(1, 0, 0, 34, 16), &tcp4(payload));
    let mut frame = frames.remove(0);
    frame[24..26].fill(0);
    let sum = !ones(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// The flags in the header that a driver reads ahead of `frame`.
fn flags_of(frame: &[u8], features: &[NetFeatures]) -> u8 {
    let memory = memory();
    let mut machine = Machine::new(&memory, features);
    machine.give(&[2048]);
    assert_eq!(machine.receive(frame), RxOutcome::Delivered);
    memory.read_obj(GuestAddress(BUFFERS)).unwrap()
}

#[test]
fn sound_frames_say_so_to_a_driver_that_believes_it() {
    const DATA_VALID: u8 = 2;
    let guest_csum = [NetFeatures::GUEST_CSUM];
    for payload in [0, 1, 99, 1460] {
        let frame = finished(payload);
        assert_eq!(flags_of(&frame, &guest_csum), DATA_VALID, "{payload}");
        assert_eq!(flags_of(&frame, &[]), 0, "not negotiated");
        // Wherever a bit falls over from the IP header on, the sums do not fit.
        for at in 14..frame.len() {
            let mut spoilt = frame.clone();
            spoilt[at] ^= 0x10;
            assert_eq!(flags_of(&spoilt, &guest_csum), 0, "byte {at}");
        }
        for length in 14..frame.len() {
            assert_eq!(flags_of(&frame[..length], &guest_csum), 0, "{length} bytes");
        }
    }
}

#[test]
fn fragments_and_other_protocols_say_nothing() {
    let guest_csum = [NetFeatures::GUEST_CSUM];
    let refit = |at: usize, value: u8| {
        let mut frame = finished(64);
        frame[at] = value;
        frame[24..26].fill(0);
        let sum = !ones(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        flags_of(&frame, &guest_csum)
    };
    assert_eq!(refit(14, finished(64)[14]), 2, "as it was");
    assert_eq!(refit(20, 0x20), 0, "more fragments");
    assert_eq!(refit(21, 1), 0, "a later fragment");
    assert_eq!(refit(23, 1), 0, "ICMP");
}

#[test]
fn a_restored_device_goes_on_as_it_was() {
    let memory = memory();
    let control = [
        NetFeatures::CTRL_VQ,
        NetFeatures::CTRL_RX,
        NetFeatures::CTRL_VLAN,
    ];
    let mut machine = Machine::new(&memory, &control);
    assert_eq!(machine.command(&[2, 0, 7, 0]), 0, "VLAN 7");
    let state = machine.net.state().unwrap();
    let json = serde_json::to_string(&state).unwrap();
    let mut other = VirtioNet::new([0; 6], NetFeatures::ALL);
    other.restore(serde_json::from_str(&json).unwrap()).unwrap();
    assert_eq!(other.state(), Ok(state));
    assert_eq!(other.filter(), machine.net.filter());
    assert_eq!(other.features(), machine.net.features());
}

#[test]
fn a_forged_state_is_refused() {
    let state = VirtioNet::new(MAC, NetFeatures::ALL).state().unwrap();
    let mut net = VirtioNet::new(MAC, NetFeatures::VERSION_1);
    let features = union(&[NetFeatures::CSUM]);
    let refused = net.restore(NetState {
        features,
        ..state.clone()
    });
    let features = features.0;
    assert_eq!(refused, Err(NetStateError::Features { features }));
    let mut forged = state.clone();
    forged.filter.table = (0..65).map(|byte| [byte; 6]).collect();
    let refused = net.restore(forged);
    assert_eq!(refused, Err(NetStateError::Table { count: 65 }));
    let mut forged = state.clone();
    forged.filter.vlans = Some([1].into());
    assert_eq!(net.restore(forged), Err(NetStateError::Vlans));
    net.restore(state).unwrap();
}

#[test]
fn held_chains_cannot_be_saved() {
    let memory = memory();
    let mut machine = Machine::new(&memory, &[NetFeatures::MRG_RXBUF]);
    machine.give(&[64]);
    assert_eq!(machine.receive(&frame(500)), RxOutcome::NoBuffers);
    assert_eq!(machine.net.state(), Err(HeldChains { count: 1 }));
}
