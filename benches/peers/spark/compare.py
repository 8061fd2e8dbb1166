"""Runs each job on each engine in turn, and prints CPU seconds and peak memory of all its processes.

Programs print `begin` and `end RESULT` around a job; starting an engine is not counted. `compare.py OURS JARS CLASSES
[--rounds N] [--percent P] [--jobs a,b]`, from run.sh."""
import argparse
import collections
import os
import statistics
import subprocess
import sys
import threading
import time

TICKS = os.sysconf("SC_CLK_TCK")
SIZES = {"reduce": 10_000_000, "sort": 5_000_000, "pagerank": 1_000_000}


class Tree:
    """CPU time and memory of a process and its descendants, which may come and go."""

    def __init__(self, root):
        self.root, self.cpu, self.peak, self.over = root, {}, 0, False
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()

    def watch(self):
        while not self.over:
            self.look()
            time.sleep(0.05)

    def look(self):
        children, now = collections.defaultdict(list), {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            children[int(fields[1])].append(int(pid))
            now[int(pid)] = (int(fields[11]) + int(fields[12])) / TICKS, int(fields[21]) * 4096
        waiting, memory = [self.root], 0
        while waiting:
            pid = waiting.pop()
            waiting += children[pid]
            if pid in now:
                self.cpu[pid] = now[pid][0]
                memory += now[pid][1]
        self.peak = max(self.peak, memory)
        return sum(self.cpu.values())


def measure(command, environment):
    """CPU seconds of each pass, peak bytes, the result."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    errors = []
    drain = threading.Thread(target=lambda: errors.extend(process.stderr))
    drain.start()
    tree, passes, result, before = Tree(process.pid), [], None, 0
    for line in process.stdout:
        if line.startswith("begin"):
            before = tree.look()
        elif line.startswith("end"):
            passes.append(tree.look() - before)
            result = line[4:].strip()
    process.wait()
    tree.over = True
    tree.thread.join()
    drain.join()
    if process.returncode != 0 or result is None:
        sys.exit(f"{command} failed:\n{''.join(errors[-20:])}")
    return passes, tree.peak, result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("ours")
    parser.add_argument("jars")
    parser.add_argument("classes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--percent", type=int, default=100)
    parser.add_argument("--jobs", default="words,reduce,sort,pagerank")
    arguments = parser.parse_args()
    here = os.path.dirname(os.path.abspath(__file__))
    text = os.path.join(arguments.classes, "words.txt")
    subprocess.run([arguments.ours, "--text", text, str(2_000_000 * arguments.percent)], check=True)
    opens = ["java.lang", "java.lang.invoke", "java.lang.reflect", "java.io", "java.net", "java.nio", "java.util"]
    opens += ["java.util.concurrent", "java.util.concurrent.atomic", "sun.nio.ch", "sun.nio.cs", "sun.util.calendar"]
    java = ["java", "-Xmx4g", *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in opens)]
    java += ["-cp", f"{arguments.classes}:{arguments.jars}/*", "Jobs"]
    python = [sys.executable, os.path.join(here, "jobs.py")]
    engines = {
        "by hand": lambda job, size: [arguments.ours, "--one", "hand", job, size],
        "rdd": lambda job, size: [arguments.ours, "--one", "rdd", job, size],
        "polars": lambda job, size: [*python, "polars", job, size],
        "spark jvm": lambda job, size: [*java, job, size],
        "pyspark": lambda job, size: [*python, "pyspark", job, size],
    }
    environment = dict(os.environ, SPARK_LOCAL_IP="127.0.0.1", PYSPARK_PYTHON=sys.executable, PYTHONHASHSEED="0")
    environment["POLARS_MAX_THREADS"] = "2"
    print(f"{'job':<10} {'engine':<10} {'first s':>8} {'last s':>8} {'peak MB':>8}  result")
    for job in arguments.jobs.split(","):
        size = text if job == "words" else str(SIZES[job] * arguments.percent // 100)
        found = {engine: [] for engine in engines}
        for number in range(arguments.rounds):
            for engine, command in engines.items():
                # The slowest one once.
                if engine != "pyspark" or number == 0:
                    found[engine].append(measure(command(job, size), environment))
        for engine, runs in found.items():
            first = statistics.median(passes[0] for passes, _, _ in runs)
            last = statistics.median(passes[-1] for passes, _, _ in runs)
            peak = statistics.median(peak for _, peak, _ in runs) / 1e6
            print(f"{job:<10} {engine:<10} {first:>8.2f} {last:>8.2f} {peak:>8.0f}  {runs[0][2]}", flush=True)
        results = {run[2] for runs in found.values() for run in runs}
        if len(results) != 1:
            sys.exit(f"{job}: the engines disagree: {results}")


if __name__ == "__main__":
    main()
