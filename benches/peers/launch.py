"""From torchrun's start to the first optimizer step with nothing to load: MLP 10-64-32-1, DDP, gloo, AdamW, one random batch.

START_UNIX is the moment before torchrun was started. One JSON line; `first_step_seconds` is the later of the ranks'.

    START_UNIX=$(date +%s.%N) python -m torch.distributed.run --standalone --nproc-per-node 2 launch.py
"""

import torch
from torch.nn.parallel import DistributedDataParallel as DDP

import job


def main():
    imported = job.since_start()
    _, world = job.join()
    joined = job.since_start()
    model = DDP(job.mlp(10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    loss_of = job.weighted_loss("mse")
    loss_of(model(torch.randn(256, 10)).squeeze(-1), torch.rand(256), torch.ones(256)).backward()
    optimizer.step()
    stepped = job.since_start()
    times = {
        "imported_seconds": job.latest(imported),
        "joined_seconds": job.latest(joined),
        "first_step_seconds": job.latest(stepped),
    }
    job.report(peer="launch", torch=torch.__version__, world=world, **times)
    job.leave()


if __name__ == "__main__":
    main()
