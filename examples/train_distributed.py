"""Trains a net in several processes, each on its part of every batch; torchrun starts them.

    torchrun --standalone --nproc-per-node 2 examples/train_distributed.py --parallel fsdp

With `ddp` every process has all weights, and gradients are averaged. With `fsdp` each has a part of
every weight; a layer's parts come together when it runs. Both take the same steps, and the same
as one process, but for rounding where the parts' filter gradients are added. The processes talk
over gloo, on one machine or many (see torchrun's --nnodes).
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import data
import torch
import torch.distributed as dist
from models import MODELS
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import torch_fullconv


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parallel", choices=("ddp", "fsdp"), default="ddp", help="default: %(default)s")
    add("--model", choices=tuple(MODELS), default="lenet", help="default: %(default)s")
    add("--epochs", type=int, default=5, help="default: %(default)s")
    add("--batch-size", type=int, default=64, help="of all processes; default: %(default)s")
    add("--seed", type=int, default=0, help="of weights, split and order; default: %(default)s")
    add("--out", type=Path, help="file for the trained weights, those of the undivided net")
    options = parser.parse_args(argv)

    dist.init_process_group("gloo")
    if options.batch_size % dist.get_world_size():
        parser.error(f"--batch-size must be a multiple of the {dist.get_world_size()} processes")
    loaded = data.load("mnist5k", options.seed)
    net = make(options.model, options.seed)
    model = DistributedDataParallel(net) if options.parallel == "ddp" else shard(net)
    accuracies = train(
        model, loaded, options, rank=dist.get_rank(), processes=dist.get_world_size()
    )
    state = get_model_state_dict(net, options=StateDictOptions(full_state_dict=True))
    if dist.get_rank() == 0:
        for epoch, accuracy in enumerate(accuracies, 1):
            print(f"epoch {epoch}: held-out accuracy {accuracy:.2%}")
        if options.out:
            torch.save(state, options.out)
    dist.destroy_process_group()
    # Letting go of a gathered tensor, gloo's threads ask for Python's lock, and abort the process
    # if Python is shutting down (pytorch/pytorch#190489). Nothing tells when they are through.
    time.sleep(0.5)


def make(model: str, seed: int) -> nn.Module:
    """The same weights in every process."""
    torch.manual_seed(seed)
    return MODELS[model](torch_fullconv, 1)


def shard(net: nn.Module) -> nn.Module:
    """Every layer's parameters cut among the processes, a layer at a time gathered."""
    for layer in net.children():
        if any(True for _ in layer.parameters()):
            fully_shard(layer)
    fully_shard(net)
    return net


def train(
    model: nn.Module, loaded: data.Data, options: argparse.Namespace, *, rank: int, processes: int
) -> list[float]:
    """Trains on this process's part of every batch; the accuracy after each epoch."""
    images, labels = loaded.train
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9, nesterov=True)
    generator = torch.Generator().manual_seed(options.seed)  # one order for all processes
    batches = len(labels) // options.batch_size
    accuracies = []
    for _ in range(options.epochs):
        order = torch.randperm(len(labels), generator=generator)[: batches * options.batch_size]
        model.train()
        for part in order.view(batches, processes, -1)[:, rank]:
            loss = cross_entropy(model(images[part]), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            guesses = model(loaded.held_out.images).argmax(1)
        accuracies.append((guesses == loaded.held_out.labels).double().mean().item())
    return accuracies


if __name__ == "__main__":
    main()
