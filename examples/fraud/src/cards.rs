//! A generated stream of payments, some of them with stolen cards.

use serde::{Deserialize, Serialize};

/// A payment by card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Payment {
    /// Milliseconds of event time.
    pub(crate) time: u64,
    pub(crate) card: u32,
    pub(crate) cents: u32,
    pub(crate) country: u8,
    /// Known to the generator only: a thief pays.
    pub(crate) stolen: bool,
}

/// The payment of this number: one a millisecond. One burst in a thousand is a thief's, who pays eight times within seconds.
pub(crate) fn payment(number: u64) -> Payment {
    let burst = number / BURST;
    let thief = mix(burst).is_multiple_of(1_000) && number.is_multiple_of(4);
    let by = if thief { mix(burst ^ 1) } else { mix(number) };
    let card = narrow(by % u64::from(CARDS));
    let home = u8::try_from(mix(card.into()) % 30).unwrap_or(0);
    Payment {
        time: number + if thief { number % BURST * 200 } else { 0 },
        card,
        cents: 100 + narrow(mix(number ^ 2) % if thief { 90_000 } else { 20_000 }),
        country: if thief { 99 } else { home },
        stolen: thief,
    }
}

fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

const BURST: u64 = 32;
const CARDS: u32 = 200_000;
