"""Are two folders of training data the same, list by list and row by row? Exit code 0: yes, 1: no, with the first differences.

    python same_rows.py OURS THEIRS [--missing-as 0] [--relative 0] [--show 5]

Lists are told apart by `list_id` where a folder has it, else by session_id, query_id and query_timestamp (what `spark_pipeline.py --list-key`
keeps), and their rows must be contiguous. How a list is called may differ, what is in it may not: every list of one folder must be
found in the other with the same query, and each of its rows with the same document, label, weight and features as float32, and as
many times. The order of lists and of rows inside a list is left open.
"""

import argparse
import collections
import itertools
import pathlib
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

KEYS = [["list_id"], ["session_id", "query_id", "query_timestamp"]]
IDS = ["query_id", "document_id"]
VALUES = ["label", "sample_weight"]
NOT_FEATURES = {*itertools.chain(*KEYS), *IDS, *VALUES, "position"}


class Unequal(Exception):
    pass


class TrainingData:
    """Lists of a folder: (query_id, rows), rows being tuples (document_id, label, weight, features…) in a fixed order."""

    def __init__(self, folder, features, missing_as):
        files = sorted(path for path in folder.rglob("*.parquet") if not path.name.startswith((".", "_")))
        if not files:
            raise Unequal(f"no Parquet file in {folder}")
        tables = [pq.read_table(file, partitioning=None) for file in files]
        table = pa.concat_tables(tables)
        there = set(table.column_names)
        self.features = features or sorted(there - NOT_FEATURES)
        key = next((key for key in KEYS if there >= set(key)), None)
        missing = [name for name in (*IDS, *VALUES, *self.features) if name not in there]
        if missing or not key:
            raise Unequal(f"{folder} has no {', no '.join(missing) or 'column that tells lists apart'}; its columns: {', '.join(table.column_names)}")
        self.rows = len(table)
        self.names = ["document_id", *VALUES, *self.features]
        ids = zip(*(table[name].to_pylist() for name in key))
        query, document = (table[name].to_pylist() for name in IDS)
        values = np.column_stack([self.float32(table, name, missing_as) for name in (*VALUES, *self.features)]).tolist()
        self.lists, seen = [], set()
        for identity, group in itertools.groupby(zip(ids, query, document, values), key=lambda row: row[0]):
            if identity in seen:
                raise Unequal(f"{folder}: rows of the list {identity} are not side by side")
            seen.add(identity)
            group = list(group)
            queries = {row[1] for row in group}
            if len(queries) > 1:
                raise Unequal(f"{folder}: the list {identity} has rows of several queries: {sorted(queries)}")
            self.lists.append((queries.pop(), tuple(sorted((row[2], *row[3]) for row in group))))

    @staticmethod
    def float32(table, name, missing_as):
        column = table[name].cast(pa.float32())
        if missing_as is not None:
            column = column.fill_null(missing_as)
        elif column.null_count:
            raise Unequal(f"`{name}` has {column.null_count} nulls; --missing-as says what they equal")
        return column.to_numpy().astype(np.float64)


def close(one, other, relative):
    return one == other or (isinstance(one, float) and abs(one - other) <= relative * max(abs(one), abs(other)))


def same_list(one, other, relative):
    return len(one) == len(other) and all(close(a, b, relative) for rows in zip(one, other) for a, b in zip(*rows))


def pair_off(ours, theirs, relative):
    """What is left of both after equal lists are taken away, by (query, documents): {identity: (ours, theirs)}."""
    left = (collections.Counter(ours.lists), collections.Counter(theirs.lists))
    left = (left[0] - left[1], left[1] - left[0])
    by_identity = collections.defaultdict(lambda: ([], []))
    for side in (0, 1):
        for (query, rows), count in left[side].items():
            by_identity[query, tuple(row[0] for row in rows)][side].extend([rows] * count)
    unequal = {}
    for identity, (mine, others) in by_identity.items():
        if relative:
            for rows in list(mine):
                near = next((other for other in others if same_list(rows, other, relative)), None)
                if near:
                    mine.remove(rows)
                    others.remove(near)
        if mine or others:
            unequal[identity] = (mine, others)
    return unequal


def differences(unequal, names, relative):
    for (query, documents), (ours, theirs) in sorted(unequal.items()):
        for mine, other in itertools.zip_longest(sorted(ours), sorted(theirs)):
            if mine is None or other is None:
                where = "theirs" if mine is None else "ours"
                yield f"query {query}: a list of {len(documents)} documents ({', '.join(documents[:3])}, …) is only in {where}"
                continue
            for row, twin in zip(mine, other):
                cells = [f"{name} {a!r}, theirs {b!r}" for name, a, b in zip(names, row, twin) if not close(a, b, relative)]
                if cells:
                    yield f"query {query}, document {row[0]}: ours has {'; '.join(cells)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ours", type=pathlib.Path)
    parser.add_argument("theirs", type=pathlib.Path)
    parser.add_argument("--features", nargs="+", help="compare these; default: all of ours")
    parser.add_argument("--missing-as", type=float, help="take nulls for this number")
    parser.add_argument("--relative", type=float, default=0.0, help="how far numbers may differ; default: not at all, as float32")
    parser.add_argument("--show", type=int, default=5)
    arguments = parser.parse_args()
    try:
        ours = TrainingData(arguments.ours, arguments.features, arguments.missing_as)
        theirs = TrainingData(arguments.theirs, ours.features, arguments.missing_as)
    except Unequal as unequal:
        print(f"not the same: {unequal}")
        return 1
    unequal = pair_off(ours, theirs, arguments.relative)
    if not unequal:
        print(f"the same: {ours.rows} rows in {len(ours.lists)} lists; {', '.join(ours.names)}")
        return 0
    print(f"not the same: ours has {ours.rows} rows in {len(ours.lists)} lists, theirs {theirs.rows} in {len(theirs.lists)}")
    found = list(differences(unequal, ours.names, arguments.relative))
    print("\n".join(found[: arguments.show]))
    if len(found) > arguments.show:
        print(f"… and {len(found) - arguments.show} more")
    return 1


if __name__ == "__main__":
    sys.exit(main())
