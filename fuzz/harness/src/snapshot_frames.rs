//! Wire messages of a connection, hostile and damaged.

use chandy_lamport::Wire;
use chandy_lamport::frame::{FrameError, decode, encode};

const BODY_MAX: usize = 1_000;

/// Reads `data` as a stream of frames, and as the message of a good frame with one change.
pub fn snapshot_frames(data: &[u8]) {
    let mut rest = data;
    while let Ok(Some((_, length))) = decode(rest, BODY_MAX) {
        assert!(length > 0, "a frame takes something");
        rest = &rest[length..];
    }
    let message = &data[..data.len().min(BODY_MAX - 9)];
    let colour = chandy_lamport::SnapshotId(u64::try_from(message.len()).unwrap_or(0));
    let mut frame = Vec::new();
    encode(&Wire::Data { colour, message }, &mut frame);
    let Ok(Some((Wire::Data { message: read, .. }, length))) = decode(&frame, BODY_MAX) else {
        panic!("a good frame is read");
    };
    assert_eq!((read.as_slice(), length), (message, frame.len()));
    let at = data.iter().map(|byte| usize::from(*byte)).sum::<usize>() % frame.len();
    frame[at] ^= 1;
    let changed = decode(&frame, BODY_MAX);
    assert!(
        matches!(
            changed,
            Ok(None) | Err(FrameError::Checksum | FrameError::Long(_))
        ),
        "a changed frame was read: {changed:?}"
    );
}

#[test]
fn smoke() {
    arbtest::arbtest(|u| {
        snapshot_frames(u.bytes(u.len())?);
        Ok(())
    })
    .budget_ms(1000);
}
