"""What a killed worker costs: Lockstep, and torchrun's elastic agent with its time-outs tuned down, in turns on one machine.

SIGKILL of one of two workers in mid-training, `--rounds` times on either side, and from there:
  the survivor's error     its collective has failed
  the next step            somebody trains again; with `min_workers = 1` without the dead one
  the full world           both have done a step together again
and, with `--minutes`, the rate under a kill every `--every` seconds against the undisturbed one. Rows that were counted and then done
again count once on our side; of torchrun every step counts, also those that a script without a checkpoint has lost.

    "$(scripts/peers.sh)" benches/peers/recovery.py --rounds 5 [--minutes 2] [--ours target/debug] [--raw FILE]
"""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import compare

RUN = """
name = "recovery"
seed = 17
[data]
train = "{data}"
[model]
kind = "mlp"
hidden = [64, 32]
[loss]
kind = "mse"
[training]
epochs = 100000
batch = 512
[cluster]
workers = 2
min_workers = {least}
device = "cpu"
[checkpoint]
dir = "{checkpoints}"
every = "30 s"
"""

TORCHRUN = [*compare.TORCHRUN, "--max-restarts", "1000", "--monitor-interval", "0.1"]
PATIENCE = 60.0  # for anything that should take a second
LOST = re.compile(rb"^(\S+Z) .*lost")


class Hung(RuntimeError):
    pass


def wait(found, what):
    """The first result that is one."""
    deadline = time.time() + PATIENCE
    while time.time() < deadline:
        if (result := found()) is not None:
            return result
        time.sleep(0.001)
    raise Hung(f"{what}: nothing within {PATIENCE:.0f} s")


@contextlib.contextmanager
def started(command, **more):
    process = subprocess.Popen(command, cwd=compare.ROOT, start_new_session=True, **more)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Ours:
    """A `lockstep train` that goes on until it is left."""

    def __init__(self, arguments, scratch, least):
        self.events, self.lock = [], threading.Lock()
        self.address = f"127.0.0.1:{free_port()}"
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=scratch))
        run = self.folder / "run.toml"
        run.write_text(RUN.format(data=arguments.data, checkpoints=self.folder / "checkpoints", least=least))
        self.command = [arguments.ours / "lockstep", "train", run, "--json", "--listen", self.address, "--max-restarts", "1000"]

    def __enter__(self):
        self.context = started(self.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.process = self.context.__enter__()
        threading.Thread(target=self.read, daemon=True).start()
        return self

    def __exit__(self, *why):
        # Its workers are in groups of their own, and end when it does.
        self.context.__exit__(*why)
        wait(lambda: None if self.workers() else True, "workers to end")

    def read(self):
        for line in self.process.stdout:
            with self.lock:
                self.events.append(json.loads(line))

    def workers(self):
        """{"w1:2": pid}, by what they were started with."""
        found = {}
        for folder in pathlib.Path("/proc").iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError):
                    words = (folder / "cmdline").read_bytes().decode().split("\0")
                    if words[0].endswith("lockstep-worker") and f"http://{self.address}" in words:
                        after = lambda flag: words[words.index(flag) + 1]
                        found[f"w{after('--slot')}:{after('--life')}"] = int(folder.name)
        return found

    def since(self, unix, name, **fields):
        """The first event of a name after a moment."""
        with self.lock:
            for event in reversed(self.events):
                if event["unix_micros"] / 1e6 < unix:
                    break
            matches = [
                event
                for event in self.events[-2000:]
                if event["event"] == name and event["unix_micros"] / 1e6 >= unix and all(event[k] == v for k, v in fields.items())
            ]
        return matches[0] if matches else None

    def members(self):
        with self.lock:
            seated = [event for event in self.events if event["event"] == "seated"]
        return seated[-1]["workers"] if seated else []

    def trained(self, unix, world):
        """A step since then by a generation of so many members at least; when it was reported."""
        with self.lock:
            size = 0
            for event in self.events:
                if event["event"] == "seated":
                    size = len(event["workers"]) if event["unix_micros"] / 1e6 >= unix else 0
                elif event["event"] == "progress" and size >= world:
                    return event["unix_micros"] / 1e6
        return None

    def survivors_error(self, unix, dead):
        for log in self.folder.glob("checkpoints/.state/logs/*/w*.log"):
            slot, _, life = log.stem[1:].partition(".")
            if f"w{slot}:{life or 1}" == dead:
                continue
            for line in log.read_bytes().splitlines():
                if found := LOST.match(line):
                    at = datetime.datetime.fromisoformat(found[1].decode().replace("Z", "+00:00")).timestamp()
                    if at >= unix:
                        return at
        return None

    def ready(self, world=2):
        wait(lambda: self.trained(0, world) and len(self.members()) == world or None, "training to begin")

    def kill(self):
        victim = random.choice(self.members())
        pid = self.workers()[victim]
        unix = time.time()
        os.kill(pid, signal.SIGKILL)
        return unix, victim

    def rows(self):
        """(unix, rows that count by then), each step once."""
        windows = []
        with self.lock:
            events = list(self.events)
        for event in events:
            if event["event"] == "seated":
                windows = [window for window in windows if window["step"] <= event["first_step"]]
            elif event["event"] == "progress":
                windows.append(event)
        first, last = windows[0], windows[-1]
        return sum(window["rows"] for window in windows[1:]) / ((last["unix_micros"] - first["unix_micros"]) / 1e6)


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Peer:
    """elastic.py under torchrun until it is left."""

    def __init__(self, scratch):
        self.marks = pathlib.Path(tempfile.mkdtemp(dir=scratch)) / "marks.jsonl"
        self.marks.touch()

    def __enter__(self):
        environment = {**os.environ, "MARKS": str(self.marks)}
        self.context = started([*TORCHRUN, compare.HERE / "elastic.py"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.context.__enter__()
        return self

    def __exit__(self, *why):
        pids = {mark["pid"] for mark in self.all()}
        self.context.__exit__(*why)
        for pid in pids:
            with contextlib.suppress(OSError):
                if b"elastic.py" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)

    def all(self):
        return [json.loads(line) for line in self.marks.read_text().splitlines() if line.endswith("}")]

    def trained(self, unix, world):
        """Since when so many ranks have done a step that began after that moment."""
        first = {}
        lives = {mark["life"] for mark in self.all() if mark["what"] == "began" and mark["unix"] >= unix}
        for mark in self.all():
            if mark["what"] == "step" and mark["life"] in lives:
                first.setdefault((mark["life"], mark["rank"]), mark["unix"])
        for life in sorted(lives):
            ranks = sorted(unix for (of, _), unix in first.items() if of == life)
            if len(ranks) >= world:
                return ranks[world - 1]
        return None

    def survivors_error(self, unix, dead):
        errors = [mark["unix"] for mark in self.all() if mark["what"] == "error" and mark["unix"] >= unix and mark["pid"] != dead]
        return min(errors, default=None)

    def ready(self, world=2):
        wait(lambda: self.trained(0, world), "torchrun to begin")

    def kill(self):
        marks = self.all()
        life = max(mark["life"] for mark in marks if mark["what"] == "step")
        victim = random.choice(sorted({mark["pid"] for mark in marks if mark["life"] == life}))
        unix = time.time()
        os.kill(victim, signal.SIGKILL)
        return unix, victim

    def rows(self):
        """Rows a second of both ranks, whatever became of them."""
        steps, marks = {}, [mark for mark in self.all() if mark["what"] == "step"]
        for mark in marks:
            steps[mark["life"], mark["rank"]] = mark["steps"]
        span = max(mark["unix"] for mark in marks) - min(mark["unix"] for mark in marks)
        return sum(steps.values()) * 256 / span


def round_of(run, ways):
    """Seconds from one kill to each of the things that are waited for."""
    with run:
        run.ready()
        time.sleep(random.uniform(1.0, 2.0))
        unix, dead = run.kill()
        full = wait(lambda: run.trained(unix, 2), "the full world")
        found = {"the full world": full - unix}
        if "the next step" in ways:
            found["the next step"] = run.trained(unix, 1) - unix
        if (error := run.survivors_error(unix, dead)) is not None:
            found["the survivor's error"] = error - unix
        return found


def rate(run, minutes, every):
    with run:
        run.ready()
        end, kills = time.time() + 60 * minutes, 0
        while every and time.time() + every < end:
            time.sleep(every)
            run.kill()
            kills += 1
            wait(lambda: run.trained(time.time() - every, 2), "recovery")
        time.sleep(max(0.0, end - time.time()))
        return {"rows_per_second": run.rows(), "kills": kills}


def main():
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", compare.ROOT / "target"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=0.0, help="of training under kills, on each side, and as much undisturbed")
    parser.add_argument("--every", type=float, default=15.0, help="seconds between kills")
    parser.add_argument("--ours", type=pathlib.Path, default=target / "debug", help="folder of lockstep and lockstep-worker")
    parser.add_argument("--peers-only", action="store_true")
    parser.add_argument("--raw", help="write every sample here, as JSON")
    arguments = parser.parse_args()
    say = lambda words: print(words, file=sys.stderr, flush=True)
    random.seed(7)

    before = compare.machine()
    with tempfile.TemporaryDirectory(prefix="lockstep-recovery-") as scratch:
        arguments.data = pathlib.Path(scratch) / "data"
        sides = {"torchrun": lambda: Peer(scratch)}
        if not arguments.peers_only:
            compare.output(compare.GENERATE.format(bin=arguments.ours, queries=50_000, out=arguments.data))
            sides = {
                "lockstep": lambda: Ours(arguments, scratch, least=2),
                "lockstep, min_workers = 1": lambda: Ours(arguments, scratch, least=1),
                **sides,
            }
        samples = {side: [] for side in sides}
        for number in range(arguments.rounds):
            for side, make in sides.items():
                say(f"round {number + 1} of {arguments.rounds}, {side}")
                samples[side].append(round_of(make(), ["the next step"] if side != "torchrun" else []))
        rates = {}
        if arguments.minutes:
            for side in [side for side in sides if "min_workers" not in side]:
                say(f"the rate of {side}")
                rates[side] = {
                    "undisturbed": rate(sides[side](), arguments.minutes, None),
                    "killed": rate(sides[side](), arguments.minutes, arguments.every),
                }
    print(f"{datetime.date.today()}; {before}. Medians of {arguments.rounds} rounds, in turns.\n")
    print("| from SIGKILL to | " + " | ".join(sides) + " |\n| --- |" + " --- |" * len(sides))
    for row in ["the survivor's error", "the next step", "the full world"]:
        cells = []
        for side in sides:
            values = [sample[row] for sample in samples[side] if row in sample]
            cells.append(compare.shown(statistics.median(values), "s") if values else "–")
        print(f"| {row} | " + " | ".join(cells) + " |")
    for side, of in rates.items():
        share = of["killed"]["rows_per_second"] / of["undisturbed"]["rows_per_second"]
        print(
            f"\n{side}: a kill every {arguments.every:g} s, {of['killed']['kills']} in {arguments.minutes:g} minutes: "
            f"{share:.1%} of the undisturbed {compare.shown(of['undisturbed']['rows_per_second'], 'rows/s')}"
        )
    if arguments.raw:
        pathlib.Path(arguments.raw).write_text(json.dumps({"recovery": samples, "rates": rates}, indent=1))


if __name__ == "__main__":
    main()
