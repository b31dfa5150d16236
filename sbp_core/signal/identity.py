"""A start at the identity: neurons that a lone spike passes, and weights near those that pass it on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbp_core import validation
from sbp_core.signal.feeds import structure_of
from sbp_core.specs.base import Spec
from sbp_core.specs.layers import LayerSpec, Linear, Neuron
from sbp_core.specs.networks import NetworkSpec
from sbp_core.specs.neurons import LIFSpec
from sbp_core.specs.surrogates import of_half_width

Array = NDArray[np.floating]

#: What the scale of a residual path's last batch norm starts at at most, and how much of its random kernel a plain
#: convolution keeps beside the identity: chosen by measurement, see docs/doctor.md.
RESIDUAL, MIX = 0.1, 0.3


def passing(neuron: LIFSpec) -> LIFSpec:
    """Return the neuron with a threshold and a surrogate at which a lone spike passes, and its gradient.

    A spike of 1 charges it to ``gain``, its input gain: the threshold becomes half of that, so that it fires whatever
    the strict comparison. The potentials that an identity path gives, 0 and ``gain``, then lie half a gain from the
    threshold; where the surrogate has fallen to less than half its height there, it becomes one of the same family that
    falls to half its height at ``gain``, with the height ``1 / (2 gain)``. Neurons that never fire stay as they are.

    Example:
        >>> passing(LIFSpec()).threshold, passing(LIFSpec()).surrogate
        (0.5, Rectangle(height=0.5, width=2.0))
        >>> passing(LIFSpec(threshold=0.4, surrogate="straight_through")).threshold
        0.5
    """
    gain = 1.0 - neuron.decay if neuron.input_gain == "complement" else float(neuron.input_gain)
    if neuron.output != "spikes" or gain <= 0.0:
        return neuron
    threshold, surrogate = neuron.rest + 0.5 * gain, neuron.surrogate
    ends = surrogate.derivative(np.array([-0.5 * gain, 0.5 * gain]), np)
    if hasattr(surrogate, "half_width") and ends.min() < 0.5 * surrogate.peak:
        wider: Any = of_half_width(surrogate.kind, gain)
        surrogate = surrogate.replace(width=wider.width, height=0.5 / gain)
    return neuron.replace(threshold=threshold, surrogate=surrogate)


def at_identity(spec: NetworkSpec) -> NetworkSpec:
    """Return the network with every neuron :func:`passing`: its first weights are :func:`identity_weights`.

    A network in which no neuron gets an identity path's spikes or a small residual path alone stays as it is, a plain
    one or MS-ResNet: its weights alone begin near the identity.

    Example:
        >>> from sbp_core import resnet18_spec
        >>> at_identity(resnet18_spec()).neuron.threshold
        0.5
    """
    if not structure_of(spec).lone:
        return spec
    if isinstance(getattr(spec, "neuron", None), LIFSpec):
        changed: NetworkSpec = spec.replace(neuron=passing(getattr(spec, "neuron")))  # noqa: B009
        return changed
    made: NetworkSpec = _with_passing(spec)
    return made


def _with_passing(value: Any) -> Any:
    """Return a spec of layers with those of its neurons replaced, however deep they lie."""
    if isinstance(value, Neuron):
        return value.replace(spec=passing(value.spec))
    if isinstance(value, tuple):
        return tuple(_with_passing(each) for each in value)
    if isinstance(value, LayerSpec | NetworkSpec):
        held = {field.name: getattr(value, field.name) for field in fields(value)}
        made = {name: _with_passing(each) for name, each in held.items() if isinstance(each, tuple | Spec)}
        return value.replace(**{name: each for name, each in made.items() if each != held[name]})
    return value


def identity_weights(
    spec: NetworkSpec, weights: Mapping[str, Array], *, residual: float | None = RESIDUAL, mix: float | None = MIX
) -> dict[str, Array]:
    r"""Return first weights at which blocks and plain layers begin near the identity.

    The scale of each residual path's last batch norm becomes ``residual`` at most, so that MS-ResNet's 0 stays; where
    the path ends in a convolution or a linear layer without one, that is multiplied by it. So a deep residual net
    starts as a shallow one: Fixup (Zhang et al. 2019) and SkipInit (De and Smith 2020) start at 0, here it is a small
    number, at which the path's first layers get a gradient from the first step. A plain layer between two neurons, with
    no identity beside it, becomes

    .. math:: W = \delta + \text{mix} \cdot W_0

    of its own random kernel :math:`W_0` and the Dirac kernel :math:`\delta`, which passes channel on channel (Zagoruyko
    and Komodakis 2017; delta-orthogonal kernels, Xiao et al. 2018, are its like for smooth units): 1 at the centre from
    input ``j`` to output ``i`` where ``i = j`` modulo the fewer of both. Linear layers are so if they are square.

    Args:
        spec: the network.
        weights: fresh ones, by canonical name; those of branches, and others than the spec's, stay as they are.
        residual: greatest scale of the last batch norm of a residual path; None leaves it.
        mix: of a plain layer's random kernel; None leaves it as it is.

    Raises:
        ValueError: a number that is negative or not finite.

    Example:
        >>> from sbp_core import ResNetSpec
        >>> from sbp_core.reference.networks import initial_weights
        >>> net = ResNetSpec(depths=(1,), widths=(4,))
        >>> identity_weights(net, initial_weights(net, 0))["layer1.0.bn2.weight"]
        array([0.1, 0.1, 0.1, 0.1], dtype=float32)
    """
    for name, value in (("residual", residual), ("mix", mix)):
        if value is not None:
            validation.within(name, value, 0.0, float("inf"))
    structure, found = structure_of(spec), dict(weights)
    if residual is not None:
        for path in structure.ends:
            held = found[f"{path}.weight"]
            if held.ndim == 1:
                found[f"{path}.weight"] = np.clip(held, -residual, residual)
            else:
                names = (f"{path}.{part}" for part in ("weight", "bias"))
                found |= {name: found[name] * held.dtype.type(residual) for name in names if name in found}
    if mix is not None:
        for placed in structure.plain:
            held = found[f"{placed.path}.weight"]
            if not isinstance(placed.layer, Linear) or len(set(held.shape)) == 1:
                found[f"{placed.path}.weight"] = _dirac(held) + held * held.dtype.type(mix)
    return found


def _dirac(kernel: Array) -> Array:
    outputs, inputs = kernel.shape[:2]
    found = np.zeros_like(kernel)
    centre = tuple(size // 2 for size in kernel.shape[2:])
    for place in range(max(outputs, inputs)):
        found[(place % outputs, place % inputs, *centre)] = 1.0
    return found
