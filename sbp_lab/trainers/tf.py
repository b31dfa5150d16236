"""TensorFlow's trainer: Keras on TensorFlow."""

from __future__ import annotations

import os
import sys
from typing import Any

import tensorflow as tf

from sbp_tf.neuron import UNROLL_UP_TO


def make_trainer(*arguments: Any, **options: Any) -> Any:
    """Return a :class:`sbp_lab.trainers.keras.KerasTrainer` on TensorFlow.

    Raises:
        RuntimeError: Keras has been imported in this process, and runs on another framework.
    """
    use_tensorflow()
    from sbp_lab.trainers.keras import KerasTrainer

    return KerasTrainer(*arguments, **options)


def use_tensorflow() -> None:
    """Set Keras to TensorFlow, whatever ``KERAS_BACKEND`` says: it reads that once, when it is imported.

    Raises:
        RuntimeError: Keras has been imported in this process, and runs on another framework.
    """
    keras: Any = sys.modules.get("keras")
    if keras is None:
        os.environ["KERAS_BACKEND"] = "tensorflow"
    elif keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"backend 'tf' is Keras on TensorFlow, but Keras has been imported to run on {keras.backend.backend()}: "
            "start another process, or set KERAS_BACKEND=tensorflow"
        )


def devices() -> list[str]:
    """Return the devices that TensorFlow sees."""
    return [device.name for device in tf.config.list_physical_devices()]


def neurons() -> str:
    """Return how a neuron is computed (:func:`sbp_tf.implementation_for`)."""
    return f"unrolled; in a graph of over {UNROLL_UP_TO} steps loop"


def limit_threads() -> None:
    """Use one thread in this process; it takes effect before the first computation only."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
