"""The reference's `TrainingDataPipeline` on PySpark: click logs in Lockstep's lake and feature tables to training data.

    python spark_pipeline.py --logs LAKE --from 2024-01-01 --to 2024-01-04 --features DIR --out OUT [--weights rounded|exact] …

The steps are the reference's: labels, left joins with the feature tables, weights by position, the ten features. Four things were
needed to make it run and to have it do what `lockstep prepare` does:
- results are nested in an event, so they are exploded, and `dwell_time` is `dwell_time_seconds`;
- the dates are a filter on the partition column: `date>=…` in a path means nothing to Spark;
- two of the ten features belong to (query, document) pairs and to users, so two more tables are joined;
- rows of a list are put side by side (`--cluster`), features are columns of float32 (`--vector` for the reference's assembled ones),
  and rows are counted from the footers instead of by running all of it a second time.

One JSON line: `work_seconds` begins where the session stands, `total_seconds` where the process did, `jvm_peak_bytes` and
`python_peak_bytes` are the largest resident sizes, `jvm_cpu_seconds` is what all the JVM's threads worked.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import shutil
import time

FEATURES = [
    "bm25_score", "embedding_sim", "title_match", "doc_popularity", "doc_freshness",
    "doc_quality", "query_length", "query_popularity", "user_preference_match", "price_match",
]  # fmt: skip
LIST_KEY = ["session_id", "query_id", "query_timestamp"]
TABLES = {
    "query_features": ["query_id"],
    "document_features": ["document_id"],
    "pair_features": ["query_id", "document_id"],
    "user_features": ["user_id"],
}
# By position: what the reference's pipeline weighs with, and what its tables of propensities give unrounded. Past the end: 10.
ROUNDED = [1.0, 1.54, 2.22, 2.86, 3.57, 4.55, 5.56, 6.67, 8.33, 10.0]
EXACT = [1 / propensity for propensity in (1.0, 0.65, 0.45, 0.35, 0.28, 0.22, 0.18, 0.15, 0.12, 0.10)]
WEIGHTS = {"rounded": ROUNDED, "exact": EXACT}
DEFAULT_WEIGHT = 10.0


LABELLED_BY = ["clicked", "dwell_time_seconds", "added_to_cart", "purchased"]
READ = """
    session_id string, query_id string, user_id string, query_timestamp timestamp, date date,
    results array<struct<position int, document_id string, clicked boolean, dwell_time_seconds double, added_to_cart boolean, purchased boolean>>
"""


class TrainingDataPipeline:
    def __init__(self, spark, arguments):
        self.spark, self.arguments = spark, arguments

    def build_training_data(self):
        clicks = self._load_clicks()
        labeled = self._generate_labels(clicks)
        features = self._join_features(labeled)
        weighted = self._apply_position_weighting(features)
        training = self._cluster(self._create_training_format(weighted))
        if self.arguments.explain:
            training.explain("formatted")
        training.write.mode("error").parquet(str(self.arguments.out))

    def _load_clicks(self):
        from pyspark.sql import functions as F

        arguments = self.arguments
        # Spark prunes no fields of what it explodes beyond one: a schema that says what is wanted does.
        logs = self.spark.read.schema(READ).parquet(str(arguments.logs / "click_logs"))
        logs = logs.where(F.col("date").between(F.lit(arguments.start).cast("date"), F.lit(arguments.end).cast("date")))
        return logs.select(*LIST_KEY, "user_id", F.explode("results").alias("result")).select(
            *LIST_KEY, "user_id", *(F.col(f"result.{name}") for name in ("position", "document_id", *LABELLED_BY))
        )

    def _generate_labels(self, clicks):
        from pyspark.sql import functions as F

        return clicks.withColumn(
            "label",
            F.when(F.col("purchased"), 4.0)
            .when(F.col("added_to_cart"), 3.0)
            .when(F.col("clicked") & (F.col("dwell_time_seconds") > 30), 2.0)
            .when(F.col("clicked"), 1.0)
            .otherwise(0.0),
        ).drop(*LABELLED_BY)

    def _join_features(self, frame):
        for table, key in TABLES.items():
            folder = self.arguments.features / table
            if folder.exists():
                frame = frame.join(self.spark.read.parquet(str(folder)), key, "left")
        return frame

    def _apply_position_weighting(self, frame):
        from pyspark.sql import functions as F

        weight = F.lit(DEFAULT_WEIGHT)
        for position, value in enumerate(WEIGHTS[self.arguments.weights], start=1):
            weight = F.when(F.col("position") == position, value).otherwise(weight)
        return frame.withColumn("sample_weight", weight)

    def _create_training_format(self, frame):
        from pyspark.sql import functions as F

        # The list's key stays until rows are clustered by it.
        columns = [*LIST_KEY, "position", "document_id", *(F.col(name).cast("float").alias(name) for name in ("label", "sample_weight"))]
        if not self.arguments.vector:
            return frame.select(*columns, *(F.col(name).cast("float").alias(name) for name in FEATURES))
        from pyspark.ml.feature import VectorAssembler

        return VectorAssembler(inputCols=FEATURES, outputCol="features").transform(frame).select(*columns, "features")

    def _cluster(self, frame):
        """Rows of a list side by side, in the order shown."""
        if self.arguments.cluster == "sort":
            frame = frame.repartition(*LIST_KEY).sortWithinPartitions(*LIST_KEY, "position")
        # "kept": exploded rows of an event follow each other, and broadcast joins leave the order of the stream alone.
        return frame if self.arguments.list_key else frame.drop("session_id", "query_timestamp", "position")


def session(arguments, scratch):
    from pyspark.sql import SparkSession

    settings = {
        "spark.driver.memory": arguments.memory,
        "spark.sql.shuffle.partitions": str(arguments.partitions),
        "spark.sql.autoBroadcastJoinThreshold": arguments.broadcast,
        # Above the plan's threshold AQE would fall back to its own; one rule for both.
        "spark.sql.adaptive.autoBroadcastJoinThreshold": arguments.broadcast,
        # Splits small enough that both threads end together.
        "spark.sql.files.maxPartitionBytes": arguments.split,
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.parquet.compression.codec": arguments.compression,
        "spark.local.dir": str(scratch),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
    }
    settings.update(setting.split("=", 1) for setting in arguments.set)
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    builder = SparkSession.builder.master(f"local[{arguments.threads}]").appName("training data")
    for name, value in settings.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


def peak_bytes(process):
    status = pathlib.Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) * 1024


def cpu_seconds(process):
    user, system = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def process_began():
    """When this process was started, by the clock of time.time()."""
    ticks = int(pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    uptime = float(pathlib.Path("/proc/uptime").read_text().split()[0])
    return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")


def rows_written(out):
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(file).num_rows for file in pathlib.Path(out).glob("*.parquet"))


def arguments_of(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=pathlib.Path, required=True, help="the lake: the folder of click_logs")
    parser.add_argument("--from", dest="start", required=True)
    parser.add_argument("--to", dest="end", required=True, help="the last date, itself taken in")
    parser.add_argument("--features", type=pathlib.Path, required=True, help="the folder of query_features, document_features, …")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--weights", choices=WEIGHTS, default="rounded")
    parser.add_argument("--vector", action="store_true", help="features as VectorAssembler's column; nulls are refused then")
    parser.add_argument("--list-key", action="store_true", help="keep session_id, query_timestamp and position")
    parser.add_argument("--cluster", choices=["sort", "kept"], default="sort")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", default="8g", help="the JVM's heap")
    parser.add_argument("--partitions", type=int, default=8, help="of a shuffle")
    parser.add_argument("--split", default="32m", help="the largest piece of a file that a task reads")
    parser.add_argument("--broadcast", default="512m", help="tables below this are broadcast; -1 for none")
    parser.add_argument("--compression", default="snappy")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of Spark's")
    parser.add_argument("--explain", action="store_true")
    return parser.parse_args(words)


def main():
    arguments = arguments_of()
    scratch = arguments.out.parent / f".{arguments.out.name}.spark-local"
    try:
        spark = session(arguments, scratch)
        stands = time.time()
        TrainingDataPipeline(spark, arguments).build_training_data()
        done = time.time()
        process = spark._jvm.java.lang.ProcessHandle.current().pid()
        jvm, jvm_cpu = peak_bytes(process), cpu_seconds(process)
    finally:
        with contextlib.suppress(NameError):
            spark.stop()
        shutil.rmtree(scratch, ignore_errors=True)
    report = {
        "peer": "spark",
        "spark": spark.version,
        "work_seconds": round(done - stands, 3),
        "total_seconds": round(done - process_began(), 3),
        "jvm_peak_bytes": jvm,
        "python_peak_bytes": peak_bytes("self"),
        "jvm_cpu_seconds": jvm_cpu,
        "rows": rows_written(arguments.out),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
