"""sbp for JAX: pure functions, and networks as ``flax.nnx`` modules. Time is the leading axis, channels the last."""

try:
    import jax as jax
    from flax import nnx as nnx
except ModuleNotFoundError as error:
    from sbp_core.registry import missing_framework

    if error.name not in ("jax", "flax", "optax"):
        raise
    raise missing_framework("JAX" if error.name == "jax" else "Flax", "jax", error) from error

from sbp_core.composition import ShortcutOutput
from sbp_jax import branches as branches
from sbp_jax.calibration import calibrate
from sbp_jax.diagnosis import Diagnoser, diagnose, watch
from sbp_jax.layers import BatchNorm
from sbp_jax.losses import ShortcutLoss
from sbp_jax.networks import Network, ResNet, network, resnet18, resnet34
from sbp_jax.neuron import implementation_for, initial_state, lif
from sbp_jax.neurons import CLIF, IF, LIF, PLIF, CurrentLIF, LeakyIntegrator
from sbp_jax.shortcut import Shortcut, Tappable
from sbp_jax.spike import spike
from sbp_jax.weights import export_weights, import_weights, load, save

__all__ = [
    "CLIF",
    "IF",
    "LIF",
    "PLIF",
    "BatchNorm",
    "CurrentLIF",
    "Diagnoser",
    "LeakyIntegrator",
    "Network",
    "ResNet",
    "Shortcut",
    "ShortcutLoss",
    "ShortcutOutput",
    "Tappable",
    "branches",
    "calibrate",
    "diagnose",
    "export_weights",
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
    "watch",
]
