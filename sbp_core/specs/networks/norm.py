"""Normalisations by name: what stands between a convolution and its neuron."""

from __future__ import annotations

from typing import Literal, get_args

from sbp_core import validation
from sbp_core.specs.layers import BatchNorm, LayerSpec, TimeScale
from sbp_core.specs.neurons import LIFSpec
from sbp_core.specs.structure import sequence

#: "batch"; "tdbn", whose scale starts at the threshold (Zheng et al. 2021, Eq. 7); "tebn", which also learns a factor
#: for each step (Duan et al. 2022, Eq. 8).
Norm = Literal["batch", "tdbn", "tebn"]

NORMS: tuple[str, ...] = get_args(Norm)


def normalisation(
    name: str,
    neuron: LIFSpec,
    time_steps: int,
    *,
    scale: float = 1.0,
    epsilon: float = 1e-5,
    momentum: float = 0.1,
) -> LayerSpec:
    """Return the layer of a normalisation.

    Args:
        name: which.
        neuron: whose threshold tdBN takes.
        time_steps: steps of TEBN.
        scale: alpha of tdBN, or what the scale of the others starts at.
        epsilon: added to the variance.
        momentum: weight of the new statistics in the running ones.

    Raises:
        ValueError: an unknown name.
    """
    validation.choice("norm", name, NORMS)
    start = scale * neuron.threshold if name == "tdbn" else scale
    norm = BatchNorm(epsilon=epsilon, momentum=momentum, scale=start)
    return sequence(bn=norm, scale=TimeScale(time_steps=time_steps)) if name == "tebn" else norm
