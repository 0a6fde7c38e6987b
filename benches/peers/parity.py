"""Trains a run's model in plain, single-process PyTorch, to compare with: same data, same first weights, same batches.

Takes the checkpoint of step 0 (`checkpoint.initial = true`) and the run.toml (default: the one the checkpoint's manifest holds);
trains with PyTorch's AdamW or SGD and CosineAnnealingLR. Batches are the whole dataset unless `--batches FILE` lists them: JSON,
a list of steps (or of epochs, each a list of steps), a step being the ordinals, in dataset order, of its rows (mse, bce) or of its
lists. Not for dropout, whose randomness is Lockstep's own; early stopping is left out (`--epochs` says when to end).

    python parity.py CHECKPOINT [--run run.toml] [--train DATA] [--batches steps.json] [--float64] [--out final.safetensors]
                     [--compare other.safetensors --tolerance 1e-5] [--evaluate DATA]
    python parity.py --self-test

Prints one JSON line for each of training, `--evaluate` (ndcg@1, @5, @10, map, mrr) and `--compare`. A difference is relative to the
largest weight of its tensor; weights that a loss of lists gives no gradient are left out, and counted. Exit code 1: further apart
than the tolerance; 2: the words are wrong.
"""

import argparse
import json
import math
import pathlib
import sys
import tomllib

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import reference
import training_data


def wrong(message):
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def read(path, spec, dtype, lists):
    roles = {key: spec["data"].get(key) for key in ("group", "weight", "features")}
    roles |= {key: spec["data"][key] for key in ("label", "query") if key in spec["data"]}
    data = training_data.read(path, lists=lists, **roles)
    tensors = (torch.from_numpy(array).to(dtype) for array in (data.features, data.labels, data.weights))
    return *tensors, data.starts


def load(checkpoint, spec, dtype):
    """The network with a checkpoint's weights."""
    path = weights_file(checkpoint)
    tensors = load_file(path)
    takes_features = ("normalize.mean", "cross.0.down", "cross.0.weight", "layers.0.weight")
    features = next((tensors[name].shape[-1] for name in takes_features if name in tensors), None)
    if features is None:
        wrong(f"{path} holds no model: {', '.join(sorted(tensors))}")
    network = reference.Network(spec["model"], features)
    network.load_state_dict(state(path, network))
    return network.to(dtype)


def weights_file(path):
    path = pathlib.Path(path)
    return path / "model.safetensors" if path.is_dir() else path


def state(path, network):
    """A checkpoint's tensors; a file without the normalisation's leaves the identity."""
    tensors = load_file(weights_file(path))
    own = network.state_dict()
    for name in ("normalize.mean", "normalize.scale"):
        tensors.setdefault(name, own[name])
    if tensors.keys() != own.keys() or any(tensors[name].shape != own[name].shape for name in own):
        show = lambda tensors: ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in sorted(tensors.items()))
        wrong(f"{path} holds another model: {show(tensors)}\nthe run's model is: {show(own)}")
    return tensors


def steps_of(spec, batches, atoms):
    """The epochs' steps, each the ordinals of its atoms (None: all of them)."""
    epochs = spec["training"].get("epochs", 10)
    batch = spec["training"].get("batch", 128)
    if batches is None:
        if batch < atoms:
            wrong(f"training.batch = {batch} is less than the {atoms} there are: name the batches with --batches, or raise it")
        return [[None]] * epochs
    steps = json.loads(pathlib.Path(batches).read_text())
    if steps and steps[0] and isinstance(steps[0][0], list):
        return steps
    each = math.ceil(atoms / batch)
    return [steps[first : first + each] for first in range(0, len(steps), each)]


def rows_of(ordinals, starts, lists):
    """The rows of a batch, and where its lists start among them."""
    if ordinals is None:
        return slice(None), starts if lists else None
    if not lists:
        return torch.as_tensor(ordinals), None
    parts = [np.arange(starts[ordinal], starts[ordinal + 1]) for ordinal in ordinals]
    return torch.from_numpy(np.concatenate(parts)), np.concatenate([[0], np.cumsum([len(part) for part in parts])])


def make_optimizer(spec, network):
    rate = spec.get("learning_rate", 1e-3)
    if spec.get("kind", "adamw") == "adamw":
        betas, decay = tuple(spec.get("betas", (0.9, 0.999))), spec.get("weight_decay", 0.01)
        return torch.optim.AdamW(network.parameters(), rate, betas=betas, eps=spec.get("eps", 1e-8), weight_decay=decay)
    decay, momentum = spec.get("weight_decay", 0.0), spec.get("momentum", 0.0)
    return torch.optim.SGD(network.parameters(), rate, momentum=momentum, weight_decay=decay)


def warm_up_steps(spec, steps_per_epoch):
    count, _, unit = spec.get("warmup", "0 steps").partition(" ")
    return int(count) * (steps_per_epoch if unit.startswith("epoch") else 1)


def train(spec, network, data, epochs):
    """All epochs' steps. Returns the epochs' losses, how many steps had no term or none that was finite, and the largest gradient that
    each weight has met."""
    features, labels, weights, starts = data
    lists = spec["loss"].get("kind", "lambdarank") not in reference.POINTWISE
    optimizer = make_optimizer(spec["optimizer"], network)
    schedule = spec["schedule"]
    scheduler = None
    if schedule.get("kind") == "cosine":
        total = spec["training"].get("epochs", 10)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total, eta_min=schedule.get("minimum", 0.0))
    warm_up = warm_up_steps(schedule, len(epochs[0]) if epochs else 0)
    clip = spec["training"].get("clip_norm")
    losses, skipped, step = [], 0, 0
    largest = {name: torch.zeros_like(parameter) for name, parameter in network.named_parameters()}
    for batches in epochs:
        terms_sum = denominator_sum = 0.0
        for ordinals in batches:
            rows, batch_starts = rows_of(ordinals, starts, lists)
            optimizer.zero_grad()
            terms, denominator = reference.loss(spec["loss"], network(features[rows]), labels[rows], weights[rows], batch_starts)
            step += 1
            (terms / denominator).backward()
            gradients = [parameter.grad for parameter in network.parameters()]
            if denominator.item() <= 0 or not all(torch.isfinite(tensor).all() for tensor in (terms, *gradients)):
                skipped += 1
                continue
            for gradient, seen in zip(gradients, largest.values()):
                torch.maximum(seen, gradient.abs(), out=seen)
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
            scheduled = optimizer.param_groups[0]["lr"]
            optimizer.param_groups[0]["lr"] = scheduled * min(1.0, step / warm_up) if warm_up else scheduled
            optimizer.step()
            optimizer.param_groups[0]["lr"] = scheduled
            terms_sum += terms.item()
            denominator_sum += denominator.item()
        losses.append(terms_sum / denominator_sum if denominator_sum else None)
        if scheduler:
            scheduler.step()
    return losses, skipped, largest


def compare(network, other, tolerance, left_out):
    """Whether another file's weights are this network's, but for those that `left_out` masks."""
    theirs, worst = state(other, network), {"max_relative": 0.0, "max_absolute": 0.0, "worst": None}
    for name, parameter in network.named_parameters():
        own = parameter.detach().double()
        apart = (own - theirs[name].double()).abs()
        if name in left_out:
            apart[left_out[name]] = 0.0
        absolute = apart.max().item()
        relative = absolute / max(own.abs().max().item(), 1e-30) if absolute else 0.0
        if not relative <= worst["max_relative"]:  # a NaN is the worst
            worst |= {"max_relative": relative, "worst": name}
        worst["max_absolute"] = max(worst["max_absolute"], absolute)
    within = worst["max_relative"] <= tolerance
    counts = {name: int(mask.sum()) for name, mask in left_out.items() if mask.any()}
    print(json.dumps({"compare": str(other), **worst, "left_out": counts, "tolerance": tolerance, "within": within}))
    return within


def without_gradient(network, largest, lists):
    """Masks of the weights whose gradient is zero but for rounding, which AdamW blows up to whole steps. Losses of lists have such:
    they do not see a shift of a list's scores, so neither the last bias nor what only weighs a query's own features."""
    if not lists or not largest:
        return {}
    floor = 1e-10 if next(network.parameters()).dtype == torch.float64 else 1e-6
    floor *= max(gradient.max().item() for gradient in largest.values())
    return {name: gradient <= floor for name, gradient in largest.items()}


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", help="folder of a checkpoint, or its model.safetensors")
    parser.add_argument("--run", help="run.toml")
    parser.add_argument("--train", help="instead of data.train")
    parser.add_argument("--batches", help="JSON of ordinals")
    parser.add_argument("--epochs", type=int, help="train so many of the run's epochs; 0: none")
    parser.add_argument("--float64", action="store_true")
    parser.add_argument("--out", help="where the final weights go")
    parser.add_argument("--compare", metavar="SAFETENSORS")
    parser.add_argument("--tolerance", type=float, default=1e-5)
    parser.add_argument("--evaluate", metavar="DATA")
    parser.add_argument("--self-test", action="store_true")
    arguments = parser.parse_args(words)
    if arguments.self_test:
        import parity_checks

        return parity_checks.main()
    if not arguments.checkpoint:
        parser.error("a checkpoint is needed")

    checkpoint = pathlib.Path(arguments.checkpoint)
    run = pathlib.Path(arguments.run) if arguments.run else None
    document = run.read_text() if run else json.loads((checkpoint / "manifest.json").read_text())["spec_toml"]
    spec = tomllib.loads(document)
    for table in ("data", "model", "loss", "training", "optimizer", "schedule"):
        spec.setdefault(table, {})
    dtype = torch.float64 if arguments.float64 else torch.float32
    lists = spec["loss"].get("kind", "lambdarank") not in reference.POINTWISE

    network, largest = load(checkpoint, spec, dtype), {}
    if arguments.epochs != 0:
        if spec["model"].get("dropout"):
            wrong("training with dropout cannot be compared: its randomness is Lockstep's own")
        data = read(arguments.train or spec["data"]["train"], spec, dtype, lists)
        atoms = len(data[3]) - 1 if lists else len(data[1])
        epochs = steps_of(spec, arguments.batches, atoms)[: arguments.epochs]
        losses, skipped, largest = train(spec, network, data, epochs)
        steps = sum(len(epoch) for epoch in epochs)
        print(json.dumps({"trained": len(epochs), "steps": steps, "skipped": skipped, "losses": losses}))
    if arguments.out:
        save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, arguments.out)
    if arguments.evaluate:
        held_out = read(arguments.evaluate, spec, dtype, True)
        with torch.no_grad():
            scores = network(held_out[0])
        print(json.dumps(reference.metrics(scores, held_out[1], held_out[3]) | {"lists": len(held_out[3]) - 1}))
    if arguments.compare:
        left_out = without_gradient(network, largest, lists)
        return 0 if compare(network, arguments.compare, arguments.tolerance, left_out) else 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, tomllib.TOMLDecodeError) as error:
        wrong(error)
