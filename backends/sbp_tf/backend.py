"""TensorFlow as a backend of the conformance suite, eager and compiled with XLA."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

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
from sbp_core.specs.surrogates import Surrogate
from sbp_tf.losses import ShortcutLoss
from sbp_tf.networks import ResNet
from sbp_tf.neurons import lif
from sbp_tf.scheduler import CoefficientScheduler
from sbp_tf.shortcut import Shortcut
from sbp_tf.spikes import spike
from sbp_tf.weights import export_weights, import_weights


class TensorFlowBackend:
    """Runs the public functions of this package; ``compiled`` is ``tf.function(jit_compile=True)``."""

    name: str = "tf"
    versions: Mapping[str, str] = {"tensorflow": tf.__version__}
    modes: Sequence[Mode] = ("eager", "compiled")
    dtypes: Sequence[str] = ("float64", "float32", "bfloat16", "float16")

    def spike(
        self, x: Array, surrogate: Surrogate, cotangent: Array, *, inclusive: bool, dtype: str, mode: Mode
    ) -> SpikeResult:
        """Fire and differentiate."""

        def run(x: tf.Tensor, cotangent: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(x)
                spikes = spike(x, surrogate, inclusive=inclusive)
            return spikes, tape.gradient(spikes, x, cotangent)

        spikes, gradient = _in_mode(run, mode)(_tensor(x, dtype), _tensor(cotangent, dtype))
        return SpikeResult(_array(spikes), _array(gradient), spikes.dtype.name)

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
        """Run the neuron over ``x`` and differentiate."""
        start = {} if state is None else _tensors(state, dtype)
        logit = {} if decay_logit is None else {"decay_logit": _tensor(np.asarray(decay_logit), dtype)}

        def run(
            x: tf.Tensor, start: dict[str, tf.Tensor], logit: dict[str, tf.Tensor], cotangents: list[tf.Tensor]
        ) -> tuple[Any, ...]:
            inputs = [x, start, logit]
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                decay = tf.sigmoid(logit["decay_logit"]) if logit else None
                output, final = lif(x, spec, LIFState(**start) if start else None, decay=decay)
                parts = [part for part in final if part is not None]
            gradients = tape.gradient(
                [output, *parts], inputs, cotangents, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
            return output, parts, gradients

        cotangents = [_tensor(output_cotangent, dtype), *_tensors(state_cotangent, dtype).values()]
        output, parts, (grad_input, grad_start, grad_logit) = _in_mode(run, mode)(
            _tensor(x, dtype), start, logit, cotangents
        )
        names = _tensors(state_cotangent, dtype)
        grad_state = {name: _array(gradient) for name, gradient in grad_start.items()}
        return NeuronResult(
            output=_array(output),
            state=LIFState(**{name: _array(part) for name, part in zip(names, parts, strict=True)}),
            grad_input=_array(grad_input),
            grad_state=LIFState(**({"potential": None} | grad_state)),
            grad_decay_logit=float(grad_logit["decay_logit"]) if logit else None,
            dtype=output.dtype.name,
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
        """Compose the cross-entropy and differentiate."""
        criterion = ShortcutLoss(spec)

        def run(logits: list[tf.Tensor], labels: tf.Tensor, coefficient: tf.Tensor) -> tuple[Any, ...]:
            with tf.GradientTape() as tape:
                tape.watch(logits)
                value = criterion(ShortcutOutput(logits[0], tuple(logits[1:])), labels, coefficient)
            return value, tape.gradient(value, logits)

        value, gradients = _in_mode(run, mode)(
            [_tensor(logits, dtype) for logits in (main, *branches)],
            tf.constant(labels, tf.int32),
            _tensor(np.asarray(coefficient), dtype),
        )
        grad_main, *grad_branches = map(_array, gradients)
        return LossResult(float(value), grad_main, tuple(grad_branches), value.dtype.name)

    def schedule(self, schedule: Schedule, step: int, *, mode: Mode) -> float:
        """Return the schedule's value at an integer tensor."""
        return float(_in_mode(schedule, mode)(tf.constant(step)))

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
        model = _model(network, weights, dtype)
        model.coefficient.assign(coefficient)
        images, labels = _images(batch, dtype), tf.constant(batch.labels, tf.int32)
        loss, logits, gradients = _in_mode(_differentiated(model, network), mode)(images, labels)
        statistics = {name: array for name, array in export_weights(model).items() if ".running_" in name}
        evaluated = model(images)
        _, blocks = model.main(images, training=True, taps=tuple(network.spec.tap_channels))
        # variables hold their gradients for a moment, and are exported by name
        for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
            variable.assign(gradient)
        return NetworkResult(
            tuple(map(_array, logits)),
            float(loss),
            {name: array for name, array in export_weights(model).items() if name not in statistics},
            statistics,
            _array(evaluated),
            {name: np.moveaxis(_array(output), -1, 2) for name, output in blocks.items()},
            logits[0].dtype.name,
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
        """Train with the coefficient's scheduler; the optimiser is written out, as Keras may run on another backend."""
        model = _model(network, weights, dtype)
        scheduler = CoefficientScheduler(model, schedule)
        velocities = [tf.Variable(tf.zeros_like(variable)) for variable in model.trainable_variables]
        differentiated = _differentiated(model, network)

        def step(images: tf.Tensor, labels: tf.Tensor) -> tuple[Any, ...]:
            loss, logits, gradients = differentiated(images, labels)
            for variable, velocity, gradient in zip(model.trainable_variables, velocities, gradients, strict=True):
                velocity.assign(optimizer.momentum * velocity + gradient)
                variable.assign_sub(optimizer.learning_rate * velocity)
            return loss, logits

        run = _in_mode(step, mode)
        losses = []
        for batch in batches:
            loss, logits = run(_images(batch, dtype), tf.constant(batch.labels, tf.int32))
            scheduler.step()
            losses.append(float(loss))
        return TrainingResult(tuple(losses), export_weights(model), logits[0].dtype.name)


def make_backend() -> TensorFlowBackend:
    """Return the TensorFlow backend."""
    return TensorFlowBackend()


def _model(network: ShortcutNetwork, weights: Mapping[str, Array], dtype: str) -> Shortcut:
    net = ResNet(network.spec, dtype=tf.as_dtype(dtype))
    model = Shortcut(
        net, network.taps, network.spec.num_classes, combine=network.loss.combine, dtype=tf.as_dtype(dtype)
    )
    import_weights(model, weights)
    return model


def _differentiated(model: Shortcut, network: ShortcutNetwork) -> Callable[[tf.Tensor, tf.Tensor], tuple[Any, ...]]:
    criterion = ShortcutLoss(network.loss)

    def run(images: tf.Tensor, labels: tf.Tensor) -> tuple[Any, ...]:
        with tf.GradientTape() as tape:
            given = model(images, training=True)
            output = given if isinstance(given, ShortcutOutput) else ShortcutOutput(given, ())
            loss = criterion(output, labels, model.coefficient)
        gradients = tape.gradient(loss, model.trainable_variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return loss, [output.main, *output.branches], gradients

    return run


def _images(batch: Batch, dtype: str) -> tf.Tensor:
    return _tensor(np.moveaxis(batch.images, 1, -1), dtype)


def _in_mode(function: Callable[..., Any], mode: Mode) -> Callable[..., Any]:
    if mode == "eager":
        return function
    compiled = tf.function(function, jit_compile=True, autograph=False)

    def call(*arguments: Any) -> Any:
        # traced by hand: every case is a function of its own, and TensorFlow would warn that it retraces
        return compiled.get_concrete_function(*arguments)(*arguments)

    return call


def _tensor(array: Array, dtype: str) -> tf.Tensor:
    return tf.cast(tf.convert_to_tensor(array), dtype)


def _tensors(state: LIFState, dtype: str) -> dict[str, tf.Tensor]:
    return {name: _tensor(part, dtype) for name, part in state._asdict().items() if part is not None}


def _array(tensor: tf.Tensor) -> Array:
    # NumPy has no bfloat16 of its own
    return np.asarray(tf.cast(tensor, tf.float64) if tensor.dtype == tf.bfloat16 else tensor)
