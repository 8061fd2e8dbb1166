//! The same sequences of operators on `PySpark` and here: equal multisets.
//!
//! `RDD_PYTHON` names a Python that has `PySpark`, `RDD_SEQUENCES` how many; by hand 1000.
#![cfg(feature = "threads")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rdd::{Context, Rdd};

type Pairs = Rdd<(i64, i64)>;

const OPERATORS: [&str; 32] = [
    "map",
    "filter",
    "flatMap",
    "mapValues",
    "flatMapValues",
    "mapPartitions",
    "keyBy",
    "reduceByKey",
    "groupByKey",
    "aggregateByKey",
    "foldByKey",
    "combineByKey",
    "distinct",
    "union",
    "intersection",
    "subtract",
    "subtractByKey",
    "join",
    "leftOuterJoin",
    "rightOuterJoin",
    "fullOuterJoin",
    "cogroup",
    "cartesian",
    "repartition",
    "coalesce",
    "partitionBy",
    "sortBy",
    "sortByKey",
    "sortedIndex",
    "zip",
    "keys",
    "cache",
];

#[test]
fn pyspark_gives_the_same_multisets() {
    let python = std::env::var("RDD_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/peers/spark/sequences.py");
    let has = |code: &str| {
        let ran = Command::new(&python)
            .args(["-c", code])
            .stderr(Stdio::null())
            .status();
        ran.is_ok_and(|status| status.success())
    };
    if !has("import pyspark") || !script.exists() {
        eprintln!("skipped: {python} has no pyspark");
        return;
    }
    let count = std::env::var("RDD_SEQUENCES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(8u64);
    let sequences: Vec<Sequence> = (0..count).map(Sequence::generated).collect();
    let theirs = on_pyspark(&python, &script, &sequences);
    assert_eq!(theirs.len(), sequences.len());
    let context = Context::local(2).expect("a folder");
    for (sequence, theirs) in sequences.iter().zip(theirs) {
        let start = context.parallelize(sequence.pairs.clone(), sequence.partitions);
        let operators = sequence.operators.iter();
        let last = operators.fold(start, |rdd, (operator, n)| apply(&rdd, operator, *n));
        let mut ours = last.collect().expect("runs");
        ours.sort_unstable();
        assert_eq!(format!("{ours:?}"), theirs, "{sequence:?}");
    }
}

#[derive(Debug)]
struct Sequence {
    partitions: usize,
    pairs: Vec<(i64, i64)>,
    operators: Vec<(&'static str, i64)>,
}

impl Sequence {
    fn generated(seed: u64) -> Self {
        let mut state = seed;
        let mut below = |n: i64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33).cast_signed() % n
        };
        let index = |n: i64| usize::try_from(n).expect("not negative");
        Self {
            partitions: 1 + index(below(4)),
            pairs: (0..below(40)).map(|_| (below(13), below(100))).collect(),
            operators: (0..1 + below(5))
                .map(|_| (OPERATORS[index(below(32))], below(6)))
                .collect(),
        }
    }
}

fn on_pyspark(python: &str, script: &PathBuf, sequences: &[Sequence]) -> Vec<String> {
    let mut child = Command::new(python)
        .arg(script)
        .env("PYSPARK_PYTHON", python)
        .env("PYTHONHASHSEED", "0")
        .env("SPARK_LOCAL_IP", "127.0.0.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("python starts");
    let mut stdin = child.stdin.take().expect("piped");
    let lines: String = sequences
        .iter()
        .map(|s| format!("({}, {:?}, {:?})\n", s.partitions, s.pairs, s.operators))
        .collect();
    let writer = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let output = child.wait_with_output().expect("python ends");
    writer.join().expect("no panic").expect("written");
    assert!(output.status.success(), "{}", output.status);
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(str::to_owned).collect()
}

/// As `apply` in sequences.py, line by line.
fn apply(rdd: &Pairs, operator: &str, n: i64) -> Pairs {
    let parts = 1 + usize::try_from(n % 3).expect("not negative");
    let none = |value: Option<i64>| value.unwrap_or(M);
    let other = || rdd.filter(move |(_, v)| v % 2 == n % 2);
    match operator {
        "map" => rdd.map(move |(k, v)| ((k * 3 + v + n) % 13, v)),
        "filter" => rdd.filter(move |(k, v)| (k + v) % (n + 2) != 0),
        "flatMap" => rdd.flat_map(|kv| vec![kv; usize::try_from(kv.1 % 3).expect("small")]),
        "mapValues" => rdd.map_values(move |v| (v * 7 + n) % M),
        "flatMapValues" => rdd.flat_map_values(|v| 0..v % 3),
        "mapPartitions" => rdd.map_partitions(|all| all.into_iter().map(|(k, v)| (k, (v + 1) % M))),
        "keyBy" => rdd.key_by(|(_, v)| v % 5).map_values(|(k, _)| k),
        "reduceByKey" => rdd.reduce_by_key(parts, |a, b| (a + b) % M),
        "groupByKey" => rdd
            .group_by_key(parts)
            .map_values(|all| all.iter().sum::<i64>() % M),
        "aggregateByKey" => {
            rdd.aggregate_by_key(0, parts, |c, v| *c = v.max(*c), |a, b| *a = b.max(*a))
        }
        "foldByKey" => rdd.fold_by_key(0, parts, i64::max),
        "combineByKey" => {
            rdd.combine_by_key(parts, |v| v, |c, v| *c = v.min(*c), |a, b| *a = b.min(*a))
        }
        "distinct" => rdd.distinct(parts),
        "union" => rdd.union(&other()),
        "intersection" => rdd.intersection(&other(), parts),
        "subtract" => rdd.subtract(&other(), parts),
        "subtractByKey" => rdd.subtract_by_key(&other(), parts),
        "join" => rdd
            .join(&rdd.reduce_by_key(parts, i64::max), parts)
            .map_values(|(v, w)| (v + w) % M),
        "leftOuterJoin" => rdd
            .left_outer_join(&other().distinct(parts), parts)
            .map_values(move |(v, w)| (v + none(w)) % M),
        "rightOuterJoin" => other()
            .distinct(parts)
            .right_outer_join(rdd, parts)
            .map_values(move |(v, w)| (none(v) + w) % M),
        "fullOuterJoin" => rdd
            .full_outer_join(&other().distinct(parts), parts)
            .map_values(move |(v, w)| (none(v) * 3 + none(w)) % M),
        "cogroup" => rdd
            .cogroup(&other(), parts)
            .map_values(|(v, w)| length(&v) * 10 + length(&w)),
        "cartesian" => rdd
            .filter(|(_, v)| v % 7 == 0)
            .cartesian(&rdd.filter(|(_, v)| v % 7 == 1))
            .map(|(a, b)| (a.0, b.1)),
        "repartition" => rdd.repartition(parts),
        "coalesce" => rdd.coalesce(parts),
        "partitionBy" => rdd.partition_by(parts),
        "sortBy" => rdd.sort_by(parts, false, |kv| *kv).expect("samples"),
        "sortByKey" => rdd.sort_by_key(parts, true).expect("samples"),
        "sortedIndex" => rdd
            .sort_by(parts, false, |kv| *kv)
            .and_then(|sorted| sorted.zip_with_index())
            .expect("runs")
            .map(|((k, _), i)| (k, i.cast_signed() % M)),
        "zip" => rdd
            .map_values(|v| v + 1)
            .zip(rdd)
            .map(|(a, b)| (a.0, (a.1 + b.1) % M)),
        "keys" => rdd.keys().map(|k| (k, 1)),
        "cache" => rdd.clone().cache(),
        _ => unreachable!("one of the list"),
    }
}

fn length(values: &[i64]) -> i64 {
    i64::try_from(values.len()).expect("few")
}

const M: i64 = 1000;
