"""Lockstep and its peers doing the same work in one run: medians, ratios and targets, as a Markdown table on stdout.

Contests (`--only` picks some): recipe, steady, launch, all_reduce, loader. In each round ours runs, then the peer, so that both see
the same machine; the table shows medians over `--rounds`. Where a peer has several ways of doing a thing, each is measured and the
best median stands for it. Take numbers on an idle machine: the load before the run is printed with them.

    scripts/peers.sh && $LOCKSTEP_CACHE/peers-venv/bin/python benches/peers/compare.py [--rounds 5] [--ours target/debug] [--raw FILE]
    … compare.py --peers-only --queries 2000 --rounds 1      # checks the peers, without Lockstep
"""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

# How ours is called; `{bin}` is --ours. The two benches print the JSON lines that all_reduce.py and loader.py print.
GENERATE = "{bin}/lockstep generate --queries {queries} --weights --out {out}"
TRAIN = "{bin}/lockstep train {run} --workers 2 --json"
ALL_REDUCE = "cargo bench --profile dev --quiet -p benches --bench all_reduce -- --engines ring-shm,ring-tcp"
LOADER = "cargo bench --profile dev --quiet -p benches --bench loader -- --json {data}"

RUN = """
name = "{name}"
seed = 17
[data]
train = "{data}"
[model]
kind = "mlp"
hidden = [64, 32]
[loss]
kind = "mse"
[training]
epochs = {epochs}
batch = {batch}
[optimizer]
kind = "adamw"
learning_rate = 1e-3
[schedule]
kind = "cosine"
[cluster]
workers = 2
device = "cpu"
[checkpoint]
dir = "{checkpoints}"
every = "{every}"
"""

RECIPE_BATCH = 1024  # rows a process
STEADY = {256: 6.0, 1024: 3.0, 8192: 1.3}  # rows a worker: the ratio we want
STEADY_EPOCHS = 4  # the first is not counted


@dataclasses.dataclass
class Contest:
    """`ours` and `peer` give {row: {way: value}}; `target` gives a row's, as a ratio or (a minimum, "absolute")."""

    unit: str
    faster_is_less: bool
    ours: object
    peer: object
    target: object


def output(command, **environment):
    """stdout of a command; it and all it started end with us."""
    words = command if isinstance(command, list) else command.split()
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, errors = process.communicate(timeout=1800)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if process.returncode != 0:
        raise RuntimeError(f"`{' '.join(map(str, words))}` ended with {process.returncode}:\n{errors[-2000:]}")
    return out


def json_lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def now():
    return f"{time.time():.6f}"


class Bench:
    def __init__(self, arguments, scratch):
        self.bin, self.scratch = arguments.ours, scratch
        self.queries = arguments.queries
        self.data, self.tiny = scratch / "data", scratch / "tiny"
        self.runs = 0
        if arguments.peers_only:
            import training_data

            training_data.generate(self.data, queries=self.queries, weights=True)
        else:
            output(GENERATE.format(bin=self.bin, queries=self.queries, out=self.data))
            output(GENERATE.format(bin=self.bin, queries=50, out=self.tiny))

    def train(self, data, batch, epochs, every):
        """Trains with ours; the moment it was started and its events."""
        self.runs += 1
        run = self.scratch / f"run-{self.runs}.toml"
        fill = {"name": run.stem, "data": data, "batch": batch, "epochs": epochs, "every": every}
        run.write_text(RUN.format(checkpoints=self.scratch / "checkpoints", **fill))
        started = time.time()
        return started, json_lines(output(TRAIN.format(bin=self.bin, run=run)))

    def our_recipe(self):
        started, events = self.train(self.data, 2 * RECIPE_BATCH, 1, "1 epoch")
        ended = next(event for event in events if event["event"] == "epoch")
        # Workers are there and the coordinator begins to read footers.
        seated = next(index for index, event in enumerate(events) if event["event"] == "seated")
        opened = [event for event in events[:seated] if event["event"] == "standing"][-1]
        at = ended["unix_micros"] / 1e6
        return {
            "from the command to a trained epoch": {"lockstep": at - started},
            "from Parquet to a trained epoch": {"lockstep": at - opened["unix_micros"] / 1e6},
            "the epoch alone": {"lockstep": ended["train_seconds"]},
        }

    def peer_recipe(self):
        command = [*TORCHRUN, HERE / "ddp_recipe.py", self.data, "--batch", str(RECIPE_BATCH)]
        (found,) = json_lines(output(command, START_UNIX=now()))
        return {
            "from the command to a trained epoch": {"torchrun, DataLoader": found["from_start_seconds"]},
            "from Parquet to a trained epoch": {"torchrun, DataLoader": found["epoch_seconds"]},
            "the epoch alone": {"torchrun, DataLoader": found["train_seconds"]},
        }

    def our_steady(self):
        rates = {}
        for batch in STEADY:
            _, events = self.train(self.data, 2 * batch, STEADY_EPOCHS, f"{STEADY_EPOCHS} epochs")
            epochs = [event for event in events if event["event"] == "epoch"][1:]
            rate = sum(epoch["rows"] for epoch in epochs) / sum(epoch["train_seconds"] for epoch in epochs)
            rates[f"{batch} rows a worker"] = {"lockstep": rate}
        return rates

    def peer_steady(self):
        rates = {}
        for batch in STEADY:
            command = [*TORCHRUN, HERE / "ddp_best.py", self.data, "--batch", str(batch), "--epochs", str(STEADY_EPOCHS)]
            found = json_lines(output(command))
            rates[f"{batch} rows a worker"] = {line["variant"]: line["rows_per_second"] for line in found}
        return rates

    def our_launch(self):
        started, events = self.train(self.tiny, 512, 1, "1 epoch")
        # A report of steps may be left out where the channel is full, an epoch's never is.
        first = next(event for event in events if event["event"] in ("progress", "epoch"))
        return {"to the first optimizer step": {"lockstep": first["unix_micros"] / 1e6 - started}}

    def peer_launch(self):
        (found,) = json_lines(output([*TORCHRUN, HERE / "launch.py"], START_UNIX=now()))
        return {"to the first optimizer step": {"torchrun": found["first_step_seconds"]}}

    @staticmethod
    def by_bytes(lines):
        rows = {}
        for line in lines:
            rows.setdefault(size(line["bytes"]), {})[line["engine"]] = line["p50_us"] / 1e6
        return rows

    def our_all_reduce(self):
        return self.by_bytes(json_lines(output(ALL_REDUCE)))

    def peer_all_reduce(self):
        return self.by_bytes(json_lines(output([*TORCHRUN, HERE / "all_reduce.py"])))

    def our_loader(self):
        found = json_lines(output(LOADER.format(data=self.data)))
        return {"10 features, 1 thread": {line.get("way", "lockstep"): line["rows_per_second"] for line in found}}

    def peer_loader(self):
        found = json_lines(output([sys.executable, HERE / "loader.py", self.data]))
        return {"10 features, 1 thread": {f"pyarrow, by {line['way']}": line["rows_per_second"] for line in found}}


def contests(bench):
    return {
        "recipe": Contest("s", True, bench.our_recipe, bench.peer_recipe, lambda row: 10.0),
        "steady": Contest("rows/s", False, bench.our_steady, bench.peer_steady, lambda row: STEADY[int(row.split()[0])]),
        "launch": Contest("s", True, bench.our_launch, bench.peer_launch, lambda row: 4.0),
        "all_reduce": Contest("s", True, bench.our_all_reduce, bench.peer_all_reduce, lambda row: 10.0 if bytes_of(row) <= 65536 else 0.95),
        "loader": Contest("rows/s", False, bench.our_loader, bench.peer_loader, lambda row: (30e6, "absolute")),
    }


SIZES = [(1 << 20, "MiB"), (1 << 10, "KiB"), (1_000_000, "MB"), (1, "B")]


def size(count):
    return next(f"{count // unit} {name}" for unit, name in SIZES if count % unit == 0)


def bytes_of(text):
    number, name = text.split()
    return int(number) * next(unit for unit, other in SIZES if other == name)


def medians(rounds):
    """{row: {way: median}} of rounds of {row: {way: value}}."""
    rows = {}
    for found in rounds:
        for row, ways in found.items():
            for way, value in ways.items():
                rows.setdefault(row, {}).setdefault(way, []).append(value)
    return {row: {way: statistics.median(values) for way, values in ways.items()} for row, ways in rows.items()}


def shown(value, unit):
    if unit == "s":
        return f"{value * 1e6:.0f} µs" if value < 1e-3 else f"{value * 1e3:.1f} ms" if value < 0.1 else f"{value:.2f} s"
    return f"{value / 1e6:.2f} M {unit}" if value >= 1e6 else f"{value / 1e3:.0f} k {unit}"


def table_rows(name, contest, ours, peer):
    best = min if contest.faster_is_less else max
    lines = []
    for row, peer_ways in medians(peer).items():
        peer_way = best(peer_ways, key=peer_ways.get)
        our_ways = medians(ours).get(row)
        cells = [f"{name}: {row}", "–", f"{shown(peer_ways[peer_way], contest.unit)} ({peer_way})", "–"]
        target = contest.target(row)
        absolute = isinstance(target, tuple)
        met = None
        if our_ways:
            our_way = best(our_ways, key=our_ways.get)
            value, other = our_ways[our_way], peer_ways[peer_way]
            ratio = other / value if contest.faster_is_less else value / other
            cells[1] = shown(value, contest.unit) + ("" if our_way == "lockstep" else f" ({our_way})")
            cells[3] = f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.0f}x"
            met = value >= target[0] if absolute else ratio >= target
        wanted = shown(target[0], contest.unit) if absolute else f"{target:g}x"
        cells.append(wanted + {None: "", True: ", met", False: ", **missed**"}[met])
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def machine():
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.processor())
    cores = len(os.sched_getaffinity(0))
    return f"{cpu}, {cores} cores; {platform.platform(terse=True)}; load before the run {os.getloadavg()[0]:.2f}"


def versions(bench, peers_only):
    import pyarrow
    import torch

    ours = [] if peers_only else [output(f"{bench.bin}/lockstep --version").strip()]
    return ", ".join([*ours, f"PyTorch {torch.__version__}", f"pyarrow {pyarrow.__version__}", f"Python {platform.python_version()}"])


def main():
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--queries", type=int, default=50_000, help="of the data; a query has 10 to 30 rows")
    parser.add_argument("--ours", type=pathlib.Path, default=target / "debug", help="folder of lockstep and lockstep-worker")
    parser.add_argument("--only", nargs="+", choices=["recipe", "steady", "launch", "all_reduce", "loader"])
    parser.add_argument("--peers-only", action="store_true")
    parser.add_argument("--raw", help="write every sample here, as JSON")
    arguments = parser.parse_args()
    say = lambda words: print(words, file=sys.stderr, flush=True)

    before = machine()
    with tempfile.TemporaryDirectory(prefix="lockstep-compare-") as scratch:
        bench = Bench(arguments, pathlib.Path(scratch))
        lines, raw, failed = [], {}, []
        for name, contest in contests(bench).items():
            if arguments.only and name not in arguments.only:
                continue
            samples = {"ours": [], "peer": []}
            for number in range(arguments.rounds):
                for side in ("ours", "peer"):
                    if side == "ours" and arguments.peers_only:
                        continue
                    say(f"{name}: round {number + 1} of {arguments.rounds}, {side}")
                    try:
                        samples[side].append(getattr(contest, side)())
                    except Exception as error:  # one contest's trouble is not the others'
                        failed.append(name)
                        say(f"error: {name}, {side}: {type(error).__name__}: {error}")
            raw[name] = samples
            lines += table_rows(name, contest, samples["ours"], samples["peer"])
        print(f"{datetime.date.today()}; {before}. {versions(bench, arguments.peers_only)}.")
        work = f"2 processes; MLP 10-64-32-1, about {20 * arguments.queries} rows"
        print(f"Medians of {arguments.rounds} rounds, ours and the peer in turns; {work}.")
        print("\n| | Lockstep | peer | ratio | target |\n| --- | --- | --- | --- | --- |")
        print("\n".join(lines))
        if failed:
            print(f"\nFailed: {', '.join(sorted(set(failed)))}.")
    if arguments.raw:
        pathlib.Path(arguments.raw).write_text(json.dumps(raw, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
