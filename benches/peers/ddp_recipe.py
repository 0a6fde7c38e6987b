"""(a) The reference's own recipe: what its DistributedTrainer does, on CPU, from Parquet to a trained epoch.

torchrun, gloo, DDP; a Dataset that hands out one row at a time, DistributedSampler, DataLoader(num_workers=4), AdamW,
CosineAnnealingLR, `loss.item()` every step, the epoch's loss reduced and a checkpoint saved by rank 0. Row weights are added.
One JSON line: `epoch_seconds` is from opening the Parquet files to the end of the first epoch's last step, `train_seconds` that
epoch alone, `from_start_seconds` and `first_step_seconds` count from START_UNIX.

    START_UNIX=$(date +%s.%N) python -m torch.distributed.run --standalone --nproc-per-node 2 ddp_recipe.py DATA --batch 1024
"""

import argparse
import tempfile
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, Dataset, DistributedSampler

import job
import training_data


class Impressions(Dataset):
    def __init__(self, root):
        self.data = training_data.read(root, lists=False)

    def __len__(self):
        return len(self.data.labels)

    def __getitem__(self, row):
        # numpy scalars collate about twice as fast as tensors of one element.
        features = torch.from_numpy(self.data.features[row])
        return {"features": features, "labels": self.data.labels[row], "weights": self.data.weights[row]}


class DistributedTrainer:
    def __init__(self, model, dataset, config):
        self.config = config
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.model = DDP(model)
        self.sampler = DistributedSampler(dataset, num_replicas=self.world_size, rank=self.rank)
        self.dataloader = DataLoader(dataset, batch_size=config["batch_size"], sampler=self.sampler, num_workers=config["num_workers"])
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config["learning_rate"])
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=config["num_epochs"])
        self.criterion = job.weighted_loss(config["loss"])
        self.first_step = None
        self.epochs = []  # (seconds since START_UNIX, clock at the end, seconds of training)

    def train(self):
        for epoch in range(self.config["num_epochs"]):
            began = time.perf_counter()
            self.sampler.set_epoch(epoch)
            self.model.train()
            epoch_loss = 0
            for batch in self.dataloader:
                epoch_loss += self._train_step(batch)
            ended = time.perf_counter()
            self.epochs.append((job.since_start(), ended, ended - began))
            self._reduce_metric(epoch_loss / len(self.dataloader))
            if self.rank == 0:
                self._save_checkpoint(epoch)
            self.scheduler.step()

    def _train_step(self, batch):
        self.optimizer.zero_grad()
        outputs = self.model(batch["features"]).squeeze(-1)
        loss = self.criterion(outputs, batch["labels"], batch["weights"])
        loss.backward()
        self.optimizer.step()
        if self.first_step is None:
            self.first_step = job.since_start() or -1.0
        return loss.item()

    def _reduce_metric(self, metric):
        tensor = torch.tensor(metric)
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
        return tensor.item() / self.world_size

    def _save_checkpoint(self, epoch):
        with tempfile.TemporaryFile() as file:
            state = {"epoch": epoch, "model_state_dict": self.model.module.state_dict()}
            torch.save(state | {"optimizer_state_dict": self.optimizer.state_dict()}, file)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--batch", type=int, default=1024, help="rows a process")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--workers", type=int, default=4, help="the DataLoader's processes")
    parser.add_argument("--loss", choices=["mse", "bce"], default="mse")
    arguments = parser.parse_args()
    _, world = job.join()
    opened = time.perf_counter()
    dataset = Impressions(arguments.data)
    config = {
        "batch_size": arguments.batch,
        "num_workers": arguments.workers,
        "num_epochs": arguments.epochs,
        "learning_rate": 1e-3,
        "loss": arguments.loss,
    }
    trainer = DistributedTrainer(job.mlp(dataset.data.features.shape[1]), dataset, config)
    trainer.train()
    from_start, ended, train_seconds = trainer.epochs[0]
    rows = len(dataset)
    # Every rank takes part in these, in this order.
    times = {
        "epoch_seconds": job.latest(ended - opened),
        "train_seconds": job.latest(train_seconds),
        "from_start_seconds": job.latest(from_start),
        "first_step_seconds": job.latest(trainer.first_step),
    }
    job.report(
        peer="ddp_recipe",
        torch=torch.__version__,
        world=world,
        batch=arguments.batch,
        rows=rows,
        rows_per_second=round(rows / times["train_seconds"]),
        **times,
    )
    job.leave()


if __name__ == "__main__":
    main()
