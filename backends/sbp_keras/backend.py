"""The Keras front end under the contract that conformance checks, on whichever backend Keras is set to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from sbp_core.backend import (
    Array,
    Batch,
    LossResult,
    Mode,
    MomentumSGD,
    NetworkResult,
    NeuronResult,
    ShortcutNetwork,
    SpikeResult,
    TrainingResult,
)
from sbp_core.composition import ShortcutOutput
from sbp_core.specs.losses import LossSpec
from sbp_core.specs.neurons import LIFSpec, LIFState
from sbp_core.specs.schedules import Schedule
from sbp_core.specs.shortcut import ShortcutSpec
from sbp_core.specs.surrogates import Surrogate
from sbp_keras import native
from sbp_keras.losses import ShortcutLoss
from sbp_keras.networks import ResNet
from sbp_keras.neurons import LIF
from sbp_keras.shortcut import ShortcutModel
from sbp_keras.taps import tap_model
from sbp_keras.weights import export_weights, import_weights


class KerasBackend:
    """The layers and the loss of this package; gradients by the framework underneath."""

    dtypes: Sequence[str] = ("float64", "float32", "bfloat16", "float16")

    def __init__(self) -> None:
        self._engine = native.engine()
        self.name = f"keras-{keras.backend.backend()}"
        self.modes: Sequence[Mode] = self._engine.MODES
        self.versions: Mapping[str, str] = {"keras": keras.__version__} | self._engine.VERSIONS

    def spike(
        self, x: Array, surrogate: Surrogate, cotangent: Array, *, inclusive: bool, dtype: str, mode: Mode
    ) -> SpikeResult:
        """Fire and differentiate."""
        with self._engine.precision(dtype):
            weight = _tensor(cotangent, dtype)

            def function(call: Any, values: Any) -> Any:
                spikes = native.spike(values, surrogate, inclusive=inclusive)
                return ops.sum(spikes * weight), spikes

            spikes, (gradient,) = self._engine.gradients(None, function, [_tensor(x, dtype)], mode == "compiled")
            return SpikeResult(_array(spikes), _array(gradient), _dtype(spikes))

    def neuron(
        self,
        spec: LIFSpec,
        x: Array,
        state: LIFState | None,
        output_cotangent: Array,
        state_cotangent: LIFState,
        *,
        decay_logit: float | None,
        dtype: str,
        mode: Mode,
    ) -> NeuronResult:
        """Run the layer over ``x``, with time and batch swapped on the way in and out."""
        with self._engine.precision(dtype):
            layer = LIF(spec, return_state=True, dtype=dtype)
            inputs = _tensor(np.swapaxes(x, 0, 1), dtype)
            layer.build(inputs.shape)
            if decay_logit is not None:
                layer.decay_logit.assign(decay_logit)
            names = [name for name in LIFState._fields if getattr(state_cotangent, name) is not None]
            output_weight = _tensor(np.swapaxes(output_cotangent, 0, 1), dtype)
            state_weights = [_tensor(getattr(state_cotangent, name), dtype) for name in names]
            parts = [] if state is None else [_tensor(getattr(state, name), dtype) for name in names]

            def function(call: Any, values: Any, *start: Any) -> Any:
                output, final = call(values, state=tuple(start) or None)
                total = ops.sum(output * output_weight)
                for part, weight in zip(final, state_weights, strict=True):
                    total = total + ops.sum(part * weight)
                return total, (output, tuple(final))

            (output, final), found = self._engine.gradients(layer, function, [inputs, *parts], mode == "compiled")
            grad_input, *rest = map(_array, found)
            return NeuronResult(
                output=np.swapaxes(_array(output), 0, 1),
                state=LIFState(**({"potential": None} | dict(zip(names, map(_array, final), strict=True)))),
                grad_input=np.swapaxes(grad_input, 0, 1),
                grad_state=LIFState(**({"potential": None} | dict(zip(names, rest[: len(parts)], strict=False)))),
                grad_decay_logit=float(rest[-1]) if decay_logit is not None else None,
                dtype=_dtype(output),
            )

    def loss(
        self,
        main: Array,
        branches: Sequence[Array],
        labels: Array,
        coefficient: float,
        *,
        spec: LossSpec,
        dtype: str,
        mode: Mode,
    ) -> LossResult:
        """Compose with :class:`~sbp_keras.ShortcutLoss` and differentiate."""
        with self._engine.precision(dtype):
            criterion = ShortcutLoss(spec)
            targets, weight = ops.convert_to_tensor(labels, "int32"), _tensor(np.asarray(coefficient), dtype)

            def function(call: Any, main: Any, *branches: Any) -> Any:
                value = criterion(ShortcutOutput(main, branches), targets, weight)
                return value, value

            def turn(logits: Array) -> Array:  # time after the batch, and back
                return np.swapaxes(logits, 0, 1) if spec.per_step else logits

            logits = [_tensor(turn(part), dtype) for part in (main, *branches)]
            value, found = self._engine.gradients(None, function, logits, mode == "compiled")
            of_main, *of_branches = (turn(_array(gradient)) for gradient in found)
            return LossResult(float(_array(value)), of_main, tuple(of_branches), _dtype(value))

    def schedule(self, schedule: Schedule, step: int, *, mode: Mode) -> float:
        """Return the coefficient at a step that is an integer tensor."""
        run = self._engine.compiled(schedule.__call__) if mode == "compiled" else schedule
        return float(_array(run(ops.convert_to_tensor(step, "int32"))))

    def network(
        self,
        network: ShortcutNetwork,
        weights: Mapping[str, Array],
        batch: Batch,
        coefficient: float,
        *,
        dtype: str,
        mode: Mode,
    ) -> NetworkResult:
        """Run and differentiate a training step, then evaluate."""
        with self._engine.precision(dtype):
            model = _model(network, weights, batch, dtype)
            model.coefficient.assign(coefficient)
            (loss, logits), gradients = self._differentiated(model, network, batch, dtype, mode)
            statistics = {name: array for name, array in export_weights(model).items() if ".running_" in name}
            images = _images(batch, dtype)
            evaluated = model(images, training=False)
            names = tuple(network.spec.tap_channels)
            *blocks, _ = tap_model(model.main, ShortcutSpec(taps=names))(images, training=True)
            # variables hold their gradients for a moment, and are exported by name
            for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
                variable.assign(gradient)
            return NetworkResult(
                tuple(map(_array, logits)),
                float(_array(loss)),
                {name: array for name, array in export_weights(model).items() if name not in statistics},
                statistics,
                _array(evaluated),
                {name: np.transpose(_array(block), (1, 0, 4, 2, 3)) for name, block in zip(names, blocks, strict=True)},
                _dtype(logits[0]),
            )

    def training(
        self,
        network: ShortcutNetwork,
        weights: Mapping[str, Array],
        batches: Sequence[Batch],
        schedule: Schedule,
        optimizer: MomentumSGD,
        *,
        dtype: str,
        mode: Mode,
    ) -> TrainingResult:
        """Train with keras.optimizers.SGD."""
        with self._engine.precision(dtype):
            model = _model(network, weights, batches[0], dtype)
            sgd = keras.optimizers.SGD(optimizer.learning_rate, optimizer.momentum)
            losses = []
            for step, batch in enumerate(batches, start=1):
                model.coefficient.assign(schedule(step))
                (loss, logits), gradients = self._differentiated(model, network, batch, dtype, mode)
                sgd.apply(gradients, model.trainable_variables)
                losses.append(float(_array(loss)))
            return TrainingResult(tuple(losses), export_weights(model), _dtype(logits[0]))

    def _differentiated(
        self, model: ShortcutModel, network: ShortcutNetwork, batch: Batch, dtype: str, mode: Mode
    ) -> tuple[Any, list[Any]]:
        criterion, labels = ShortcutLoss(network.loss), ops.convert_to_tensor(batch.labels, "int32")

        def function(call: Any, images: Any) -> Any:
            given = call(images, training=True)
            output = given if isinstance(given, ShortcutOutput) else ShortcutOutput(given, ())
            loss = criterion(output, labels, coefficient)
            return loss, (loss, (output.main, *output.branches))

        coefficient = ops.convert_to_tensor(model.coefficient)
        auxiliary, found = self._engine.gradients(model, function, [_images(batch, dtype)], mode == "compiled")
        return auxiliary, found[1:]


def make_backend() -> KerasBackend:
    """Return the backend of the framework that Keras is set to.

    Raises:
        ValueError: it has no adapter.
    """
    return KerasBackend()


def _model(network: ShortcutNetwork, weights: Mapping[str, Array], batch: Batch, dtype: str) -> ShortcutModel:
    shape = np.moveaxis(batch.images, 1, -1).shape[1:]
    options: dict[str, Any] = {"combine": network.loss.combine, "dtype": dtype}
    net = ResNet(network.spec, shape, dtype=dtype)
    model = ShortcutModel(net, network.taps, network.spec.num_classes, **options)
    import_weights(model, weights)
    return model


def _images(batch: Batch, dtype: str) -> Any:
    return _tensor(np.moveaxis(batch.images, 1, -1), dtype)


def _tensor(array: Array, dtype: str) -> Any:
    return ops.convert_to_tensor(np.asarray(array), dtype)


def _dtype(tensor: Any) -> str:
    return str(keras.backend.standardize_dtype(tensor.dtype))


def _array(tensor: Any) -> Array:
    if _dtype(tensor) == "bfloat16":
        return np.asarray(ops.convert_to_numpy(ops.cast(tensor, "float32")), np.float64)
    return np.asarray(ops.convert_to_numpy(tensor))
