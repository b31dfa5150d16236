"""sbp for PyTorch: spiking neurons, networks and shortcut training as ordinary modules and functions.

Time is the leading axis, ``(time, batch, ...)``; images are channels first.
"""

try:
    import torch as torch
except ModuleNotFoundError as error:
    from sbp_core.registry import missing_framework

    if error.name != "torch":
        raise
    raise missing_framework("PyTorch", "torch", error) from error

from sbp_core.composition import ShortcutOutput
from sbp_torch.branches import ConvolutionalBranch
from sbp_torch.calibration import calibrate
from sbp_torch.coefficient import CoefficientScheduler
from sbp_torch.diagnosis import diagnose, watch
from sbp_torch.losses import ShortcutLoss
from sbp_torch.networks import Network, ResNet, network, resnet18, resnet34
from sbp_torch.neuron import implementation_for, initial_state, lif
from sbp_torch.neurons import CLIF, IF, LIF, PLIF, CurrentLIF, LeakyIntegrator
from sbp_torch.shortcut import Shortcut
from sbp_torch.spike import spike
from sbp_torch.spikingjelly import Ported, from_spikingjelly
from sbp_torch.streaming import stream
from sbp_torch.weights import export_weights, import_weights, load, save

__all__ = [
    "CLIF",
    "IF",
    "LIF",
    "PLIF",
    "CoefficientScheduler",
    "ConvolutionalBranch",
    "CurrentLIF",
    "LeakyIntegrator",
    "Network",
    "Ported",
    "ResNet",
    "Shortcut",
    "ShortcutLoss",
    "ShortcutOutput",
    "calibrate",
    "diagnose",
    "export_weights",
    "from_spikingjelly",
    "implementation_for",
    "import_weights",
    "initial_state",
    "lif",
    "load",
    "network",
    "resnet18",
    "resnet34",
    "save",
    "spike",
    "stream",
    "watch",
]
