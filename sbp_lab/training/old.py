"""The one training loop: every backend and method runs through it, so that a comparison compares like with like."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sbp_core import Constant, Cosine, LossSpec, NetworkSpec, Schedule, ShortcutSpec, validation
from sbp_core.reference.networks import initial_weights
from sbp_core.specs.base import Spec
from sbp_lab import trainers
from sbp_lab.data import Dataset
from sbp_lab.methods import METHODS
from sbp_lab.optimizers import AdamW
from sbp_lab.trainers import Trainer, TrainerFactory, TrainerOptions

#: Steps left out of the timing: the first ones compile and allocate.
WARM_UP_STEPS = 3


@dataclass(frozen=True, kw_only=True)
class Recipe(Spec):
    """Everything that a run depends on but its method and its seed.

    Attributes:
        backend: name of a trainer.
        data: name of a data set.
        network: the network.
        taps: blocks that get a branch in the methods that have branches.
        combine: "logits" (the paper's) or "losses".
        epochs: passes over the training images.
        batch_size: images per step; what is left over at the end of an epoch is dropped.
        learning_rate: AdamW's at the first step; it falls to 0 along half a cosine.
        weight_decay: AdamW's decoupled weight decay, of every parameter.

    Raises:
        ValueError: a field out of range, or a tap that the network has not.
        TypeError: a field of the wrong type.
    """

    kind: ClassVar[str] = "training_settings"
    backend: str
    data: str
    network: NetworkSpec
    taps: tuple[str, ...]
    combine: Literal["logits", "losses"] = "logits"
    epochs: int = 300
    batch_size: int = 128
    learning_rate: float = 0.01
    weight_decay: float = 0.02

    def __post_init__(self) -> None:
        ShortcutSpec(taps=self.taps, combine=self.combine).check_taps(self.network.tap_channels)
        self._set("epochs", validation.count("epochs", self.epochs))
        self._set("batch_size", validation.count("batch_size", self.batch_size))
        self._set("learning_rate", validation.positive("learning_rate", self.learning_rate))
        self._set("weight_decay", validation.within("weight_decay", self.weight_decay, 0.0, 1.0))


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch of a run.

    Attributes:
        loss: mean training loss.
        accuracy: of the main output alone on the test images after the epoch, in 0 .. 1.
        first_gradient: mean over the steps of the L2 norm of the stem convolution's gradient.
        last_gradient: the same of the head's weights.
    """

    loss: float
    accuracy: float
    first_gradient: float
    last_gradient: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training.

    Attributes:
        method: name of the method.
        seed: of the initial weights and of the order of the batches.
        initial_loss: the loss of the first batch, before any step.
        epochs: the curve.
        step_ms: median time of a training step in milliseconds, the first ones left out.
        seconds: time of the whole run, building and testing included.
    """

    method: str
    seed: int
    initial_loss: float
    epochs: tuple[Epoch, ...]
    step_ms: float
    seconds: float

    @property
    def accuracy(self) -> float:
        """Test accuracy of the main output after the last epoch."""
        return self.epochs[-1].accuracy

    @property
    def gradient_ratio(self) -> float:
        """Size of the first layer's gradient relative to the last's, in the first epoch."""
        first = self.epochs[0]
        return first.first_gradient / first.last_gradient if first.last_gradient else float("nan")


def train(
    recipe: Recipe,
    method: str,
    seed: int,
    dataset: Dataset,
    *,
    make_trainer: TrainerFactory | None = None,
    on_epoch: Callable[[int, Epoch], None] | None = None,
) -> Run:
    """Train one network and return its curve.

    Step k of I uses the coefficient ``schedule(k)`` (Guo et al. 2024, Algorithm 1) and the learning rate of a cosine at
    ``k - 1``. At equal seeds all backends and methods start from the same weights and see the same batches.

    Args:
        recipe: what to train.
        method: a name in :data:`sbp_lab.methods.METHODS`.
        seed: an integer of at least 0.
        dataset: the images.
        make_trainer: takes the place of the backend's own trainer.
        on_epoch: called after each epoch with its number, from 1, and its record.

    Raises:
        ValueError: an unknown method or backend, or fewer training images than a batch.
        ModuleNotFoundError: the backend's framework is not installed.
    """
    began = time.perf_counter()
    validation.choice("method", method, METHODS)
    check_batch_size(recipe.batch_size, dataset)
    per_epoch = len(dataset.train_labels) // recipe.batch_size
    total = recipe.epochs * per_epoch
    schedule = METHODS[method].schedule
    taps = recipe.taps if schedule is not None else ()
    coefficient: Schedule = schedule or Constant(value=0.0)
    coefficient = coefficient.resolve(total_steps=total, steps_per_epoch=per_epoch)
    learning_rate = Cosine(initial=recipe.learning_rate, final=0.0, total_steps=total)

    build: TrainerFactory = make_trainer or trainers.load(recipe.backend).make_trainer
    trainer = build(
        recipe.network,
        initial_weights(recipe.network, seed, taps),
        TrainerOptions(
            taps=taps,
            loss=LossSpec(combine=recipe.combine),
            optimizer=AdamW(weight_decay=recipe.weight_decay),
            seed=seed,
        ),
    )
    records: list[Epoch] = []
    times: list[float] = []
    initial_loss = float("nan")
    step = 0
    for number in range(1, recipe.epochs + 1):
        results = []
        for images, labels in batches(dataset, recipe.batch_size, seed, number):
            step += 1
            started = time.perf_counter()
            results.append(trainer.train_step(images, labels, coefficient(step), learning_rate(step - 1), step))
            times.append(time.perf_counter() - started)
            if step == 1:
                initial_loss = results[0].loss
        means = np.mean([result[:3] for result in results], axis=0)
        records.append(
            Epoch(
                loss=float(means[0]),
                accuracy=accuracy(trainer, dataset.test_images, dataset.test_labels, recipe.batch_size),
                first_gradient=float(means[1]),
                last_gradient=float(means[2]),
            )
        )
        if on_epoch is not None:
            on_epoch(number, records[-1])
    steady = times[WARM_UP_STEPS:] or times
    return Run(
        method=method,
        seed=seed,
        initial_loss=initial_loss,
        epochs=tuple(records),
        step_ms=float(np.median(steady)) * 1e3,
        seconds=time.perf_counter() - began,
    )


def check_batch_size(batch_size: int, dataset: Dataset) -> None:
    """Raise unless the training images fill a batch.

    Raises:
        ValueError: they do not.
    """
    count = len(dataset.train_labels)
    if batch_size > count:
        raise ValueError(f"batch_size must be at most {count}, the training images of {dataset.name}; got {batch_size}")


def batches(dataset: Dataset, size: int, seed: int, epoch: int) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield the full batches of an epoch; their order depends on nothing but the seed and the epoch's number."""
    order = np.random.default_rng([seed, epoch]).permutation(len(dataset.train_labels))
    for start in range(0, len(order) - size + 1, size):
        chosen = order[start : start + size]
        yield dataset.train_images[chosen], dataset.train_labels[chosen]


def accuracy(trainer: Trainer, images: NDArray[Any], labels: NDArray[Any], batch_size: int) -> float:
    """Return the share of images that the main output alone gets right, in 0 .. 1."""
    right = 0
    for start in range(0, len(labels), batch_size):
        logits = trainer.predict(images[start : start + batch_size])
        right += int(np.sum(np.argmax(logits, axis=1) == labels[start : start + batch_size]))
    return right / len(labels)
