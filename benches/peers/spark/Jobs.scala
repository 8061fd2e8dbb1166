// The jobs of benches/rdd.rs on Spark's RDDs, twice each: the first pass compiles, the second is warm.
import org.apache.spark.{SparkConf, SparkContext}

object Jobs {
  final class Random(var state: Long) extends Serializable {
    def next(): Long = {
      state = state * 6364136223846793005L + 1442695040888963407L
      (state >>> 33) ^ (state << 20)
    }
    def below(n: Long): Long = java.lang.Long.remainderUnsigned(next(), n)
  }

  def quarters[T: reflect.ClassTag](sc: SparkContext, n: Long)(make: (Long, Long) => Iterator[T]) =
    sc.parallelize(0 until 4, 4).mapPartitionsWithIndex((p, _) => make(n / 4 * p, n / 4 * (p + 1)))

  def words(sc: SparkContext, file: String): String = {
    val counts = sc.textFile(file, 4).flatMap(_.split(" ")).map((_, 1L)).reduceByKey(_ + _, 4)
    val (distinct, all) = counts.map { case (_, n) => (1L, n) }.reduce((a, b) => (a._1 + b._1, a._2 + b._2))
    s"$distinct $all"
  }

  def reduce(sc: SparkContext, n: Long): String = {
    val pairs = quarters(sc, n) { (from, to) =>
      val random = new Random(from)
      Iterator.range(0, (to - from).toInt).map(_ => (random.below(1000000), 1L))
    }
    val sums = pairs.reduceByKey(_ + _, 4)
    val (keys, all) = sums.map { case (_, v) => (1L, v) }.reduce((a, b) => (a._1 + b._1, a._2 + b._2))
    s"$keys $all"
  }

  def sort(sc: SparkContext, n: Long): String = {
    val numbers = quarters(sc, n) { (from, to) =>
      val random = new Random(from ^ 0x5eed)
      Iterator.range(0, (to - from).toInt).map(_ => random.next())
    }
    val parts = numbers.sortBy(x => x, ascending = true, 4).mapPartitions { all =>
      var (count, sum, last) = (0L, 0L, Long.MinValue)
      all.foreach { x => require(last <= x); last = x; count += 1; sum += x }
      Iterator((count, sum))
    }
    val (count, sum) = parts.reduce((a, b) => (a._1 + b._1, a._2 + b._2))
    s"$count $sum"
  }

  def pagerank(sc: SparkContext, n: Long): String = {
    val edges = quarters(sc, n) { (from, to) =>
      val random = new Random(from ^ 0xed9e)
      Iterator.range(0, (to - from).toInt).map { _ =>
        val source = random.below(100000)
        val target = random.next()
        (source, java.lang.Long.remainderUnsigned(target, 1L << random.below(17)))
      }
    }
    val links = edges.groupByKey(4).cache()
    var ranks = links.mapValues(_ => 1.0)
    for (_ <- 1 to 10) {
      val given = links.join(ranks, 4).flatMap { case (_, (to, rank)) =>
        val share = rank / to.size
        to.map((_, share))
      }
      ranks = given.reduceByKey(_ + _, 4).mapValues(sum => 0.15 + 0.85 * sum)
    }
    val (count, sum) = ranks.map { case (_, rank) => (1L, rank) }.fold((0L, 0.0))((a, b) => (a._1 + b._1, a._2 + b._2))
    links.unpersist()
    s"$count ${sum.round}"
  }

  def main(args: Array[String]): Unit = {
    val conf = new SparkConf().setMaster("local[2]").setAppName("jobs").set("spark.ui.enabled", "false")
    val sc = new SparkContext(conf)
    sc.setLogLevel("ERROR")
    for (_ <- 1 to 2) {
      println("begin")
      val result = args(0) match {
        case "words" => words(sc, args(1))
        case "reduce" => reduce(sc, args(1).toLong)
        case "sort" => sort(sc, args(1).toLong)
        case "pagerank" => pagerank(sc, args(1).toLong)
      }
      println(s"end $result")
    }
    sc.stop()
  }
}
