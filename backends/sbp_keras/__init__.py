"""sbp for Keras 3: layers, networks and shortcut training on the TensorFlow, JAX or PyTorch backend of Keras.

Time is the second axis, ``(batch, time, ...)``, as Keras has it. The backend is the one ``KERAS_BACKEND`` names.
"""

try:
    import keras as keras
except ModuleNotFoundError as error:
    from sbp_core.registry import missing_framework

    _EXTRAS = {
        "keras": ("Keras", "tf"),
        "tensorflow": ("TensorFlow", "tf"),
        "jax": ("JAX", "jax"),
        "torch": ("PyTorch", "torch"),
    }
    if error.name not in _EXTRAS:
        raise
    raise missing_framework(*_EXTRAS[error.name], error) from error

from sbp_core.composition import ShortcutOutput
from sbp_keras.branches import ConvolutionalReadout
from sbp_keras.calibration import calibrate
from sbp_keras.coefficient import FollowingCallback, ShortcutCallback
from sbp_keras.diagnosis import Diagnoser, WatchCallback, diagnose
from sbp_keras.losses import ShortcutLoss
from sbp_keras.networks import Network, ResNet, network, resnet, resnet18, resnet34
from sbp_keras.neurons import CLIF, IF, LIF, PLIF, CurrentLIF, LeakyIntegrator
from sbp_keras.readout import Readout
from sbp_keras.shortcut import ShortcutModel
from sbp_keras.spike import spike
from sbp_keras.steps import BatchNormalization, RepeatTime, StepConv2D, StepMaxPooling2D
from sbp_keras.weights import export_weights, import_weights, load, save

__all__ = [
    "CLIF",
    "IF",
    "LIF",
    "PLIF",
    "BatchNormalization",
    "ConvolutionalReadout",
    "CurrentLIF",
    "Diagnoser",
    "FollowingCallback",
    "LeakyIntegrator",
    "Network",
    "Readout",
    "RepeatTime",
    "ResNet",
    "ShortcutCallback",
    "ShortcutLoss",
    "ShortcutModel",
    "ShortcutOutput",
    "StepConv2D",
    "StepMaxPooling2D",
    "WatchCallback",
    "calibrate",
    "diagnose",
    "export_weights",
    "import_weights",
    "load",
    "network",
    "resnet",
    "resnet18",
    "resnet34",
    "save",
    "spike",
]
