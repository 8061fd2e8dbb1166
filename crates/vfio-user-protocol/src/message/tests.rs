use proptest::prelude::*;

use super::*;

fn requests() -> impl Strategy<Value = Request> {
    let data = prop::collection::vec(any::<u8>(), 0..40);
    let access =
        (any::<u32>(), any::<u64>(), 0u32..=1 << 20).prop_map(|(region, offset, count)| Access {
            region,
            offset,
            count,
        });
    prop_oneof![
        any::<u32>().prop_map(|fds| Request::Version(Version::ours(fds))),
        any::<(bool, bool, u64, u64, u64)>().prop_map(|(read, write, offset, address, size)| {
            Request::DmaMap(DmaMap {
                direction: Direction { read, write },
                offset,
                address,
                size,
            })
        }),
        any::<(u64, u64)>().prop_map(|(address, size)| Request::DmaUnmap {
            all: false,
            address,
            size
        }),
        Just(Request::DmaUnmap {
            all: true,
            address: 0,
            size: 0
        }),
        Just(Request::DeviceInfo),
        (any::<u32>(), 32u32..).prop_map(|(index, room)| Request::RegionInfo { index, room }),
        any::<u32>().prop_map(|index| Request::IrqInfo { index }),
        (any::<(u32, u32)>(), data.clone()).prop_map(|((index, start), bools)| {
            Request::SetIrqs(SetIrqs {
                index,
                start,
                count: u32::try_from(bools.len()).unwrap(),
                flags: SetIrqs::BOOL | SetIrqs::TRIGGER,
                bools,
            })
        }),
        access.clone().prop_map(Request::RegionRead),
        (access, data.clone()).prop_map(|(access, data)| {
            let count = u32::try_from(data.len()).unwrap();
            Request::RegionWrite(Access { count, ..access }, data)
        }),
        Just(Request::Reset),
        (any::<u64>(), 0u64..=1 << 20)
            .prop_map(|(address, count)| Request::DmaRead { address, count }),
        (any::<u64>(), data).prop_map(|(address, data)| Request::DmaWrite { address, data }),
    ]
}

fn decode(message: &[u8], descriptors: usize) -> Result<Request, RequestError> {
    let header = Header::decode(*message.first_chunk().unwrap()).unwrap();
    Request::decode(&header, &message[Header::LENGTH..], descriptors)
}

proptest! {
    #[test]
    fn a_request_comes_back_as_it_was(request in requests(), id in any::<u16>()) {
        let message = request.encode(id, true);
        prop_assert_eq!(decode(&message, 0), Ok(request));
    }

    #[test]
    fn a_request_cut_short_is_refused(request in requests(), keep in any::<prop::sample::Index>()) {
        let message = request.encode(1, true);
        let payload = &message[Header::LENGTH..];
        prop_assume!(!payload.is_empty());
        let kept = &payload[..keep.index(payload.len())];
        let header = Header::decode(*message.first_chunk().unwrap()).unwrap();
        // A version may do without its text.
        let bare = matches!(request, Request::Version(_)) && kept.len() == 4;
        prop_assert_eq!(Request::decode(&header, kept, 0).is_ok(), bare);
    }
}

#[test]
fn numbers_are_where_the_protocol_has_them() {
    let map = Request::DmaMap(DmaMap {
        direction: Direction {
            read: true,
            write: true,
        },
        offset: 0x1000,
        address: 0x2000,
        size: 0x3000,
    });
    let message = map.encode(7, true);
    let mut wanted = vec![7, 0, 2, 0, 48, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    wanted.extend([32, 0, 0, 0, 3, 0, 0, 0]);
    wanted.extend(0x1000u64.to_le_bytes());
    wanted.extend(0x2000u64.to_le_bytes());
    wanted.extend(0x3000u64.to_le_bytes());
    assert_eq!(message, wanted);
}

#[test]
fn more_than_a_message_has_is_not_asked_for() {
    let access = Access {
        region: 0,
        offset: 0,
        count: (1 << 20) + 1,
    };
    let message = Request::RegionRead(access).encode(1, true);
    let count = u64::from(access.count);
    assert_eq!(decode(&message, 0), Err(RequestError::TooMuch { count }));
    let message = Request::DmaRead { address: 0, count }.encode(1, true);
    assert_eq!(decode(&message, 0), Err(RequestError::TooMuch { count }));
}

#[test]
fn descriptors_come_with_what_needs_them() {
    let irqs = |flags, count| {
        Request::SetIrqs(SetIrqs {
            index: 0,
            start: 0,
            count,
            flags,
            bools: Vec::new(),
        })
    };
    let eventfds = irqs(SetIrqs::EVENTFD | SetIrqs::TRIGGER, 2).encode(1, true);
    let refused = |command, count| Err(RequestError::Descriptors { command, count });
    assert_eq!(decode(&eventfds, 1), refused(SET_IRQS, 1));
    decode(&eventfds, 2).unwrap();
    let none = irqs(SetIrqs::NONE | SetIrqs::TRIGGER, 2).encode(1, true);
    assert_eq!(decode(&none, 2), refused(SET_IRQS, 2));
    assert_eq!(
        decode(&Request::Reset.encode(1, true), 1),
        refused(RESET, 1)
    );
}

#[test]
fn commands_that_are_not_served_are_named() {
    for command in [0, 6, 14, 15, 16, 17, 18, 19, u16::MAX] {
        let header = Header {
            id: 1,
            command,
            kind: Kind::Command { wants_reply: true },
            size: 0,
        };
        let error = Request::decode(&header, &[], 0).unwrap_err();
        assert_eq!(error, RequestError::Command { command });
        assert_eq!(error.errno(), errno::ENOTSUP);
    }
}
