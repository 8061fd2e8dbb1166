//! Our driver against our device, with a socket between them.

use std::os::unix::net::UnixStream;
use std::thread;

use example_vhost_user::device::{Device, Passed, Role};
use example_vhost_user::driver::{Driver, DriverOptions, Moved, Traffic};
use example_vhost_user::layout::{EVENT_IDX, IN_ORDER, RING_PACKED, RingKind, VERSION_1};
use example_vhost_user::server::{Server, Waiting};
use example_vhost_user::socket::Socket;

const PACKETS: u64 = 5_000;

/// Moves packets and stops the rings; what each end counted.
fn session(role: Role, traffic: Traffic, options: DriverOptions) -> (Moved, Passed) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let device = thread::spawn(move || {
        let device = Device::new(role, Some(PACKETS));
        let features = VERSION_1 | RING_PACKED | IN_ORDER | EVENT_IDX;
        let mut server = Server::new(Socket::new(theirs), device, features, options.waiting);
        server.run().unwrap();
        *server.passed()
    });
    let mut driver = Driver::connect(Socket::new(ours), options).unwrap();
    let moved = driver.run(traffic, PACKETS).unwrap();
    driver.stop().unwrap();
    (moved, device.join().unwrap())
}

fn every_way(mut check: impl FnMut(DriverOptions)) {
    for kind in [RingKind::Split, RingKind::Packed] {
        for wanted in [0, EVENT_IDX, IN_ORDER, EVENT_IDX | IN_ORDER] {
            for waiting in [Waiting::Poll, Waiting::Event] {
                check(DriverOptions {
                    kind,
                    wanted,
                    size: 256,
                    waiting,
                });
            }
        }
    }
}

#[test]
fn packets_come_back_once_and_in_order() {
    every_way(|options| {
        let (moved, passed) = session(Role::Loopback, Traffic::Both, options);
        assert_eq!((moved.sent, moved.received), (PACKETS, PACKETS));
        assert_eq!(moved.out_of_order, 0);
        assert_eq!((passed.taken, passed.given), (PACKETS, PACKETS));
        assert_eq!(passed.dropped, 0);
        assert_eq!(passed.taken_bytes, 64 * PACKETS);
        if options.waiting == Waiting::Poll {
            assert_eq!(moved.sleeps, 0);
        }
    });
}

#[test]
fn a_sink_takes_all_and_a_source_gives_all() {
    every_way(|options| {
        let (moved, passed) = session(Role::Sink, Traffic::Transmit, options);
        assert_eq!((moved.sent, passed.taken), (PACKETS, PACKETS));
        let (moved, passed) = session(Role::Source, Traffic::Receive, options);
        assert_eq!((moved.received, passed.given), (PACKETS, PACKETS));
        assert_eq!(moved.out_of_order, 0);
    });
}

#[test]
fn a_device_that_does_not_offer_the_ring_format_is_refused() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let device = thread::spawn(move || {
        let device = Device::new(Role::Sink, None);
        Server::new(Socket::new(theirs), device, VERSION_1, Waiting::Poll).run()
    });
    let options = DriverOptions {
        kind: RingKind::Packed,
        wanted: 0,
        size: 8,
        waiting: Waiting::Poll,
    };
    let refused = Driver::connect(Socket::new(ours), options).unwrap_err();
    assert!(refused.to_string().contains("without 0x400000000"));
    device.join().unwrap().unwrap();
}
