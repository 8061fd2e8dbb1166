//! A vhost-user back end whose front end sends anything.

use arbitrary::{Result, Unstructured};
use vhost_user::{
    Backend, Code, Effect, Header, PAYLOAD_MAX, REGIONS_MAX, Request, RingSetup, SessionError,
};

/// Feeds messages made of `data` to a session; descriptors are numbers.
pub fn vhost_user_messages(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let mut session = Backend::new(4, u64::MAX);
    while !u.is_empty() {
        if step(&mut u, &mut session).is_err() {
            break;
        }
    }
}

fn step(u: &mut Unstructured<'_>, session: &mut Backend<u8>) -> Result<()> {
    let Ok(header) = Header::decode(header(u)?) else {
        return Ok(());
    };
    assert!(header.size <= PAYLOAD_MAX);
    let mut payload = vec![0; header.size];
    fill(u, &mut payload)?;
    let descriptors = u.int_in_range(0..=REGIONS_MAX + 1)?;
    let Ok(request) = Request::decode(&header, &payload, descriptors) else {
        return Ok(());
    };
    let again = decode(&request.encode(header.needs_reply), descriptors);
    assert_eq!(again.as_ref(), Ok(&request));
    let answers = request.has_answer();
    let numbered = (0..).take(descriptors).collect();
    let features = session.features();
    match session.handle(request, header.needs_reply, numbered) {
        Ok(outcome) => {
            let stops = matches!(outcome.effect, Effect::Stop { .. });
            assert!(outcome.answer.message(true).is_some() || !answers || stops);
            check(session, &outcome.effect);
        }
        Err(SessionError::NotOffered { .. }) => assert_eq!(session.features(), features),
        Err(_) => {}
    }
    for ring in 0..4 {
        if let Ok(setup) = session.ring(ring) {
            assert_in_memory(session, &setup);
        }
    }
    Ok(())
}

/// Often a header that gets past the first checks.
fn header(u: &mut Unstructured<'_>) -> Result<[u8; Header::LENGTH]> {
    if u.ratio(1, 16)? {
        return u.arbitrary();
    }
    let code = u.choose(&Code::ALL)?.number();
    let flags = if u.arbitrary()? { 1 } else { 1 | 1 << 3 };
    let table = 8 + 32 * u.int_in_range(1..=3_u32)?;
    let size = *u.choose(&[0, 8, 8, 8, 40, table])?;
    let bytes = [code, flags, size].map(u32::to_le_bytes);
    Ok(bytes.as_flattened().try_into().unwrap_or_default())
}

/// Small numbers, so that rings and regions meet.
fn fill(u: &mut Unstructured<'_>, payload: &mut [u8]) -> Result<()> {
    for chunk in payload.chunks_mut(4) {
        let word: u32 = if u.ratio(1, 16)? {
            u.arbitrary()?
        } else {
            u.int_in_range(0..=8_u32)?
        };
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
    }
    Ok(())
}

fn decode(message: &[u8], descriptors: usize) -> Result<Request, ()> {
    let (header, payload) = message.split_first_chunk().ok_or(())?;
    let header = Header::decode(*header).map_err(|_| ())?;
    Request::decode(&header, payload, descriptors).map_err(|_| ())
}

fn check(session: &mut Backend<u8>, effect: &Effect<u8>) {
    match effect {
        Effect::Map(mapped) => {
            assert!(mapped.len() <= REGIONS_MAX);
            for (region, _) in mapped {
                assert!(region.size > 0);
                assert!(region.guest_address.checked_add(region.size).is_some());
            }
        }
        Effect::Start { ring, setup, .. } => {
            assert_eq!(session.ring(*ring).as_ref(), Ok(setup));
            assert_in_memory(session, setup);
        }
        Effect::Stop { ring } => {
            assert!(session.ring(*ring).is_err());
            let _ = session.stopped(*ring, 0);
        }
        Effect::Reset => assert!((0..4).all(|ring| session.ring(ring).is_err())),
        _ => {}
    }
}

fn assert_in_memory(session: &Backend<u8>, setup: &RingSetup) {
    assert!((1..=32768).contains(&setup.size));
    for address in [setup.descriptors, setup.driver, setup.device] {
        let mut regions = session.regions().as_slice().iter();
        assert!(regions.any(|region| {
            address
                .checked_sub(region.guest_address)
                .is_some_and(|offset| offset < region.size)
        }));
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn smoke() {
        arbtest::arbtest(|u| {
            super::vhost_user_messages(u.bytes(u.len())?);
            Ok(())
        })
        .budget_ms(1_000);
    }
}
