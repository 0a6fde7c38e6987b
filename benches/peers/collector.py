"""The reference's collector done decently in Python, and `lockstep collect` beside it on the same topic: medians and their ratio.

The peer takes messages in batches (confluent-kafka, librdkafka as ours), parses them with orjson, makes tables with pyarrow and writes
them by date as Parquet with zstd. It keeps no record of what it has read and checks nothing but what its schema refuses, so it does less
than ours. In each round ours runs, then the peer; both read the whole topic, and are timed from their start to their end.

    python=$(scripts/venv.sh collector); LOCKSTEP_TANSU=… "$python" benches/peers/collector.py [--events 300000] [--rounds 3]
    … collector.py peer --brokers B --topic T --out DIR          # the peer alone
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import confluent_kafka
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TOPIC = "search_events"
# Events of a Parquet row group; as many are held at once for a date.
ROW_GROUP = 65_536

MOMENT = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema([
    pa.field("session_id", pa.string(), nullable=False),
    pa.field("query_id", pa.string(), nullable=False),
    pa.field("user_id", pa.string()),
    pa.field("query", pa.string(), nullable=False),
    pa.field("query_timestamp", MOMENT, nullable=False),
    pa.field("results", pa.list_(pa.struct([
        pa.field("position", pa.int32(), nullable=False),
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("clicked", pa.bool_(), nullable=False),
        pa.field("click_timestamp", MOMENT),
        pa.field("dwell_time_seconds", pa.float64()),
        pa.field("added_to_cart", pa.bool_(), nullable=False),
        pa.field("purchased", pa.bool_(), nullable=False),
    ])), nullable=False),
    pa.field("device", pa.string(), nullable=False),
    pa.field("location", pa.string(), nullable=False),
])


class Writer:
    """Events of one date."""

    def __init__(self, out, date):
        folder = pathlib.Path(out, "click_logs", f"date={date}")
        folder.mkdir(parents=True)
        self.file = pq.ParquetWriter(folder / "part-0.parquet", SCHEMA, compression="zstd")
        self.events = []

    def push(self, event):
        self.events.append(event)
        if len(self.events) >= ROW_GROUP:
            self.flush()

    def flush(self):
        self.file.write_table(pa.Table.from_pylist(self.events, schema=SCHEMA), row_group_size=ROW_GROUP)
        self.events = []

    def close(self):
        if self.events:
            self.flush()
        self.file.close()


def peer(brokers, topic, out):
    begun = time.perf_counter()
    consumer = confluent_kafka.Consumer({
        "bootstrap.servers": brokers, "group.id": "peer", "enable.auto.commit": False, "auto.offset.reset": "earliest",
        "fetch.wait.max.ms": 100,
    })
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    ends = {}
    for partition in partitions:
        low, high = consumer.get_watermark_offsets(confluent_kafka.TopicPartition(topic, partition), timeout=10)
        if high > low:
            ends[partition] = high
    consumer.assign([confluent_kafka.TopicPartition(topic, partition, confluent_kafka.OFFSET_BEGINNING) for partition in ends])
    moment = datetime.datetime.fromisoformat
    writers, events, malformed = {}, 0, 0
    while ends:
        for message in consumer.consume(num_messages=10_000, timeout=1.0):
            if message.error():
                raise SystemExit(str(message.error()))
            if message.offset() + 1 >= ends.get(message.partition(), 0):
                ends.pop(message.partition(), None)
            try:
                event = orjson.loads(message.value())
                event["query_timestamp"] = moment(event["query_timestamp"])
                for result in event["results"]:
                    if result["click_timestamp"] is not None:
                        result["click_timestamp"] = moment(result["click_timestamp"])
                date = event["query_timestamp"].date()
            except (ValueError, KeyError, TypeError):
                malformed += 1
                continue
            writer = writers.get(date)
            if writer is None:
                writer = writers[date] = Writer(out, date)
            writer.push(event)
            events += 1
    for writer in writers.values():
        writer.close()
    consumer.close()
    print(json.dumps({"events": events, "malformed": malformed, "seconds": time.perf_counter() - begun}))


def an_event(n, draw):
    at = datetime.datetime(2026, 1, 31, tzinfo=datetime.timezone.utc) + datetime.timedelta(microseconds=n * 97_003)
    results = []
    for position in range(1, 11):
        clicked = draw.random() < 0.4 / position
        later = at + datetime.timedelta(seconds=draw.randint(1, 30))
        results.append({
            "position": position, "document_id": f"d{draw.randrange(1_000_000):07}", "score": draw.random() * 20, "clicked": clicked,
            "click_timestamp": later.isoformat() if clicked else None, "dwell_time_seconds": round(draw.expovariate(1 / 40), 3) if clicked else None,
            "added_to_cart": clicked and draw.random() < 0.2, "purchased": clicked and draw.random() < 0.05,
        })
    return orjson.dumps({
        "session_id": f"s{draw.getrandbits(64):016x}", "query_id": f"q{draw.randrange(50_000):05}", "user_id": f"u{draw.randrange(200_000):06}",
        "query": f"red running shoes {n % 5000}", "query_timestamp": at.isoformat(), "results": results,
        "device": draw.choice(["phone", "desktop", "tablet"]), "location": draw.choice(["DE", "FR", "US", "JP"]),
    })


def fill(brokers, events, partitions):
    producer = confluent_kafka.Producer({"bootstrap.servers": brokers, "linger.ms": 20, "batch.size": 500_000})
    draw, size = random.Random(7), 0
    for n in range(events):
        event = an_event(n, draw)
        size += len(event)
        while True:
            try:
                producer.produce(TOPIC, event, partition=n % partitions)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    if producer.flush(120):
        raise SystemExit("the topic could not be filled")
    return size


def timed(command):
    """What it said last, its seconds from start to end, its peak memory in MiB."""
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen(command, stdout=out)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = status
        wall = time.perf_counter() - begun
        out.seek(0)
        if status:
            raise SystemExit(f"{command[0]} failed")
        return json.loads(out.read().splitlines()[-1]), wall, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


def compare(arguments):
    tansu = os.environ.get("LOCKSTEP_TANSU") or sys.exit("LOCKSTEP_TANSU is not set: see scripts/servers.sh")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = "127.0.0.1:%d" % free.getsockname()[1]
    url = f"tcp://{address}"
    with tempfile.TemporaryDirectory() as folder:
        log = open(pathlib.Path(folder, "tansu.log"), "w")
        broker = subprocess.Popen([tansu, "broker", "--listener-url", url, "--advertised-listener-url", url, "--storage-engine", "memory://tansu/"],
                                  cwd=folder, stdout=log, stderr=log)
        try:
            create = [tansu, "topic", "create", TOPIC, "--broker", url, "--partitions", str(arguments.partitions)]
            for _ in range(100):
                if subprocess.run(create, stdout=log, stderr=log).returncode == 0:
                    break
                time.sleep(0.1)
            size = fill(address, arguments.events, arguments.partitions)
            print(f"{arguments.events} events of {size // arguments.events} bytes, {arguments.partitions} partitions; {platform.machine()}, "
                  f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
            runs = {"lockstep collect": [], "confluent-kafka + pyarrow": []}
            for round_ in range(arguments.rounds):
                commands = [
                    [arguments.ours, "collect", "--brokers", address, "--lake", f"{folder}/ours-{round_}", "--json"],
                    [sys.executable, __file__, "peer", "--brokers", address, "--topic", TOPIC, "--out", f"{folder}/peer-{round_}"],
                ]
                for runs_, command in zip(runs.values(), commands):
                    said, wall, peak, cpu = timed(command)
                    # tansu 0.6 lists an end within the last batch: who believes it stops a little early.
                    if said["events"] < 0.98 * arguments.events:
                        raise SystemExit(f"{said['events']} events of {arguments.events} were collected")
                    runs_.append((said["events"] / wall, wall, peak, cpu))
                    print(json.dumps({"command": command[0], "events_per_s": runs_[-1][0], "seconds": wall, "peak_mib": peak, "cpu_s": cpu}), file=sys.stderr)
            print("| collector | events/s | seconds | CPU seconds | peak MiB |\n| --- | ---: | ---: | ---: | ---: |")
            rates = []
            for name, values in runs.items():
                rate, wall, peak, cpu = (statistics.median(value[at] for value in values) for at in range(4))
                rates.append(rate)
                print(f"| {name} | {rate:,.0f} | {wall:.2f} | {cpu:.2f} | {peak:.0f} |")
            print(f"\nratio {rates[0] / rates[1]:.2f}, medians of {arguments.rounds}")
        finally:
            broker.kill()
            broker.wait()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ours", default=str(ROOT / "target/debug/lockstep"))
    verbs = parser.add_subparsers(dest="verb")
    alone = verbs.add_parser("peer")
    for option in ("--brokers", "--topic", "--out"):
        alone.add_argument(option, required=True)
    arguments = parser.parse_args()
    if arguments.verb == "peer":
        peer(arguments.brokers, arguments.topic, arguments.out)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
