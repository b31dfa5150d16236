"""SpikingJelly's neurons and surrogates as specs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn

from sbp_core import presets
from sbp_core.specs.neurons import LIFSpec
from sbp_core.specs.surrogates import Surrogate
from sbp_torch.spikingjelly.modules import of

#: The neurons that are known.
NODES = ("IFNode", "LIFNode", "ParametricLIFNode", "ComplementaryLIFNode")
_SURROGATES: dict[str, tuple[Callable[..., Surrogate], tuple[str, ...]]] = {
    "Sigmoid": (presets.spikingjelly_sigmoid, ("alpha",)),
    "ATan": (presets.spikingjelly_atan, ("alpha",)),
    "SoftSign": (presets.spikingjelly_softsign, ("alpha",)),
    "SuperSpike": (presets.spikingjelly_superspike, ("alpha",)),
    "PiecewiseQuadratic": (presets.spikingjelly_piecewise_quadratic, ("alpha",)),
    "Rect": (presets.spikingjelly_rect, ("alpha",)),
    "Erf": (presets.spikingjelly_erf, ("alpha",)),
    "PiecewiseExp": (presets.spikingjelly_piecewise_exp, ("alpha",)),
    "PiecewiseLeakyReLU": (presets.spikingjelly_piecewise_leaky_relu, ("w", "c")),
}


def neuron_spec(node: nn.Module, path: str = "net") -> LIFSpec:
    """Return the spec of a SpikingJelly neuron, one of :data:`NODES`.

    Args:
        node: the neuron.
        path: its name, for messages.

    Raises:
        ValueError: another neuron, or another surrogate than the core has.
    """
    name = type(node).__name__
    if name not in NODES:
        raise ValueError(f"{path} must be a neuron, {', '.join(NODES)}, got {name}")
    surrogate = _surrogate(of(node, "surrogate_function", path), path)
    if name == "ComplementaryLIFNode":
        numbers = {key: of(node, key, path) for key in ("tau", "v_threshold")}
        return presets.spikingjelly_clif(surrogate=surrogate, **numbers)
    shared = {key: of(node, key, path) for key in ("v_threshold", "v_reset", "detach_reset")}
    shared["surrogate"] = surrogate
    if name == "IFNode":
        return presets.spikingjelly_if(**shared)
    learnt = name == "ParametricLIFNode"
    tau = 1.0 + math.exp(-of(node, "w", path).item()) if learnt else of(node, "tau", path)
    return presets.spikingjelly_lif(tau=tau, decay_input=of(node, "decay_input", path), learn_decay=learnt, **shared)


def _surrogate(function: Any, path: str) -> Surrogate:
    name = type(function).__name__
    if name not in _SURROGATES:
        raise ValueError(f"{path}: the surrogate must be one of {', '.join(_SURROGATES)}, got {name}")
    if not of(function, "spiking", path):
        raise ValueError(f"{path}: the surrogate must have spiking=True, it gives what is no spike")
    make, fields = _SURROGATES[name]
    return make(*(float(of(function, field, path)) for field in fields))
