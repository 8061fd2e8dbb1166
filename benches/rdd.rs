//! What does lineage cost? Four jobs beside the same job written by hand for two threads: CPU seconds of each,
//! interleaved, medians of three. `--test` runs a hundredth of the size once.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::fs::File;
use std::hash::Hash;
use std::io::{BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use rdd::{Context, Pairs};
use rustc_hash::FxHashMap;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["--text", path, bytes, ..] => {
            let mut file = File::create(path).expect("a file");
            write_text(&mut file, bytes.parse().expect("a number"));
        }
        ["--one", engine, job, size, ..] => one(engine == "hand", job, size),
        _ => compare_all(),
    }
}

/// One job by itself, for benches/peers/spark.
fn one(by_hand: bool, job: &str, size: &str) {
    let n = || size.parse().expect("a number");
    let path = Path::new(size);
    println!("begin");
    let (count, sum) = match (job, by_hand) {
        ("words", true) => words_by_hand(path),
        ("words", false) => words(path),
        ("reduce", true) => reduce_by_hand(n()),
        ("reduce", false) => reduce(n()),
        ("sort", true) => count_and_sum(sort_by_hand(n())),
        ("sort", false) => count_and_sum(sort(n())),
        (_, true) => pagerank_by_hand(n()),
        (_, false) => pagerank(n()),
    };
    println!("end {count} {}", sum.cast_signed());
}

fn count_and_sum(sorted: Vec<u64>) -> (usize, u64) {
    (sorted.len(), sorted.into_iter().fold(0, u64::wrapping_add))
}

fn compare_all() {
    let (scale, rounds): (u64, usize) = if std::env::args().any(|arg| arg == "--test") {
        (100, 1)
    } else {
        (1, 3)
    };
    let only: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    let wanted =
        |name: &str| only.is_empty() || only.iter().any(|only| name.contains(only.as_str()));
    println!(
        "{:<24} {:>10} {:>10} {:>7}",
        "job", "by hand s", "rdd s", "ratio"
    );
    if wanted("word count") {
        let file = text(200_000_000 / scale);
        compare(
            "word count",
            rounds,
            || words_by_hand(file.path()),
            || words(file.path()),
        );
        compare(
            "word count, String each",
            rounds,
            || words_by_hand(file.path()),
            || words_owned(file.path()),
        );
    }
    if wanted("reduce_by_key") {
        let n = 10_000_000 / scale;
        compare("reduce_by_key", rounds, || reduce_by_hand(n), || reduce(n));
    }
    if wanted("sort") {
        let n = 5_000_000 / scale;
        compare("sort", rounds, || sort_by_hand(n), || sort(n));
    }
    if wanted("pagerank") {
        let n = 1_000_000 / scale;
        compare(
            "pagerank, 10 rounds",
            rounds,
            || pagerank_by_hand(n),
            || pagerank(n),
        );
    }
}

fn compare<R: PartialEq + std::fmt::Debug>(
    name: &str,
    rounds: usize,
    by_hand: impl Fn() -> R,
    rdd: impl Fn() -> R,
) {
    let (mut hand, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (a, seconds) = timed(&by_hand);
        hand.push(seconds);
        let (b, seconds) = timed(&rdd);
        ours.push(seconds);
        assert_eq!(a, b, "{name}");
    }
    let (hand, ours) = (median(hand), median(ours));
    println!("{name:<24} {hand:>10.2} {ours:>10.2} {:>7.2}", ours / hand);
}

fn timed<R>(f: impl Fn() -> R) -> (R, f64) {
    let before = cpu_seconds();
    let result = f();
    (result, cpu_seconds() - before)
}

/// User and system time of this process: fields 14 and 15 of proc(5)'s stat, in hundredths on Linux.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let after_name = stat.rsplit_once(')').expect("a name").1;
    let ticks: f64 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<f64>().expect("a number"))
        .sum();
    ticks / 100.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn random(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) ^ (*state << 20)
}

/// Words w0 to w49999, the small numbers far more often, ten on a line.
fn text(bytes: u64) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    write_text(file.as_file_mut(), bytes);
    file
}

fn write_text(file: &mut File, bytes: u64) {
    let mut writer = BufWriter::new(file);
    let (mut state, mut written) = (1, 0);
    while written < bytes {
        let bits = random(&mut state) % 16;
        let word = format!(
            "w{}{}",
            random(&mut state) % (1 << bits),
            if written % 10 == 0 { '\n' } else { ' ' }
        );
        written += word.len() as u64;
        writer.write_all(word.as_bytes()).expect("written");
    }
    writer.flush().expect("written");
}

fn words(path: &Path) -> (usize, u64) {
    let context = Context::local(2).expect("a folder");
    let counts = context
        .text_file(path, 4)
        .reduce_pairs_by_key(
            4,
            |line, pairs: &mut Pairs<'_, '_, Box<str>, u64>| {
                for word in line.split_ascii_whitespace() {
                    pairs.add(word, 1);
                }
            },
            |a, b| a + b,
        )
        .collect()
        .expect("runs");
    (counts.len(), counts.iter().map(|(_, n)| n).sum())
}

/// As the tutorials have it.
fn words_owned(path: &Path) -> (usize, u64) {
    let context = Context::local(2).expect("a folder");
    let words = context.text_file(path, 4).flat_map(|line| {
        line.split_ascii_whitespace()
            .map(|word| (word.to_owned(), 1u64))
            .collect::<Vec<_>>()
    });
    let counts = words
        .reduce_by_key(4, |a, b| a + b)
        .collect()
        .expect("runs");
    (counts.len(), counts.iter().map(|(_, n)| n).sum())
}

fn words_by_hand(path: &Path) -> (usize, u64) {
    let length = std::fs::metadata(path).expect("a file").len();
    let half = |from: u64, to: u64| {
        let mut file = File::open(path).expect("a file");
        file.seek(SeekFrom::Start(from.saturating_sub(1)))
            .expect("inside");
        let mut reader = BufReader::with_capacity(1 << 18, file);
        let (mut at, mut line) = (from, Vec::new());
        if from > 0 {
            at += reader.skip_until(b'\n').expect("read") as u64 - 1;
        }
        let mut counts = FxHashMap::<Box<[u8]>, u64>::default();
        while at < to {
            line.clear();
            at += reader.read_until(b'\n', &mut line).expect("read") as u64;
            for word in line
                .split(u8::is_ascii_whitespace)
                .filter(|word| !word.is_empty())
            {
                match counts.get_mut(word) {
                    Some(count) => *count += 1,
                    None => drop(counts.insert(word.into(), 1)),
                }
            }
        }
        counts
    };
    let (mut all, other) = both(|| half(0, length / 2), || half(length / 2, length));
    other
        .into_iter()
        .for_each(|(word, n)| *all.entry(word).or_insert(0) += n);
    (all.len(), all.values().sum())
}

fn pairs(from: u64, to: u64) -> impl Iterator<Item = (u64, u64)> {
    let mut state = from;
    (from..to).map(move |_| (random(&mut state) % 1_000_000, 1))
}

fn reduce(n: u64) -> (usize, u64) {
    let context = Context::local(2).expect("a folder");
    let made = context.generate(4, move |p| pairs(n / 4 * p as u64, n / 4 * (p as u64 + 1)));
    let sums = made.reduce_by_key(4, |a, b| a + b).map(|(_, v)| v);
    sums.aggregate(
        (0, 0),
        |all, v| *all = (all.0 + 1, all.1 + v),
        |a, b| *a = (a.0 + b.0, a.1 + b.1),
    )
    .expect("runs")
}

fn reduce_by_hand(n: u64) -> (usize, u64) {
    let spread = |quarters: [u64; 2]| {
        let mut buckets = vec![Vec::new(); 64];
        for q in quarters {
            for pair in pairs(n / 4 * q, n / 4 * (q + 1)) {
                buckets[(pair.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize].push(pair);
            }
        }
        buckets
    };
    let (left, right) = both(|| spread([0, 1]), || spread([2, 3]));
    let fold = |range: std::ops::Range<usize>| {
        let mut all = (0, 0);
        for bucket in range {
            let mut sums = FxHashMap::<u64, u64>::default();
            for (key, value) in left[bucket].iter().chain(&right[bucket]) {
                *sums.entry(*key).or_insert(0) += value;
            }
            all = (all.0 + sums.len(), all.1 + sums.values().sum::<u64>());
        }
        all
    };
    let (a, b) = both(|| fold(0..32), || fold(32..64));
    (a.0 + b.0, a.1 + b.1)
}

fn numbers(from: u64, to: u64) -> impl Iterator<Item = u64> {
    let mut state = from ^ 0x5eed;
    (from..to).map(move |_| random(&mut state))
}

fn sort(n: u64) -> Vec<u64> {
    let context = Context::local(2).expect("a folder");
    let made = context.generate(4, move |p| {
        numbers(n / 4 * p as u64, n / 4 * (p as u64 + 1))
    });
    made.sort_by(4, false, |n| *n)
        .expect("samples")
        .collect()
        .expect("runs")
}

fn sort_by_hand(n: u64) -> Vec<u64> {
    let half = |quarters: [u64; 2]| {
        let mut all: Vec<u64> = quarters
            .into_iter()
            .flat_map(|q| numbers(n / 4 * q, n / 4 * (q + 1)))
            .collect();
        all.sort();
        all
    };
    let (left, right) = both(|| half([0, 1]), || half([2, 3]));
    let mut all = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        all.extend(if a <= b { left.next() } else { right.next() });
    }
    all.extend(left.chain(right));
    all
}

fn edges(from: u64, to: u64) -> impl Iterator<Item = (u64, u64)> {
    let mut state = from ^ 0xed9e;
    (from..to).map(move |_| {
        (
            random(&mut state) % 100_000,
            random(&mut state) % (1 << (random(&mut state) % 17)),
        )
    })
}

fn pagerank(n: u64) -> (usize, u64) {
    let context = Context::local(2).expect("a folder");
    let made = context.generate(4, move |p| edges(n / 4 * p as u64, n / 4 * (p as u64 + 1)));
    let links = made.group_by_key(4).cache();
    let mut ranks = links.map_values(|_| 1.0f64);
    for _ in 0..10 {
        let given = links.join(&ranks, 4).flat_map(|(_, (to, rank))| {
            let share = rank / to.len() as f64;
            to.into_iter().map(move |page| (page, share))
        });
        ranks = given
            .reduce_by_key(4, |a, b| a + b)
            .map_values(|sum| 0.15 + 0.85 * sum);
    }
    summary(ranks.collect().expect("runs").into_iter())
}

fn pagerank_by_hand(n: u64) -> (usize, u64) {
    let mut links = FxHashMap::<u64, Vec<u64>>::default();
    (0..4)
        .flat_map(|q| edges(n / 4 * q, n / 4 * (q + 1)))
        .for_each(|(from, to)| links.entry(from).or_default().push(to));
    let mut ranks: FxHashMap<u64, f64> = links.keys().map(|page| (*page, 1.0)).collect();
    for _ in 0..10 {
        let mut sums = FxHashMap::<u64, f64>::default();
        for (page, to) in &links {
            let Some(rank) = ranks.get(page) else {
                continue;
            };
            let share = rank / to.len() as f64;
            to.iter()
                .for_each(|page| *sums.entry(*page).or_insert(0.0) += share);
        }
        ranks = sums
            .into_iter()
            .map(|(page, sum)| (page, 0.15 + 0.85 * sum))
            .collect();
    }
    summary(ranks.into_iter())
}

/// Rounded, since the order of additions differs.
fn summary<K: Eq + Hash>(ranks: impl Iterator<Item = (K, f64)>) -> (usize, u64) {
    let (mut count, mut sum) = (0, 0.0);
    ranks.for_each(|(_, rank)| {
        count += 1;
        sum += rank;
    });
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a sum of ranks is small and positive"
    )]
    (count, sum.round() as u64)
}

fn both<A: Send, B: Send>(a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
    std::thread::scope(|scope| {
        let other = scope.spawn(b);
        (a(), other.join().expect("no panic"))
    })
}
