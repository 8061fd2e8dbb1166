//! The job: words that come at a steady rate are counted, and every update is written down.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use chandy_lamport::KeyGroups;
use dataflow::{Job, Poll, Program, Shared, Source, TaskError};

/// A word, and which of all words of the stream it is.
pub(crate) type Word = (u32, u64);

/// When each word was counted for the first time, and how long that was after it came.
#[derive(Clone)]
pub(crate) struct Meter {
    began: Instant,
    rate: u64,
    /// Nanoseconds since the beginning, by word; 0 for not yet.
    counted: Arc<Vec<AtomicU64>>,
}

impl Meter {
    pub(crate) fn new(words: u64, rate: u64) -> Self {
        Self {
            began: Instant::now(),
            rate,
            counted: Arc::new((0..words).map(|_| AtomicU64::new(0)).collect()),
        }
    }

    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// When a word comes.
    pub(crate) fn due(&self, number: u64) -> u64 {
        number.saturating_mul(1_000_000_000 / self.rate)
    }

    fn count(&self, number: u64, now: u64) {
        if let Some(counted) = usize::try_from(number)
            .ok()
            .and_then(|n| self.counted.get(n))
        {
            // Another replica, or a run before a crash, may have been first.
            _ = counted.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// For each word: when it came, and how long after that it was counted, in nanoseconds.
    pub(crate) fn latencies(&self) -> Vec<(u64, u64)> {
        let counted = (0..).zip(self.counted.iter());
        let latency = |(number, counted): (u64, &AtomicU64)| {
            let due = self.due(number);
            (due, counted.load(Ordering::Relaxed).saturating_sub(due))
        };
        counted.map(latency).collect()
    }

    /// How long after this moment the first word was counted that nobody had counted before it.
    pub(crate) fn back_after(&self, moment: u64) -> u64 {
        let counted = self
            .counted
            .iter()
            .map(|counted| counted.load(Ordering::Relaxed));
        let after = counted.filter(|counted| *counted > moment).min();
        after.map_or(0, |first| first - moment)
    }

    /// How long all of it took.
    pub(crate) fn last(&self) -> u64 {
        let counted = self
            .counted
            .iter()
            .map(|counted| counted.load(Ordering::Relaxed));
        counted.max().unwrap_or(0)
    }
}

/// Words that come whether or not anybody is ready for them. It can be read again from any of them.
struct Paced {
    meter: Meter,
    next: u64,
    step: u64,
    end: u64,
    vocabulary: u32,
}

impl Source for Paced {
    type Item = Word;

    fn read(&mut self, words: &mut Vec<Word>, max: usize) -> Result<Poll, TaskError> {
        if self.next >= self.end {
            return Ok(Poll::Ended);
        }
        let now = self.meter.now();
        while words.len() < max && self.next < self.end && self.meter.due(self.next) <= now {
            words.push((word(self.next, self.vocabulary), self.next));
            self.next += self.step;
        }
        Ok(if words.is_empty() {
            Poll::Idle
        } else {
            Poll::Emitted
        })
    }

    fn cursor(&self) -> Vec<u8> {
        self.next.to_le_bytes().to_vec()
    }

    fn seek(&mut self, cursor: &[u8]) -> Result<(), TaskError> {
        let next = cursor.try_into().map_err(|_| TaskError::Snapshot)?;
        self.next = u64::from_le_bytes(next);
        Ok(())
    }
}

/// Words are about as uneven as in a text: the logarithm of the rank is spread evenly.
fn word(number: u64, vocabulary: u32) -> u32 {
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let fraction = f64::from(u32::try_from(spread).unwrap_or(0)) / f64::from(u32::MAX);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank from 1 to the size of the vocabulary"
    )]
    let rank = f64::from(vocabulary).powf(fraction) as u32;
    rank.min(vocabulary) - 1
}

/// Two tasks read, two route, two count and write.
pub(crate) fn job(meter: &Meter, words: u64, vocabulary: u32, outputs: &[Shared; 2]) -> Job {
    let groups = KeyGroups::new(128).unwrap_or_else(|| unreachable!("128 is allowed"));
    let program = Program::new(groups);
    let (read, counted, outputs) = (meter.clone(), meter.clone(), outputs.clone());
    program
        .source("words", 2, 256, move |task| Paced {
            meter: read.clone(),
            next: task.into(),
            step: 2,
            end: words,
            vocabulary,
        })
        .rebalance("router", 2)
        .key_by(|(word, _)| *word)
        .stateful(
            "count",
            2,
            || 0u64,
            move |word, count, (_, number), out| {
                *count += 1;
                counted.count(number, counted.now());
                out.push((*word, *count));
            },
        )
        .sink(
            move |task| outputs[usize::from(task > 0)].clone(),
            |(word, count), bytes| {
                bytes.extend(word.to_le_bytes());
                bytes.extend(count.to_le_bytes());
            },
        );
    program.job()
}

/// How many updates are missing or wrong: of a word that comes n times there must be the counts 1 to n, once each.
pub(crate) fn wrong(words: u64, vocabulary: u32, outputs: &[Shared; 2]) -> u64 {
    let mut expected: BTreeMap<u32, u64> = BTreeMap::new();
    for number in 0..words {
        *expected.entry(word(number, vocabulary)).or_default() += 1;
    }
    let mut updates: BTreeMap<(u32, u64), u64> = BTreeMap::new();
    for output in outputs {
        let bytes = output.bytes();
        for update in bytes.chunks_exact(12) {
            let (word, count) = update.split_at(4);
            let word = u32::from_le_bytes(word.try_into().unwrap_or_default());
            let count = u64::from_le_bytes(count.try_into().unwrap_or_default());
            *updates.entry((word, count)).or_default() += 1;
        }
    }
    let mut wrong = 0;
    for (word, count) in expected {
        for update in 1..=count {
            wrong += u64::from(updates.remove(&(word, update)) != Some(1));
        }
    }
    wrong + u64::try_from(updates.len()).unwrap_or(u64::MAX)
}
