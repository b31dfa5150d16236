"""The same network of other residual blocks."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

from sbp_core import validation
from sbp_core.specs.networks.base import NetworkSpec
from sbp_core.specs.networks.ms_resnet import MSResNetSpec
from sbp_core.specs.networks.residual import ResidualNetworkSpec
from sbp_core.specs.networks.resnet import ResNetSpec
from sbp_core.specs.networks.sew_resnet import SEWResNetSpec

#: "standard", a neuron after the sum; "sew", a sum of spikes (Fang et al. 2021); "ms", a sum of potentials (Hu et al.
#: 2021); "max", that with max pools in place of strides (Fang et al. 2025).
Blocks = Literal["standard", "sew", "ms", "max"]

_MADE: dict[str, tuple[type[ResidualNetworkSpec], dict[str, Any]]] = {
    "standard": (ResNetSpec, {}),
    "sew": (SEWResNetSpec, {}),
    "ms": (MSResNetSpec, {"downsample": "stride"}),
    "max": (MSResNetSpec, {"downsample": "max", "scale": 1.0, "residual_scale": 1.0}),
}
#: What all of them have.
_SHARED = (
    "depths",
    "widths",
    "stem",
    "num_classes",
    "in_channels",
    "time_steps",
    "neuron",
    "norm",
    "batch_norm_epsilon",
    "batch_norm_momentum",
)
#: What some have, and the value of those that do not.
_SOME: dict[str, object] = {"hidden": None, "stem_channels": None, "first_stage_stride": 1}


def with_blocks(spec: NetworkSpec, blocks: Blocks) -> ResidualNetworkSpec:
    """Return a residual network of the same depths, widths and neuron, of other blocks; itself where it has these.

    Args:
        spec: a residual network.
        blocks: which.

    Raises:
        ValueError: an unknown name; a network that is not residual, or has what the others lack (a hidden layer in the
            head, a first stage that halves the map).

    Example:
        >>> from sbp_core import network_spec
        >>> with_blocks(network_spec("resnet18", num_classes=100), "sew").parameter_count
        11220132
    """
    validation.choice("blocks", blocks, get_args(Blocks))
    if not isinstance(spec, ResidualNetworkSpec):
        raise ValueError(f"blocks must be left out with a network that is not residual, {spec.kind!r}; got {blocks!r}")
    made, fields = _MADE[blocks]
    if type(spec) is made and all(getattr(spec, name) == value for name, value in fields.items()):
        return spec
    kept = list(_SHARED)
    for name, usual in _SOME.items():
        if name in {field.name for field in dataclasses.fields(made)}:
            kept += [name] if hasattr(spec, name) else []
        elif getattr(spec, name, usual) != usual:
            raise ValueError(f"blocks={blocks!r} must go with {name}={usual!r}, got {getattr(spec, name)!r}")
    return made(**{name: getattr(spec, name) for name in kept}, **fields)
