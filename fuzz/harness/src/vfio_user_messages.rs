//! A hostile client: messages of any kind in any order, some made to look right.

use arbitrary::{Arbitrary, Result, Unstructured};
use vfio_user_protocol::{
    Device, Effect, Header, InterruptAction, IrqInfo, Kind, Outcome, RegionInfo, Reply, Request,
    Server, Version,
};

/// Feeds a session whatever the data says.
pub fn vfio_user_messages(data: &[u8]) {
    // Data that runs out ends the run.
    let _ = run(&mut Unstructured::new(data));
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let _ = Header::decode(u.arbitrary()?);
    let mut server: Server<u8> = Server::new(device());
    if u.ratio(7, 8)? {
        let version = Request::Version(Version::ours(4));
        step(&mut server, &version.encode(0, true), 0, u)?;
    }
    while !u.is_empty() {
        let message = message(u)?;
        let descriptors = u.int_in_range(0..=3)?;
        step(&mut server, &message, descriptors, u)?;
        if u.ratio(1, 64)? {
            server.disconnect();
        }
        check(&mut server);
    }
    Ok(())
}

fn device() -> Device {
    let region = |index: u32| RegionInfo {
        index,
        read: index != 3,
        write: index < 3,
        size: 0x1000 >> index,
    };
    let irq = |index: u32| IrqInfo {
        index,
        eventfd: true,
        maskable: true,
        automasked: index == 0,
        count: index * 4 + 1,
    };
    Device {
        regions: (0..5).map(region).collect(),
        irqs: (0..3).map(irq).collect(),
        resets: true,
    }
}

/// A command of some kind with bytes that may fit it: small numbers are likelier than they would be by chance.
fn message(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let command = u.int_in_range(0..=19)?;
    let words = u.int_in_range(0..=9)?;
    let mut payload = Vec::new();
    for _ in 0..words {
        let word: u32 = match u.int_in_range(0..=3u8)? {
            0 => u.arbitrary()?,
            1 => 32,
            _ => u.int_in_range(0..=40)?,
        };
        payload.extend(word.to_le_bytes());
    }
    if u.ratio(1, 4)? {
        payload.extend(<[u8; 3]>::arbitrary(u)?);
    }
    let kind = match u.int_in_range(0..=7u8)? {
        0 => Kind::Reply { error: None },
        1 => Kind::Command { wants_reply: false },
        _ => Kind::Command { wants_reply: true },
    };
    let header = Header {
        id: u.arbitrary()?,
        command,
        kind,
        size: 0,
    };
    Ok(header.message(&payload))
}

fn step(
    server: &mut Server<u8>,
    message: &[u8],
    descriptors: usize,
    u: &mut Unstructured<'_>,
) -> Result<()> {
    let (head, payload) = message.split_first_chunk().expect("a header");
    let header = Header::decode(*head).expect("as encoded");
    let wanted = header.kind == Kind::Command { wants_reply: true };
    let before: Vec<_> = server.dma().collect();
    match server.handle(&header, payload, vec![7; descriptors]) {
        Err((error, answer)) => {
            assert_eq!(answer.is_some(), wanted);
            assert_ne!(error.errno(), 0);
            assert!(server.dma().eq(before), "nothing has changed");
        }
        Ok(Outcome { effect, answer }) => {
            let fails = u.ratio(1, 8)?;
            let result = match effect {
                _ if fails => Err(5),
                Effect::Read(access) => Ok(vec![0; access.count as usize]),
                Effect::Interrupts(InterruptAction::Raise { index, vectors }) => {
                    for vector in vectors {
                        server.interrupts_mut().raise(index, vector);
                    }
                    Ok(Vec::new())
                }
                _ => Ok(Vec::new()),
            };
            let message = server.answer(answer, result);
            assert_eq!(message.is_some(), wanted);
            let request = Request::decode(&header, payload, descriptors).expect("it was served");
            if let Some(message) = message {
                let (head, payload) = message.split_first_chunk().expect("a header");
                let header = Header::decode(*head).expect("an answer has one");
                let reply = Reply::decode(&request, &header, payload);
                assert_eq!(reply.is_ok(), !fails, "{request:?}: {reply:?}");
            }
        }
    }
    Ok(())
}

/// Regions of memory do not overlap, and are what an access is checked against.
fn check(server: &mut Server<u8>) {
    let regions: Vec<_> = server.dma().collect();
    for pair in regions.windows(2) {
        assert!(pair[0].address + (pair[0].size - 1) < pair[1].address);
    }
    if let Some(first) = regions.first() {
        let reads = first.direction.read;
        assert_eq!(server.may_access(first.address, first.size, false), reads);
        if let Some(before) = first.address.checked_sub(1) {
            assert!(!server.may_access(before, 2, false));
        }
    }
    let pin = server.interrupts_mut();
    if pin.raise(0, 0).is_some() {
        assert!(pin.raise(0, 0).is_none(), "once for each unmasking");
    }
    assert!(pin.raise(0, 1).is_none() && pin.raise(9, 0).is_none());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoke() {
        arbtest::arbtest(|u| {
            let _ = run(u);
            Ok(())
        })
        .budget_ms(1000);
    }
}
