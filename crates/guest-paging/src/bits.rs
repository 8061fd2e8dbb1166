//! Fields of a word.

/// Bits `low` to `high`, both included; none if `low` is above `high`.
pub(crate) const fn bits(low: u8, high: u8) -> u64 {
    if low > high {
        0
    } else {
        u64::MAX >> (63 - (high - low)) << low
    }
}
