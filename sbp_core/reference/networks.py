"""Initial weights of the networks in NumPy, so that every framework can start from the very same ones."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sbp_core import validation
from sbp_core.specs.networks import ResNetSpec
from sbp_core.specs.shortcut import ShortcutSpec

Float32 = NDArray[np.float32]


def initial_weights(spec: ResNetSpec, seed: int, taps: Sequence[str] = ()) -> dict[str, Float32]:
    """Draw the weights of a network, and of its branches, as the adapters' ``import_weights`` takes them.

    Convolutions are Kaiming normal, ``N(0, 2 / (k * k * outputs))``; linear weights and biases are uniform in
    ``±1 / sqrt(inputs)``; batch norm starts as the identity. Each array has a random stream of its own, keyed by the
    seed and its name, so that a network's weights stay the same whichever branches it gets.

    Args:
        spec: the network.
        seed: an integer of at least 0.
        taps: blocks with a branch. Without any, the names are those of ``spec.parameter_shapes()``; with some, they are
            ``main.<name>``, ``branches.<tap>.weight``, shape (classes, channels), and ``branches.<tap>.bias``.

    Returns:
        Name to float32 array.

    Raises:
        ValueError: a negative seed, or a tap that does not exist.
        TypeError: a seed that is not an integer.

    Example:
        >>> from sbp_core import ResNetSpec
        >>> weights = initial_weights(ResNetSpec(depths=(1, 1), widths=(4, 8)), seed=0, taps=("layer1",))
        >>> weights["main.head.weight"].shape, weights["branches.layer1.weight"].shape
        ((10, 8), (10, 4))
    """
    validation.count("seed", seed, 0)
    main = {name: _draw(spec, name, shape, seed) for name, shape in spec.parameter_shapes().items()}
    if not taps:
        return main
    ShortcutSpec(taps=tuple(taps)).check_taps(spec.tap_channels)
    weights = {f"main.{name}": array for name, array in main.items()}
    for tap in taps:
        channels = spec.tap_channels[tap]
        for name, shape in (("weight", (spec.num_classes, channels)), ("bias", (spec.num_classes,))):
            weights[f"branches.{tap}.{name}"] = _uniform(f"branches.{tap}.{name}", shape, channels, seed)
    return weights


def _draw(spec: ResNetSpec, name: str, shape: tuple[int, ...], seed: int) -> Float32:
    if name.endswith(".decay_logit"):
        return np.array(math.log(spec.neuron.decay / (1.0 - spec.neuron.decay)), np.float32)
    if name.startswith("head."):
        return _uniform(name, shape, spec.widths[-1], seed)
    if len(shape) == 4:
        deviation = math.sqrt(2.0 / (shape[0] * shape[2] * shape[3]))
        return (_stream(name, seed).standard_normal(shape) * deviation).astype(np.float32)
    return (np.ones if name.endswith((".weight", ".running_var")) else np.zeros)(shape, np.float32)


def _uniform(name: str, shape: tuple[int, ...], inputs: int, seed: int) -> Float32:
    bound = 1.0 / math.sqrt(inputs)
    return _stream(name, seed).uniform(-bound, bound, shape).astype(np.float32)


def _stream(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])
