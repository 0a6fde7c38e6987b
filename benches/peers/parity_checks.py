"""Checks of the oracle itself (`parity.py --self-test`): each loss against loops in plain Python and their finite differences in
float64, the metrics against values worked out by hand, and training against itself through the command line."""

import contextlib
import io
import json
import math
import pathlib
import tempfile
import tomllib

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import parity
import reference
import training_data

LOSSES = [
    {"kind": "mse"},
    {"kind": "bce"},
    {"kind": "ranknet", "sigma": 1.5},
    {"kind": "lambdarank"},
    {"kind": "lambdarank", "sigma": 0.7, "truncation": 3},
    {"kind": "listnet"},
    {"kind": "approx_ndcg", "temperature": 0.5},
]


def by_rank(scores):
    """Rank from 1 of each row."""
    order = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
    return {row: place + 1 for place, row in enumerate(order)}


def list_loss(spec, s, y, w, ranked_by):
    """One list's (terms, denominator); ranks and gains of swaps are those of the scores `ranked_by`."""
    kind, rows = spec["kind"], range(len(s))
    g = [2.0**label - 1 for label in y]
    if kind in ("ranknet", "lambdarank"):
        rank, depth = by_rank(ranked_by), spec.get("truncation", len(s))
        discount = [1 / math.log2(1 + rank[i]) if rank[i] <= depth else 0.0 for i in rows]
        ideal = sum(gain / math.log2(2 + r) for r, gain in enumerate(sorted(g, reverse=True)[:depth]))
        terms = denominator = 0.0
        for i in rows:
            for j in rows:
                if y[i] > y[j]:
                    delta = abs(g[i] - g[j]) * abs(discount[i] - discount[j]) / ideal if kind == "lambdarank" else 1.0
                    terms += w[i] * delta * math.log1p(math.exp(-spec.get("sigma", 1.0) * (s[i] - s[j])))
                    denominator += w[i]
        return terms, denominator
    if kind == "listnet":
        if sum(g) <= 0:
            return 0.0, 0.0
        total = math.log(sum(math.exp(score) for score in s))
        return sum(w[i] * g[i] * (total - s[i]) for i in rows) / sum(g), 1.0
    weighted = [w[i] * g[i] for i in rows]
    if sum(weighted) <= 0:
        return 0.0, 0.0
    ideal = sum(gain / math.log2(2 + r) for r, gain in enumerate(sorted(weighted, reverse=True)))
    dcg = 0.0
    for i in rows:
        smooth = 1 + sum(1 / (1 + math.exp((s[i] - s[j]) / spec.get("temperature", 0.1))) for j in rows if j != i)
        dcg += weighted[i] / math.log2(1 + smooth)
    return 1 - dcg / ideal, 1.0


def batch_loss(spec, s, y, w, starts, ranked_by):
    if spec["kind"] == "mse":
        return sum(b * (a - c) ** 2 for a, b, c in zip(s, w, y)), sum(w)
    if spec["kind"] == "bce":
        return sum(b * (math.log1p(math.exp(a)) - c * a) for a, b, c in zip(s, w, y)), sum(w)
    lists = [slice(start, end) for start, end in zip(starts, starts[1:])]
    parts = [list_loss(spec, s[rows], y[rows], w[rows], ranked_by[rows]) for rows in lists]
    return sum(part[0] for part in parts), sum(part[1] for part in parts)


def losses_agree_with_loops_and_finite_differences():
    random = np.random.default_rng(1)
    for spec in LOSSES:
        worst = 0.0
        for _ in range(8):
            sizes = random.integers(1, 9, 6)
            starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
            rows = starts[-1]
            scores = random.standard_normal(rows)
            # Ties in the scores, where the ranking is all that they are used for.
            scores = np.round(scores, 1) if spec["kind"] != "approx_ndcg" else scores
            labels = random.integers(0, 2 if spec["kind"] == "bce" else 5, rows) * random.choice([0, 1], rows, p=[0.4, 0.6])
            weights = random.uniform(0.25, 4, rows)
            s, y, w = scores.tolist(), labels.tolist(), weights.tolist()
            tensor = torch.tensor(scores, requires_grad=True)
            terms, denominator = reference.loss(spec, tensor, torch.tensor(labels).double(), torch.tensor(weights), starts)
            expected = batch_loss(spec, s, y, w, starts, s)
            assert math.isclose(terms.item(), expected[0], rel_tol=1e-12, abs_tol=1e-12), (spec, terms.item(), expected)
            assert math.isclose(float(denominator), expected[1], rel_tol=1e-12), (spec, denominator, expected)
            (gradient,) = torch.autograd.grad(terms, tensor, allow_unused=True, materialize_grads=True)
            for row in range(rows):
                step = 1e-5
                up, down = ([*s[:row], s[row] + by, *s[row + 1 :]] for by in (step, -step))
                slope = (batch_loss(spec, up, y, w, starts, s)[0] - batch_loss(spec, down, y, w, starts, s)[0]) / (2 * step)
                worst = max(worst, abs(slope - gradient[row].item()) / max(1.0, abs(slope)))
        assert worst < 1e-7, (spec, worst)
        print(f"  {json.dumps(spec)}: gradient within {worst:.1e}")


def padding_changes_nothing():
    """Lists alone and lists padded beside longer ones give the same sums."""
    random = np.random.default_rng(2)
    starts = np.concatenate([[0], np.cumsum([3, 1, 40, 7])])
    scores, weights = (torch.tensor(random.standard_normal(51)).abs() for _ in range(2))
    labels = torch.tensor(random.integers(0, 5, 51)).double()
    for spec in LOSSES[2:]:
        whole = reference.loss(spec, scores, labels, weights, starts)
        alone = [
            reference.loss(spec, scores[start:end], labels[start:end], weights[start:end], [0, end - start])
            for start, end in zip(starts, starts[1:])
        ]
        for part in (0, 1):
            assert math.isclose(float(whole[part]), sum(float(one[part]) for one in alone), rel_tol=1e-12), spec


def metrics_agree_with_values_by_hand():
    # Ranked: labels 0, 3, 1, 0. Then a list without relevant documents, then a tie that row order decides.
    scores = torch.tensor([0.5, 0.9, -1.0, 0.1, 1.0, 2.0, 0.0, 0.0])
    labels = torch.tensor([3.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 2.0])
    found = reference.metrics(scores, labels, [0, 4, 6, 8])
    first = (7 / math.log2(3) + 1 / 2) / (7 + 1 / math.log2(3))
    third = 1 / math.log2(3)
    expected = {"ndcg@1": 0.0, "ndcg@5": (first + third) / 3, "ndcg@10": (first + third) / 3}
    expected |= {"map": ((1 / 2 + 2 / 3) / 2 + 1 / 2) / 3, "mrr": (1 / 2 + 1 / 2) / 3}
    for name, value in expected.items():
        assert math.isclose(found[name], value, abs_tol=1e-12), (name, found)


MODELS = [
    'kind = "mlp"\nhidden = [8, 4]\nnormalize = "standard"',
    'kind = "mlp"\nhidden = [8]\nlayer_norm = true\nactivation = "gelu"\nnormalize = "log1p"',
    'kind = "linear"',
    'kind = "dcn_v2"\nhidden = [6]\ncross_layers = 2',
    'kind = "dcn_v2"\nhidden = []\ncross_rank = 2\nactivation = "silu"',
]


def run_parity(*words):
    """Exit code, lines of stdout and stderr of parity.py."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            code = parity.main([str(word) for word in words])
        except SystemExit as stopped:
            code = stopped.code
    return code, [json.loads(line) for line in out.getvalue().splitlines()], errors.getvalue()


def training_through_the_command_line():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        training_data.generate(folder / "data", queries=60, weights=True, seed=3)
        data = training_data.read(folder / "data")
        lists = len(data.starts) - 1
        for index, model in enumerate(MODELS):
            loss = LOSSES[2:][index % 5]["kind"] if index else "mse"
            batch = len(data.labels) if loss == "mse" else lists
            run = folder / "run.toml"
            run.write_text(
                f'name = "t"\n[data]\ntrain = "{folder}/data"\n[model]\n{model}\n[loss]\nkind = "{loss}"\n[training]\nepochs = 4\n'
                f'batch = {batch}\nclip_norm = 0.5\n[schedule]\nkind = "cosine"\nwarmup = "2 steps"\n[optimizer]\nlearning_rate = 0.01\n'
            )
            start = folder / f"step-{index}"
            start.mkdir()
            torch.manual_seed(index)
            network = reference.Network(tomllib.loads(run.read_text())["model"], 10)
            network.normalize.mean += 0.1
            network.normalize.scale *= 1.3
            save_file(network.state_dict(), start / "model.safetensors")
            (start / "manifest.json").write_text(json.dumps({"spec_toml": run.read_text()}))

            out, out64, listed = folder / "out.safetensors", folder / "out64.safetensors", folder / "batches.json"
            code, lines, errors = run_parity(start, "--run", run, "--out", out, "--evaluate", folder / "data")
            assert code == 0 and lines[0]["losses"][-1] < lines[0]["losses"][0], (code, lines, errors)
            assert 0 < lines[1]["ndcg@10"] <= 1 and lines[1]["lists"] == lists, lines
            code, lines, errors = run_parity(start, "--float64", "--out", out64, "--compare", out, "--tolerance", 1e-2)
            assert code == 0, (code, lines, errors)
            assert next(iter(load_file(out64).values())).dtype == torch.float64
            print(f"  {json.loads(json.dumps(model))!r}, {loss}: float32 within {lines[-1]['max_relative']:.1e} of float64")
            # The whole dataset, listed in another order, is the same batch.
            listed.write_text(json.dumps([list(range(batch))[::-1]] * 4))
            code, lines, errors = run_parity(start, "--float64", "--batches", listed, "--compare", out64, "--tolerance", 1e-7)
            assert code == 0, (code, lines, errors)
            listed.write_text(json.dumps([[[0, 1, 2], [3, 4, 5, 6]], [[1, 3]]]))
            code, lines, errors = run_parity(start, "--batches", listed, "--compare", out, "--tolerance", 1e-7)
            assert code == 1 and lines[0]["steps"] == 3 and not lines[-1]["within"], (code, lines, errors)
        (folder / "other.safetensors").write_bytes((folder / "step-0" / "model.safetensors").read_bytes())
        code, _, errors = run_parity(start, "--epochs", 0, "--compare", folder / "other.safetensors")
        assert code == 2 and "another model" in errors, (code, errors)


def main():
    for check in (
        losses_agree_with_loops_and_finite_differences,
        padding_changes_nothing,
        metrics_agree_with_values_by_hand,
        training_through_the_command_line,
    ):
        check()
        print("ok", check.__name__.replace("_", " "))
    return 0
