"""One small trainer per framework, all with the same methods, so that one loop drives them all.

Each runs what a user of its framework would write: a ``Shortcut`` whose coefficient is set before a step in PyTorch, a
compiled ``ShortcutModel`` and ``train_on_batch`` in Keras, a ``Shortcut`` with optax under ``jax.jit`` in JAX.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sbp_core import NetworkSpec, validation
from sbp_core.registry import missing_framework
from sbp_core.signal import Diagnosis
from sbp_lab.trainers.finite import NotFiniteError as NotFiniteError
from sbp_lab.trainers.options import Network as Network
from sbp_lab.trainers.options import OwnNetwork as OwnNetwork
from sbp_lab.trainers.options import TrainerOptions as TrainerOptions

Array = NDArray[np.float32]
#: Classes, (batch,) integers; or as of mix-up probabilities, (batch, classes) floating.
Labels = NDArray[np.int64] | NDArray[np.float32]

#: Name on the command line, and of the module here with ``make_trainer``, ``devices``, ``neurons`` and
#: ``limit_threads``, to the extra that installs what it needs, and what that is.
TRAINERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "jax": ("jax", ("jax", "flax", "optax")),
    "keras": ("tf", ("keras",)),
    "tf": ("tf", ("tensorflow", "keras")),
    "torch": ("torch", ("torch", "numba")),
}


class StepResult(NamedTuple):
    """What one training step gave.

    Attributes:
        loss: of the batch.
        first_gradient: L2 norm of the gradient of the first kernel, the stem's.
        last_gradient: of the last kernel, the head's.
        gradient: of all weights together, before it is clipped.
        accuracy: share of the batch that the composed training output gets right, in 0 .. 1.
        skipped: whether float16 overflowed: the weights stayed as they were, and the loss's factor was halved.
    """

    loss: float
    first_gradient: float
    last_gradient: float
    gradient: float = float("nan")
    accuracy: float = float("nan")
    skipped: bool = False


class Trainer(Protocol):
    """A network and its optimiser. Every method returns when the device has finished, so that it can be timed outside.

    Attributes:
        spec: of the network; None where it is the user's own and has none.
    """

    spec: NetworkSpec | None

    def train_step(
        self, images: Array, labels: Labels, coefficient: float, learning_rate: float, step: int
    ) -> StepResult:
        """Make one step on a batch.

        Args:
            images: (batch, height, width, channels), or event frames (batch, time, height, width, channels).
            labels: of the images.
            coefficient: weight of the branches.
            learning_rate: of the optimiser.
            step: which it is, from 1; with the seed it is all that dropout's masks depend on.

        Raises:
            NotFiniteError: loss or gradient is not finite; the weights are those of before.
        """
        ...

    def predict(self, images: Array) -> Array:
        """Return the main output's logits, (batch, classes), of the network in inference, of :meth:`weights`."""
        ...

    def gradients(self, images: Array, labels: Labels, coefficient: float) -> dict[str, Array]:
        """Return the gradient of every weight of the main network by canonical name; the weights stay as they are."""
        ...

    def firing_rates(self, images: Array) -> dict[str, float]:
        """Return spikes per neuron and step, by neuron layer in order, in inference; of the neurons of this package."""
        ...

    def diagnose(
        self, batches: Sequence[tuple[Array, Labels]], coefficient: float, *, branches: bool = True
    ) -> Diagnosis:
        """Return the doctor's figures; nothing that training depends on is touched.

        Args:
            batches: images as in :meth:`train_step`, and classes.
            coefficient: weight of the branches.
            branches: whether they count; without them it is the main output's loss that is differentiated.

        Raises:
            ValueError: the network has no neurons that are known.
        """
        ...

    def weights(self) -> dict[str, Array]:
        """Return the main network's weights by canonical name: their running mean if ``ema`` is set."""
        ...

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all that training goes on from, under the names of :mod:`sbp_lab.trainers.state`."""
        ...

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what :meth:`state` gave, in this or another framework.

        Raises:
            ValueError: the state of another network or optimiser; nothing was written.
        """
        ...


class TrainerFactory(Protocol):
    """Makes a trainer."""

    def __call__(self, network: Network, weights: Mapping[str, Array] | None, options: TrainerOptions) -> Trainer:
        """Build the network, with branches if the options say so, holding ``weights``; None: initial ones by seed."""
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
