"""(b) The best PyTorch can be made to do on CPU: no DataLoader, nothing per row, nothing per step that can be done once.

Every rank holds the rows as one tensor, permutes an epoch once and takes slices. Variants:
  ddp            DDP with gradient_as_bucket_view, static_graph, no buffers to broadcast; a fused AdamW
  flat           no DDP: one flat parameter, one flat gradient, one all_reduce a step, a fused AdamW on one tensor
  compile, flat-compile   the same, with forward, loss and backward through torch.compile (needs g++)
One JSON line a variant: steady-state rows/s of the whole world, from the second epoch on.

    python -m torch.distributed.run --standalone --nproc-per-node 2 ddp_best.py DATA --batch 256 [--variant flat]
"""

import argparse
import os
import statistics
import sys
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP

import job
import training_data

VARIANTS = ["ddp", "flat", "compile", "flat-compile"]


def packed(root):
    """[rows, features + 2] float32: features, label and weight of a row side by side, so that a permutation is one gather."""
    data = training_data.read(root, lists=False)
    parts = [torch.from_numpy(data.features), torch.from_numpy(data.labels)[:, None], torch.from_numpy(data.weights)[:, None]]
    return torch.cat(parts, dim=1)


def epoch_batches(table, epoch, batch, rank, world):
    """This rank's batches of an epoch, as DistributedSampler would deal them, without its padding."""
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(epoch))
    rows = table[order[rank::world][: len(table) // world]]
    for part in rows.split(batch):
        yield part[:, :-2], part[:, -2], part[:, -1]


def ddp_step(features, loss_of, compiled):
    model = DDP(job.mlp(features), gradient_as_bucket_view=True, static_graph=True, broadcast_buffers=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    forward = lambda x, labels, weights: loss_of(model(x).squeeze(-1), labels, weights)
    if compiled:
        forward = torch.compile(forward, dynamic=False)

    def step(x, labels, weights):
        optimizer.zero_grad(set_to_none=True)
        loss = forward(x, labels, weights)
        loss.backward()
        optimizer.step()
        return loss

    return step


def flat_step(features, loss_of, compiled):
    model = job.mlp(features)
    parameters = list(model.parameters())
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    gradient = torch.zeros_like(flat)
    offset = 0
    for parameter in parameters:
        end = offset + parameter.numel()
        parameter.data = flat[offset:end].view_as(parameter)
        parameter.grad = gradient[offset:end].view_as(parameter)
        offset = end
    flat.grad = gradient
    optimizer = torch.optim.AdamW([flat], lr=1e-3, fused=True)
    share = 1.0 / dist.get_world_size()
    forward = lambda x, labels, weights: loss_of(model(x).squeeze(-1), labels, weights)
    if compiled:
        forward = torch.compile(forward, dynamic=False)

    def step(x, labels, weights):
        gradient.zero_()
        loss = forward(x, labels, weights)
        (loss * share).backward()
        dist.all_reduce(gradient)
        optimizer.step()
        return loss

    return step


def measure(variant, table, arguments, rank, world):
    """Rows/s of the epochs after the first."""
    features, loss_of = table.shape[1] - 2, job.weighted_loss(arguments.loss)
    make_step = flat_step if variant.startswith("flat") else ddp_step
    step = make_step(features, loss_of, variant.endswith("compile"))
    seconds, total = [], torch.zeros(())
    for epoch in range(arguments.epochs):
        dist.barrier()
        began = time.perf_counter()
        total.zero_()
        steps = 0
        for x, labels, weights in epoch_batches(table, epoch, arguments.batch, rank, world):
            total += step(x, labels, weights).detach()
            steps += 1
        loss = total.item() / steps
        seconds.append(job.latest(time.perf_counter() - began))
    rows = len(table) // world * world
    steady = statistics.median(seconds[1:] or seconds)
    return {"rows": rows, "epochs": len(seconds), "rows_per_second": round(rows / steady), "loss": round(loss, 6)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--batch", type=int, default=1024, help="rows a rank")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--variant", choices=[*VARIANTS, "all"], default="all")
    parser.add_argument("--loss", choices=["mse", "bce"], default="mse")
    parser.add_argument("--threads", type=int, help="a rank's; default: the cores shared among the ranks")
    arguments = parser.parse_args()
    rank, world = job.join()
    threads = arguments.threads or max(1, len(os.sched_getaffinity(0)) // world)
    torch.set_num_threads(threads)
    table = packed(arguments.data)
    about = {"torch": torch.__version__, "world": world, "batch": arguments.batch, "threads": threads}
    variants = VARIANTS if arguments.variant == "all" else [arguments.variant]
    for variant in variants:
        try:
            job.report(peer="ddp_best", variant=variant, **measure(variant, table, arguments, rank, world), **about)
        except Exception as error:
            # Every rank runs into a compiler that is not there, before it waits for another.
            if not variant.endswith("compile"):
                raise
            print(f"variant {variant} left out: {error}", file=sys.stderr)
    job.leave()


if __name__ == "__main__":
    main()
