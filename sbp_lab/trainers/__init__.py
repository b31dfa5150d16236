"""One small trainer per framework, all with the same methods, so that one loop drives them all."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from types import ModuleType
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sbp_core import NetworkSpec, validation
from sbp_core.registry import missing_framework

Array = NDArray[np.float32]
Labels = NDArray[np.int64]

#: Name on the command line, and of the module here with ``make_trainer``, ``devices``, ``neurons`` and
#: ``limit_threads``, to the extra that installs what it needs, and what that is.
TRAINERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "jax": ("jax", ("jax", "flax", "optax")),
    "keras": ("tf", ("keras",)),
    "tf": ("tf", ("tensorflow", "keras")),
    "torch": ("torch", ("torch", "numba")),
}


class StepResult(NamedTuple):
    """What one training step gave: the loss, and the L2 norms of the stem's and the head's weight gradients."""

    loss: float
    first_gradient: float
    last_gradient: float


class Trainer(Protocol):
    """A network with AdamW. Every method returns when the device has finished, so that it can be timed from outside."""

    def train_step(self, images: Array, labels: Labels, coefficient: float, learning_rate: float) -> StepResult:
        """Make one step on a batch; ``images`` are (batch, height, width, channels)."""
        ...

    def predict(self, images: Array) -> Array:
        """Return the main output's logits, (batch, classes), of the network in inference."""
        ...

    def gradients(self, images: Array, labels: Labels, coefficient: float) -> dict[str, Array]:
        """Return the gradient of every weight of the main network by canonical name; the weights stay as they are."""
        ...


class TrainerFactory(Protocol):
    """Makes a trainer."""

    def __call__(
        self,
        spec: NetworkSpec,
        weights: Mapping[str, Array],
        *,
        taps: Sequence[str],
        combine: Literal["logits", "losses"],
        weight_decay: float,
    ) -> Trainer:
        """Build the network, with branches at ``taps`` if there are any, holding ``weights``."""
        ...


def check(name: str) -> None:
    """Raise unless the backend's framework is installed; nothing is imported.

    Raises:
        ValueError: no backend of that name can train; the message lists those that can.
        ModuleNotFoundError: a package of the framework is not installed; the message says how to install it.
    """
    extra, packages = TRAINERS[validation.choice("backend", name, TRAINERS)]
    for package in packages:
        if find_spec(package) is None:
            raise missing_framework(package, extra, ModuleNotFoundError(name=package))


def load(name: str) -> ModuleType:
    """Import the trainer of a backend.

    Raises:
        ValueError: no backend of that name can train; the message lists those that can.
        ModuleNotFoundError: the backend's framework is not installed.
    """
    check(name)
    return importlib.import_module(f"{__name__}.{name}")
