"""What the PyTorch jobs here share: joining the process group, the model, the weighted loss and the report.

Jobs are started as `python -m torch.distributed.run --standalone --nproc-per-node 2 JOB.py …`, with START_UNIX (seconds, from
`date +%s.%N`) in the environment where the time from the caller's start matters.
"""

import json
import os
import sys
import time

import torch
import torch.distributed as dist
from torch import nn


def join():
    """Enters the gloo group over the loopback interface; returns (rank, world)."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(backend="gloo")
    return dist.get_rank(), dist.get_world_size()


def leave():
    """Ends this rank well. Torn down in the ordinary way, gloo sometimes aborts ("terminate called without an active exception") after
    all work is done, and torchrun then calls the job failed."""
    dist.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def mlp(features, hidden=(64, 32)):
    """features-64-32-1 with relu, the same first weights on every rank."""
    torch.manual_seed(0)
    widths = [features, *hidden]
    layers = []
    for inputs, outputs in zip(widths, widths[1:]):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 1))


def weighted_loss(kind):
    """The weighted mean of a pointwise loss over this rank's batch (DDP then averages the ranks' means)."""
    criterion = {"mse": nn.MSELoss, "bce": nn.BCEWithLogitsLoss}[kind](reduction="none")
    return lambda scores, labels, weights: (criterion(scores, labels) * weights).sum() / weights.sum()


def since_start():
    """Seconds since the caller started the job, if it said when."""
    start = os.environ.get("START_UNIX")
    return time.time() - float(start) if start else None


def latest(seconds):
    """The latest of the ranks' times."""
    tensor = torch.tensor(-1.0 if seconds is None else seconds, dtype=torch.float64)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return None if tensor.item() < 0 else round(tensor.item(), 4)


def report(**fields):
    """One JSON line, by rank 0."""
    if dist.get_rank() == 0:
        print(json.dumps(fields), flush=True)
