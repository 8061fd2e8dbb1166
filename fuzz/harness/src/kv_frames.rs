//! What raft-kv reads from its streams, whoever wrote it.

use raft_kv::frame;
use raft_kv::message::Envelope;
use raft_kv::protocol::{Command, Hello, Numbered, Reply, Request};
use serde::{Deserialize, Serialize};

/// Takes `data` as a stream of frames, as one payload of each kind, and as a payload in a frame of its own.
pub fn kv_frames(data: &[u8]) {
    let mut rest = data;
    while let Ok(Some((payload, bytes))) = frame::first(rest) {
        decode_all(payload);
        rest = &rest[bytes..];
    }
    decode_all(data);
    let mut framed = Vec::new();
    frame::push(&Raw(data), &mut framed).expect("it is short");
    let (payload, bytes) = frame::first(&framed)
        .expect("it is a frame")
        .expect("all of it is there");
    assert_eq!(bytes, framed.len());
    assert!(payload.ends_with(data));
}

fn decode_all(payload: &[u8]) {
    if let Ok(Envelope(message)) = frame::decode(payload) {
        let again: Envelope = again(&Envelope(message.clone()));
        assert_eq!(again.0, message);
    }
    if let Ok(hello) = frame::decode::<Hello>(payload) {
        assert_eq!(again::<Hello>(&hello), hello);
    }
    if let Ok(reply) = frame::decode::<Numbered<Reply>>(payload) {
        assert_eq!(again::<Numbered<Reply>>(&reply), reply);
    }
    // These borrow what they were read from.
    let _ = frame::decode::<Numbered<Request<'_>>>(payload).is_ok();
    let _ = frame::decode::<Command<'_>>(payload).is_ok();
}

/// What was said comes back the same.
fn again<T: for<'a> Deserialize<'a>>(value: &impl Serialize) -> T {
    let mut out = Vec::new();
    frame::push(value, &mut out).expect("no longer than what it was read from, or little");
    let (payload, _) = frame::first(&out).expect("a frame").expect("whole");
    frame::decode(payload).expect("what was written")
}

struct Raw<'a>(&'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(self.0)
    }
}

#[test]
fn smoke() {
    arbtest::arbtest(|u| {
        kv_frames(u.arbitrary()?);
        Ok(())
    })
    .budget_ms(1_000);
}
