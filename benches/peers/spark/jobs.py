"""The jobs of benches/rdd.rs on PySpark's RDDs or on Polars: `jobs.py pyspark|polars words|reduce|sort|pagerank SIZE`."""
import sys
from operator import add

A, C, MASK = 6364136223846793005, 1442695040888963407, (1 << 64) - 1


def random(state):
    while True:
        state = (state * A + C) & MASK
        yield (state >> 33) ^ ((state << 20) & MASK)


def pair_of_sums(rdd):
    return rdd.map(lambda pair: (1, pair[1])).fold((0, 0), lambda a, b: (a[0] + b[0], a[1] + b[1]))


def signed(n):
    return n - (1 << 64) if n >> 63 else n


def pyspark(job, size):
    from pyspark import SparkConf, SparkContext

    conf = SparkConf().setMaster("local[2]").set("spark.ui.enabled", "false").set("spark.driver.memory", "4g")
    sc = SparkContext(conf=conf)
    sc.setLogLevel("ERROR")
    print("begin", flush=True)

    def quarters(make):
        return sc.parallelize(range(4), 4).mapPartitionsWithIndex(lambda p, _: make(size // 4 * p, size // 4))

    if job == "words":
        counts = sc.textFile(size, 4).flatMap(lambda line: line.split()).map(lambda w: (w, 1)).reduceByKey(add, 4)
        result = "%d %d" % pair_of_sums(counts)
    elif job == "reduce":

        def pairs(start, count):
            numbers = random(start)
            return ((next(numbers) % 1_000_000, 1) for _ in range(count))

        result = "%d %d" % pair_of_sums(quarters(pairs).reduceByKey(add, 4))
    elif job == "sort":

        def numbers(start, count):
            drawn = random(start ^ 0x5EED)
            return (signed(next(drawn)) for _ in range(count))

        def check(part):
            count, total, last = 0, 0, -(1 << 63)
            for n in part:
                assert last <= n
                count, total, last = count + 1, total + n, n
            yield count, total

        parts = quarters(numbers).sortBy(lambda n: n, True, 4).mapPartitions(check)
        count, total = parts.reduce(lambda a, b: (a[0] + b[0], a[1] + b[1]))
        result = f"{count} {signed(total & MASK)}"
    else:

        def edges(start, count):
            drawn = random(start ^ 0xED9E)
            for _ in range(count):
                source, target = next(drawn) % 100_000, next(drawn)
                yield source, target % (1 << (next(drawn) % 17))

        links = quarters(edges).groupByKey(4).mapValues(list).cache()
        ranks = links.mapValues(lambda _: 1.0)
        for _ in range(10):
            given = links.join(ranks, 4).flatMap(lambda kv: [(to, kv[1][1] / len(kv[1][0])) for to in kv[1][0]])
            ranks = given.reduceByKey(add, 4).mapValues(lambda total: 0.15 + 0.85 * total)
        result = "%d %.0f" % pair_of_sums(ranks)
    print("end", result, flush=True)
    sc.stop()


def polars(job, size):
    import numpy
    import polars as pl

    def drawn(start, count):
        """`random(start)`, all at once: powers of the multiplier, and their sums."""
        powers = numpy.multiply.accumulate(numpy.full(count, A, numpy.uint64))
        sums = numpy.cumsum(numpy.concatenate([numpy.ones(1, numpy.uint64), powers[:-1]]), dtype=numpy.uint64)
        states = powers * numpy.uint64(start) + sums * numpy.uint64(C)
        return (states >> numpy.uint64(33)) ^ (states << numpy.uint64(20))

    def quarters(salt, each):
        count = size // 4 * each
        return numpy.concatenate([drawn((size // 4 * p) ^ salt, count) for p in range(4)])

    print("begin", flush=True)
    if job == "words":
        lines = pl.scan_csv(size, has_header=False, separator="\x01", quote_char=None, new_columns=["line"])
        words = lines.select(pl.col("line").str.split(" ").explode().alias("word")).filter(pl.col("word") != "")
        counts = words.group_by("word").len().collect(engine="streaming")
        result = f"{counts.height} {counts['len'].sum()}"
    elif job == "reduce":
        keys = quarters(0, 1) % numpy.uint64(1_000_000)
        frame = pl.DataFrame({"key": keys, "value": numpy.ones(len(keys), numpy.uint64)})
        sums = frame.group_by("key").agg(pl.col("value").sum())
        result = f"{sums.height} {sums['value'].sum()}"
    elif job == "sort":
        ordered = pl.Series(quarters(0x5EED, 1).astype(numpy.int64)).sort()
        assert ordered.is_sorted()
        result = f"{len(ordered)} {ordered.to_numpy().sum()}"
    else:
        numbers = quarters(0xED9E, 3).reshape(-1, 3)
        targets = numbers[:, 1] % (numpy.uint64(1) << (numbers[:, 2] % numpy.uint64(17)))
        edges = pl.DataFrame({"page": numbers[:, 0] % numpy.uint64(100_000), "to": targets})
        edges = edges.with_columns(pl.len().over("page").alias("out"))
        ranks = edges.select(pl.col("page").unique()).with_columns(pl.lit(1.0).alias("rank"))
        for _ in range(10):
            given = edges.join(ranks, on="page").select(page="to", share=pl.col("rank") / pl.col("out"))
            ranks = given.group_by("page").agg((pl.col("share").sum() * 0.85 + 0.15).alias("rank"))
        result = f"{ranks.height} {ranks['rank'].sum():.0f}"
    print("end", result, flush=True)


if __name__ == "__main__":
    engine, job, size = sys.argv[1:]
    {"pyspark": pyspark, "polars": polars}[engine](job, size if job == "words" else int(size))
