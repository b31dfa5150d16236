"""sbp for TensorFlow: pure functions and ``tf.Module``s for a training loop of one's own; Keras is not needed.

Time is the leading axis, ``(time, batch, ...)``; images are channels last.
"""

try:
    import tensorflow as tensorflow
except ModuleNotFoundError as error:
    from sbp_core.registry import missing_framework

    if error.name != "tensorflow":
        raise
    raise missing_framework("TensorFlow", "tf", error) from error

from sbp_core.composition import ShortcutOutput
from sbp_core.specs.neurons import LIFSpec, LIFState
from sbp_tf.layers import IF, LIF, PLIF, CurrentLIF, LeakyIntegrator
from sbp_tf.losses import ShortcutLoss
from sbp_tf.modules import BatchNorm, Conv2D, ConvolutionalReadout, Readout
from sbp_tf.networks import ResNet, resnet18, resnet34
from sbp_tf.neurons import implementation_for, initial_state, lif
from sbp_tf.scheduler import CoefficientScheduler
from sbp_tf.shortcut import Shortcut, Tappable
from sbp_tf.spikes import spike
from sbp_tf.weights import export_weights, import_weights

__all__ = [
    "IF",
    "LIF",
    "PLIF",
    "BatchNorm",
    "CoefficientScheduler",
    "Conv2D",
    "ConvolutionalReadout",
    "CurrentLIF",
    "LIFSpec",
    "LIFState",
    "LeakyIntegrator",
    "Readout",
    "ResNet",
    "Shortcut",
    "ShortcutLoss",
    "ShortcutOutput",
    "Tappable",
    "export_weights",
    "implementation_for",
    "import_weights",
    "initial_state",
    "lif",
    "resnet18",
    "resnet34",
    "spike",
]
