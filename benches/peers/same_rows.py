"""Are two folders of training data the same, list by list and row by row? Exit code 0: yes, 1: no, with the first differences.

    python same_rows.py OURS THEIRS [--missing-as 0] [--relative 0] [--show 5]

Lists are joined by `list_id`, or by what it is the hash of (session_id, query_id, query_timestamp, which `spark_pipeline.py --list-key`
keeps), and a list's rows by document. Query, label, weight and features must be equal as float32, rows as many, and those of a list side
by side; the order of lists and of rows inside a list is left open.
"""

import argparse
import functools
import itertools
import pathlib
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

LIST_KEY = ["session_id", "query_id", "query_timestamp"]
IDS = ["query_id", "document_id"]
VALUES = ["label", "sample_weight"]
NOT_FEATURES = {"list_id", *LIST_KEY, *IDS, *VALUES, "position"}


class Unequal(Exception):
    pass


class TrainingData:
    """Lists of a folder, {list_id: rows}; a row is (query_id, document_id, label, weight, features…), rows in a fixed order."""

    def __init__(self, folder, features, missing_as):
        files = sorted(path for path in folder.rglob("*.parquet") if not path.name.startswith((".", "_")))
        if not files:
            raise Unequal(f"no Parquet file in {folder}")
        table = pa.concat_tables([pq.read_table(file, partitioning=None) for file in files])
        there = set(table.column_names)
        self.features = features or sorted(there - NOT_FEATURES)
        needed = [*([] if "list_id" in there else LIST_KEY), *IDS, *VALUES, *self.features]
        missing = [name for name in needed if name not in there]
        if missing:
            raise Unequal(f"{folder} has no {', no '.join(missing)}; its columns: {', '.join(table.column_names)}")
        self.names = [*IDS, *VALUES, *self.features]
        self.rows = len(table)
        values = np.column_stack([float32(table, name, missing_as) for name in (*VALUES, *self.features)]).tolist()
        rows = zip(list_ids(table), table["query_id"].to_pylist(), table["document_id"].to_pylist(), values)
        self.lists = {}
        for identity, group in itertools.groupby(rows, key=lambda row: row[0]):
            if identity in self.lists:
                raise Unequal(f"{folder}: rows of the list {identity} are not side by side")
            self.lists[identity] = sorted((query, document, *numbers) for _, query, document, numbers in group)


def list_ids(table):
    """As `lockstep_list_id` (pipeline/src/prepare/list_id.rs) makes them."""
    if "list_id" in table.column_names:
        return table["list_id"].to_pylist()
    session, query = (table[name].to_pylist() for name in ("session_id", "query_id"))
    micros = table["query_timestamp"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_pylist()
    return [list_id(*key) for key in zip(session, query, micros)]


@functools.lru_cache
def list_id(session, query, micros):
    named = b"".join((session.encode(), b"\0", query.encode(), b"\0", micros.to_bytes(8, "little", signed=True)))
    return int.from_bytes(xxhash.xxh3_64(named).digest(), "big", signed=True)


def float32(table, name, missing_as):
    column = table[name].cast(pa.float32())
    if missing_as is not None:
        column = column.fill_null(missing_as)
    elif column.null_count:
        raise Unequal(f"`{name}` has {column.null_count} nulls; --missing-as says what they equal")
    return column.to_numpy().astype(np.float64)


def close(one, other, relative):
    return one == other or (isinstance(one, float) and abs(one - other) <= relative * max(abs(one), abs(other)))


def differences(ours, theirs, relative):
    for identity, mine in ours.lists.items():
        where = f"list {identity}, query {mine[0][0]}"
        other = theirs.lists.get(identity)
        if other is None:
            yield f"{where}: only in ours"
            continue
        if [row[:2] for row in mine] != [row[:2] for row in other]:
            documents = [sorted(row[1] for row in rows) for rows in (mine, other)]
            yield f"{where}: ours has the documents {documents[0]}, theirs {documents[1]} of query {other[0][0]}"
            continue
        for row, twin in zip(mine, other):
            cells = [f"{name} {a!r}, theirs {b!r}" for name, a, b in zip(ours.names, row, twin) if not close(a, b, relative)]
            if cells:
                yield f"{where}, document {row[1]}: ours has {'; '.join(cells)}"
    for identity in theirs.lists.keys() - ours.lists.keys():
        yield f"list {identity}, query {theirs.lists[identity][0][0]}: only in theirs"


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
    found = list(differences(ours, theirs, arguments.relative))
    if not found:
        print(f"the same: {ours.rows} rows in {len(ours.lists)} lists; {', '.join(ours.names)}")
        return 0
    print(f"not the same: ours has {ours.rows} rows in {len(ours.lists)} lists, theirs {theirs.rows} in {len(theirs.lists)}")
    print("\n".join(found[: arguments.show]))
    if len(found) > arguments.show:
        print(f"… and {len(found) - arguments.show} more")
    return 1


if __name__ == "__main__":
    sys.exit(main())
