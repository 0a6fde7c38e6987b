"""Click logs and feature tables of any size, seeded, for measuring and comparing what turns them into training data.

    python make_logs.py OUT --events 2_000_000 [--days 4] [--missing 0.01] [--anonymous 0.1]

OUT/lake/click_logs/date=…/part-….parquet has the lake's schema (ranking/src/events/columns.rs), ten results an event; OUT/features/
has query_features, document_features, pair_features and user_features, one row a key, with the reference's ten features among them.
A query has a pool of documents with a grade each; an event shows ten of them in a noisy order, and clicks follow position and grade.
This is a workload with plausible shares and sizes, no world with a truth to be found again.
"""

import argparse
import datetime
import json
import pathlib
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SHOWN = 10
POOL = 40  # documents a query can show
FIRST_DAY = datetime.date(2024, 1, 1)
DAY_MICROS = 86_400_000_000

EXAMINED = np.array([1.0, 0.65, 0.45, 0.35, 0.28, 0.22, 0.18, 0.15, 0.12, 0.10], np.float32)
GRADE_SHARES = [0.55, 0.2, 0.12, 0.08, 0.05]
CLICKED_OF_EXAMINED = np.array([0.05, 0.15, 0.35, 0.6, 0.85], np.float32)
DWELL_MEDIAN = np.array([8.0, 15.0, 30.0, 60.0, 120.0])
CARTED_OF_CLICKED = np.array([0.005, 0.01, 0.05, 0.15, 0.3], np.float32)
PURCHASED_OF_CARTED = 0.4

UTC_MICROS = pa.timestamp("us", tz="UTC")


def required(name, kind):
    return pa.field(name, kind, nullable=False)


RESULT = pa.struct(
    [
        required("position", pa.int32()),
        required("document_id", pa.string()),
        required("score", pa.float64()),
        required("clicked", pa.bool_()),
        pa.field("click_timestamp", UTC_MICROS),
        pa.field("dwell_time_seconds", pa.float64()),
        required("added_to_cart", pa.bool_()),
        required("purchased", pa.bool_()),
        pa.field("propensity", pa.float64()),
    ]
)
EVENT = pa.schema(
    [
        required("session_id", pa.string()),
        required("query_id", pa.string()),
        pa.field("user_id", pa.string()),
        required("query", pa.string()),
        required("query_timestamp", UTC_MICROS),
        required("results", pa.list_(required("item", RESULT))),
        required("device", pa.string()),
        required("location", pa.string()),
        pa.field("ranker_version", pa.string()),
        pa.field("explored", pa.bool_()),
    ]
)


def ids(letter, count):
    return pa.array([f"{letter}{number}" for number in range(count)], pa.string())


class World:
    """Who and what there is: the same for the same seed and sizes, however many events are drawn."""

    def __init__(self, sizes, rng):
        self.queries, self.documents, self.users = sizes.queries, sizes.documents, sizes.users
        self.anonymous = sizes.anonymous
        self.query_ids, self.document_ids, self.user_ids = ids("q", self.queries), ids("d", self.documents), ids("u", self.users)
        words = np.array("red blue running trail leather winter kids cheap shoes boots jacket lamp desk phone case bag".split())
        texts = words[rng.integers(0, len(words), (self.queries, 3))]
        self.query_words = 1 + rng.integers(0, 3, self.queries)
        self.query_texts = pa.array([" ".join(row[:n]) for row, n in zip(texts, self.query_words)], pa.string())
        # Popularity falls off as a power of the rank.
        shares = 1.0 / np.arange(1, self.queries + 1) ** 0.8
        self.query_cumulative = np.cumsum(shares) / shares.sum()
        # A step below documents / POOL keeps a pool's documents distinct.
        step = rng.integers(1, max(2, self.documents // POOL), self.queries)
        start = rng.integers(0, self.documents, self.queries)
        self.pool = ((start[:, None] + step[:, None] * np.arange(POOL)) % self.documents).astype(np.int32)
        self.grade = rng.choice(5, (self.queries, POOL), p=GRADE_SHARES).astype(np.int8)
        self.score = (0.6 * self.grade + rng.normal(0, 1, self.grade.shape)).astype(np.float32)


def nullable(values, there, kind):
    return pa.array(values, kind, mask=~there)


def events(world, rng, first_micros, per_event_micros, first_number, count):
    """A batch of `count` events in the order of time."""
    query = np.searchsorted(world.query_cumulative, rng.random(count)).clip(0, world.queries - 1)
    noisy = world.score[query] + rng.normal(0, 0.7, (count, POOL)).astype(np.float32)
    top = np.argpartition(-noisy, SHOWN, axis=1)[:, :SHOWN]
    top_scores = np.take_along_axis(noisy, top, 1)
    order = np.argsort(-top_scores, axis=1)
    slot = np.take_along_axis(top, order, 1)
    score = np.take_along_axis(top_scores, order, 1).astype(np.float64)
    document = world.pool[query[:, None], slot]
    grade = world.grade[query[:, None], slot]

    clicked = rng.random(grade.shape, np.float32) < EXAMINED * CLICKED_OF_EXAMINED[grade]
    carted = clicked & (rng.random(grade.shape, np.float32) < CARTED_OF_CLICKED[grade])
    purchased = carted & (rng.random(grade.shape, np.float32) < PURCHASED_OF_CARTED)
    # Some are put into the cart, and some bought, right from the list; some dwells were not logged, some end on the threshold.
    clicked &= ~(carted & (rng.random(grade.shape, np.float32) < 0.05))
    carted &= ~(purchased & (rng.random(grade.shape, np.float32) < 0.05))
    dwell = np.round(DWELL_MEDIAN[grade] * np.exp(rng.normal(0, 1, grade.shape)), 1)
    dwell[rng.random(grade.shape, np.float32) < 0.01] = 30.0
    dwelled = clicked & (rng.random(grade.shape, np.float32) > 0.03)

    moment = first_micros + ((np.arange(count) + rng.random(count)) * per_event_micros).astype(np.int64)
    click_moment = moment[:, None] + rng.integers(1_000_000, 60_000_000, grade.shape)
    known_user = rng.random(count) >= world.anonymous
    session = rng.integers(first_number // 3, max(first_number // 3 + 1, (first_number + count) // 3), count)
    flat = count * SHOWN
    results = pa.StructArray.from_arrays(
        [
            pa.array(np.tile(np.arange(1, SHOWN + 1, dtype=np.int32), count)),
            world.document_ids.take(pa.array(document.ravel())),
            pa.array(score.ravel()),
            pa.array(clicked.ravel()),
            nullable(click_moment.ravel(), clicked.ravel(), pa.int64()).cast(UTC_MICROS),
            nullable(dwell.ravel(), dwelled.ravel(), pa.float64()),
            pa.array(carted.ravel()),
            pa.array(purchased.ravel()),
            pa.nulls(flat, pa.float64()),
        ],
        fields=list(RESULT),
    )
    offsets = pa.array(np.arange(0, flat + 1, SHOWN, dtype=np.int32))
    devices, locations = pa.array(["phone", "desktop", "tablet"]), pa.array(["DE", "FR", "US", "GB", "IN"])
    user = nullable(rng.integers(0, world.users, count), known_user, pa.int64())
    columns = [
        pc.binary_join_element_wise("s", pa.array(session).cast(pa.string()), ""),
        world.query_ids.take(pa.array(query)),
        world.user_ids.take(user),
        world.query_texts.take(pa.array(query)),
        pa.array(moment).cast(UTC_MICROS),
        pa.ListArray.from_arrays(offsets, results, type=EVENT.field("results").type),
        devices.take(pa.array(rng.integers(0, 3, count))),
        locations.take(pa.array(rng.integers(0, 5, count))),
        pa.array(["v1"]).take(pa.array(np.zeros(count, np.int8))),
        pa.array(rng.random(count) < 0.1),
    ]
    shown = np.unique(query[:, None] * np.int64(POOL) + slot)
    return pa.RecordBatch.from_arrays(columns, schema=EVENT), shown


def write_lake(world, rng, out, total, days, events_a_file):
    """Writes the events; (days' names, query and slot of each pair that was shown, as query * POOL + slot)."""
    dates, shown = [], []
    number = 0
    epoch = datetime.date(1970, 1, 1)
    for day in range(days):
        date = FIRST_DAY + datetime.timedelta(days=day)
        dates.append(date.isoformat())
        folder = out / "lake" / "click_logs" / f"date={date}"
        folder.mkdir(parents=True)
        of_day = total // days + (day < total % days)
        per_event = DAY_MICROS / max(1, of_day)
        done, file = 0, 0
        while done < of_day:
            in_file = min(events_a_file, of_day - done)
            with pq.ParquetWriter(
                folder / f"part-{file:05}.parquet", EVENT, compression="snappy", use_compliant_nested_type=False
            ) as writer:
                for begin in range(done, done + in_file, 50_000):
                    count = min(50_000, done + in_file - begin)
                    first = (date - epoch).days * DAY_MICROS + int(begin * per_event)
                    batch, pairs = events(world, rng, first, per_event, number, count)
                    writer.write_batch(batch)
                    shown.append(pairs)
                    number += count
            done += in_file
            file += 1
    return dates, np.unique(np.concatenate(shown)) if shown else np.array([], np.int64)


def write_table(out, name, keys, features, missing, rng):
    """A feature table; of its rows and of its values, the share `missing` is not there."""
    rows = len(next(iter(keys.values())))
    columns = {**keys}
    for feature, values in features.items():
        columns[feature] = pa.array(values, mask=rng.random(rows) < missing) if missing else pa.array(values)
    table = pa.table(columns)
    if missing:
        table = table.filter(pa.array(rng.random(rows) >= missing))
    # As such tables lie about: in no order that a join could use.
    table = table.take(pa.array(rng.permutation(len(table))))
    folder = out / "features" / name
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "part-00000.parquet", compression="snappy")
    return len(table)


def write_features(world, shown, out, missing, rng):
    def uniform(count):
        return rng.random(count, np.float32)

    query, slot = shown // POOL, shown % POOL
    grade = world.grade[query, slot].astype(np.float32)
    pairs = {
        "query_id": world.query_ids.take(pa.array(query)),
        "document_id": world.document_ids.take(pa.array(world.pool[query, slot])),
    }
    near_grade = lambda noise: (grade + rng.normal(0, noise, len(grade))).astype(np.float32)
    tables = {
        "query_features": (
            {"query_id": world.query_ids},
            {"query_length": world.query_words.astype(np.int32), "query_popularity": np.diff(world.query_cumulative, prepend=0.0)},
        ),
        "document_features": (
            {"document_id": world.document_ids},
            {name: uniform(world.documents) for name in ("doc_popularity", "doc_freshness", "doc_quality", "price_match")},
        ),
        "pair_features": (
            pairs,
            {"bm25_score": 5 + 3 * near_grade(1.0), "embedding_sim": near_grade(2.0) / 5, "title_match": np.round(uniform(len(grade)), 2)},
        ),
        "user_features": ({"user_id": world.user_ids}, {"user_preference_match": uniform(world.users)}),
    }
    return {name: write_table(out, name, keys, features, missing, rng) for name, (keys, features) in tables.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--days", type=int, default=4)
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=20_000)
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--events-a-file", type=int, default=250_000)
    parser.add_argument("--missing", type=float, default=0.0, help="share of keys that a feature table lacks, and of values that are null")
    parser.add_argument("--anonymous", type=float, default=0.0, help="share of events without a user")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.documents < 2 * POOL:
        parser.error(f"--documents must be at least {2 * POOL}")

    began = time.perf_counter()
    rng = np.random.default_rng(arguments.seed)
    world = World(arguments, rng)
    dates, shown = write_lake(world, rng, arguments.out, arguments.events, arguments.days, arguments.events_a_file)
    tables = write_features(world, shown, arguments.out, arguments.missing, rng)
    made = {
        "from": dates[0],
        "to": dates[-1],
        "events": arguments.events,
        "impressions": arguments.events * SHOWN,
        "feature_rows": tables,
        "seconds": round(time.perf_counter() - began, 2),
    }
    (arguments.out / "made.json").write_text(json.dumps(made, indent=1))
    print(json.dumps(made))


if __name__ == "__main__":
    main()
