//! A back end's session, request by request.

use vhost_user::{
    Backend, Effect, Header, REGIONS_MAX, Region, RegionError, Reply, Request, RingSetup,
    SessionError, VHOST_USER_F_PROTOCOL_FEATURES, VringAddresses,
};

type Session = Backend<u32>;

const USER: u64 = 0x7f00_0000_0000;
const PACKED: u64 = 1 << 34;
const VERSION_1: u64 = 1 << 32;

fn region(guest_address: u64, size: u64) -> Region {
    Region {
        guest_address,
        size,
        user_address: USER + guest_address,
        file_offset: 0,
    }
}

fn addresses(ring: u32, at: u64) -> Request {
    Request::SetVringAddresses(VringAddresses {
        ring,
        flags: 0,
        descriptors: at,
        driver: at + 0x1000,
        device: at + 0x2000,
        log: 0,
    })
}

fn ask(session: &mut Session, request: Request) -> Result<Effect<u32>, SessionError> {
    let descriptors = (0..request.descriptors()).map(|fd| u32::try_from(fd).unwrap());
    let outcome = session.handle(request, false, descriptors.collect())?;
    Ok(outcome.effect)
}

fn kick(ring: u8) -> Request {
    Request::SetVringKick { ring, has_fd: true }
}

/// A session whose ring 0 only waits for its kick.
fn configured(features: u64) -> Session {
    let mut session = Session::new(2, VERSION_1 | PACKED);
    for request in [
        Request::SetOwner,
        Request::SetFeatures(features),
        Request::SetMemoryTable(vec![region(0, 0x10000), region(0x20000, 0x10000)]),
        Request::SetVringSize { ring: 0, size: 256 },
        Request::SetVringBase { ring: 0, base: 7 },
        addresses(0, USER + 0x21000),
    ] {
        ask(&mut session, request).unwrap();
    }
    session
}

#[test]
fn a_ring_starts_with_its_kick_where_it_was_put() {
    let mut session = configured(VERSION_1);
    assert_eq!(session.ring(0), Err(SessionError::NotRunning { ring: 0 }));
    let setup = RingSetup {
        size: 256,
        descriptors: 0x21000,
        driver: 0x22000,
        device: 0x23000,
        base: 7,
        features: VERSION_1,
    };
    let started = ask(&mut session, kick(0)).unwrap();
    let expected = Effect::Start {
        ring: 0,
        setup,
        kick: Some(0),
    };
    assert_eq!(started, expected);
    assert_eq!(session.ring(0), Ok(setup));
}

#[test]
fn rings_wait_to_be_enabled_where_that_was_negotiated() {
    let mut session = configured(VERSION_1);
    ask(&mut session, kick(0)).unwrap();
    assert!(session.is_enabled(0));
    let mut session = configured(VERSION_1 | VHOST_USER_F_PROTOCOL_FEATURES);
    ask(&mut session, kick(0)).unwrap();
    assert!(!session.is_enabled(0));
    let enable = |enabled| Request::SetVringEnable { ring: 0, enabled };
    ask(&mut session, enable(true)).unwrap();
    assert!(session.is_enabled(0));
    ask(&mut session, enable(false)).unwrap();
    assert!(!session.is_enabled(0));
}

#[test]
fn a_running_ring_cannot_be_moved() {
    let mut session = configured(VERSION_1);
    ask(&mut session, kick(0)).unwrap();
    for request in [
        Request::SetVringSize { ring: 0, size: 8 },
        Request::SetVringBase { ring: 0, base: 0 },
        addresses(0, USER),
        Request::SetFeatures(0),
        kick(0),
    ] {
        assert_eq!(ask(&mut session, request), Err(SessionError::Running));
    }
    assert_eq!(session.ring(0).unwrap().descriptors, 0x21000);
    let stopped = ask(&mut session, Request::VringBase { ring: 0 });
    assert_eq!(stopped, Ok(Effect::Stop { ring: 0 }));
    let answer = session.stopped(0, 99);
    let (header, payload) = answer.split_first_chunk().unwrap();
    let header = Header::decode(*header).unwrap();
    let code = Request::VringBase { ring: 0 }.code();
    let base = Reply::VringBase { ring: 0, base: 99 };
    assert_eq!(Reply::decode(code, &header, payload), Ok(base));
    ask(&mut session, addresses(0, USER)).unwrap();
    ask(&mut session, kick(0)).unwrap();
    assert_eq!(session.ring(0).unwrap().base, 99);
}

#[test]
fn a_ring_lies_in_memory() {
    let mut session = configured(VERSION_1);
    // In the hole between the regions, and before them.
    for address in [USER + 0x10000, USER - 1, 0] {
        ask(&mut session, addresses(0, address)).unwrap();
        let refused = Err(SessionError::Unmapped { address });
        assert_eq!(ask(&mut session, kick(0)), refused);
    }
    let refused = Err(SessionError::Unconfigured { ring: 1 });
    assert_eq!(ask(&mut session, kick(1)), refused);
}

#[test]
fn memory_changes_under_a_running_ring_only_if_the_ring_stays_in_it() {
    let mut session = configured(VERSION_1);
    ask(&mut session, kick(0)).unwrap();
    let elsewhere = Request::SetMemoryTable(vec![region(0, 0x10000)]);
    let address = USER + 0x21000;
    let refused = Err(SessionError::Unmapped { address });
    assert_eq!(ask(&mut session, elsewhere), refused);
    assert_eq!(session.regions().as_slice().len(), 2);
    let mut moved = region(0x20000, 0x10000);
    moved.guest_address = 0x90000;
    let mapped = ask(&mut session, Request::SetMemoryTable(vec![moved]));
    assert_eq!(mapped, Ok(Effect::Map(vec![(moved, 0)])));
    assert_eq!(session.ring(0).unwrap().descriptors, 0x91000);
}

#[test]
fn regions_are_sound() {
    let cases = [
        (vec![], RegionError::Count { count: 0 }),
        (vec![region(0, 0)], RegionError::Empty { index: 0 }),
        (
            vec![region(0, 1), region(u64::MAX - USER, 2)],
            RegionError::Wraps { index: 1 },
        ),
        (
            vec![region(0, 9), region(100, 1), region(8, 1)],
            RegionError::Overlap {
                first: 0,
                second: 2,
            },
        ),
    ];
    for (regions, error) in cases {
        let refused = ask(&mut Session::new(2, 0), Request::SetMemoryTable(regions));
        assert_eq!(refused, Err(SessionError::Region(error)));
    }
    let many: Vec<_> = (0..8).map(|index| region(16 * index, 16)).collect();
    assert_eq!(many.len(), REGIONS_MAX);
    ask(&mut Session::new(2, 0), Request::SetMemoryTable(many)).unwrap();
}

#[test]
fn rings_sizes_bases_and_features_have_ranges() {
    let mut session = configured(VERSION_1);
    for ring in [2, u32::MAX] {
        let refused = Err(SessionError::NoRing { ring });
        assert_eq!(ask(&mut session, Request::VringBase { ring }), refused);
        let enable = Request::SetVringEnable {
            ring,
            enabled: true,
        };
        assert_eq!(ask(&mut session, enable), refused);
    }
    for size in [0, 32769, u32::MAX] {
        let refused = Err(SessionError::Size { size });
        let request = Request::SetVringSize { ring: 1, size };
        assert_eq!(ask(&mut session, request), refused);
    }
    let base = 0x8000_8000;
    let wide = Request::SetVringBase { ring: 1, base };
    let refused = Err(SessionError::Base { base });
    assert_eq!(ask(&mut session, wide.clone()), refused);
    ask(&mut configured(VERSION_1 | PACKED), wide).unwrap();
    let features = 1 << 63;
    let refused = Err(SessionError::NotOffered { features });
    let request = Request::SetFeatures(features);
    assert_eq!(ask(&mut session, request), refused);
    let request = Request::SetProtocolFeatures(features);
    assert_eq!(ask(&mut session, request), refused);
}

#[test]
fn a_log_is_refused() {
    let mut session = configured(VERSION_1);
    let request = Request::SetVringAddresses(VringAddresses {
        ring: 0,
        flags: 1,
        descriptors: USER,
        driver: USER,
        device: USER,
        log: 0,
    });
    assert_eq!(ask(&mut session, request), Err(SessionError::Log));
}

#[test]
fn answers_are_given_when_asked_for_and_agreed_on() {
    let mut session = Session::new(2, VERSION_1);
    let done = |session: &mut Session, needs_reply| {
        let outcome = session.handle(Request::SetOwner, needs_reply, vec![]);
        outcome.unwrap().answer.message(false)
    };
    assert_eq!(done(&mut session, true), None);
    ask(&mut session, Request::SetProtocolFeatures(1 << 3)).unwrap();
    assert_eq!(done(&mut session, false), None);
    let failed = Reply::Number(1).encode(Request::SetOwner.code());
    assert_eq!(done(&mut session, true), Some(failed));
    let features = session.handle(Request::Features, true, vec![]).unwrap();
    let offered = VERSION_1 | VHOST_USER_F_PROTOCOL_FEATURES;
    let answer = Reply::Number(offered).encode(Request::Features.code());
    assert_eq!(features.answer.message(true), Some(answer));
}

#[test]
fn a_status_of_zero_resets_all_rings() {
    let mut session = configured(VERSION_1);
    ask(&mut session, kick(0)).unwrap();
    ask(&mut session, Request::SetStatus(0x0f)).unwrap();
    assert_eq!(ask(&mut session, Request::SetStatus(0)), Ok(Effect::Reset));
    assert_eq!(session.ring(0), Err(SessionError::NotRunning { ring: 0 }));
    let refused = Err(SessionError::Unconfigured { ring: 0 });
    assert_eq!(ask(&mut session, kick(0)), refused);
}
