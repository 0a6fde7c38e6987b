"""gloo's all_reduce of float32 between 2 processes on this machine, by message size; one JSON line a size.

A sample is one call, timed on rank 0; calls follow one another, so that both ranks arrive within a moment of each other. The
first calls of a size are not counted.

    python -m torch.distributed.run --standalone --nproc-per-node 2 all_reduce.py [--bytes 64 4096 …] [--seconds 2]
"""

import argparse
import time

import torch
import torch.distributed as dist

import job

SIZES = [64, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 10_000_000, 40_000_000, 100_000_000]


def measure(size, seconds):
    tensor = torch.zeros(size // 4)
    warm_up, samples = 10, []
    for _ in range(warm_up):
        dist.all_reduce(tensor)
    # Both ranks must make the same number of calls: rank 0 times a few and says how many.
    began = time.perf_counter()
    for _ in range(5):
        dist.all_reduce(tensor)
    count = torch.tensor([max(10, min(5000, int(seconds / ((time.perf_counter() - began) / 5))))])
    dist.broadcast(count, src=0)
    for _ in range(count.item()):
        began = time.perf_counter()
        dist.all_reduce(tensor)
        samples.append(time.perf_counter() - began)
    samples.sort()
    return samples


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a size")
    arguments = parser.parse_args()
    job.join()
    torch.set_num_threads(1)
    for size in arguments.bytes:
        samples = measure(size, arguments.seconds)
        job.report(
            engine="gloo",
            bytes=size,
            p50_us=round(samples[len(samples) // 2] * 1e6, 1),
            p95_us=round(samples[len(samples) * 95 // 100] * 1e6, 1),
            iterations=len(samples),
        )
    job.leave()


if __name__ == "__main__":
    main()
