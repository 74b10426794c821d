"""Training that can stop after any step and continue exactly.

`Trainer.steps()` is a generator that pauses after each step of the optimizer. At a pause,
`state_dict()` is all there is to know, so a trainer that loads it ends with the same weights,
bit for bit, as one that never stopped.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from data import Data, Pictures
from models import MODELS, Layers
from torch import Tensor
from torch.nn.functional import cross_entropy

PEAK_RATE = 0.05  # of a one-cycle schedule; suits all three nets at the usual batch sizes
HALF_TYPES = (torch.bfloat16, torch.float16)


@dataclass
class Progress:
    """How far a training has come; the sums are over the images of this epoch so far."""

    epoch: int = 0
    batch: int = 0  # of this epoch
    loss: float = 0.0
    correct: int = 0
    seconds: float = 0.0  # spent in training steps
    history: list[dict[str, float]] = field(default_factory=list)  # an entry per finished epoch


class Trainer:
    """Trains one net with SGD; the weights, and the order of the images, follow from the seed."""

    def __init__(
        self,
        layers: Layers,
        data: Data,
        *,
        model: str,
        dtype: torch.dtype,
        epochs: int,
        batch_size: int,
        seed: int,
    ) -> None:
        # Half types are for arithmetic: weights, and the small steps that they take, stay float32.
        self.autocast = dtype if dtype in HALF_TYPES else None
        weights = torch.float32 if self.autocast else dtype
        self.data = Data(*(part._replace(images=part.images.to(weights)) for part in data))
        torch.manual_seed(seed)
        self.model = MODELS[model](layers, data.train.images.shape[1]).to(weights)

        self.epochs, self.batch_size = epochs, batch_size
        self.batches = len(data.train.labels) // batch_size
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), PEAK_RATE, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, PEAK_RATE, total_steps=epochs * self.batches
        )
        self.scaler = torch.amp.GradScaler(
            "cpu", init_scale=1024, enabled=self.autocast == torch.float16
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.order = torch.empty(0, dtype=torch.int64)  # of this epoch: [batches, batch_size]
        self.progress = Progress()

    def steps(self) -> Iterator[None]:
        """Trains to the end, pausing after each step."""
        now = self.progress
        while now.epoch < self.epochs:
            if now.batch == 0:
                self.order = self._shuffle()
            for chosen in self.order[now.batch :]:
                self._step(self.data.train.images[chosen], self.data.train.labels[chosen])
                yield
            loss, accuracy = self.evaluate(self.data.held_out)
            now.history.append(
                {
                    "loss": self.loss,
                    "accuracy": self.accuracy,
                    "held-out loss": loss,
                    "held-out accuracy": accuracy,
                }
            )
            now.epoch, now.batch, now.loss, now.correct = now.epoch + 1, 0, 0.0, 0

    @property
    def images(self) -> int:
        """How many images have been trained on, each epoch's anew."""
        return (self.progress.epoch * self.batches + self.progress.batch) * self.batch_size

    @property
    def loss(self) -> float:
        """The mean over this epoch so far."""
        return self.progress.loss / (self.progress.batch * self.batch_size)

    @property
    def accuracy(self) -> float:
        """The part of this epoch's images so far that was recognised when its turn came."""
        return self.progress.correct / (self.progress.batch * self.batch_size)

    def evaluate(self, pictures: Pictures) -> tuple[float, float]:
        """Mean loss and accuracy."""
        logits = self.predict(pictures.images)
        correct = logits.argmax(1) == pictures.labels
        return cross_entropy(logits, pictures.labels).item(), correct.double().mean().item()

    def predict(self, images: Tensor) -> Tensor:  # [N, C, H, W] -> [N, classes]
        """Logits of the net as it is now."""
        self.model.eval()
        with torch.no_grad():
            return torch.cat([self._forward(part) for part in images.split(self.batch_size)])

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._parts().items()} | {
            "generator": self.generator.get_state(),
            "order": self.order,
            "progress": asdict(self.progress),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.generator.set_state(state["generator"])
        self.order = state["order"]
        self.progress = Progress(**state["progress"])

    def _parts(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "scaler": self.scaler,
        }

    def _shuffle(self) -> Tensor:  # [batches, batch_size]
        order = torch.randperm(len(self.data.train.labels), generator=self.generator)
        return order[: self.batches * self.batch_size].view(self.batches, self.batch_size)

    def _forward(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", self.autocast, enabled=self.autocast is not None):
            return self.model(images)

    def _step(self, images: Tensor, labels: Tensor) -> None:
        start, now = time.perf_counter(), self.progress
        self.model.train()
        logits = self._forward(images)
        loss = cross_entropy(logits, labels)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        now.batch += 1
        now.loss += loss.item() * self.batch_size
        now.correct += int((logits.argmax(1) == labels).sum())
        now.seconds += time.perf_counter() - start
