"""Initial weights of networks in NumPy, so that every framework can start from the very same ones."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sbp_core import validation
from sbp_core.specs.branches import BranchName, branch_layers
from sbp_core.specs.layers import Parameter
from sbp_core.specs.networks import NetworkSpec
from sbp_core.specs.shortcut import ShortcutSpec
from sbp_core.specs.structure import placed_in

Float32 = NDArray[np.float32]


def initial_weights(
    spec: NetworkSpec, seed: int, taps: Sequence[str] = (), branch: BranchName = "linear"
) -> dict[str, Float32]:
    """Draw the weights of a network, and of its branches, as the adapters' ``import_weights`` takes them.

    Convolutions are Kaiming normal, ``N(0, 2 / (k * k * outputs))``; linear weights and biases are uniform in
    ``±1 / sqrt(inputs)``; batch norm starts as the identity. Each array has a random stream of its own, keyed by the
    seed and its name, so that a network's weights stay the same whichever branches it gets.

    Args:
        spec: the network.
        seed: an integer of at least 0.
        taps: parts with a branch. Without any, the names are those of ``spec.parameter_shapes()``; with some, they are
            ``main.<name>``, ``branches.<tap>.weight``, shape (classes, channels), and ``branches.<tap>.bias``.
        branch: which branch: a "convolutional" one has ``branches.<tap>.conv.weight``, ``.bn.weight`` and so on, and
            ``.linear.weight``.

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
    main = _drawn(spec.parameters(), seed)
    if not taps:
        return main
    ShortcutSpec(taps=tuple(taps)).check_taps(spec.tap_channels)
    return {f"main.{name}": array for name, array in main.items()} | _drawn(branch_parameters(spec, taps, branch), seed)


def branch_parameters(spec: NetworkSpec, taps: Sequence[str], branch: BranchName) -> dict[str, Parameter]:
    """Return the weights of the branches by name, ``branches.<tap>.<name>``."""
    found: dict[str, Parameter] = {}
    for tap in taps:
        shape = spec.parts[tap]
        for name, layer in branch_layers(branch, shape.channels, spec.num_classes):
            for placed in placed_in(layer, f"branches.{tap}.{name}".rstrip("."), shape):
                found |= placed.parameters()
                shape = placed.output
    return found


def _drawn(parameters: Mapping[str, Parameter], seed: int) -> dict[str, Float32]:
    found = {}
    for name, (shape, initial) in parameters.items():
        if isinstance(initial, float):
            found[name] = np.full(shape, initial, np.float32)
        elif initial in ("kaiming", "kaiming_inputs"):
            deviation = math.sqrt(2.0 / ((shape[0] if initial == "kaiming" else shape[1]) * math.prod(shape[2:])))
            found[name] = (_stream(name, seed).standard_normal(shape) * deviation).astype(np.float32)
        else:
            kernel = parameters[f"{name.rpartition('.')[0]}.weight"].shape
            bound = 1.0 / math.sqrt(math.prod(kernel[1:]))
            found[name] = _stream(name, seed).uniform(-bound, bound, shape).astype(np.float32)
    return found


def _stream(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])
