"""`lockstep evaluate`, ranx and the reference's Python over the same predictions, in turns: medians, ratios and targets, as Markdown.

    python="$(scripts/venv.sh evaluation)"
    "$python" benches/peers/evaluate_compare.py [--queries 1_000_000] [--rounds 5] [--ours target/debug] [--raw FILE]

Five metrics: ndcg@1, ndcg@5, ndcg@10, map, mrr. Ours is a whole process, from its start to its end, on one thread, reading Parquet. ranx is
its `evaluate` alone, compiled and warm, on one thread; its dictionaries are built before and not counted. Because building them takes
far longer than evaluating, ranx gets the first --ranx-queries queries, and the reference's Python, which is slower still, the first
--reference-queries; both are scaled by the number of queries. The reference defines ndcg only: it computes three metrics of the five.
All read the same rows, and their ndcg@10 is compared. Take numbers on an idle machine: the load before the run is printed.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

os.environ["NUMBA_NUM_THREADS"] = "1"

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
METRICS = ["ndcg@1", "ndcg@5", "ndcg@10", "map", "mrr"]
RANX = ["ndcg_burges@1", "ndcg_burges@5", "ndcg_burges@10", "map", "mrr"]
RANX_TARGET, REFERENCE_TARGET, MEMORY_TARGET = 10, 50, 1e9


def make(queries, documents, kind, path):
    """Labels as judgments have them, scores that know something of them."""
    rng = np.random.default_rng(7)
    labels = rng.choice(5, (queries, documents), p=[0.55, 0.2, 0.13, 0.08, 0.04]).astype(np.float32)
    scores = (labels + rng.normal(0, 1.5, labels.shape)).astype(kind)
    ids = np.repeat(np.arange(queries, dtype=np.int64), documents)
    pq.write_table(pa.table({"query_id": ids, "label": labels.ravel(), "score": scores.ravel()}), path)
    return labels, scores


class Ours:
    def __init__(self, program, path):
        self.command = [program, "evaluate", path, "--metrics", ",".join(METRICS), "--json"]

    def run(self):
        with tempfile.TemporaryFile("w+") as out:
            began = time.perf_counter()
            process = subprocess.Popen(self.command, stdout=out)
            _, status, used = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - began
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode != 0:
                sys.exit(f"error: {self.command} ended with {process.returncode}")
            out.seek(0)
            report = json.load(out)
        ndcg = next(metric["value"] for metric in report["metrics"] if metric["name"] == "ndcg@10")
        cpu = used.ru_utime + used.ru_stime
        return {"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": used.ru_maxrss * 1024, "ndcg@10": ndcg, "queries": report["queries"]}


class Ranx:
    def __init__(self, labels, scores):
        from ranx import Qrels, Run, evaluate

        self.evaluate = evaluate
        names = [f"d{at}" for at in range(labels.shape[1])]
        self.qrels = Qrels({str(query): dict(zip(names, map(int, row))) for query, row in enumerate(labels)})
        self.ranking = Run({str(query): dict(zip(names, map(float, row))) for query, row in enumerate(scores)})
        self.queries = len(labels)
        self.run()

    def run(self):
        began = time.perf_counter()
        values = self.evaluate(self.qrels, self.ranking, RANX)
        return {"seconds": time.perf_counter() - began, "ndcg@10": float(values["ndcg_burges@10"]), "queries": self.queries}


class Reference:
    """OfflineEvaluator of the reference pipeline, without its model."""

    def __init__(self, labels, scores):
        self.data = list(zip(labels.astype(np.float64), scores))

    def run(self):
        began = time.perf_counter()
        results = {k: [] for k in (1, 5, 10)}
        for true_labels, predicted in self.data:
            for k, values in results.items():
                values.append(self.ndcg(true_labels, predicted, k))
        means = {k: np.mean(values) for k, values in results.items()}
        return {"seconds": time.perf_counter() - began, "ndcg@10": float(means[10]), "queries": len(self.data)}

    @staticmethod
    def ndcg(y_true, y_pred, k):
        ranking = np.argsort(y_pred)[::-1][:k]
        dcg = sum((2 ** y_true[idx] - 1) / np.log2(i + 2) for i, idx in enumerate(ranking))
        ideal_ranking = np.argsort(y_true)[::-1][:k]
        idcg = sum((2 ** y_true[idx] - 1) / np.log2(i + 2) for i, idx in enumerate(ideal_ranking))
        return dcg / idcg if idcg > 0 else 0.0


def machine():
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    return f"{os.cpu_count()} cores of {cpu}, Linux {platform.release()}, load {os.getloadavg()[0]:.2f} before the run"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=1_000_000)
    parser.add_argument("--documents", type=int, default=10, help="rows of a query")
    parser.add_argument("--scores", choices=["float32", "float64"], default="float32", help="type of the column of scores")
    parser.add_argument("--ranx-queries", type=int, default=100_000)
    parser.add_argument("--reference-queries", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    default = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug"
    parser.add_argument("--ours", type=pathlib.Path, default=default, help="the folder of the lockstep program")
    parser.add_argument("--raw", type=pathlib.Path, help="write every sample here, as JSON")
    arguments = parser.parse_args()
    say = lambda words: print(words, file=sys.stderr, flush=True)

    before = machine()
    with tempfile.TemporaryDirectory(prefix="evaluate-compare-") as scratch:
        path = f"{scratch}/predictions.parquet"
        say("making predictions")
        labels, scores = make(arguments.queries, arguments.documents, arguments.scores, path)
        say("building ranx's dictionaries")
        sides = {
            "lockstep evaluate": Ours(arguments.ours / "lockstep", path),
            "ranx, warm": Ranx(labels[: arguments.ranx_queries], scores[: arguments.ranx_queries]),
            "reference's Python": Reference(labels[: arguments.reference_queries], scores[: arguments.reference_queries]),
        }
        samples = {name: [] for name in sides}
        for number in range(arguments.rounds):
            for name, side in sides.items():
                say(f"round {number + 1} of {arguments.rounds}: {name}")
                samples[name].append(side.run())

    # Of the same queries: ours was of all of them.
    for name in list(sides)[1:]:
        first = samples[name][0]
        with tempfile.TemporaryDirectory() as scratch:
            path = f"{scratch}/first.parquet"
            count = first["queries"]
            ids = np.repeat(np.arange(count, dtype=np.int64), arguments.documents)
            pq.write_table(pa.table({"query_id": ids, "label": labels[:count].ravel(), "score": scores[:count].ravel()}), path)
            ours = Ours(arguments.ours / "lockstep", path).run()["ndcg@10"]
        if abs(ours - first["ndcg@10"]) > 1e-6:
            sys.exit(f"error: ndcg@10 of the same {count} queries is {ours}, {name} says {first['ndcg@10']}")

    microseconds = {name: statistics.median(s["seconds"] / s["queries"] for s in of) * 1e6 for name, of in samples.items()}
    peak = max(sample["peak_bytes"] for sample in samples["lockstep evaluate"])
    print(f"{datetime.date.today()}; {before}. {arguments.queries * arguments.documents / 1e6:g} M rows, {arguments.queries / 1e6:g} M queries, scores {arguments.scores}.\n")
    print("| | µs a query | queries measured | for all queries | ours is faster | wanted |\n| --- | --- | --- | --- | --- | --- |")
    for name, wanted in zip(sides, ("", f"{RANX_TARGET}x", f"{REFERENCE_TARGET}x")):
        own = microseconds[name]
        ratio = f"{own / microseconds['lockstep evaluate']:.1f}x" if wanted else ""
        print(f"| {name} | {own:.3f} | {samples[name][0]['queries']:,} | {own * arguments.queries / 1e6:.2f} s | {ratio} | {wanted} |")
    print(f"\nPeak resident memory of ours: {peak / 1e6:.0f} MB (wanted: within {MEMORY_TARGET / 1e6:.0f} MB).")
    if arguments.raw:
        arguments.raw.write_text(json.dumps(samples, indent=1))


if __name__ == "__main__":
    main()
