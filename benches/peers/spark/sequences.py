"""Runs sequences of operators on PySpark: each line read is a Python literal (partitions, pairs, [(operator, n), ...]),
each line written the sorted pairs it gives."""
import ast
import sys

from pyspark import SparkConf, SparkContext

M = 1000


def apply(rdd, operator, n):
    parts = 1 + n % 3
    pairs_of = lambda kv: [(kv[0], sum(group) % M) for group in [list(kv[1])]]
    none = lambda value: M if value is None else value
    other = lambda: rdd.filter(lambda kv: kv[1] % 2 == n % 2)
    return {
        "map": lambda: rdd.map(lambda kv: ((kv[0] * 3 + kv[1] + n) % 13, kv[1])),
        "filter": lambda: rdd.filter(lambda kv: (kv[0] + kv[1]) % (n + 2) != 0),
        "flatMap": lambda: rdd.flatMap(lambda kv: [kv] * (kv[1] % 3)),
        "mapValues": lambda: rdd.mapValues(lambda v: (v * 7 + n) % M),
        "flatMapValues": lambda: rdd.flatMapValues(lambda v: range(v % 3)),
        "mapPartitions": lambda: rdd.mapPartitions(lambda all: [(k, (v + 1) % M) for k, v in all]),
        "keyBy": lambda: rdd.keyBy(lambda kv: kv[1] % 5).mapValues(lambda kv: kv[0]),
        "reduceByKey": lambda: rdd.reduceByKey(lambda a, b: (a + b) % M, parts),
        "groupByKey": lambda: rdd.groupByKey(parts).flatMap(pairs_of),
        "aggregateByKey": lambda: rdd.aggregateByKey(0, lambda c, v: max(c, v), max, parts),
        "foldByKey": lambda: rdd.foldByKey(0, max, parts),
        "combineByKey": lambda: rdd.combineByKey(lambda v: v, min, min, parts),
        "distinct": lambda: rdd.distinct(parts),
        "union": lambda: rdd.union(other()),
        "intersection": lambda: rdd.intersection(other()),
        "subtract": lambda: rdd.subtract(other()),
        "subtractByKey": lambda: rdd.subtractByKey(other()),
        "join": lambda: rdd.join(rdd.reduceByKey(max, parts), parts).mapValues(lambda vw: (vw[0] + vw[1]) % M),
        "leftOuterJoin": lambda: rdd.leftOuterJoin(other().distinct(), parts).mapValues(
            lambda vw: (vw[0] + none(vw[1])) % M
        ),
        "rightOuterJoin": lambda: other().distinct().rightOuterJoin(rdd, parts).mapValues(
            lambda vw: (none(vw[0]) + vw[1]) % M
        ),
        "fullOuterJoin": lambda: rdd.fullOuterJoin(other().distinct(), parts).mapValues(
            lambda vw: (none(vw[0]) * 3 + none(vw[1])) % M
        ),
        "cogroup": lambda: rdd.cogroup(other(), parts).mapValues(lambda vw: len(vw[0]) * 10 + len(vw[1])),
        "cartesian": lambda: rdd.filter(lambda kv: kv[1] % 7 == 0)
        .cartesian(rdd.filter(lambda kv: kv[1] % 7 == 1))
        .map(lambda ab: (ab[0][0], ab[1][1])),
        "repartition": lambda: rdd.repartition(parts),
        "coalesce": lambda: rdd.coalesce(parts),
        "partitionBy": lambda: rdd.partitionBy(parts),
        "sortBy": lambda: rdd.sortBy(lambda kv: kv, True, parts),
        "sortByKey": lambda: rdd.sortByKey(False, parts),
        "sortedIndex": lambda: rdd.sortBy(lambda kv: kv, True, parts)
        .zipWithIndex()
        .map(lambda kvi: (kvi[0][0], kvi[1] % M)),
        "zip": lambda: rdd.mapValues(lambda v: v + 1).zip(rdd).map(lambda ab: (ab[0][0], (ab[0][1] + ab[1][1]) % M)),
        "keys": lambda: rdd.keys().map(lambda k: (k, 1)),
        "cache": lambda: rdd.cache(),
    }[operator]()


def main():
    conf = SparkConf().setMaster("local[1]").set("spark.ui.enabled", "false")
    sc = SparkContext(conf=conf)
    sc.setLogLevel("ERROR")
    for line in sys.stdin:
        partitions, pairs, operators = ast.literal_eval(line)
        rdd = sc.parallelize(pairs, partitions)
        for operator, n in operators:
            rdd = apply(rdd, operator, n)
        print(sorted(rdd.collect()), flush=True)
    sc.stop()


if __name__ == "__main__":
    main()
