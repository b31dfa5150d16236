"""What the processes of one training say to each other; there may be one alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sbp_lab.trainers import load

#: Frameworks whose trainers several processes may share.
SEVERAL = ("torch",)


class LeftAloneError(RuntimeError):
    """Another process of the training ended, and this one cannot go on without it."""


class Processes(Protocol):
    """The processes that train together; all make the same calls, in the same order.

    Attributes:
        index: of this one, from 0. The first alone writes files.
        count: how many there are.
    """

    index: int
    count: int

    def sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum over all processes.

        Raises:
            LeftAloneError: another process ended.
        """
        ...

    def largest(self, value: int) -> int:
        """Return the largest value that a process gave.

        Raises:
            LeftAloneError: another process ended.
        """
        ...

    def from_first(self, value: Any) -> Any:
        """Return what the first process gave; the others' values are of no account.

        Raises:
            LeftAloneError: another process ended.
        """
        ...

    def make_trainer(self, network: Any, weights: Any, options: Any) -> Any:
        """Make this process's trainer (:class:`sbp_lab.trainers.TrainerFactory`)."""
        ...


class Alone:
    """One process.

    Args:
        backend: whose trainer it makes.
    """

    index, count = 0, 1

    def __init__(self, backend: str) -> None:
        self._backend = backend

    def sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the values."""
        return values

    def largest(self, value: int) -> int:
        """Return the value."""
        return value

    def from_first(self, value: Any) -> Any:
        """Return the value."""
        return value

    def make_trainer(self, network: Any, weights: Any, options: Any) -> Any:
        """Make a trainer."""
        return load(self._backend).make_trainer(network, weights, options)


def count() -> int:
    """Return how many processes torchrun, or what sets the same variables, has started: 1 without.

    Raises:
        ValueError: what it has set is not all that is needed.
    """
    return _variable("WORLD_SIZE", 1)


def index() -> int:
    """Return which of them this is, from 0.

    Raises:
        ValueError: as :func:`count`.
    """
    return _variable("RANK", None) if count() > 1 else 0


@contextmanager
def joined(backend: str) -> Iterator[Processes]:
    """Join the other processes of this training, if there are any.

    Raises:
        ValueError: a framework whose trainer cannot be shared.
    """
    if count() == 1:
        yield Alone(backend)
        return
    if backend not in SEVERAL:
        raise ValueError(
            f"backend must be one of {', '.join(map(repr, SEVERAL))} with several processes (WORLD_SIZE={count()}), "
            f"got {backend!r}; JAX, and Keras on JAX, use several devices from one process"
        )
    index()
    with load(backend).joined() as processes:
        yield processes


def _variable(name: str, unless: int | None) -> int:
    text = os.environ.get(name) or unless
    try:
        value = int(text)  # type: ignore[arg-type]  # None is answered below
    except (TypeError, ValueError):
        raise ValueError(
            f"{name} must be an integer in the environment where several processes train (torchrun sets it), "
            f"got {text!r}"
        ) from None
    return value
