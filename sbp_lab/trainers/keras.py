"""The Keras trainer, on whichever framework Keras is set to: ``ShortcutModel`` and ``train_on_batch``."""

# mypy: allow-subclassing-any
from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Literal

import keras
from keras import ops

import sbp_keras
from sbp_core import NetworkSpec
from sbp_lab.trainers import Array, Labels, StepResult

#: Backend of Keras to the trainer that knows its devices.
NATIVE = {"jax": "jax", "tensorflow": "tf", "torch": "torch"}


class AdamW(keras.optimizers.AdamW):
    """Keras's AdamW, which also keeps the norms of two gradients, by their places among the trainable variables.

    Its epsilon is added before the bias of the second moment is corrected; PyTorch's and optax's after. At 1e-8 that is
    below rounding wherever a gradient is not.
    """

    def __init__(self, weight_decay: float, watched: Sequence[int]) -> None:
        super().__init__(weight_decay=weight_decay, epsilon=1e-8)
        self._watched = tuple(watched)
        self.norms: list[Any] = []

    def build(self, variables: Any) -> None:
        """Add a variable for each norm."""
        if not self.built:
            self.norms = [self.add_variable((), initializer="zeros", name=f"norm_{place}") for place in self._watched]
        super().build(variables)

    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        """Keep the norms, and make the step."""
        found = super().apply(grads, trainable_variables)
        for variable, place in zip(self.norms, self._watched, strict=True):
            variable.assign(ops.norm(ops.reshape(grads[place], (-1,))))
        return found


class Gradients(keras.optimizers.Optimizer):
    """Puts the gradient in the place of every weight."""

    def __init__(self) -> None:
        super().__init__(learning_rate=1.0)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Write the gradient."""
        self.assign(variable, gradient)


class KerasTrainer:
    """See :class:`sbp_lab.trainers.Trainer`."""

    def __init__(
        self,
        spec: NetworkSpec,
        weights: Mapping[str, Array],
        *,
        taps: Sequence[str],
        combine: Literal["logits", "losses"],
        weight_decay: float,
    ) -> None:
        time = [] if spec.repeats else [None]
        self._net = sbp_keras.network(spec, (*time, *spec.image_size, spec.in_channels))
        self._model: keras.Model = self._net
        if taps:
            self._model = sbp_keras.ShortcutModel(self._net, list(taps), spec.num_classes, combine)
        sbp_keras.import_weights(self._model, weights)
        places = {id(variable): place for place, variable in enumerate(self._model.trainable_variables)}
        kernels = [variable for variable in self._net.trainable_variables if variable.name == "kernel"]
        watched = [places[id(kernels[end])] for end in (0, -1)]
        self._optimizer = AdamW(weight_decay, watched)
        self._compile(self._optimizer)

    def train_step(self, images: Array, labels: Labels, coefficient: float, learning_rate: float) -> StepResult:
        """Make one step on a batch."""
        self._optimizer.learning_rate = learning_rate
        loss = self._step(images, labels, coefficient)
        return StepResult(loss, *(float(ops.convert_to_numpy(norm)) for norm in self._optimizer.norms))

    def predict(self, images: Array) -> Array:
        """Return the main output's logits."""
        logits: Array = self._model.predict_on_batch(images)
        return logits

    def gradients(self, images: Array, labels: Labels, coefficient: float) -> dict[str, Array]:
        """Return the gradient of every weight of the main network by canonical name."""
        before = sbp_keras.export_weights(self._model)
        self._compile(Gradients())
        self._step(images, labels, coefficient)
        named = sbp_keras.export_weights(self._net)
        sbp_keras.import_weights(self._model, before)
        self._compile(self._optimizer)
        return {name: array for name, array in named.items() if ".running_" not in name}

    def _compile(self, optimizer: keras.optimizers.Optimizer) -> None:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        # XLA takes minutes to compile a deep network for a processor; JAX has no other way to compile
        self._model.compile(optimizer, loss, jit_compile=keras.backend.backend() == "jax")

    def _step(self, images: Array, labels: Labels, coefficient: float) -> float:
        if isinstance(self._model, sbp_keras.ShortcutModel):
            self._model.coefficient.assign(coefficient)
        # what Keras reports is a mean since the last reset
        self._model.reset_metrics()
        return float(self._model.train_on_batch(images, labels, return_dict=True)["loss"])


make_trainer = KerasTrainer


def devices() -> list[str]:
    """Return the devices that the framework underneath sees."""
    found: list[str] = _native().devices()
    return found


def neurons() -> str:
    """Return how a neuron is computed."""
    return f"{keras.backend.backend()}: {_native().neurons()}"


def limit_threads() -> None:
    """Use one thread in this process; it takes effect before the first computation only."""
    _native().limit_threads()


def _native() -> ModuleType:
    return importlib.import_module(f"sbp_lab.trainers.{NATIVE[keras.backend.backend()]}")
