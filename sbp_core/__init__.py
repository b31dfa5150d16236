"""The backend-neutral core of sbp: specs, schedules and the composition of shortcuts. It imports no framework."""

from sbp_core import presets
from sbp_core.composition import ShortcutOutput, sum_logits, sum_losses
from sbp_core.specs.losses import LossSpec
from sbp_core.specs.networks import CustomSpec, NetworkSpec, ResNetSpec, network_spec, resnet18_spec, resnet34_spec
from sbp_core.specs.neurons import LIFSpec, LIFState
from sbp_core.specs.schedules import Constant, Cosine, Evolutionary, Following, Schedule, Step
from sbp_core.specs.schedules import Exponential as ExponentialSchedule
from sbp_core.specs.shortcut import ShortcutSpec
from sbp_core.specs.surrogates import (
    ArcTan,
    Exponential,
    FastSigmoid,
    Gaussian,
    LeakyRectangle,
    Rectangle,
    Sigmoid,
    StraightThrough,
    Surrogate,
    Tanh,
    Triangle,
    as_surrogate,
)

__version__ = "0.1.0"

__all__ = [
    "ArcTan",
    "Constant",
    "Cosine",
    "CustomSpec",
    "Evolutionary",
    "Exponential",
    "ExponentialSchedule",
    "FastSigmoid",
    "Following",
    "Gaussian",
    "LIFSpec",
    "LIFState",
    "LeakyRectangle",
    "LossSpec",
    "NetworkSpec",
    "Rectangle",
    "ResNetSpec",
    "Schedule",
    "ShortcutOutput",
    "ShortcutSpec",
    "Sigmoid",
    "Step",
    "StraightThrough",
    "Surrogate",
    "Tanh",
    "Triangle",
    "as_surrogate",
    "network_spec",
    "presets",
    "resnet18_spec",
    "resnet34_spec",
    "sum_logits",
    "sum_losses",
]
