//! Both ends against DPDK's. Skipped, and said so, where there is no `dpdk-testpmd`.

use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use example_vhost_user::device::{Device, Role};
use example_vhost_user::driver::{Driver, DriverOptions, Traffic};
use example_vhost_user::layout::{IN_ORDER, MRG_RXBUF, RING_PACKED, RingKind, VERSION_1};
use example_vhost_user::server::{Server, Waiting};
use example_vhost_user::socket::Socket;
use example_vhost_user::testpmd::{Forward, Peer, Testpmd, socket_path};

const PACKETS: u64 = 50_000;

fn is_there() -> bool {
    let found = Testpmd::is_installed();
    if !found {
        eprintln!("skipped: no dpdk-testpmd (Debian: dpdk-dev)");
    }
    found
}

/// Our device with the generator's `virtio_user`: packets that the generator counts, and ours.
fn device_beside_virtio_user(role: Role, kind: RingKind, in_order: bool, waiting: Waiting) {
    let (_folder, path) = socket_path().unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    let served = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let features = VERSION_1 | RING_PACKED | IN_ORDER | MRG_RXBUF;
        let limit = Some(PACKETS);
        let device = Device::new(role, limit);
        let mut server = Server::new(Socket::new(stream), device, features, waiting);
        server.run().unwrap();
        *server.passed()
    });
    let forward = match role {
        Role::Sink | Role::Loopback => Forward::Transmit,
        Role::Source => Forward::Receive,
    };
    let peer = Peer::VirtioUser { kind, in_order };
    let mut generator = Testpmd::start(peer, forward, &path, 1).unwrap();
    generator.forward().unwrap();
    let counts = loop {
        let counts = generator.counts().unwrap();
        if counts.sent.max(counts.received) >= PACKETS {
            break counts;
        }
    };
    generator.stop().unwrap();
    let last = generator.counts().unwrap();
    drop(generator);
    let passed = served.join().unwrap();
    match role {
        Role::Source => assert_eq!((counts.received, passed.given), (PACKETS, PACKETS)),
        // A message that stops a ring is read once the ring is empty.
        _ => assert_eq!(passed.taken, last.sent),
    }
    assert_eq!(passed.taken_bytes, 64 * passed.taken);
}

/// How often the generator's counts are looked at before they are believed.
const LOOKS: usize = 1_000;

/// Our driver with the generator's `vhost`.
fn driver_beside_vhost(traffic: Traffic, kind: RingKind, waiting: Waiting) {
    let (_folder, path) = socket_path().unwrap();
    let forward = match traffic {
        Traffic::Transmit => Forward::Receive,
        Traffic::Receive => Forward::Transmit,
        Traffic::Both => Forward::Io,
    };
    let mut generator = Testpmd::start(Peer::Vhost, forward, &path, 1).unwrap();
    // Once it answers, its socket is there.
    generator.counts().unwrap();
    let socket = Socket::new(UnixStream::connect(&path).unwrap());
    let options = DriverOptions {
        kind,
        wanted: IN_ORDER | MRG_RXBUF,
        size: 256,
        waiting,
    };
    let mut driver = Driver::connect(socket, options).unwrap();
    generator.forward().unwrap();
    let moved = driver.run(traffic, PACKETS).unwrap();
    // It counts a burst when it is through with it, and may be put aside before.
    let mut counts = std::iter::repeat_with(|| generator.counts().unwrap()).take(LOOKS);
    if traffic == Traffic::Transmit {
        assert_eq!(moved.sent, PACKETS);
        assert!(counts.any(|counts| counts.received == PACKETS));
    } else {
        assert!(moved.received >= PACKETS);
        assert!(counts.any(|counts| counts.sent >= moved.received));
    }
    if traffic == Traffic::Both {
        assert_eq!(moved.out_of_order, 0);
    }
    driver.stop().unwrap();
}

#[test]
fn dpdk_virtio_user_sends_to_our_device() {
    if !is_there() {
        return;
    }
    for kind in [RingKind::Split, RingKind::Packed] {
        for in_order in [false, true] {
            device_beside_virtio_user(Role::Sink, kind, in_order, Waiting::Poll);
        }
    }
}

#[test]
fn dpdk_virtio_user_receives_from_our_device() {
    if !is_there() {
        return;
    }
    for kind in [RingKind::Split, RingKind::Packed] {
        for in_order in [false, true] {
            device_beside_virtio_user(Role::Source, kind, in_order, Waiting::Poll);
        }
    }
}

#[test]
fn dpdk_virtio_user_kicks_our_device_awake() {
    if !is_there() {
        return;
    }
    for kind in [RingKind::Split, RingKind::Packed] {
        device_beside_virtio_user(Role::Sink, kind, false, Waiting::Event);
    }
}

#[test]
fn dpdk_vhost_receives_from_our_driver() {
    if !is_there() {
        return;
    }
    for kind in [RingKind::Split, RingKind::Packed] {
        driver_beside_vhost(Traffic::Transmit, kind, Waiting::Poll);
    }
}

#[test]
fn dpdk_vhost_sends_to_our_driver() {
    if !is_there() {
        return;
    }
    for kind in [RingKind::Split, RingKind::Packed] {
        driver_beside_vhost(Traffic::Receive, kind, Waiting::Poll);
        driver_beside_vhost(Traffic::Receive, kind, Waiting::Event);
    }
}

#[test]
fn dpdk_vhost_sends_back_what_our_driver_sends() {
    if !is_there() {
        return;
    }
    for kind in [RingKind::Split, RingKind::Packed] {
        driver_beside_vhost(Traffic::Both, kind, Waiting::Poll);
    }
}
