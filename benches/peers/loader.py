"""pyarrow reading training Parquet into ready tensors on one thread: a [rows, features] float32 matrix, labels and weights.

Two ways, the median and the best of `--rounds` passes over files that lie in the page cache: `table` reads a file at once,
`batches` a row group's worth at a time into memory that is used again. One JSON line each.

    python loader.py DATA [--rounds 5]
"""

import argparse
import json
import statistics
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import training_data

BATCH = 1 << 16


def by_table(root):
    data = training_data.read(root, lists=False, threads=False)
    tensors = [torch.from_numpy(array) for array in (data.features, data.labels, data.weights)]
    return len(tensors[1])


def by_batches(root):
    """Into one matrix that every batch overwrites; a step would consume it in between."""
    rows, matrix = 0, None
    for path in training_data.files(root):
        file = pq.ParquetFile(path)
        columns = training_data.resolve(file.schema_arrow)
        matrix = np.empty((BATCH, len(columns.features)), dtype=np.float32) if matrix is None else matrix
        names = ["features"] if columns.vector else columns.features
        names = names + [columns.label] + ([columns.weight] if columns.weight else [])
        for batch in file.iter_batches(BATCH, columns=names, use_threads=False):
            if columns.vector:
                matrix[: batch.num_rows] = batch.column("features").flatten().to_numpy().reshape(batch.num_rows, -1)
            else:
                for index, name in enumerate(columns.features):
                    matrix[: batch.num_rows, index] = batch.column(name).to_numpy()
            ready = torch.from_numpy(matrix[: batch.num_rows])
            torch.from_numpy(batch.column(columns.label).to_numpy().astype(np.float32))
            if columns.weight:
                torch.from_numpy(batch.column(columns.weight).to_numpy().astype(np.float32))
            rows += len(ready)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    torch.set_num_threads(1)
    for name, load in {"table": by_table, "batches": by_batches}.items():
        load(arguments.data)
        seconds = []
        for _ in range(arguments.rounds):
            began = time.perf_counter()
            rows = load(arguments.data)
            seconds.append(time.perf_counter() - began)
        rate = {"rows_per_second": round(rows / statistics.median(seconds)), "best_rows_per_second": round(rows / min(seconds))}
        print(json.dumps({"peer": "pyarrow", "way": name, "pyarrow": pa.__version__, "rows": rows, **rate}), flush=True)


if __name__ == "__main__":
    main()
