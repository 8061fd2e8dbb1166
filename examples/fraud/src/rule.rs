//! The decision: by what a card paid within the last minute, at once.

use serde::{Deserialize, Serialize};

use crate::cards::Payment;

/// What is known of a card: its payments of the last minute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recent(Vec<Payment>);

/// Why a payment is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reason {
    /// The sixth within a minute, or a later one.
    Often,
    /// More than 1,500 within a minute.
    Much,
    /// From another country than the payment before.
    Country,
}

impl Recent {
    /// Takes a payment, and says whether to refuse it.
    pub(crate) fn decide(&mut self, payment: Payment) -> Option<Reason> {
        self.0
            .retain(|earlier| earlier.time + WINDOW > payment.time);
        let before = self.0.last().copied();
        self.0.push(payment);
        let cents: u64 = self.0.iter().map(|payment| u64::from(payment.cents)).sum();
        if self.0.len() > OFTEN {
            Some(Reason::Often)
        } else if cents > MUCH {
            Some(Reason::Much)
        } else {
            let moved = before.is_some_and(|before| before.country != payment.country);
            moved.then_some(Reason::Country)
        }
    }
}

const WINDOW: u64 = 60_000;
const OFTEN: usize = 5;
const MUCH: u64 = 150_000;
