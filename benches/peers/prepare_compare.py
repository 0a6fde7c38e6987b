"""`lockstep prepare` and the reference's pipeline on PySpark over the same lake, in turns: medians, ratios and targets, as Markdown.

    python="$(scripts/venv.sh spark)"
    "$python" benches/peers/make_logs.py data/bench --events 2_000_000                  # 20 M impressions
    "$python" benches/peers/prepare_compare.py data/bench [--rounds 5] [--ours target/debug] [--raw FILE]
    "$python" benches/peers/prepare_compare.py data/bench --smallest-heap               # Spark's, by bisection; many runs
    "$python" benches/peers/prepare_compare.py data/bench --spark-only                  # without Lockstep

Spark runs in each of `WAYS`, and the best median stands for it. Wall time is from a process's start to its end; Spark's work alone
leaves out what passes until its session stands. Peak memory is the largest sum of resident sizes of a process and all it started.
Take numbers on an idle machine: the load before the run is printed with them.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent

PREPARE = (
    "{bin}/lockstep prepare --logs {made}/lake --from {start} --to {end} --query-features {made}/features/query_features "
    "--document-features {made}/features/document_features --pair-features {made}/features/pair_features "
    "--user-features {made}/features/user_features --labels graded --weights ipw --out {out}"
)
SPARK = (
    "{python} {here}/spark_pipeline.py --logs {made}/lake --from {start} --to {end} --features {made}/features --weights exact --out {out}"
)
WAYS = {
    # Shuffled and sorted by list: holds whatever the joins do.
    "sorted by list": "--cluster sort",
    # No shuffle at all: broadcast joins leave the exploded rows of a list side by side.
    "order kept": "--cluster kept",
}
# For the smallest heap: also with joins that need not hold a table in memory, and shuffles in small pieces.
FRUGAL_WAYS = {
    "order kept": "--cluster kept",
    "sorted by list": "--cluster sort --partitions 64",
    "sorted by list, sort-merge joins": "--cluster sort --partitions 64 --broadcast -1",
}
WORK_TARGET, WALL_TARGET = 3.5, 6.0
SMALLEST_HEAP, LARGEST_HEAP, HEAP_STEP = 450, 2050, 50  # MiB; Spark refuses to start below 450 MiB


class Failed(RuntimeError):
    pass


def resident(session):
    """{process: bytes it holds now} of a session."""
    found = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            found[stat.parent.name] = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    return found


def measured(command, limit=3600):
    """Runs a command to its end: its JSON line if it prints one, and how long it took and what it held."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(command.split(), cwd=ROOT, stdout=out, stderr=errors, start_new_session=True)
        peak, over = 0, threading.Event()

        def watch():
            nonlocal peak
            before = {}
            while not over.wait(0.05):
                now = resident(process.pid)
                # A child between fork and exec seems to hold all that its parent does: the smaller of two looks counts.
                peak = max(peak, sum(min(held, before.get(who, 0)) for who, held in now.items()))
                before = now

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        timer = threading.Timer(limit, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            timer.cancel()
            over.set()
            watcher.join()
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        errors.seek(0)
        if process.returncode != 0:
            raise Failed(f"`{command}` ended with {process.returncode}:\n{errors.read()[-2000:]}")
        lines = [json.loads(line) for line in out if line.startswith("{")]
        report = lines[-1] if lines else {}
        return {
            **report,
            "wall_seconds": wall,
            "cpu_seconds": used.ru_utime + used.ru_stime if "jvm_cpu_seconds" not in report else report["jvm_cpu_seconds"],
            # What the kernel saw of single processes, lest the watcher looked away at the peak.
            "peak_bytes": max(peak, used.ru_maxrss * 1024, report.get("jvm_peak_bytes", 0) + report.get("python_peak_bytes", 0)),
        }


class Compare:
    def __init__(self, arguments, scratch):
        self.made = json.loads((arguments.made / "made.json").read_text())
        self.rows = self.made["impressions"]
        self.ours, self.scratch = arguments.ours, scratch
        self.fill = {"made": arguments.made.resolve(), "start": self.made["from"], "end": self.made["to"]}

    def run(self, command, **more):
        out = self.scratch / "out"
        shutil.rmtree(out, ignore_errors=True)
        sample = measured(command.format(**self.fill, out=out, **more), limit=more.get("limit", 3600))
        sample["out_bytes"] = sum(file.stat().st_size for file in out.rglob("*.parquet"))
        shutil.rmtree(out, ignore_errors=True)
        return sample

    def lockstep(self):
        return self.run(PREPARE, bin=self.ours)

    def spark(self, way, limit=3600):
        sample = self.run(f"{SPARK} {way}", python=sys.executable, here=HERE, limit=limit)
        if sample["rows"] != self.rows:
            raise Failed(f"Spark wrote {sample['rows']} rows of {self.rows}")
        return sample

    def smallest_heap(self, way, say):
        """The smallest heap in MiB with which a way ends well within ten times what it takes with the largest, and its sample."""
        best = self.spark(f"{way} --memory {LARGEST_HEAP}m")
        limit = 10 * best["wall_seconds"]
        fails, passes = SMALLEST_HEAP - HEAP_STEP, LARGEST_HEAP
        while passes - fails > HEAP_STEP:
            heap = fails + (passes - fails) // HEAP_STEP // 2 * HEAP_STEP
            try:
                best = self.spark(f"{way} --memory {heap}m", limit)
                passes = heap
                say(f"  {heap} MiB: passes, {best['work_seconds']:.1f} s of work, peak {megabytes(best['peak_bytes'])}")
            except Failed as failed:
                fails = heap
                say(f"  {heap} MiB: fails ({str(failed).strip().splitlines()[-1][:120]})")
        return passes, best


def megabytes(count):
    return f"{count / 1e6:,.0f} MB"


def medians(samples):
    names = [name for name, value in samples[0].items() if isinstance(value, (int, float))]
    return {name: statistics.median(sample[name] for sample in samples) for name in names}


def table(rows, samples):
    lines = ["| | work | wall | CPU | peak memory | impressions/s |", "| --- | --- | --- | --- | --- | --- |"]
    found = {name: medians(runs) for name, runs in samples.items() if runs}
    for name, median in found.items():
        work = median.get("work_seconds", median["wall_seconds"])
        cells = [name, f"{work:.2f} s", f"{median['wall_seconds']:.2f} s", f"{median['cpu_seconds']:.2f} s"]
        cells += [megabytes(median["peak_bytes"]), f"{rows / work / 1e6:.2f} M"]
        lines.append("| " + " | ".join(cells) + " |")
    ours = found.pop("lockstep", None)
    if ours and found:
        for what, target in (("work_seconds", WORK_TARGET), ("wall_seconds", WALL_TARGET)):
            best = min(found, key=lambda name: found[name][what])
            ratio = found[best][what] / ours["wall_seconds"]
            met = "met" if ratio >= target else "**missed**"
            label = "work alone" if what == "work_seconds" else "from start to end"
            lines.append(f"\n{label}: {ratio:.2f}x of Spark's best ({best}); target {target:g}x, {met}.")
    return lines


def machine():
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.processor())
    cores = len(os.sched_getaffinity(0))
    return f"{cpu}, {cores} cores; {platform.platform(terse=True)}; load before the run {os.getloadavg()[0]:.2f}"


def main():
    default = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("made", type=pathlib.Path, help="what make_logs.py made")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ours", type=pathlib.Path, default=default, help="folder of lockstep")
    parser.add_argument("--ways", nargs="+", choices=WAYS.keys() | FRUGAL_WAYS.keys())
    parser.add_argument("--spark-only", action="store_true")
    parser.add_argument("--lockstep-only", action="store_true")
    parser.add_argument("--smallest-heap", action="store_true", help="search Spark's smallest heap instead")
    parser.add_argument("--scratch", type=pathlib.Path, help="where outputs go for a while; default: beside the logs")
    parser.add_argument("--raw", type=pathlib.Path, help="write every sample here, as JSON")
    arguments = parser.parse_args()
    say = lambda words: print(words, file=sys.stderr, flush=True)

    before = machine()
    with tempfile.TemporaryDirectory(prefix="prepare-compare-", dir=arguments.scratch or arguments.made) as scratch:
        compare = Compare(arguments, pathlib.Path(scratch))
        print(f"{datetime.date.today()}; {before}. {compare.rows / 1e6:g} M impressions; feature rows {compare.made['feature_rows']}.\n")
        raw = {}
        if arguments.smallest_heap:
            print("| Spark's way | smallest heap | work | wall | peak memory |\n| --- | --- | --- | --- | --- |")
            for name in arguments.ways or FRUGAL_WAYS:
                say(f"the smallest heap, {name}")
                heap, sample = compare.smallest_heap(FRUGAL_WAYS[name], say)
                raw[name] = {"heap_mib": heap, **sample}
                cells = [name, f"{heap} MiB", f"{sample['work_seconds']:.1f} s", f"{sample['wall_seconds']:.1f} s", megabytes(sample["peak_bytes"])]
                print("| " + " | ".join(cells) + " |", flush=True)
        else:
            runs = {} if arguments.spark_only else {"lockstep": compare.lockstep}
            for name in [] if arguments.lockstep_only else arguments.ways or WAYS:
                runs[f"Spark, {name}"] = lambda way=WAYS[name]: compare.spark(way)
            raw = {name: [] for name in runs}
            for number in range(arguments.rounds):
                for name, run in runs.items():
                    say(f"round {number + 1} of {arguments.rounds}: {name}")
                    raw[name].append(run())
            print("\n".join(table(compare.rows, raw)))
    if arguments.raw:
        arguments.raw.write_text(json.dumps(raw, indent=1))


if __name__ == "__main__":
    try:
        main()
    except Failed as failed:
        sys.exit(f"error: {failed}")
