"""Where an adapter can be broken: the places at which it looks up the functions that it is made of.

They are replaced where the adapter refers to them, so the reference, which refers to the same core by itself, stays
right. The seam of a contract's member is there for every backend; the others for the adapters listed here.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from sbp_conformance.mutants.base import Mutant, Operations
from sbp_core.backend import PARTS, Backend

#: Members of the contract that do something: a seam each.
CONTRACT = PARTS
#: Read by every adapter from the core itself; the changes leave Python numbers, the reference's, alone.
SHARED = {"schedule in arrays": ("sbp_core.specs.schedules:Schedule.__call__",)}


@dataclass(frozen=True)
class Adapter:
    """Where an adapter's parts are.

    Attributes:
        seams: names of parts to the places that refer to them, ``module:attribute``; a dotted attribute is reached
            through a stand-in of what comes before the dot.
        operations: returns what the framework offers.
        left_out: levels whose mutants are not planted here.
        forget: drops what the adapter compiled of its parts as they were.
    """

    seams: dict[str, tuple[str, ...]]
    operations: Callable[[], Operations]
    left_out: tuple[str, ...] = ()
    forget: Callable[[], None] = lambda: None


def _torch() -> Operations:
    import torch

    return Operations(
        detach=lambda x: x.detach(),
        concatenate=torch.cat,
        reverse=lambda x: torch.flip(x, [0]),
        cast=lambda x, dtype: x.to(getattr(torch, dtype)),
    )


def _jax() -> Operations:
    import jax
    import jax.numpy as jnp

    return Operations(
        detach=jax.lax.stop_gradient,
        concatenate=jnp.concatenate,
        reverse=lambda x: jnp.flip(x, 0),
        cast=lambda x, dtype: x.astype(dtype),
    )


def _forget_jax() -> None:
    from sbp_jax import neuron

    neuron._run.clear_cache()  # type: ignore[attr-defined]


def _tensorflow() -> Operations:
    import tensorflow as tf

    return Operations(
        detach=tf.stop_gradient,
        concatenate=lambda parts: tf.concat(parts, 0),
        reverse=lambda x: tf.reverse(x, [0]),
        cast=tf.cast,
    )


ADAPTERS: dict[str, Adapter] = {
    "torch": Adapter(
        {
            "fire": ("sbp_torch.neuron:fire", "sbp_torch.spike:fire"),
            "step": ("sbp_torch.neuron:dynamics.step",),
            "ends": ("sbp_torch.neurons:dynamics.ends",),
            "lif": ("sbp_torch.engine:lif",),
            "compose": ("sbp_torch.losses:compose_loss",),
        },
        _torch,
    ),
    "jax": Adapter(
        {
            "fire": ("sbp_jax.neuron:spike", "sbp_jax.engine:spike"),
            "step": ("sbp_jax.neuron:dynamics.step",),
            "lif": ("sbp_jax.engine:lif",),
            "compose": ("sbp_jax.losses:compose_loss",),
        },
        _jax,
        # operation by operation, JAX takes seconds for a network: the others stand for it
        left_out=("network", "training"),
        forget=_forget_jax,
    ),
    "tf": Adapter(
        {
            "fire": ("sbp_tf.neuron:spike", "sbp_tf.engine:spike"),
            "step": ("sbp_tf.neuron:dynamics.step",),
            "lif": ("sbp_tf.engine:lif",),
            "compose": ("sbp_tf.losses:compose_loss",),
        },
        _tensorflow,
        # it offers no networks: those of Keras run on it
        left_out=("network", "training"),
    ),
}


def _none() -> Operations:
    def missing(*_: Any) -> Any:
        raise TypeError("a mutant of the contract works on what crosses it, NumPy")

    return Operations(missing, missing, missing, missing)


_UNKNOWN = Adapter({}, _none)


def fits(mutant: Mutant, name: str, backend: Backend) -> bool:
    """Say whether a mutant can be planted in a backend; ``name`` is the one it is registered by."""
    adapter = ADAPTERS.get(name, _UNKNOWN)
    if mutant.level in adapter.left_out:
        return False
    if mutant.seam in CONTRACT:
        return callable(getattr(backend, mutant.seam, None))
    return mutant.seam in adapter.seams or (mutant.seam in SHARED and name in ADAPTERS)


@contextlib.contextmanager
def planted(mutant: Mutant, name: str, backend: Backend) -> Iterator[Backend]:
    """Plant a mutant, yield the backend to test, and take the mutant out again.

    Raises:
        AttributeError: the adapter no longer has the part that the seam names.
    """
    adapter = ADAPTERS.get(name, _UNKNOWN)
    operations = adapter.operations()
    if mutant.seam in CONTRACT:
        yield _Broken(backend, mutant.seam, mutant.change(getattr(backend, mutant.seam), operations))
        return
    with contextlib.ExitStack() as stack:
        stack.callback(adapter.forget)  # first in, last out: once the parts are back
        for place in SHARED.get(mutant.seam) or adapter.seams[mutant.seam]:
            stack.enter_context(_replaced(place, lambda right: mutant.change(right, operations)))
        adapter.forget()
        yield backend


class _Broken:
    """A backend with one member replaced."""

    def __init__(self, inner: Backend, member: str, replacement: Callable[..., Any]) -> None:
        self._inner = inner
        setattr(self, member, replacement)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@contextlib.contextmanager
def _replaced(place: str, change: Callable[[Any], Any]) -> Iterator[None]:
    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(module)
    holder, _, attribute = path.rpartition(".")
    if holder and not isinstance(getattr(owner, holder), type):
        # a module that others use too: the adapter alone gets a copy
        right = getattr(owner, holder)
        wrong: Any = SimpleNamespace(**(vars(right) | {attribute: change(getattr(right, attribute))}))
        attribute = holder
    else:
        owner = getattr(owner, holder) if holder else owner
        right = getattr(owner, attribute)
        wrong = change(right)
    setattr(owner, attribute, wrong)
    try:
        yield
    finally:
        setattr(owner, attribute, right)
