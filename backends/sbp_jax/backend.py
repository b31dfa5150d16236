"""The JAX adapter under the contract of :class:`sbp_core.backend.Backend`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

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
from sbp_jax.losses import ShortcutLoss
from sbp_jax.networks import ResNet
from sbp_jax.neuron import lif
from sbp_jax.shortcut import Shortcut
from sbp_jax.spike import spike
from sbp_jax.weights import export_weights, import_weights


class JaxBackend:
    """The public functions of this package.

    ``compiled`` is ``jax.jit``; ``eager`` runs operation by operation, loops included (``jax.disable_jit``);
    ``vmapped`` is ``jax.vmap`` of the gradient, under ``jax.jit``.
    """

    name: str = "jax"
    versions: Mapping[str, str] = {"jax": jax.__version__, "flax": flax.__version__, "optax": optax.__version__}
    modes: Sequence[Mode] = ("eager", "compiled", "vmapped")
    dtypes: Sequence[str] = ("float64", "float32", "bfloat16", "float16")

    def spike(
        self, x: Array, surrogate: Surrogate, cotangent: Array, *, inclusive: bool, dtype: str, mode: Mode
    ) -> SpikeResult:
        """Fire, and pull the cotangent back."""

        def both(x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
            spikes, pull = jax.vjp(lambda x: spike(x, surrogate, inclusive=inclusive), x)
            return spikes, pull(cotangent)[0]

        if mode == "vmapped":
            both = jax.vmap(both)
        with _precision(dtype):
            spikes, gradient = _run(both, mode, jnp.asarray(x, dtype), jnp.asarray(cotangent, dtype))
        return SpikeResult(_numpy(spikes), _numpy(gradient), spikes.dtype.name)

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
        """Run the neuron, and pull the cotangents of its output and its last state back."""

        def forward(x: jax.Array, state: LIFState | None, logit: jax.Array | None) -> tuple[jax.Array, LIFState]:
            return lif(x, spec, state, decay=None if logit is None else jax.nn.sigmoid(logit))

        def both(inputs: Any, cotangents: Any) -> Any:
            values, pull = jax.vjp(forward, *inputs)
            return values, pull(cotangents)

        with _precision(dtype):
            cast = functools.partial(jnp.asarray, dtype=dtype)
            inputs = jax.tree.map(cast, (x, state, decay_logit))
            cotangents = jax.tree.map(cast, (output_cotangent, state_cotangent))
            run = _per_sample(both) if mode == "vmapped" else both
            (output, last), gradients = _run(run, mode, inputs, cotangents)
        grad_input, grad_state, grad_logit = jax.tree.map(_numpy, gradients)
        return NeuronResult(
            _numpy(output),
            jax.tree.map(_numpy, last),
            grad_input,
            LIFState(None) if grad_state is None else grad_state,
            None if grad_logit is None else float(grad_logit),
            output.dtype.name,
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
        """Compose the logits into a loss, and differentiate it."""

        def value(output: ShortcutOutput, labels: jax.Array, coefficient: jax.Array) -> jax.Array:
            return ShortcutLoss(spec)(output, labels, coefficient)

        with _precision(dtype):
            output = ShortcutOutput(jnp.asarray(main, dtype), tuple(jnp.asarray(branch, dtype) for branch in branches))
            loss, gradient = _run(
                jax.value_and_grad(value), mode, output, jnp.asarray(labels), jnp.asarray(coefficient, dtype)
            )
        gradient = jax.tree.map(_numpy, gradient)
        return LossResult(float(loss), gradient.main, gradient.branches, loss.dtype.name)

    def schedule(self, schedule: Schedule, step: int, *, mode: Mode) -> float:
        """Call the schedule with the step as an integer array."""
        return float(_run(schedule, mode, jnp.asarray(step)))

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
        with _precision(dtype):
            graph, parameters, rest = _split(_model(network, weights, dtype))
            differentiate = jax.value_and_grad(_forward(graph, network), has_aux=True)
            images = _images(batch, dtype)
            arguments = (parameters, rest, images, jnp.asarray(batch.labels), jnp.asarray(coefficient, dtype))
            (loss, (logits, rest)), gradients = _run(differentiate, mode, *arguments)
            model = nnx.merge(graph, parameters, rest)
            statistics = {name: array for name, array in export_weights(model).items() if ".running_" in name}
            model.eval()
            evaluated = model(images)
            model.train()
            _, blocks = model.main(images, taps=tuple(network.spec.tap_channels))
            # a model that holds the gradients in place of its weights exports them by name
            named = export_weights(nnx.merge(graph, gradients, rest))
            return NetworkResult(
                tuple(map(_numpy, logits)),
                float(loss),
                {name: array for name, array in named.items() if name not in statistics},
                statistics,
                _numpy(evaluated),
                {name: np.moveaxis(_numpy(output), -1, 2) for name, output in blocks.items()},
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
        """Train with optax.sgd, the coefficient computed from the step within the graph."""
        with _precision(dtype):
            graph, parameters, rest = _split(_model(network, weights, dtype))
            forward = _forward(graph, network)
            sgd = optax.sgd(optimizer.learning_rate, optimizer.momentum)
            moments = sgd.init(parameters)

            def advance(number: Any, parameters: Any, rest: Any, moments: Any, images: Any, labels: Any) -> Any:
                (loss, (logits, rest)), gradients = jax.value_and_grad(forward, has_aux=True)(
                    parameters, rest, images, labels, schedule(number)
                )
                updates, moments = sgd.update(gradients, moments, parameters)
                return loss, logits, optax.apply_updates(parameters, updates), rest, moments

            run = jax.jit(advance) if mode == "compiled" else advance
            losses = []
            for number, batch in enumerate(batches, start=1):
                arguments = (_images(batch, dtype), jnp.asarray(batch.labels))
                with contextlib.nullcontext() if mode == "compiled" else jax.disable_jit():
                    loss, logits, parameters, rest, moments = run(
                        jnp.asarray(number), parameters, rest, moments, *arguments
                    )
                losses.append(float(loss))
            final = export_weights(nnx.merge(graph, parameters, rest))
            return TrainingResult(tuple(losses), final, logits[0].dtype.name)


def make_backend() -> JaxBackend:
    """Return the JAX backend."""
    return JaxBackend()


@contextlib.contextmanager
def _precision(dtype: str) -> Iterator[None]:
    # JAX makes float32 of float64 unless told not to; the user's own setting is back afterwards
    with jax.enable_x64(dtype == "float64"):
        yield


def _model(network: ShortcutNetwork, weights: Mapping[str, Array], dtype: str) -> Shortcut[ResNet]:
    def build() -> Shortcut[ResNet]:
        net = ResNet(network.spec, param_dtype=dtype, rngs=nnx.Rngs(0))
        options: dict[str, Any] = {"combine": network.loss.combine, "param_dtype": dtype, "rngs": nnx.Rngs(0)}
        return Shortcut(net, network.taps, network.spec.num_classes, **options)

    # shapes alone: no initial weights are drawn
    model: Shortcut[ResNet] = nnx.eval_shape(build)
    import_weights(model, weights)
    return model


def _split(model: Any) -> Any:
    return nnx.split(model, nnx.Param, ...)


def _forward(graph: Any, network: ShortcutNetwork) -> Callable[..., Any]:
    criterion = ShortcutLoss(network.loss)

    def forward(parameters: Any, rest: Any, images: Any, labels: Any, coefficient: Any) -> Any:
        model = nnx.merge(graph, parameters, rest, copy=True)
        given = model(images, coefficient=coefficient)
        output = given if isinstance(given, ShortcutOutput) else ShortcutOutput(given, ())
        loss = criterion(output, labels, coefficient)
        return loss, ((output.main, *output.branches), nnx.state(model, nnx.Not(nnx.Param)))

    return forward


def _images(batch: Batch, dtype: str) -> jax.Array:
    return jnp.asarray(np.moveaxis(batch.images, 1, -1), dtype)


def _per_sample(both: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``both`` of one sample at a time, a batch of one, mapped; the decay is shared: its gradients add up."""

    def one(inputs: Any, cotangents: Any) -> Any:
        (x, state, logit), (of_output, of_state) = inputs, cotangents
        start = jax.tree.map(lambda part: part[None], state)
        ends = jax.tree.map(lambda part: part[None], of_state)
        (output, last), (grad_x, grad_state, grad_logit) = both((x[:, None], start, logit), (of_output[:, None], ends))
        last, grad_state = jax.tree.map(lambda part: part[0], (last, grad_state))
        return (output[:, 0], last), (grad_x[:, 0], grad_state, grad_logit)

    def run(inputs: Any, cotangents: Any) -> Any:
        mapped = jax.vmap(one, in_axes=((1, 0, None), (1, 0)), out_axes=((1, 0), (1, 0, 0)))
        values, (grad_x, grad_state, grad_logit) = mapped(inputs, cotangents)
        return values, (grad_x, grad_state, None if grad_logit is None else grad_logit.sum())

    return run


def _run(function: Callable[..., Any], mode: Mode, *arguments: Any) -> Any:
    if mode != "eager":
        return jax.jit(function)(*arguments)
    with jax.disable_jit():
        return function(*arguments)


def _numpy(array: jax.Array) -> Array:
    values = np.asarray(array)
    return values.astype(np.float64) if array.dtype == jnp.bfloat16 else values
