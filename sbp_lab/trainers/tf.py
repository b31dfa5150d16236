"""The TensorFlow trainer: a ``tf.function`` for each of its methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import tensorflow as tf

import sbp_tf
from sbp_core import ResNetSpec
from sbp_lab.trainers import Array, Labels, StepResult
from sbp_tf.neurons import UNROLL_UP_TO


class AdamW:
    """AdamW (Loshchilov and Hutter 2019, Algorithm 2), as PyTorch's and optax's compute it.

    Written out because Keras's adds epsilon before the bias correction and follows whatever backend Keras is set to.
    """

    def __init__(self, variables: Sequence[Any], weight_decay: float) -> None:
        self._variables, self._weight_decay = tuple(variables), weight_decay
        self._first = [tf.Variable(tf.zeros_like(variable), trainable=False) for variable in variables]
        self._second = [tf.Variable(tf.zeros_like(variable), trainable=False) for variable in variables]
        self._step = tf.Variable(0.0, trainable=False)

    def apply(self, gradients: Sequence[Any], rate: Any, *, decays: tuple[float, float] = (0.9, 0.999)) -> None:
        """Make a step of size ``rate``, a scalar tensor."""
        self._step.assign_add(1.0)
        beta1, beta2 = decays
        for variable, gradient, first, second in zip(
            self._variables, gradients, self._first, self._second, strict=True
        ):
            first.assign(beta1 * first + (1.0 - beta1) * gradient)
            second.assign(beta2 * second + (1.0 - beta2) * tf.square(gradient))
            mean = first / (1.0 - beta1**self._step)
            square = second / (1.0 - beta2**self._step)
            variable.assign_sub(rate * (mean / (tf.sqrt(square) + 1e-8) + self._weight_decay * variable))


class TFTrainer:
    """See :class:`sbp_lab.trainers.Trainer`."""

    def __init__(
        self,
        spec: ResNetSpec,
        weights: Mapping[str, Array],
        *,
        taps: Sequence[str],
        combine: Literal["logits", "losses"],
        weight_decay: float,
    ) -> None:
        self._net = sbp_tf.ResNet(spec)
        self._shortcut: sbp_tf.Shortcut | None = None
        if taps:
            # the loss composes: it takes the coefficient as an argument
            self._shortcut = sbp_tf.Shortcut(self._net, taps, spec.num_classes, combine="losses")
        self._model = self._shortcut or self._net
        sbp_tf.import_weights(self._model, weights)
        self._variables = self._model.trainable_variables
        self._loss = sbp_tf.ShortcutLoss(combine)
        self._optimizer = AdamW(self._variables, weight_decay)
        self._compiled_step = tf.function(self._step)
        self._compiled_logits = tf.function(lambda images: self._net(images))

    def train_step(self, images: Array, labels: Labels, coefficient: float, learning_rate: float) -> StepResult:
        """Make one step on a batch."""
        result = self._compiled_step(images, labels, tf.constant(coefficient), tf.constant(learning_rate))
        return StepResult(*(float(value) for value in result))

    def predict(self, images: Array) -> Array:
        """Return the main output's logits."""
        logits: Array = self._compiled_logits(tf.constant(images)).numpy()
        return logits

    def gradients(self, images: Array, labels: Labels, coefficient: float) -> dict[str, Array]:
        """Return the gradient of every weight of the main network by canonical name."""
        before = sbp_tf.export_weights(self._model)
        _, gradients = self._differentiate(tf.constant(images), tf.constant(labels), tf.constant(coefficient))
        # variables that hold their gradients for a moment are exported by name
        for variable, gradient in zip(self._variables, gradients, strict=True):
            variable.assign(gradient)
        named = sbp_tf.export_weights(self._net)
        sbp_tf.import_weights(self._model, before)
        return {name: array for name, array in named.items() if ".running_" not in name}

    def _step(self, images: Any, labels: Any, coefficient: Any, learning_rate: Any) -> tuple[Any, Any, Any]:
        loss, gradients = self._differentiate(images, labels, coefficient)
        self._optimizer.apply(gradients, learning_rate)
        by_variable = {variable.ref(): gradient for variable, gradient in zip(self._variables, gradients, strict=True)}
        first, last = (by_variable[layer.weight.ref()] for layer in (self._net.stem.conv, self._net.head))
        return loss, tf.norm(first), tf.norm(last)

    def _differentiate(self, images: Any, labels: Any, coefficient: Any) -> tuple[Any, list[Any]]:
        with tf.GradientTape() as tape:
            output = self._model(images, training=True)
            if self._shortcut is None:
                output = sbp_tf.ShortcutOutput(output, ())
            loss = self._loss(output, labels, coefficient)
        return loss, tape.gradient(loss, self._variables)


make_trainer = TFTrainer


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
