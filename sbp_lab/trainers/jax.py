"""The JAX trainer: Flax modules and optax as pure functions, compiled once for all the runs of a process."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import sbp_jax
from sbp_core import NetworkSpec
from sbp_jax.neuron import UNROLL_UP_TO
from sbp_jax.weights import variables
from sbp_lab.trainers import Array, Labels, StepResult


class JaxTrainer:
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
        net = sbp_jax.Network(spec, rngs=nnx.Rngs(0))
        model: Any = net
        if taps:
            # the loss composes: it takes the coefficient as an argument
            model = sbp_jax.Shortcut(net, tuple(taps), spec.num_classes, combine="losses", rngs=nnx.Rngs(0))
        sbp_jax.import_weights(model, weights)
        self._combine = combine
        self._optimizer = _adamw(weight_decay)
        parts: Any = nnx.split(model, nnx.Param, ...)
        self._graph, self._parameters, self._rest = parts
        self._moments = self._optimizer.init(self._parameters)

    def train_step(self, images: Array, labels: Labels, coefficient: float, learning_rate: float) -> StepResult:
        """Make one step on a batch."""
        self._parameters, self._rest, self._moments, result = _step(
            self._graph,
            self._optimizer,
            self._combine,
            self._parameters,
            self._rest,
            self._moments,
            images,
            labels,
            jnp.float32(coefficient),
            jnp.float32(learning_rate),
        )
        return StepResult(*(float(value) for value in result))

    def predict(self, images: Array) -> Array:
        """Return the main output's logits."""
        return np.asarray(_predict(self._graph, self._parameters, self._rest, images))

    def gradients(self, images: Array, labels: Labels, coefficient: float) -> dict[str, Array]:
        """Return the gradient of every weight of the main network by canonical name."""
        _, gradients, _ = _differentiate(
            self._graph, self._combine, self._parameters, self._rest, images, labels, jnp.float32(coefficient)
        )
        named = sbp_jax.export_weights(_main(nnx.merge(self._graph, gradients, self._rest)))
        return {name: array for name, array in named.items() if ".running_" not in name}


make_trainer = JaxTrainer


def devices() -> list[str]:
    """Return the devices that JAX sees."""
    return [str(device) for device in jax.devices()]


def neurons() -> str:
    """Return how a neuron is computed (:func:`sbp_jax.implementation_for`)."""
    return f"unrolled; over {UNROLL_UP_TO} steps scan"


def limit_threads() -> None:
    """Use one thread in this process; it takes effect before the first computation only."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()


@functools.cache
def _adamw(weight_decay: float) -> optax.GradientTransformation:
    # one object for each setting, so that jit knows it again; a step multiplies the update by its own rate
    return optax.adamw(1.0, weight_decay=weight_decay)


@functools.partial(jax.jit, static_argnames=("graph", "optimizer", "combine"))
def _step(
    graph: Any,
    optimizer: optax.GradientTransformation,
    combine: Literal["logits", "losses"],
    parameters: Any,
    rest: Any,
    moments: Any,
    images: Any,
    labels: Any,
    coefficient: Any,
    learning_rate: Any,
) -> tuple[Any, Any, Any, tuple[Any, Any, Any]]:
    loss, gradients, rest = _differentiate(graph, combine, parameters, rest, images, labels, coefficient)
    updates, moments = optimizer.update(gradients, moments, parameters)
    parameters = optax.apply_updates(parameters, jax.tree.map(lambda update: learning_rate * update, updates))
    # a network that holds the gradients in place of its weights has them by name
    holder = variables(_main(nnx.merge(graph, gradients, rest)))
    kernels = [variable[...].ravel() for variable in holder.values() if variable.ndim > 1]
    norms = (jnp.linalg.norm(kernel) for kernel in (kernels[0], kernels[-1]))
    return parameters, rest, moments, (loss, *norms)


@functools.partial(jax.jit, static_argnames=("graph", "combine"))
def _differentiate(
    graph: Any,
    combine: Literal["logits", "losses"],
    parameters: Any,
    rest: Any,
    images: Any,
    labels: Any,
    coefficient: Any,
) -> tuple[Any, Any, Any]:
    def loss(parameters: Any) -> tuple[Any, Any]:
        # copies, since a module may only change variables of the trace that it lives in
        model = nnx.merge(graph, parameters, rest, copy=True)
        model.train()
        output = model(images)
        if not isinstance(output, sbp_jax.ShortcutOutput):
            output = sbp_jax.ShortcutOutput(output, ())
        value = sbp_jax.ShortcutLoss(combine)(output, labels, coefficient)
        return value, nnx.state(model, nnx.Not(nnx.Param))

    (value, moved), gradients = jax.value_and_grad(loss, has_aux=True)(parameters)
    return value, gradients, moved


@functools.partial(jax.jit, static_argnames="graph")
def _predict(graph: Any, parameters: Any, rest: Any, images: Any) -> Any:
    net = _main(nnx.merge(graph, parameters, rest))
    net.eval()
    return net(images)


def _main(model: Any) -> Any:
    return model.main if isinstance(model, sbp_jax.Shortcut) else model
