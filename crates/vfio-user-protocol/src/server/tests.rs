use super::*;
use crate::message::{DATA_MAX, Direction, DmaMap, SetIrqs};

fn device() -> Device {
    let region = |index, size, write| RegionInfo {
        index,
        read: true,
        write,
        size,
    };
    let pin = IrqInfo {
        index: 0,
        eventfd: true,
        maskable: true,
        automasked: true,
        count: 1,
    };
    Device {
        regions: vec![region(0, 0x1000, true), region(1, 16, false)],
        irqs: vec![pin],
        resets: false,
    }
}

fn greeted() -> Server<u8> {
    let mut server = Server::new(device());
    let _ = ask(&mut server, &Request::Version(Version::ours(1)), &[]).unwrap();
    server
}

type Refused = (SessionError, Option<Vec<u8>>);

fn ask(
    server: &mut Server<u8>,
    request: &Request,
    descriptors: &[u8],
) -> Result<Outcome<u8>, Refused> {
    let message = request.encode(1, true);
    let header = Header::decode(*message.first_chunk().unwrap()).unwrap();
    server.handle(&header, &message[Header::LENGTH..], descriptors.to_vec())
}

fn map(address: u64) -> Request {
    Request::DmaMap(DmaMap {
        direction: Direction {
            read: true,
            write: true,
        },
        offset: 0,
        address,
        size: 0x1000,
    })
}

#[test]
fn versions_come_first_and_once() {
    let mut server = Server::<u8>::new(device());
    let (error, answer) = ask(&mut server, &Request::DeviceInfo, &[]).unwrap_err();
    assert_eq!(error, SessionError::Order);
    let header = Header::decode(*answer.unwrap().first_chunk().unwrap()).unwrap();
    let error = Some(errno::EINVAL);
    assert_eq!(header.kind, Kind::Reply { error });
    let version = Request::Version(Version::ours(1));
    let outcome = ask(&mut server, &version, &[]).unwrap();
    assert_eq!(outcome.effect, Effect::None);
    let message = server.answer(outcome.answer, Ok(vec![])).unwrap();
    let header = Header::decode(*message.first_chunk().unwrap()).unwrap();
    let reply = Reply::decode(&version, &header, &message[Header::LENGTH..]).unwrap();
    assert_eq!(reply, Reply::Version(Version::ours(FDS_MAX)));
    ask(&mut server, &version, &[]).expect_err("once");
    server.disconnect();
    let _ = ask(&mut server, &version, &[]).expect("another client");
}

#[test]
fn another_major_version_is_refused() {
    let mut server = Server::new(device());
    let version = Version {
        major: 1,
        ..Version::ours(1)
    };
    let (error, _) = ask(&mut server, &Request::Version(version), &[]).unwrap_err();
    assert_eq!(error, SessionError::Version { major: 1, minor: 1 });
    assert_eq!(server.client(), None);
}

#[test]
fn accesses_stay_in_their_regions() {
    let mut server = greeted();
    let mut tried = |region, offset, count, write| {
        let access = Access {
            region,
            offset,
            count,
        };
        let request = if write {
            Request::RegionWrite(access, vec![0; count as usize])
        } else {
            Request::RegionRead(access)
        };
        ask(&mut server, &request, &[]).map(|outcome| outcome.effect)
    };
    tried(0, 0xffc, 4, false).unwrap();
    tried(0, 0xffc, 4, true).unwrap();
    tried(0, 0x1000, 0, false).expect("nothing, at the end");
    tried(0, 0xffd, 4, false).unwrap_err();
    tried(0, u64::MAX, 4, false).unwrap_err();
    tried(1, 0, 16, false).unwrap();
    tried(1, 0, 16, true).expect_err("read only");
    tried(2, 0, 1, false).expect_err("no such region");
    tried(u32::MAX, 0, 1, false).unwrap_err();
    let most = u32::try_from(DATA_MAX).unwrap();
    tried(0, 0, most, false).expect_err("more than the region");
    tried(0, 0, most + 1, false).expect_err("more than a message");
}

#[test]
fn memory_is_mapped_when_the_effect_has_succeeded() {
    let mut server = greeted();
    let outcome = ask(&mut server, &map(0x1000), &[9]).unwrap();
    let Effect::Map(region, Some(9)) = outcome.effect else {
        panic!("{:?}", outcome.effect);
    };
    assert_eq!(region.address, 0x1000);
    server.answer(outcome.answer, Err(errno::EIO)).unwrap();
    assert_eq!(server.dma().count(), 0);
    let outcome = ask(&mut server, &map(0x1000), &[]).unwrap();
    server.answer(outcome.answer, Ok(vec![])).unwrap();
    assert!(server.may_access(0x1000, 0x1000, true));
    ask(&mut server, &map(0x1000), &[]).expect_err("mapped");
    let unmap = Request::DmaUnmap {
        all: true,
        address: 0,
        size: 0,
    };
    let outcome = ask(&mut server, &unmap, &[]).unwrap();
    assert_eq!(
        outcome.effect,
        Effect::Unmap(vec![DmaRegion {
            offset: 0,
            ..region
        }])
    );
    server.answer(outcome.answer, Ok(vec![])).unwrap();
    assert!(!server.may_access(0x1000, 1, false));
}

#[test]
fn commands_that_want_no_answer_get_none() {
    let mut server = greeted();
    for (request, right) in [(map(0x1000), true), (Request::Reset, false)] {
        let message = request.encode(1, false);
        let header = Header::decode(*message.first_chunk().unwrap()).unwrap();
        match server.handle(&header, &message[Header::LENGTH..], vec![]) {
            Ok(outcome) => assert!(right && server.answer(outcome.answer, Ok(vec![])).is_none()),
            Err((_, answer)) => assert!(!right && answer.is_none()),
        }
    }
    assert!(server.may_access(0x1000, 1, false), "and is done");
}

#[test]
fn interrupts_are_kept_until_the_client_goes() {
    let mut server = greeted();
    let irqs = Request::SetIrqs(SetIrqs {
        index: 0,
        start: 0,
        count: 1,
        flags: SetIrqs::EVENTFD | SetIrqs::TRIGGER,
        bools: vec![],
    });
    let outcome = ask(&mut server, &irqs, &[4]).unwrap();
    let changed = InterruptAction::Changed { index: 0 };
    assert_eq!(outcome.effect, Effect::Interrupts(changed));
    assert_eq!(server.interrupts_mut().raise(0, 0), Some(&4));
    server.disconnect();
    assert_eq!(server.interrupts_mut().raise(0, 0), None);
}
