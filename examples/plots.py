"""What a training leaves to look at: its curves, its filters, and what a picture's pixels did."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

DPI = 150


def curves(path: Path, histories: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Loss and accuracy by epoch; a colour for each training, held-out images dashed.

    Trainings hide each other where they agree, so each later one is drawn thinner.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for color, (name, history) in enumerate(histories.items()):
            epochs = range(1, len(history) + 1)
            line = {"color": f"C{color}", "linewidth": 5 / (1 + 2 * color)}
            for key, style in ((quantity, "-"), (f"held-out {quantity}", "--")):
                values = [entry[key] for entry in history]
                axes.plot(epochs, values, style, label=f"{name}, {key}", **line)
        axes.set(xlabel="epoch", ylabel=quantity)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=DPI)


def filters(path: Path, models: Mapping[str, nn.Module]) -> None:
    """The filters of each model's first convolution, a row for each model."""
    banks = {name: _first_filters(model) for name, model in models.items()}
    columns = max(len(bank) for bank in banks.values())
    figure = Figure(figsize=(1 + columns, 0.4 + 1.1 * len(banks)), layout="constrained")
    rows = figure.subplots(len(banks), columns, squeeze=False)
    for row, (name, bank) in zip(rows, banks.items(), strict=True):
        largest = bank.abs().max()
        for axes, kernel in zip(row, bank, strict=True):
            pixels = _pixels(kernel if len(kernel) == 1 else kernel / largest / 2 + 0.5)
            axes.imshow(pixels, cmap="RdBu_r", vmin=-largest, vmax=largest)
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(name)
    figure.savefig(path, dpi=DPI)


def input_gradient(path: Path, model: nn.Module, image: Tensor, label: int) -> None:
    """A picture beside |∂E/∂X|, how much each of its pixels would change the loss."""
    model.eval()
    batch = image.detach()[None].requires_grad_()
    logits = model(batch)
    (gradient,) = torch.autograd.grad(cross_entropy(logits, torch.tensor([label])), batch)
    low, high = image.min(), image.max()
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(_pixels((image - low) / (high - low)), cmap="gray")
    left.set_title(f"class {label}, read as {int(logits.argmax())}")
    right.imshow(_pixels(gradient[0].abs().amax(0, keepdim=True)), cmap="magma")
    right.set_title("|∂E/∂X|")
    for axes in (left, right):
        axes.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=DPI)


def _first_filters(model: nn.Module) -> Tensor:  # [K, C, R, S]
    return next(m.weight.detach() for m in model.modules() if isinstance(m, nn.Conv2d))


def _pixels(image: Tensor) -> np.ndarray:  # [1, H, W] -> [H, W], [3, H, W] -> [H, W, 3]
    return (image[0] if len(image) == 1 else image.permute(1, 2, 0)).numpy()
