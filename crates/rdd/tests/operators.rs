//! Operators against plain iterators, and random lineages against an eager interpreter.
#![cfg(feature = "threads")]

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use rdd::{Context, HashPartitioner, Rdd, StorageLevel, ThreadOptions, Threads};

fn sorted<T: Ord>(mut values: Vec<T>) -> Vec<T> {
    values.sort();
    values
}

fn context() -> Context {
    Context::local(2).expect("a temporary folder")
}

#[test]
fn narrow_operators_do_what_iterators_do() {
    let context = context();
    let numbers = context.parallelize(0..100u64, 7);
    let made = numbers
        .map(|n| n * 3)
        .filter(|n| n % 2 == 0)
        .flat_map(|n| [n, n + 1])
        .collect()
        .expect("runs");
    let plain: Vec<u64> = (0..100)
        .map(|n| n * 3)
        .filter(|n| n % 2 == 0)
        .flat_map(|n| [n, n + 1])
        .collect();
    assert_eq!(made, plain);
    assert_eq!(numbers.glom().count().expect("runs"), 7);
    assert_eq!(numbers.coalesce(3).num_partitions(), 3);
    assert_eq!(
        numbers.coalesce(3).collect().expect("runs"),
        (0..100).collect::<Vec<_>>()
    );
    assert_eq!(numbers.union(&numbers).count().expect("runs"), 200);
    assert_eq!(
        numbers
            .cartesian(&context.parallelize([1, 2], 2))
            .count()
            .expect("runs"),
        200
    );
    let indexed = numbers
        .zip_with_index()
        .expect("runs")
        .collect()
        .expect("runs");
    assert!(indexed.iter().all(|(n, i)| n == i));
    let ids = sorted(
        numbers
            .zip_with_unique_id()
            .values()
            .collect()
            .expect("runs"),
    );
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
}

#[test]
fn a_split_by_weight_loses_and_doubles_nothing() {
    let numbers = context().parallelize(0..1000u64, 3);
    let parts = numbers.random_split(&[1.0, 2.0, 1.0], 7);
    let all: Vec<u64> = parts
        .iter()
        .flat_map(|part| part.collect().expect("runs"))
        .collect();
    assert_eq!(sorted(all), (0..1000).collect::<Vec<_>>());
    assert!(numbers.sample(0.1, 3).count().expect("runs") < 300);
    assert_eq!(
        numbers.sample(0.1, 3).collect(),
        numbers.sample(0.1, 3).collect()
    );
}

#[test]
fn actions_do_what_iterators_do() {
    let numbers = context().parallelize((0..50i64).map(|n| n * 37 % 50), 4);
    assert_eq!(numbers.count(), Ok(50));
    assert_eq!(numbers.reduce(|a, b| a + b), Ok(Some(1225)));
    assert_eq!((numbers.min(), numbers.max()), (Ok(Some(0)), Ok(Some(49))));
    assert_eq!(numbers.take_ordered(3), Ok(vec![0, 1, 2]));
    assert_eq!(numbers.top(3), Ok(vec![49, 48, 47]));
    assert_eq!(numbers.take(3), Ok(vec![0, 37, 24]));
    assert_eq!(numbers.first(), Ok(Some(0)));
    assert_eq!(numbers.fold(0, |a, b| a + b), Ok(1225));
    assert_eq!(
        numbers.aggregate(0u64, |n, _| *n += 1, |a, b| *a += b),
        Ok(50)
    );
    assert_eq!(numbers.filter(|_| false).is_empty(), Ok(true));
    assert_eq!(numbers.filter(|_| false).reduce(|a, b| a + b), Ok(None));
}

#[test]
fn sorting_is_total_in_both_directions_and_keeps_all() {
    let numbers = context().parallelize((0..5000u64).map(|n| n * 7919 % 1000), 4);
    let up = numbers
        .sort_by(3, false, |n| *n)
        .expect("samples")
        .collect()
        .expect("runs");
    let down = numbers
        .sort_by(3, true, |n| *n)
        .expect("samples")
        .collect()
        .expect("runs");
    assert_eq!(up, sorted(numbers.collect().expect("runs")));
    assert_eq!(down, up.iter().rev().copied().collect::<Vec<_>>());
    let by_key = numbers
        .map(|n| (n, ()))
        .sort_by_key(5, true)
        .expect("samples")
        .keys()
        .collect()
        .expect("runs");
    assert_eq!(by_key, down);
}

#[test]
fn joins_pair_what_has_equal_keys() {
    let context = context();
    let left = context.parallelize(
        [(1, "a"), (2, "b"), (2, "c")].map(|(k, v)| (k, v.to_owned())),
        2,
    );
    let right = context.parallelize([(2, 20), (2, 21), (3, 30)], 3);
    let inner = sorted(
        left.join(&right, 2)
            .map(|(k, (v, w))| format!("{k}{v}{w}"))
            .collect()
            .expect("runs"),
    );
    assert_eq!(inner, ["2b20", "2b21", "2c20", "2c21"]);
    let outer = sorted(left.full_outer_join(&right, 2).collect().expect("runs"));
    assert_eq!(outer.len(), 6);
    assert_eq!(outer[0], (1, (Some("a".to_owned()), None)));
    assert_eq!(outer[5], (3, (None, Some(30))));
    assert_eq!(left.left_outer_join(&right, 2).count(), Ok(5));
    assert_eq!(left.right_outer_join(&right, 2).count(), Ok(5));
    assert_eq!(
        left.subtract_by_key(&right, 2).keys().collect(),
        Ok(vec![1])
    );
}

#[test]
fn a_join_of_co_partitioned_datasets_moves_nothing() {
    let context = context();
    let parts = Arc::new(HashPartitioner::new(4));
    let left = context
        .parallelize((0..100u64).map(|n| (n, n)), 3)
        .partition_by(parts.clone());
    let right = context
        .parallelize((0..100u64).map(|n| (n, n * n)), 5)
        .reduce_by_key(parts.clone(), |a, _| a);
    let joined = left.join(&right, parts);
    let text = joined.to_debug_string();
    assert_eq!(
        text.matches("+-").count(),
        2,
        "only the two shuffles below:\n{text}"
    );
    assert!(
        joined
            .collect()
            .expect("runs")
            .iter()
            .all(|(k, (a, b))| a == k && *b == k * k)
    );
}

#[test]
fn the_debug_string_shows_stages_and_names() {
    let context = context();
    let words = context
        .parallelize([(1u8, 1u8)], 2)
        .cache()
        .set_name("words");
    let counts = words.reduce_by_key(3, |a, b| a + b).map_values(|n| n);
    assert_eq!(
        counts.to_debug_string(),
        "(3) mapValues [2]\n  | (3) reduceByKey [1]\n    +-(2) parallelize \"words\" [0] MemoryOnly\n"
    );
}

#[test]
fn persisted_partitions_are_computed_once_and_again_when_unpersisted() {
    let context = context();
    let counter = context.accumulator();
    let seen = counter.clone();
    let numbers = context.parallelize(0..10u64, 2).map(move |n| {
        seen.add(1);
        n
    });
    for level in [
        StorageLevel::MemoryOnly,
        StorageLevel::MemoryAndDisk,
        StorageLevel::DiskOnly,
    ] {
        let before = counter.value();
        let kept = numbers.clone().persist(level);
        assert_eq!((kept.count(), kept.count()), (Ok(10), Ok(10)));
        assert_eq!(counter.value() - before, 10, "{level:?}");
        kept.unpersist();
    }
    numbers.count().expect("runs");
    assert_eq!(counter.value(), 40);
}

#[test]
fn a_table_over_its_budget_goes_through_runs_on_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = ThreadOptions {
        table_bytes: 1000,
        memory_bytes: 1000,
        folder: Some(folder.path().into()),
        ..Default::default()
    };
    let threads = Arc::new(Threads::new(options).expect("a folder"));
    let context = Context::new(threads.clone(), 2);
    let pairs = context.generate(3, |p| {
        (0..4000u64).map(move |n| (n * 31 % 701, n + p as u64))
    });
    let sums: BTreeMap<u64, u64> = pairs
        .reduce_by_key(2, |a, b| a + b)
        .collect()
        .expect("runs")
        .into_iter()
        .collect();
    let mut plain = BTreeMap::new();
    for (key, value) in (0..3).flat_map(|p| (0..4000u64).map(move |n| (n * 31 % 701, n + p))) {
        *plain.entry(key).or_insert(0) += value;
    }
    assert_eq!(sums, plain);
    drop((pairs, context, threads));
    assert_eq!(
        std::fs::read_dir(folder.path())
            .expect("the folder")
            .count(),
        0,
        "temporary files are left"
    );
}

#[derive(Clone, Debug)]
enum Op {
    Add(u64),
    KeepMod(u64),
    Reduce(usize),
    Group(usize),
    Distinct(usize),
    Union,
    JoinSelf(usize),
    Repartition(usize),
    Coalesce(usize),
    Cache,
    Sort(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let parts = 1..5usize;
    prop_oneof![
        (1..9u64).prop_map(Op::Add),
        (2..4u64).prop_map(Op::KeepMod),
        parts.clone().prop_map(Op::Reduce),
        parts.clone().prop_map(Op::Group),
        parts.clone().prop_map(Op::Distinct),
        Just(Op::Union),
        parts.clone().prop_map(Op::JoinSelf),
        parts.clone().prop_map(Op::Repartition),
        parts.clone().prop_map(Op::Coalesce),
        Just(Op::Cache),
        parts.prop_map(Op::Sort),
    ]
}

type Pairs = Vec<(u64, u64)>;

fn lazily(rdd: &Rdd<(u64, u64)>, op: &Op) -> Rdd<(u64, u64)> {
    match *op {
        Op::Add(n) => rdd.map(move |(k, v)| ((k + n) % 20, v)),
        Op::KeepMod(n) => rdd.filter(move |(k, v)| (k + v) % n != 0),
        Op::Reduce(p) => rdd.reduce_by_key(p, u64::wrapping_add),
        Op::Group(p) => rdd
            .group_by_key(p)
            .map_values(|values| values.iter().max().copied().unwrap_or(0)),
        Op::Distinct(p) => rdd.distinct(p),
        Op::Union => rdd.union(rdd),
        Op::JoinSelf(p) => {
            let sums = rdd.reduce_by_key(p, u64::wrapping_add);
            rdd.join(&sums, p)
                .map_values(|(a, b)| a.wrapping_mul(3).wrapping_add(b))
        }
        Op::Repartition(p) => rdd.repartition(p),
        Op::Coalesce(p) => rdd.coalesce(p),
        Op::Cache => rdd.clone().cache(),
        Op::Sort(p) => rdd.sort_by(p, false, |pair| *pair).expect("samples"),
    }
}

fn eagerly(values: &Pairs, op: &Op) -> Pairs {
    let grouped = || {
        let mut groups = BTreeMap::<u64, Vec<u64>>::new();
        values
            .iter()
            .for_each(|(k, v)| groups.entry(*k).or_default().push(*v));
        groups
    };
    let sum = |values: &[u64]| values.iter().fold(0u64, |a, b| a.wrapping_add(*b));
    match *op {
        Op::Add(n) => values.iter().map(|(k, v)| ((k + n) % 20, *v)).collect(),
        Op::KeepMod(n) => values
            .iter()
            .filter(|(k, v)| (k + v) % n != 0)
            .copied()
            .collect(),
        Op::Reduce(_) => grouped().into_iter().map(|(k, v)| (k, sum(&v))).collect(),
        Op::Group(_) => grouped()
            .into_iter()
            .map(|(k, v)| (k, v.into_iter().max().unwrap_or(0)))
            .collect(),
        Op::Distinct(_) => {
            let mut all = sorted(values.clone());
            all.dedup();
            all
        }
        Op::Union => [values.clone(), values.clone()].concat(),
        Op::JoinSelf(_) => {
            let groups = grouped();
            values
                .iter()
                .map(|(k, v)| (*k, v.wrapping_mul(3).wrapping_add(sum(&groups[k]))))
                .collect()
        }
        Op::Repartition(_) | Op::Coalesce(_) | Op::Cache | Op::Sort(_) => values.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn random_lineages_give_what_an_eager_interpreter_gives(
        values in proptest::collection::vec((0..20u64, 0..100u64), 0..60),
        partitions in 1..5usize,
        ops in proptest::collection::vec(op(), 0..7),
    ) {
        let mut lazy = context().parallelize(values.clone(), partitions);
        let mut eager = values;
        for op in &ops {
            lazy = lazily(&lazy, op);
            eager = eagerly(&eager, op);
        }
        prop_assert_eq!(sorted(lazy.collect().expect("runs")), sorted(eager));
    }
}

#[test]
fn pairs_by_borrowed_keys_are_the_ones_of_owned_keys() {
    use std::io::Write;

    let mut file = tempfile::NamedTempFile::new().expect("a file");
    for n in 0..3000u64 {
        writeln!(file, "w{} w{} w{n}", n % 7, n % 300).expect("written");
    }
    let context = context();
    let lines = context.text_file(file.path(), 3);
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let owned = lines.flat_map(move |line| words(&line).into_iter().map(|word| (word, 1u64)));
    let owned = owned.reduce_by_key(2, |a, b| a + b);
    let pairs = |line: &String, pairs: &mut rdd::Pairs<'_, '_, String, u64>| {
        line.split(' ').for_each(|word| pairs.add(word, 1));
    };
    let lent = lines.reduce_pairs_by_key(2, pairs, |a, b| a + b);
    let kept = lines
        .clone()
        .cache()
        .reduce_pairs_by_key(2, pairs, |a, b| a + b);
    let expected = sorted(owned.collect().expect("runs"));
    assert_eq!(sorted(lent.collect().expect("runs")), expected);
    assert_eq!(sorted(kept.collect().expect("runs")), expected);
    assert_eq!(lent.lineage().partitioner(), owned.lineage().partitioner());
}

#[test]
fn a_heavy_key_among_many_single_ones_moves_once_for_each_task() {
    let context = context();
    let moved = context.accumulator();
    let count = moved.clone();
    // Most keys are met once, so that tables do not pay; every third record has key 0.
    let pairs = context.generate(2, |p| {
        (0..200_000u64).map(move |n| (if n % 3 == 0 { 0 } else { n * 2 + p as u64 }, 1u64))
    });
    let sums = pairs.combine_by_key(
        2,
        |one| one,
        |sum, one| *sum += one,
        move |sum, other| {
            count.add(1);
            *sum += other;
        },
    );
    assert_eq!(sums.lookup(0).expect("runs"), [2 * 66_667]);
    // Twice what each of two map tasks handed over: before its trial ended, and after.
    assert!(moved.value() <= 4, "{} partial sums", moved.value());
}

#[test]
fn a_skewed_join_pairs_the_same_and_spreads_the_heavy_key() {
    let context = context();
    let left = context.parallelize((0..4000u64).map(|n| (if n % 2 == 0 { 7 } else { n }, n)), 5);
    let right = context.parallelize((0..4000u64).filter(|n| n % 3 > 0).map(|n| (n, n * n)), 3);
    let (plain, cut) = (
        left.join(&right, 8),
        left.skew_join(&right, 8).expect("runs"),
    );
    assert_eq!(
        sorted(cut.collect().expect("runs")),
        sorted(plain.collect().expect("runs"))
    );
    let largest = |pairs: &Rdd<(u64, (u64, u64))>| {
        let sizes = pairs.glom().map(|all| all.len()).collect();
        sizes.expect("runs").into_iter().max()
    };
    let (plain, cut) = (largest(&plain).expect("some"), largest(&cut).expect("some"));
    assert!(plain >= 2000 && cut < 1000, "{plain} and {cut}");
    // A tenth of the share may be missing in the count.
    let heavy = left.heavy_keys(0.4).expect("runs");
    assert!(matches!(heavy[..], [(7, 1840..=2000)]), "{heavy:?}");
    assert_eq!(left.heavy_keys(0.6).expect("runs"), []);
}

#[test]
fn numbers_are_summed_spread_and_counted() {
    let context = context();
    let numbers = context.parallelize((1..=100u32).map(f64::from), 7);
    let stats = numbers.stats().expect("runs");
    assert_eq!((stats.count, stats.min, stats.max), (100, 1.0, 100.0));
    assert!((stats.mean - 50.5).abs() < 1e-9 && (stats.sum() - 5050.0).abs() < 1e-6);
    assert!((numbers.variance().expect("runs") - 833.25).abs() < 1e-6);
    assert!((stats.sample_variance() - 841.666_666).abs() < 1e-3);
    assert_eq!(numbers.sum(), Ok(5050.0));
    assert_eq!(
        numbers.histogram(&[1.0, 51.0, 100.0]).expect("runs"),
        [50, 50]
    );
    let none = numbers.filter(|_| false);
    assert_eq!((none.mean(), none.sum()), (Ok(0.0), Ok(0.0)));
    for n in [10u64, 3000, 200_000] {
        let distinct = context.generate(3, move |p| (0..n).map(move |i| (i * 31 + p as u64) % n));
        let about = distinct.count_approx_distinct().expect("runs");
        assert!(about.abs_diff(n) * 100 <= n * 6, "{about} for {n}");
    }
}

#[test]
fn samples_trees_and_iterators_see_every_element() {
    let numbers = context().parallelize(0..1000u64, 9);
    for depth in 1..4 {
        assert_eq!(
            numbers.tree_reduce(depth, |a, b| a + b),
            Ok(Some(499_500)),
            "{depth}"
        );
        let count = numbers.tree_aggregate(0u64, depth, |n, _| *n += 1, |a, b| *a += b);
        assert_eq!(count, Ok(1000));
    }
    assert_eq!(numbers.filter(|_| false).tree_reduce(2, |a, _| a), Ok(None));
    let taken = sorted(numbers.take_sample(50, 3).expect("runs"));
    assert_eq!(taken.len(), 50);
    assert!(taken.windows(2).all(|pair| pair[0] < pair[1]));
    assert!(
        taken[0] < 200 && taken[49] > 800,
        "from everywhere: {taken:?}"
    );
    assert_eq!(numbers.take_sample(5000, 3).expect("runs").len(), 1000);
    let all: Result<Vec<u64>, _> = numbers.to_local_iterator().collect();
    assert_eq!(all, Ok((0..1000).collect()));
    let pairs = numbers.map(|n| (n % 2, n));
    assert_eq!(
        pairs
            .sample_by_key(|k| *k as f64, 5)
            .keys()
            .distinct(1)
            .collect(),
        Ok(vec![1])
    );
    let most = pairs.fold_by_key(0, 2, u64::max);
    assert_eq!(sorted(most.collect().expect("runs")), [(0, 998), (1, 999)]);
}

#[test]
fn lines_are_saved_once_and_read_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let into = folder.path().join("lines");
    let numbers = context().parallelize(0..10u64, 3);
    numbers.save_as_text_file(&into).expect("written");
    let mut names: Vec<_> = std::fs::read_dir(&into)
        .expect("made")
        .map(|entry| entry.expect("readable").file_name())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["_SUCCESS", "part-00000", "part-00001", "part-00002"]
    );
    let second = std::fs::read_to_string(into.join("part-00001")).expect("text");
    assert_eq!(second, "3\n4\n5\n");
    let error = numbers.save_as_text_file(&into).expect_err("exists");
    assert!(error.to_string().contains("exists"), "{error}");
}

#[test]
fn the_picture_has_a_box_for_each_dataset_and_dashes_for_shuffles() {
    let words = context()
        .parallelize([(1u8, 1u8)], 2)
        .set_name("a<b")
        .cache();
    let svg = words
        .reduce_by_key(3, |a, b| a + b)
        .join(&words, 3)
        .lineage()
        .to_svg();
    assert_eq!(svg.matches("<rect").count(), 4);
    assert_eq!(svg.matches("stroke-dasharray").count(), 2);
    assert_eq!(svg.matches("lightgrey").count(), 1);
    assert!(svg.contains("a&lt;b"));
}
