"""Keras under the contract, on whichever backend it is set to; that one's adapter differentiates and compiles."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from sbp_core.backend import Array, Mode, MomentumSGD, ShortcutNetwork
from sbp_core.composition import ShortcutOutput
from sbp_core.specs.losses import LossSpec
from sbp_core.specs.neurons import LIFSpec, LIFState
from sbp_core.specs.schedules import Schedule
from sbp_core.specs.surrogates import Surrogate
from sbp_core.taps import TapLayout
from sbp_keras import native
from sbp_keras.losses import ShortcutLoss
from sbp_keras.networks import Network
from sbp_keras.neurons import LIF
from sbp_keras.shortcut import ShortcutModel
from sbp_keras.spike import spike
from sbp_keras.weights import export_weights, import_weights


class KerasEngine:
    """The layers, the loss and the model of this package, called as functions of their weights.

    Raises:
        ValueError: the framework that Keras is set to has no adapter.
    """

    dtypes: Sequence[str] = ("float64", "float32", "bfloat16", "float16")
    layout = TapLayout(time_axis=1, channels="last")

    def __init__(self) -> None:
        self._native = native.engine()
        self.name = f"keras-{keras.backend.backend()}"
        self.versions: Mapping[str, str] = {"keras": keras.__version__} | dict(self._native.versions)
        # Keras runs eagerly on PyTorch unless told otherwise, and its layers break torch.compile's graph into pieces
        self.modes: Sequence[Mode] = ("eager",) if self._native.name == "torch" else ("eager", "compiled")
        self.vjp, self.run = self._native.vjp, self._native.run

    def precision(self, dtype: str) -> contextlib.AbstractContextManager[Any]:
        """Return the native engine's context."""
        context: contextlib.AbstractContextManager[Any] = getattr(
            self._native, "precision", lambda dtype: contextlib.nullcontext()
        )(dtype)
        return context

    def array(self, values: Array, dtype: str | None) -> Any:
        """Return a tensor, of int32 where there is no dtype."""
        return ops.convert_to_tensor(values, dtype or "int32")

    def numpy(self, array: Any) -> Array:
        """Return a tensor's values."""
        narrow = keras.backend.standardize_dtype(array.dtype) == "bfloat16"
        return np.asarray(ops.convert_to_numpy(ops.cast(array, "float32") if narrow else array))

    def spike(self, x: Any, surrogate: Surrogate, *, inclusive: bool) -> Any:
        """Fire."""
        return spike(x, surrogate, inclusive=inclusive)

    def neuron(self, spec: LIFSpec, dtype: str) -> Callable[..., tuple[Any, LIFState]]:
        """Return the layer as a function of its input, its state and its weight."""
        layer = LIF(spec, return_state=True, dtype=dtype)
        layer.build(None)

        def run(x: Any, state: LIFState | None, decay_logit: Any | None) -> tuple[Any, LIFState]:
            with keras.StatelessScope([] if decay_logit is None else [(layer.decay_logit, decay_logit)]):
                output, final = layer(x, state=state)
            return output, LIFState(**final._asdict())

        return run

    def loss(self, spec: LossSpec, output: ShortcutOutput, labels: Any, coefficient: Any) -> Any:
        """Compose the loss."""
        return ShortcutLoss(spec)(output, labels, coefficient)

    def network(
        self, network: ShortcutNetwork, weights: Mapping[str, Array], images: Any, dtype: str, mode: Mode
    ) -> _Network:
        """Build the network in a ShortcutModel."""
        net = Network(network.spec, tuple(images.shape[1:]), dtype=dtype)
        options: dict[str, Any] = {"combine": network.loss.combine, "branch": network.branch, "dtype": dtype}
        model = ShortcutModel(net, network.taps, network.spec.num_classes, **options)
        import_weights(model, weights)
        return _Network(self, model, network, mode)


class _Network:
    """A ShortcutModel and its loss: :class:`sbp_core.backend.BuiltNetwork`."""

    def __init__(self, engine: KerasEngine, model: ShortcutModel, network: ShortcutNetwork, mode: Mode) -> None:
        self._engine, self._model, self._mode = engine, model, mode
        self._criterion = ShortcutLoss(network.loss)
        self._taps = tuple(network.spec.tap_channels)
        self._branches = len(network.taps) if network.loss.combine == "losses" else 0
        self._gradients: Sequence[Any] = ()

    def differentiate(self, images: Any, labels: Any, coefficient: float) -> tuple[Any, Sequence[Any]]:
        model = self._model
        model.coefficient.assign(coefficient)
        trained = model.trainable_variables
        # a counter has no cotangent, and none counts here
        moving = [v for v in model.non_trainable_variables if keras.backend.is_float_dtype(v.dtype)]
        weight, start = ops.convert_to_tensor(model.coefficient), [ops.copy(v.value) for v in moving]

        def run(*values: Any) -> list[Any]:
            with keras.StatelessScope([*zip(trained, values, strict=True), *zip(moving, start, strict=True)]) as scope:
                given = model(images, training=True)
                output = given if isinstance(given, ShortcutOutput) else ShortcutOutput(given, ())
                loss = self._criterion(output, labels, weight)
            return [loss, output.main, *output.branches, *(scope.get_current_value(v) for v in moving)]

        logits = 1 + self._branches
        shapes = [(images.shape[0], model.num_classes)] * logits
        cotangents = [ops.ones((), images.dtype), *(ops.zeros(shape, images.dtype) for shape in shapes)]
        cotangents += [ops.zeros_like(value) for value in start]
        values = [ops.copy(v.value) for v in trained]
        (loss, *outputs), self._gradients = self._engine.vjp(run, values, cotangents, self._mode)
        for variable, value in zip(moving, outputs[logits:], strict=True):
            variable.assign(value)
        return loss, outputs[:logits]

    def evaluate(self, images: Any) -> Any:
        return self._model(images, training=False)

    def blocks(self, images: Any) -> Mapping[str, Any]:
        main = self._model.main
        outputs = {name: main.get_layer(name).output for name in self._taps}
        blocks: Mapping[str, Any] = keras.Model(main.input, outputs)(images, training=True)
        return blocks

    def weights(self) -> Mapping[str, Array]:
        return export_weights(self._model)

    def gradients(self) -> Mapping[str, Array]:
        # variables hold their gradients, and are exported by name
        for variable, gradient in zip(self._model.trainable_variables, self._gradients, strict=True):
            variable.assign(gradient)
        return self.weights()

    def trainer(self, schedule: Schedule, optimizer: MomentumSGD) -> Callable[[Any, Any], tuple[Any, Sequence[Any]]]:
        sgd = keras.optimizers.SGD(optimizer.learning_rate, optimizer.momentum)
        step = 0

        def train(images: Any, labels: Any) -> tuple[Any, Sequence[Any]]:
            nonlocal step
            step += 1
            found = self.differentiate(images, labels, schedule(step))
            sgd.apply(list(self._gradients), self._model.trainable_variables)
            return found

        return train


def make_engine() -> KerasEngine:
    """Return the engine of the framework that Keras is set to.

    Raises:
        ValueError: it has no adapter.
    """
    return KerasEngine()
