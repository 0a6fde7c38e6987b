"""Training Parquet in Lockstep's layout, read (and, for the peers' own checks, written) with pyarrow.

Which column is what follows dataset/src/manifest.rs: `list_id` groups rows where it exists, else the query column; features are
those of the file's `lockstep.training` footer, else every numeric column without another part to play; wide columns or one
fixed-size list column `features`. Files are taken in the order of their paths.

    python training_data.py --generate FOLDER [--queries 1000] [--binary] [--vector] [--weights]     # a small synthetic dataset
"""

import argparse
import dataclasses
import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FOOTER_KEY = b"lockstep.training"
RESERVED = {"label", "query_id", "list_id", "document_id", "sample_weight", "position"}


@dataclasses.dataclass
class Columns:
    label: str
    group: str
    weight: str | None
    features: list[str]
    vector: bool


@dataclasses.dataclass
class TrainingData:
    features: np.ndarray  # [rows, features] float32, row-major
    labels: np.ndarray  # [rows] float32
    weights: np.ndarray  # [rows] float32, ones where the dataset has none
    starts: np.ndarray | None  # [lists + 1] int64: list k is rows starts[k] .. starts[k + 1]; None where not asked for
    names: list[str]


def files(root):
    """The Parquet files of a dataset, as Lockstep orders them."""
    root = pathlib.Path(root)
    if root.is_file():
        return [root]
    inside = (path for path in root.rglob("*.parquet") if path.is_file())
    shown = [path for path in inside if not any(part[0] in "._" for part in path.relative_to(root).parts)]
    if not shown:
        raise SystemExit(f"no Parquet file in {root}")
    return sorted(shown, key=lambda path: path.relative_to(root).parts)


def resolve(schema, label="label", query="query_id", group=None, weight=None, features=None):
    """Which columns of a file are what."""
    vector = "features" in schema.names and pa.types.is_fixed_size_list(schema.field("features").type)
    group = group or ("list_id" if "list_id" in schema.names else query)
    weight = weight or ("sample_weight" if "sample_weight" in schema.names else None)
    footer = json.loads((schema.metadata or {}).get(FOOTER_KEY, b"{}"))
    if vector:
        length = schema.field("features").type.list_size
        names = footer.get("features") or [f"f{n}" for n in range(1, length + 1)]
    elif features or footer.get("features"):
        names = list(features or footer["features"])
    else:
        taken = RESERVED | {label, query, group, weight}
        numeric = lambda type: pa.types.is_integer(type) or pa.types.is_floating(type)
        names = [field.name for field in schema if numeric(field.type) and field.name not in taken]
    return Columns(label, group, weight, names, vector)


def read(root, lists=True, threads=True, **roles):
    """Reads the whole dataset; `lists` says whether the group column is needed too."""
    parts, groups, columns = [], [], None
    for path in files(root):
        file = pq.ParquetFile(path)
        columns = columns or resolve(file.schema_arrow, **roles)
        extra = [columns.weight] if columns.weight else []
        extra += [columns.group] if lists else []
        table = file.read(
            columns=[columns.label, *(["features"] if columns.vector else columns.features), *extra], use_threads=threads
        )
        parts.append(matrices(table, columns))
        if lists:
            groups.append(table[columns.group].combine_chunks())
    features, labels, weights = (np.concatenate(arrays) if len(arrays) > 1 else arrays[0] for arrays in zip(*parts))
    starts = runs(groups) if lists else None
    return TrainingData(features, labels, weights, starts, columns.features)


def matrices(table, columns):
    """Features, labels and weights of a table, as float32 arrays."""
    rows = table.num_rows
    if columns.vector:
        values = [chunk.flatten().to_numpy() for chunk in table["features"].chunks]
        flat = np.concatenate(values) if len(values) != 1 else values[0]
        features = np.ascontiguousarray(flat.reshape(rows, len(columns.features)), dtype=np.float32)
    else:
        features = np.empty((rows, len(columns.features)), dtype=np.float32)
        for index, name in enumerate(columns.features):
            features[:, index] = table[name].to_numpy()
    labels = table[columns.label].to_numpy().astype(np.float32)
    weights = table[columns.weight].to_numpy().astype(np.float32) if columns.weight else np.ones(rows, dtype=np.float32)
    return features, labels, weights


def runs(groups):
    """Where runs of equal values start, over the files' group columns one after another; and the end."""
    values = pa.chunked_array(groups).dictionary_encode().combine_chunks()
    codes = values.indices.to_numpy() if isinstance(values, pa.DictionaryArray) else values.chunk(0).indices.to_numpy()
    changes = np.flatnonzero(codes[1:] != codes[:-1]) + 1
    return np.concatenate([[0], changes, [len(codes)]]).astype(np.int64)


def generate(folder, queries=1000, documents=(10, 30), features=10, seed=0, binary=False, vector=False, weights=False, parts=2):
    """Writes a small dataset whose labels follow from its features, wide unless `vector`."""
    random = np.random.default_rng(seed)
    sizes = random.integers(documents[0], documents[1] + 1, queries)
    rows = int(sizes.sum())
    x = random.standard_normal((rows, features), dtype=np.float32)
    score = x[:, 0] + 0.5 * x[:, 1] * x[:, 2 % features] - np.abs(x[:, 3 % features]) + 0.3 * random.standard_normal(rows)
    labels = np.digitize(score, np.quantile(score, [0.55, 0.75, 0.88, 0.96])).astype(np.float32)
    if binary:
        labels = (labels >= 2).astype(np.float32)
    names = [f"f{n + 1}" for n in range(features)]
    query = np.repeat(np.arange(queries), sizes)
    columns = {
        "query_id": pa.array([f"q{n}" for n in query]),
        "document_id": pa.array([f"d{n}" for n in range(rows)]),
        "label": pa.array(labels),
    }
    if weights:
        columns["sample_weight"] = pa.array(random.uniform(0.25, 4.0, rows).astype(np.float32))
    if vector:
        columns["features"] = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), features)
    else:
        columns |= {name: pa.array(x[:, index]) for index, name in enumerate(names)}
    arrays = [array for array in columns.values()]
    schema = pa.schema([pa.field(name, array.type, nullable=False) for name, array in columns.items()])
    table = pa.Table.from_arrays(arrays, schema=schema)
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    ends = np.cumsum(sizes)
    cuts = [0, *(int(ends[queries * (part + 1) // parts - 1]) for part in range(parts))]
    for part, (start, end) in enumerate(zip(cuts, cuts[1:])):
        pq.write_table(table.slice(start, end - start), folder / f"part-{part:05}.parquet", use_dictionary=False, compression="none")
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generate", required=True, metavar="FOLDER")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--features", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    for flag in ("binary", "vector", "weights"):
        parser.add_argument(f"--{flag}", action="store_true")
    arguments = vars(parser.parse_args())
    print(generate(arguments.pop("generate"), **arguments), "rows")
