"""sbp for TensorFlow: its native operations, pure functions. Networks on TensorFlow are ``sbp_keras``'s.

Time is the leading axis, ``(time, batch, ...)``.
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
from sbp_tf.losses import ShortcutLoss
from sbp_tf.neuron import implementation_for, initial_state, lif
from sbp_tf.spike import spike

__all__ = [
    "LIFSpec",
    "LIFState",
    "ShortcutLoss",
    "ShortcutOutput",
    "implementation_for",
    "initial_state",
    "lif",
    "spike",
]
