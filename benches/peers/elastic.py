"""A job for torchrun's elastic agent that loads nothing and keeps nothing: MLP 10-64-32-1, DDP, gloo, AdamW, random rows, for ever.

Each rank appends lines of JSON to MARKS: when it began, its first step, each tenth of a second how many steps it has done, and how its
collective ended when a peer was gone. It starts from nothing again, which no real script could afford.

    MARKS=marks.jsonl python -m torch.distributed.run --standalone --nproc-per-node 2 --max-restarts 9 --monitor-interval 0.1 elastic.py
"""

import json
import os
import time

import torch
from torch.nn.parallel import DistributedDataParallel as DDP

import job

ROWS = 256  # a rank, a step
EVERY = 0.1


def main():
    marks = open(os.environ["MARKS"], "a", buffering=1)
    life = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))

    def mark(what, **more):
        marks.write(json.dumps({"what": what, "unix": time.time(), "life": life, "rank": rank, "pid": os.getpid(), **more}) + "\n")

    rank = int(os.environ["RANK"])
    mark("began")
    job.join()
    torch.set_num_threads(1)
    model = DDP(job.mlp(10), gradient_as_bucket_view=True, static_graph=True, broadcast_buffers=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    loss_of = job.weighted_loss("mse")
    x, labels, weights = torch.randn(ROWS, 10), torch.rand(ROWS), torch.ones(ROWS)
    steps, told = 0, 0.0
    try:
        while True:
            optimizer.zero_grad(set_to_none=True)
            loss_of(model(x).squeeze(-1), labels, weights).backward()
            optimizer.step()
            steps += 1
            if time.time() - told >= EVERY:
                told = time.time()
                mark("step", steps=steps)
    except RuntimeError as error:
        mark("error", steps=steps, error=str(error)[:200])
        raise


if __name__ == "__main__":
    main()
