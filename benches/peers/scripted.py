"""Modules that users script, and models that Lockstep exported, in plain PyTorch.

    python scripted.py make KIND OUT.pt [--features N] [--start model.safetensors]
        Scripts a module: `mlp` of the shape and with the values of a checkpoint's tensors, or one of those that must not be trained.
    python scripted.py compare LOADER DATA MODEL SCORES [MODEL SCORES …]
        Loads each MODEL with `jit` (torch.jit.load), `mlflow` (mlflow.pytorch.load_model) or `pyfunc` (mlflow.pyfunc.load_model), scores
        the Parquet of DATA in one batch and compares with the column `score` of the Parquet SCORES, row for row. A difference is
        relative to the larger of the score and 1. Exit code 1: further apart than 1e-6.
    python scripted.py weights ONE.safetensors OTHER.safetensors
        The largest difference between tensors of one name, relative to the largest value of the tensor.

Prints one JSON line for each comparison. Under MLflow's Python, LOCKSTEP_TORCH names the site-packages that hold torch.
"""

import argparse
import json
import os
import pathlib
import sys
from typing import List, Tuple

if "LOCKSTEP_TORCH" in os.environ:
    # Last: what MLflow's own environment has stays in force.
    sys.path.append(os.environ["LOCKSTEP_TORCH"])

import numpy as np
import pyarrow.parquet
import torch
from torch import Tensor, nn


class Mlp(nn.Module):
    def __init__(self, widths):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in zip(widths, widths[1:] + [1])])

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index + 1 < len(self.layers):
                x = torch.relu(x)
        return x.squeeze(1)


class Idle(nn.Module):
    """Has a layer that no score depends on."""

    def __init__(self, features):
        super().__init__()
        self.used, self.idle = nn.Linear(features, 1), nn.Linear(features, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


class Two(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.layer = nn.Linear(features, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.layer(x + y)


class Linear(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.layer = nn.Linear(features, 1)


class Squeeze(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).squeeze()


class Clamp(Linear):
    def forward(self, x: Tensor) -> Tensor:
        self.layer.weight.detach().clamp_(min=-10.0)
        return self.layer(x)


class Listing(Linear):
    seen: List[int]

    def __init__(self, features):
        super().__init__(features)
        self.seen = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.size(0))
        return self.layer(x)


class Chance(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.layer(x), 0.001, True)


class Crowd(Linear):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y - y.mean() if x.size(0) > 10 else y


class Aliased(Linear):
    def __init__(self, features):
        super().__init__(features)
        self.register_buffer("turned", self.layer.weight.detach().t())

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + x @ self.turned


class Harmless(Linear):
    """Writes to what came into being within the call."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        with torch.no_grad():
            ones = torch.zeros_like(y).add_(1.0)
        return torch.relu_(y * ones)


def hooked(features):
    module = nn.Sequential(nn.Linear(features, 1))

    def ones(self, inputs: Tuple[Tensor]) -> Tensor:
        return torch.ones_like(inputs[0])

    module.register_forward_pre_hook(ones)
    return module


MODULES = {
    "squeeze": Squeeze,
    "clamp": Clamp,
    "list": Listing,
    "chance": Chance,
    "crowd": Crowd,
    "aliased": Aliased,
    "harmless": Harmless,
    "hook": hooked,
    "two-arguments": Two,
    "idle": Idle,
    "two-scores": lambda features: nn.Sequential(nn.Linear(features, 2)),
    "dropout": lambda features: nn.Sequential(nn.Linear(features, 8), nn.Dropout(0.5), nn.Linear(8, 1)),
    "batch-norm": lambda features: nn.Sequential(nn.BatchNorm1d(features), nn.Linear(features, 1)),
    "linear": lambda features: nn.Linear(features, 1),
    "double": lambda features: nn.Linear(features, 1).double(),
}


def make(arguments):
    if arguments.kind == "mlp":
        from safetensors.torch import load_file

        start = {name: tensor for name, tensor in load_file(arguments.start).items() if name.startswith("layers.")}
        widths = [start[f"layers.{index}.weight"].shape[1] for index in range(len(start) // 2)]
        module = Mlp(widths)
        module.load_state_dict(start)
    elif arguments.kind == "state-dict":
        torch.save(nn.Linear(arguments.features, 1).state_dict(), arguments.out)
        return
    elif arguments.kind == "nan":
        module = nn.Linear(arguments.features, 1)
        with torch.no_grad():
            module.bias.fill_(float("nan"))
    else:
        module = MODULES[arguments.kind](arguments.features)
    torch.jit.script(module).save(arguments.out)


def read(path, columns):
    path = pathlib.Path(path)
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    table = pyarrow.concat_tables([pyarrow.parquet.read_table(file, columns=columns) for file in files])
    return np.stack([table[column].to_numpy().astype(np.float32) for column in columns], 1)


def compare(arguments):
    worst = 0.0
    for path, scores in zip(arguments.pairs[::2], arguments.pairs[1::2], strict=True):
        theirs = read(scores, ["score"])[:, 0]
        ours = score(arguments.loader, path, arguments.data)
        assert theirs.shape == ours.shape, f"{path}: {ours.shape} scores here, {theirs.shape} there"
        apart = float(np.max(np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))))
        worst = max(worst, apart) if np.isfinite(apart) else float("inf")
        print(json.dumps({"model": path, "rows": len(ours), "apart": apart, "spread": float(np.std(theirs))}))
    return int(worst > 1e-6)


def score(loader, path, data):
    if loader == "pyfunc":
        import mlflow.pyfunc
        import pandas

        model = mlflow.pyfunc.load_model(path)
        names = model.metadata.get_input_schema().input_names()
        # In another order than the model's, as its signature allows.
        frame = pandas.DataFrame(read(data, names), columns=names)[names[::-1]]
        return model.predict(frame).to_numpy()[:, 0]
    if loader == "mlflow":
        import mlflow.pytorch

        model = mlflow.pytorch.load_model(path)
    else:
        about = {"lockstep.json": ""}
        model = torch.jit.load(path, _extra_files=about)
        assert json.loads(about["lockstep.json"])["features"] == list(model.features)
    assert not model.training
    with torch.no_grad():
        scores = model(torch.from_numpy(read(data, list(model.features))))
    assert scores.dtype == torch.float32 and scores.dim() == 1
    return scores.numpy()


def weights(arguments):
    from safetensors.torch import load_file

    one, other = load_file(arguments.one), load_file(arguments.other)
    assert one.keys() == other.keys(), (one.keys(), other.keys())
    relative = {name: float((one[name] - other[name]).abs().max() / other[name].abs().max().clamp(min=1e-30)) for name in one}
    print(json.dumps({"apart": max(relative.values()), "tensor": max(relative, key=relative.get)}))
    return 0


def main():
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("make")
    verb.add_argument("kind")
    verb.add_argument("out")
    verb.add_argument("--features", type=int)
    verb.add_argument("--start")
    verb.set_defaults(work=make)
    verb = verbs.add_parser("compare")
    verb.add_argument("loader", choices=["jit", "mlflow", "pyfunc"])
    verb.add_argument("data")
    verb.add_argument("pairs", nargs="+")
    verb.set_defaults(work=compare)
    verb = verbs.add_parser("weights")
    verb.add_argument("one")
    verb.add_argument("other")
    verb.set_defaults(work=weights)
    arguments = parser.parse_args()
    return arguments.work(arguments)


if __name__ == "__main__":
    sys.exit(main())
