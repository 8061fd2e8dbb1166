//! Bytes to requests and back.

use proptest::prelude::*;
use vhost_user::{
    Code, Header, HeaderError, MessageError, PAYLOAD_MAX, REGIONS_MAX, Region, Reply, Request,
    VringAddresses,
};

fn decode(message: &[u8], descriptors: usize) -> Result<Request, MessageError> {
    let (header, payload) = message.split_first_chunk().unwrap();
    let header = Header::decode(*header).unwrap();
    assert_eq!(header.size, payload.len());
    Request::decode(&header, payload, descriptors)
}

/// Byte by byte as the protocol's document lays messages out.
#[test]
fn messages_are_laid_out_as_documented() {
    let owner = [3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(decode(&owner, 0), Ok(Request::SetOwner));
    let features = [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(decode(&features, 0), Ok(Request::Features));
    let call = [13, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    let request = Request::SetVringCall {
        ring: 1,
        has_fd: true,
    };
    assert_eq!(decode(&call, 1), Ok(request));
}

#[test]
fn a_header_is_bounded() {
    let header = |words: [u32; 3]| {
        let bytes = words.map(u32::to_le_bytes);
        Header::decode(bytes.as_flattened().try_into().unwrap())
    };
    let most = u32::try_from(PAYLOAD_MAX).unwrap();
    assert!(header([1, 1, most]).is_ok());
    for size in [most + 1, u32::MAX] {
        assert_eq!(header([1, 1, size]), Err(HeaderError::TooLong { size }));
    }
    assert_eq!(header([1, 2, 0]), Err(HeaderError::Version { version: 2 }));
    assert_eq!(
        header([1, 0x11, 0]),
        Err(HeaderError::Flags { flags: 0x11 })
    );
}

#[test]
fn a_payload_must_have_its_length() {
    for code in Code::ALL {
        let header = Header {
            code: code.number(),
            is_reply: false,
            needs_reply: false,
            size: 0,
        };
        for length in 0..=PAYLOAD_MAX {
            let payload = vec![0; length];
            let decoded = Request::decode(&header, &payload, 0);
            if let Ok(request) = decoded {
                let exact = request.encode(false).len() - Header::LENGTH == length;
                // A word that means nothing, and the rest of a table.
                let tolerated = length == 8 || request == Request::SetMemoryTable(Vec::new());
                assert!(exact || tolerated, "{code:?} of {length} bytes");
            }
        }
    }
}

#[test]
fn descriptors_are_counted() {
    let region = Region {
        guest_address: 0,
        size: 1,
        user_address: 0,
        file_offset: 0,
    };
    let kick = |has_fd| Request::SetVringKick { ring: 0, has_fd };
    let requests = [
        (Request::SetOwner, 0),
        (kick(true), 1),
        (kick(false), 0),
        (Request::SetMemoryTable(vec![region; 3]), 3),
    ];
    for (request, expected) in requests {
        for found in 0..=REGIONS_MAX {
            let decoded = decode(&request.encode(false), found);
            assert_eq!(decoded.is_ok(), found == expected, "{request:?}, {found}");
        }
    }
}

#[test]
fn a_table_of_nine_regions_is_refused() {
    let mut message = Request::SetMemoryTable(Vec::new()).encode(false);
    message[12] = 9;
    let refused = Err(MessageError::Value { code: 5, value: 9 });
    assert_eq!(decode(&message, 9), refused);
    message[12] = 8;
    let refused = Err(MessageError::Size { code: 5, size: 8 });
    assert_eq!(decode(&message, 8), refused);
}

#[test]
fn unknown_requests_and_answers_are_refused() {
    let code = |code, is_reply| Header {
        code,
        is_reply,
        needs_reply: false,
        size: 0,
    };
    let decoded = Request::decode(&code(99, false), &[], 0);
    assert_eq!(decoded, Err(MessageError::Unknown { code: 99 }));
    let decoded = Request::decode(&code(1, true), &[], 0);
    assert_eq!(decoded, Err(MessageError::Direction));
}

#[test]
fn answers_survive_their_encoding() {
    let base = Reply::VringBase {
        ring: 1,
        base: 0x8001_8001,
    };
    let number = Reply::Number(u64::MAX);
    for (code, reply) in [(Code::Features, number), (Code::VringBase, base)] {
        let message = reply.encode(code);
        let (header, payload) = message.split_first_chunk().unwrap();
        let header = Header::decode(*header).unwrap();
        assert_eq!(Reply::decode(code, &header, payload), Ok(reply));
        let other = Reply::decode(Code::Status, &header, payload);
        assert!(matches!(other, Err(MessageError::Unknown { .. })));
    }
}

fn requests() -> impl Strategy<Value = Request> {
    let region =
        any::<[u64; 4]>().prop_map(|[guest_address, size, user_address, file_offset]| Region {
            guest_address,
            size,
            user_address,
            file_offset,
        });
    let addresses = any::<([u32; 2], [u64; 4])>().prop_map(|([ring, flags], words)| {
        let [descriptors, device, driver, log] = words;
        Request::SetVringAddresses(VringAddresses {
            ring,
            flags,
            descriptors,
            device,
            driver,
            log,
        })
    });
    let event = any::<(u8, bool)>();
    prop_oneof![
        Just(Request::Features),
        any::<u64>().prop_map(Request::SetFeatures),
        any::<u64>().prop_map(Request::SetProtocolFeatures),
        any::<u8>().prop_map(Request::SetStatus),
        proptest::collection::vec(region, 0..=REGIONS_MAX).prop_map(Request::SetMemoryTable),
        addresses,
        any::<[u32; 2]>().prop_map(|[ring, size]| Request::SetVringSize { ring, size }),
        any::<[u32; 2]>().prop_map(|[ring, base]| Request::SetVringBase { ring, base }),
        any::<u32>().prop_map(|ring| Request::VringBase { ring }),
        any::<(u32, bool)>().prop_map(|(ring, enabled)| Request::SetVringEnable { ring, enabled }),
        event.prop_map(|(ring, has_fd)| Request::SetVringKick { ring, has_fd }),
        event.prop_map(|(ring, has_fd)| Request::SetVringCall { ring, has_fd }),
        event.prop_map(|(ring, has_fd)| Request::SetVringError { ring, has_fd }),
    ]
}

proptest! {
    #[test]
    fn requests_survive_their_encoding(request in requests(), needs_reply in any::<bool>()) {
        let message = request.encode(needs_reply);
        prop_assert_eq!(decode(&message, request.descriptors()), Ok(request));
        prop_assert_eq!(message[4] & 8 != 0, needs_reply);
    }
}
