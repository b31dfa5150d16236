"""The names that a trainer's state has in every framework, and one check before any of it is written.

Weights of the network are ``weights/<canonical name>``, of the branches ``branches/<tap>.<part>``; the optimiser's
slots and the running mean have these names behind ``optimizer/<slot>/`` and ``ema/``. Layouts are those of
:mod:`sbp_core.weights`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbp_lab.optimizers import AdamW, Optimizer

Arrays = dict[str, NDArray[Any]]

STEP = "optimizer/step"
SCALE = "scaler/scale"
GOOD_STEPS = "scaler/good_steps"
#: What stands in front of the names that one framework alone has use for.
PRIVATE = ("torch/", "jax/", "keras/")


def neutral(name: str) -> str:
    """Return the name in a state of a weight that ``export_weights`` calls ``name``.

    Example:
        >>> neutral("main.head.weight"), neutral("head.weight"), neutral("branches.layer1.bias")
        ('weights/head.weight', 'weights/head.weight', 'branches/layer1.bias')
    """
    if name.startswith("branches."):
        return "branches/" + name.removeprefix("branches.")
    return "weights/" + name.removeprefix("main.")


def slots(optimizer: Optimizer) -> tuple[str, ...]:
    """Return the names of what an optimiser keeps of every weight.

    Example:
        >>> slots(AdamW())
        ('m', 'v')
    """
    if isinstance(optimizer, AdamW):
        return ("m", "v")
    return ("momentum",) if getattr(optimizer, "momentum", 0.0) else ()


def main_weights(state: Mapping[str, NDArray[Any]]) -> Arrays:
    """Return the main network's weights by canonical name, of a trainer's state: the running mean's if there is one.

    Example:
        >>> main_weights({"weights/head.bias": np.zeros(2), "branches/stem.bias": np.ones(2)})
        {'head.bias': array([0., 0.])}
    """
    mean = any(name.startswith("ema/") for name in state)
    front = "ema/weights/" if mean else "weights/"
    return {name.removeprefix(front): array for name, array in state.items() if name.startswith(front)}


def checked(shapes: Mapping[str, Sequence[int]], state: Mapping[str, Any]) -> Arrays:
    """Return a state as arrays; nothing may be written before.

    Args:
        shapes: name and shape of all that the trainer has.
        state: name to array.

    Raises:
        ValueError: names missing or unknown, or another shape: a state of another network, method or optimiser.
        TypeError: not a mapping, or not numbers.

    Example:
        >>> checked({"weights/head.bias": (2,)}, {"optimizer/step": np.array(3)})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: state must be of the same network, ...; missing: 'weights/head.bias'; unknown: 'optimizer/step'
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a mapping from name to array, got {type(state).__name__}")
    missing = [name for name in shapes if name not in state]
    unknown = [name for name in state if name not in shapes and not name.startswith(PRIVATE)]
    if missing or unknown:
        raise ValueError(
            "state must be of the same network, branches and optimiser; "
            f"missing: {_some(missing)}; unknown: {_some(unknown)}"
        )
    found = {}
    for name, shape in shapes.items():
        array = np.asarray(state[name])
        if array.shape != tuple(shape):
            raise ValueError(f"state[{name!r}] must have shape {tuple(shape)}, got {array.shape}")
        if not np.issubdtype(array.dtype, np.number):
            raise TypeError(f"state[{name!r}] must hold numbers, got {array.dtype}")
        found[name] = array
    return found


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:3])) or "none"
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
