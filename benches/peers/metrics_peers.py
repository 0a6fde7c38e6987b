"""Ranking metrics as other tools compute them: makes rankings, hard ones among them, and asks each tool that takes them.

    "$(scripts/venv.sh evaluation)" benches/peers/metrics_peers.py --out FOLDER [--lightgbm ../shared/data/lightgbm]

FOLDER gets, a case at a time, CASE.parquet (query, document, label, score), CASE.qrels and CASE.run, and `expected.json`: what each tool
said, by query and in the mean. Each tool computes its own means where it has any. Nothing here is Lockstep's.

tests/tests/system/evaluation.rs compares `lockstep evaluate --as` with it.
"""

import argparse
import dataclasses
import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CUTS = (1, 2, 3, 5, 10, 100)


@dataclasses.dataclass
class Query:
    id: str
    documents: list
    labels: list
    scores: list
    unretrieved: dict = dataclasses.field(default_factory=dict)  # judged, not ranked
    unjudged: set = dataclasses.field(default_factory=set)  # ranked, not judged

    def qrels(self):
        judged = {document: label for document, label in zip(self.documents, self.labels) if document not in self.unjudged}
        return judged | self.unretrieved

    def run(self):
        return dict(zip(self.documents, self.scores))


@dataclasses.dataclass
class Case:
    queries: list
    only_judged: dict = dataclasses.field(default_factory=dict)  # {query: {document: label}}
    only_ranked: dict = dataclasses.field(default_factory=dict)  # {query: {document: score}}

    def qrels(self):
        return {query.id: query.qrels() for query in self.queries} | self.only_judged

    def run(self):
        return {query.id: query.run() for query in self.queries} | self.only_ranked

    def is_plain(self):
        """Whether rows of labels and scores say it all."""
        plain = not any(query.unretrieved or query.unjudged for query in self.queries)
        return plain and not self.only_judged and not self.only_ranked and min(self.labels()) >= 0

    def labels(self):
        return [label for query in self.queries for label in query.labels]

    def binary(self):
        return Case([dataclasses.replace(query, labels=[int(label >= 1) for label in query.labels]) for query in self.queries])

    def write(self, path):
        columns = {"query": [], "document": [], "label": [], "score": []}
        for query in self.queries:
            for document, label, score in zip(query.documents, query.labels, query.scores):
                for name, value in zip(columns, (query.id, document, label, score)):
                    columns[name].append(value)
        columns["score"] = pa.array(columns["score"], pa.float64())
        pq.write_table(pa.table(columns), path.with_suffix(".parquet"))
        with open(path.with_suffix(".qrels"), "w") as file:
            for query, documents in self.qrels().items():
                file.writelines(f"{query} 0 {document} {label}\n" for document, label in documents.items())
        with open(path.with_suffix(".run"), "w") as file:
            for query, documents in self.run().items():
                # Ranks that say nothing: scores decide.
                file.writelines(f"{query} Q0 {document} 1 {score!r} made\n" for document, score in documents.items())


def query(number, labels, scores, rng):
    """Document ids whose order is neither the rows' nor that of their numbers."""
    names = [f"{name}" for name in rng.permutation(len(labels)) + 1]
    return Query(f"q{number}", names, [int(label) for label in labels], [float(score) for score in scores])


def lightgbm_example(folder, rng):
    """The test set, scored by a model that was trained on the training set."""
    import lightgbm

    def read(name):
        rows = [line.split() for line in open(folder / name)]
        features = np.zeros((len(rows), 301), dtype=np.float32)
        for at, row in enumerate(rows):
            for pair in row[1:]:
                index, value = pair.split(":")
                features[at, int(index)] = float(value)
        sizes = [int(line) for line in open(folder / f"{name}.query")]
        return features, np.array([int(row[0]) for row in rows]), sizes

    features, labels, sizes = read("rank.train")
    parameters = {"objective": "lambdarank", "verbose": -1, "num_threads": 1, "seed": 1, "deterministic": True, "min_data_in_leaf": 20}
    model = lightgbm.train(parameters, lightgbm.Dataset(features, labels, group=sizes), num_boost_round=20)
    features, labels, sizes = read("rank.test")
    scores, ends = model.predict(features), np.cumsum(sizes)
    return Case([query(at, labels[end - size : end], scores[end - size : end], rng) for at, (size, end) in enumerate(zip(sizes, ends))])


def tied(rng, queries, shortest, longest, levels):
    made = []
    for number in range(queries):
        size = rng.integers(shortest, longest + 1)
        labels = rng.choice(5, size, p=[0.5, 0.2, 0.15, 0.1, 0.05])
        made.append(query(number, labels, rng.integers(0, levels, size) / 4, rng))
    return Case(made)


def edges(rng):
    many = np.arange(60)
    lists = [
        ([1], [0.5]),
        ([0], [0.5]),
        ([0, 0, 0], [3, 2, 1]),
        ([2, 2, 2, 2], [1, 4, 2, 3]),
        ([1, 1, 1], [0, 0, 0]),
        ([0, 4], [2, 1]),
        ([30, 0, 7, 29], [1, 4, 3, 2]),
        ([0, 1], [-0.0, 0.0]),
        # Equal as f32, not as f64.
        ([0, 1, 2], [1.0, 1.0 + 1e-9, 1.0 + 2e-9]),
        ([1, 0], [1e-40, -1e30]),
        # The first relevant document past rank 32, and past 50.
        ((many == 32).astype(int), -many),
        ((many >= 50).astype(int), -many),
        (many % 3, -many),
    ]
    return Case([query(number, labels, scores, rng) for number, (labels, scores) in enumerate(lists)])


def judged_apart(rng):
    """What only judgments and a run of their own can say."""
    queries = []
    for number in range(40):
        size = rng.integers(1, 14)
        made = query(number, rng.choice([-2, -1, 0, 0, 0, 1, 2, 3], size), rng.integers(0, 3, size) / 2, rng)
        made.unjudged = {name for name, label in zip(made.documents, made.labels) if label == 0 and rng.random() < 0.5}
        made.unretrieved = {f"u{at}": int(rng.choice([-1, 0, 1, 2])) for at in range(rng.integers(0, 4))}
        # A query that nothing was judged for would be no query of the qrels.
        made.unretrieved |= {"n": 0}
        queries.append(made)
    return Case(queries, {"judged1": {"a": 1, "b": 0}, "judged2": {"a": 0}}, {"ranked1": {"a": 1.0}})


def trec_eval(case):
    import pytrec_eval

    measures = {"ndcg": "ndcg", "map": "map", "mrr": "recip_rank", "precision": "set_P", "recall": "set_recall"}
    for cut in CUTS:
        measures |= {f"ndcg@{cut}": f"ndcg_cut_{cut}", f"map@{cut}": f"map_cut_{cut}", f"precision@{cut}": f"P_{cut}", f"recall@{cut}": f"recall_{cut}"}
    asked = {"ndcg", "map", "recip_rank", "set_P", "set_recall"} | {
        f"{name}.{','.join(map(str, CUTS))}" for name in ("ndcg_cut", "map_cut", "P", "recall")
    }
    values = pytrec_eval.RelevanceEvaluator(case.qrels(), asked).evaluate(case.run())
    mean = lambda name: pytrec_eval.compute_aggregated_measure(name, [of_query[name] for of_query in values.values()])
    return {
        ours: {"mean": mean(theirs), "queries": {name: of_query[theirs] for name, of_query in values.items()}}
        for ours, theirs in measures.items()
    }


def by_query_and_together(case, evaluate):
    """What a tool says of each query alone, and of all."""
    together = evaluate(case.queries)
    alone = {query.id: evaluate([query]) for query in case.queries}
    return {name: {"mean": mean, "queries": {id: values[name] for id, values in alone.items()}} for name, mean in together.items()}


def lightgbm(case):
    import lightgbm

    def evaluate(queries):
        values = {}
        for metric in ("ndcg", "map"):
            parameters = {"objective": "lambdarank", "metric": metric, "eval_at": list(CUTS), "verbose": -1, "num_threads": 1}
            # A model that never sees a tree: scores are the data's own initial ones.
            train = lightgbm.Dataset(np.arange(20.0).reshape(-1, 1), [0, 1] * 10, group=[10, 10], params=parameters)
            labels = np.concatenate([query.labels for query in queries])
            scores = np.concatenate([query.scores for query in queries])
            sizes = [len(query.labels) for query in queries]
            data = lightgbm.Dataset(np.zeros((len(labels), 1)), labels, group=sizes, init_score=scores, reference=train, params=parameters)
            model = lightgbm.Booster(parameters, train)
            model.add_valid(data, "data")
            values |= {name: float(value) for _, name, value, _ in model.eval_valid()}
        return values

    return by_query_and_together(case, evaluate)


def xgboost(case, metrics):
    import xgboost

    asked = [name if cut is None else f"{name}@{cut}" for name in metrics for cut in (None, *CUTS)]

    def evaluate(queries):
        labels = np.concatenate([query.labels for query in queries])
        data = xgboost.DMatrix(np.zeros((len(labels), 1), dtype=np.float32), labels)
        data.set_group([len(query.labels) for query in queries])
        data.set_base_margin(np.concatenate([query.scores for query in queries]))
        parameters = {"objective": "rank:ndcg", "eval_metric": asked, "nthread": 1, "verbosity": 0, "base_score": 0}
        line = xgboost.Booster(parameters, [data]).eval_set([(data, "data")])
        values = (part.removeprefix("data-").rsplit(":", 1) for part in line.split("\t")[1:])
        return {name.replace("pre", "precision"): float(value) for name, value in values}

    return by_query_and_together(case, evaluate)


def sklearn(case):
    from sklearn.metrics import dcg_score, ndcg_score

    # It refuses a query of one document.
    queries = [query for query in case.queries if len(query.labels) > 1]
    found = {}
    for cut in (None, *CUTS):
        for name, score in (("ndcg", ndcg_score), ("dcg", dcg_score)):
            values = {query.id: float(score([query.labels], [query.scores], k=cut)) for query in queries}
            mean = float(np.mean(list(values.values()))) if len(queries) == len(case.queries) else None
            found[name if cut is None else f"{name}@{cut}"] = {"mean": mean, "queries": values}
    return found


def ranx(case):
    from ranx import Qrels, Run, evaluate

    metrics = ["ndcg", "dcg", "map", "mrr", "precision", "recall"]
    metrics += [f"{name}@{cut}" for name in metrics for cut in CUTS]
    qrels, run = Qrels(case.qrels()), Run(case.run())
    means = evaluate(qrels, run, metrics, make_comparable=True)
    return {name: {"mean": float(means[name]), "queries": {query: float(value) for query, value in run.scores[name].items()}} for name in metrics}


def reference(case):
    """The reference pipeline's `_ndcg`, its only metric that it defines."""

    def ndcg(y_true, y_pred, k):
        ranking = np.argsort(y_pred)[::-1][:k]
        dcg = sum((2 ** y_true[idx] - 1) / np.log2(i + 2) for i, idx in enumerate(ranking))
        ideal_ranking = np.argsort(y_true)[::-1][:k]
        idcg = sum((2 ** y_true[idx] - 1) / np.log2(i + 2) for i, idx in enumerate(ideal_ranking))
        return dcg / idcg if idcg > 0 else 0.0

    found = {}
    for cut in CUTS:
        values = {query.id: float(ndcg(np.array(query.labels, dtype=float), np.array(query.scores), cut)) for query in case.queries}
        found[f"ndcg@{cut}"] = {"mean": float(np.mean(list(values.values()))), "queries": values}
    return found


def has_ties(case):
    return any(len(set(query.scores)) < len(query.scores) for query in case.queries)


def peers_of(case):
    """The tools that take a case: name, profile, what they say, whether they read judgments and run, whether they count all judged queries."""
    yield "trec_eval", lambda: trec_eval(case), True, False
    # Its sort is stable up to 15 documents; beyond, the order of ties is whatever numba's quicksort leaves.
    if not has_ties(case) or max(len(query.labels) for query in case.queries) <= 15:
        yield "ranx", lambda: ranx(case), True, True
    if case.is_plain():
        binary = max(case.labels()) <= 1
        yield "lightgbm", lambda: lightgbm(case), False, False
        yield "xgboost", lambda: xgboost(case, ["ndcg", "map", "pre"] if binary else ["ndcg"]), False, False
        yield "sklearn", lambda: sklearn(case), False, False
        # Equal scores stand in numpy's order there, whatever it is.
        if not has_ties(case):
            yield "reference", lambda: reference(case), False, False


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--lightgbm", type=pathlib.Path, help="the folder of LightGBM's ranking example")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(20260101)
    distinct = tied(rng, 60, 1, 40, 5)
    for query in distinct.queries:
        query.scores = [float(score) for score in rng.permutation(len(query.scores)) / 7]
    cases = {
        "ties": tied(rng, 150, 1, 15, 4),
        "all-tied": tied(rng, 40, 1, 15, 1),
        "long-ties": tied(rng, 60, 20, 80, 6),
        "distinct": distinct,
        "edges": edges(rng),
        "judged-apart": judged_apart(rng),
    }
    if arguments.lightgbm:
        cases["lightgbm-test"] = lightgbm_example(arguments.lightgbm, rng)
    cases |= {f"{name}-binary": case.binary() for name, case in cases.items() if case.is_plain()}
    expected = []
    for name, case in cases.items():
        case.write(arguments.out / name)
        for peer, evaluate, pair, complete in peers_of(case):
            expected.append({"case": name, "peer": peer, "pair": pair, "complete": complete, "metrics": evaluate()})
    (arguments.out / "expected.json").write_text(json.dumps(expected))
    print(json.dumps({"cases": len(cases), "comparisons": len(expected)}))


if __name__ == "__main__":
    main()
