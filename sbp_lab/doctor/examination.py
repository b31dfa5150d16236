"""A network before the doctor: measured at its start, or after some steps; and trained for a few on trial."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sbp_core import NetworkSpec
from sbp_core.signal import Diagnosis
from sbp_lab import trainers
from sbp_lab.data import Source
from sbp_lab.doctor.models import DIAGNOSE, Built
from sbp_lab.loader import Loader
from sbp_lab.recipe import Recipe
from sbp_lab.starts import first_weights
from sbp_lab.trainers import NotFiniteError, Trainer
from sbp_lab.training.setup import network_of, options_of

Weights = Mapping[str, NDArray[np.float32]]
Batch = tuple[NDArray[np.float32], NDArray[np.int64]]


class Case(NamedTuple):
    """A network to be trained.

    Attributes:
        recipe: how.
        spec: the network, for the data.
        weights: the first ones, with those of the branches if there are any.
    """

    recipe: Recipe
    spec: NetworkSpec
    weights: Weights

    @property
    def taps(self) -> tuple[str, ...]:
        """Parts with a branch."""
        return options_of(self.recipe, self.spec, events=self.recipe.frames is not None).taps


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a few steps of training did.

    Attributes:
        steps: how many were made.
        losses: of every step.
        accuracy: of the main output on test samples, after them.
    """

    steps: int
    losses: tuple[float, ...]
    accuracy: float

    @property
    def loss(self) -> float:
        """Mean of the last tenth of the steps."""
        last = self.losses[-max(1, self.steps // 10) :]
        return sum(last) / len(last) if last else math.nan


def start(recipe: Recipe, source: Source) -> Case:
    """Return the network of a recipe with its first weights.

    Raises:
        ValueError: a network of the user's own, which has no spec; there is ``diagnose`` for those.
    """
    with _loader(recipe, source) as loader:
        network = network_of(recipe, source, loader.sample_shape)
    spec = network if isinstance(network, NetworkSpec) else network.make()
    if not isinstance(spec, NetworkSpec):
        raise ValueError(
            f"net must be one of the zoo, or a function that gives a NetworkSpec; of a module of your own, "
            f"{recipe.net!r}, call diagnose(model, batches) of its framework's package"
        )
    taps = options_of(recipe, spec, events=recipe.frames is not None).taps
    return Case(recipe, spec, first_weights(recipe, spec, source, taps))


def examine(
    case: Case,
    source: Source,
    *,
    batches: int,
    state: Weights | None = None,
    after: int | None = None,
    slopes: int = 0,
) -> Diagnosis:
    """Measure a network on batches of the training samples.

    Args:
        case: the network.
        source: the data.
        batches: how many.
        state: weights that take the place of the first ones.
        after: how many steps they were trained for, as far as it is known; 0 of the first ones.
        slopes: how many layers' gradients are held against the loss itself.

    Raises:
        ValueError: fewer than two batches, or fewer samples than that takes.
    """
    recipe = case.recipe
    with _loader(recipe, source) as loader:
        if loader.steps_per_epoch < batches:
            raise ValueError(f"batches must be at most {loader.steps_per_epoch}, of {recipe.batch_size}; got {batches}")
        found = [_hard(batch) for batch in itertools.islice(loader.epoch(1), batches)]
    coefficient = coefficient_of(recipe, total_steps=1)
    weights = state or case.weights
    built = Built(case.spec, weights, case.taps, recipe.branch, recipe.applied.loss, coefficient, slopes)
    return replace(DIAGNOSE[recipe.backend](built, found), after=0 if state is None else after)


def train(
    case: Case,
    source: Source,
    *,
    steps: int,
    test: int = 1000,
    see: Callable[[int, Trainer], object] = lambda step, trainer: None,
) -> tuple[Trial, Weights]:
    """Train a network for some steps at the recipe's rate, warmed up over a tenth of them.

    Args:
        case: the network.
        source: the data.
        steps: how many.
        test: how many test samples to look at.
        see: is shown the trainer before the first step, as step 0, and after each.

    Returns:
        What it did, and the weights afterwards.
    """
    recipe = case.recipe
    options = options_of(recipe, case.spec, events=recipe.frames is not None)
    trainer = trainers.load(recipe.backend).make_trainer(case.spec, case.weights, options)
    losses: list[float] = []
    see(0, trainer)
    with _loader(recipe, source) as loader:
        for step, (images, labels) in enumerate(_steps(loader, steps), start=1):
            rate = recipe.learning_rate * min(1.0, step / max(1.0, steps / 10))
            coefficient = coefficient_of(recipe, total_steps=steps, step=step - 1)
            try:
                losses.append(trainer.train_step(images, labels, coefficient, rate, step).loss)
            except NotFiniteError:
                losses.append(math.inf)
                break
            see(step, trainer)
        accuracy = _accuracy(trainer, loader, test)
    return Trial(steps=len(losses), losses=tuple(losses), accuracy=accuracy), _weights(trainer, bool(case.taps))


def _loader(recipe: Recipe, source: Source) -> Loader:
    return Loader(source, batch_size=recipe.batch_size, seed=recipe.seed, frames=recipe.frames, size=recipe.size)


def _steps(loader: Loader, steps: int) -> Iterator[Batch]:
    batches = (batch for number in itertools.count(1) for batch in loader.epoch(number))
    for batch in itertools.islice(batches, steps):
        yield _hard(batch)


def _hard(batch: tuple[Any, Any]) -> Batch:
    images, labels = batch
    return np.asarray(images, np.float32), np.asarray(labels, np.int64)


def first_batch(recipe: Recipe, source: Source) -> Batch:
    """Return the batch that a training begins with, as stored."""
    with _loader(recipe, source) as loader:
        return _hard(next(loader.epoch(1)))


def coefficient_of(recipe: Recipe, *, total_steps: int, step: int = 0) -> float:
    """Return the branches' weight; 0 without branches."""
    return 0.0 if recipe.schedule is None else float(recipe.schedule.resolve(total_steps=total_steps)(step))


def _accuracy(trainer: Trainer, loader: Loader, most: int) -> float:
    right = seen = 0
    for images, labels in loader.test():
        right += int(np.sum(trainer.predict(images).argmax(-1) == labels))
        seen += len(labels)
        if seen >= most:
            break
    return right / seen


def _weights(trainer: Trainer, branched: bool) -> Weights:
    found = {}
    for name, array in trainer.state().items():
        kind, _, rest = name.partition("/")
        if kind == "weights":
            found[f"main.{rest}" if branched else rest] = np.asarray(array, np.float32)
        elif kind == "branches":
            found[f"branches.{rest}"] = np.asarray(array, np.float32)
    return found
