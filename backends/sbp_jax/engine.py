"""JAX under the contract: as it is called without jax.jit, under it, and under jax.vmap of the gradient within it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from sbp_core.backend import Array, Mode, MomentumSGD, ShortcutNetwork
from sbp_core.composition import ShortcutOutput
from sbp_core.specs.losses import LossSpec
from sbp_core.specs.neurons import LIFSpec, LIFState
from sbp_core.specs.schedules import Schedule
from sbp_core.specs.surrogates import Surrogate
from sbp_core.taps import TapLayout
from sbp_jax.losses import ShortcutLoss
from sbp_jax.networks import Network
from sbp_jax.neuron import lif
from sbp_jax.shortcut import Shortcut
from sbp_jax.spike import spike
from sbp_jax.weights import export_weights, import_weights

# Operations on so many elements at most run one by one in loops too: they share what is compiled of them, while a loop
# is compiled anew for each neuron, which costs more than a short loop's operations and less than a long one's.
_FEW = 256


class JaxEngine:
    """Arrays and ``jax.vjp``.

    "eager" is what a user gets who calls no ``jax.jit``: operation by operation, but for loops, which :func:`lif`
    compiles. On small arrays nothing at all is compiled as a whole (``jax.disable_jit``).
    """

    name: str = "jax"
    versions: Mapping[str, str] = {"jax": jax.__version__, "flax": flax.__version__, "optax": optax.__version__}
    modes: Sequence[Mode] = ("eager", "compiled", "vmapped")
    dtypes: Sequence[str] = ("float64", "float32", "bfloat16", "float16")
    layout = TapLayout(channels="last")

    def precision(self, dtype: str) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which JAX keeps 64 bits where ``dtype`` has them; then the user's setting is back."""
        context: contextlib.AbstractContextManager[Any] = jax.enable_x64(dtype == "float64")
        return context

    def array(self, values: Array, dtype: str | None) -> jax.Array:
        """Return an array, of int32 where there is no dtype."""
        return jnp.asarray(values, dtype or "int32")

    def numpy(self, array: jax.Array) -> Array:
        """Return an array's values."""
        return np.asarray(array)

    def vjp(
        self, function: Callable[..., Sequence[Any]], inputs: Sequence[Any], cotangents: Sequence[Any], mode: Mode
    ) -> tuple[Sequence[Any], Sequence[Any]]:
        """Run, and pull back; mapped over the samples where they are."""

        def both(inputs: list[jax.Array], cotangents: list[jax.Array]) -> tuple[Any, Any]:
            outputs, pull = jax.vjp(lambda *arrays: list(function(*arrays)), *inputs)
            return outputs, pull(cotangents)

        run = self.run(jax.vmap(both) if mode == "vmapped" else both, mode)
        few = sum(array.size for array in inputs) <= _FEW
        with jax.disable_jit() if mode == "eager" and few else contextlib.nullcontext():
            found: tuple[Any, Any] = run(list(inputs), list(cotangents))
        return found

    def run(self, function: Callable[..., Any], mode: Mode) -> Callable[..., Any]:
        """Return the function, or what compiles it."""
        return function if mode == "eager" else jax.jit(function)

    def spike(self, x: jax.Array, surrogate: Surrogate, *, inclusive: bool) -> jax.Array:
        """Fire."""
        return spike(x, surrogate, inclusive=inclusive)

    def neuron(self, spec: LIFSpec, dtype: str) -> Callable[..., tuple[jax.Array, LIFState]]:
        """Return the neuron over time."""

        def run(x: jax.Array, state: LIFState | None, decay_logit: jax.Array | None) -> tuple[jax.Array, LIFState]:
            decay = None if decay_logit is None else jax.nn.sigmoid(decay_logit)
            output, final = lif(x, spec, state, decay=decay)
            return output, final

        return run

    def loss(self, spec: LossSpec, output: ShortcutOutput, labels: jax.Array, coefficient: jax.Array) -> jax.Array:
        """Compose the loss."""
        return ShortcutLoss(spec)(output, labels, coefficient)

    def network(
        self, network: ShortcutNetwork, weights: Mapping[str, Array], images: jax.Array, dtype: str, mode: Mode
    ) -> _Network:
        """Build the network in a Shortcut."""

        def build() -> Shortcut[Network]:
            net = Network(network.spec, param_dtype=dtype, rngs=nnx.Rngs(0))
            options: dict[str, Any] = {"combine": network.loss.combine, "param_dtype": dtype, "rngs": nnx.Rngs(0)}
            return Shortcut(net, network.taps, network.spec.num_classes, branch=network.branch, **options)

        # shapes alone: no initial weights are drawn
        model: Shortcut[Network] = nnx.eval_shape(build)
        import_weights(model, weights)
        nnx.reseed(model, default=0)  # dropout's keys
        return _Network(model, network, lambda function: self.run(function, mode))


class _Network:
    """A Shortcut and its loss, as a graph and its states: :class:`sbp_core.backend.BuiltNetwork`."""

    def __init__(
        self,
        model: Shortcut[Network],
        network: ShortcutNetwork,
        run: Callable[[Callable[..., Any]], Callable[..., Any]],
    ) -> None:
        criterion = ShortcutLoss(network.loss)
        self._taps, self._run = tuple(network.spec.tap_channels), run
        split: Any = nnx.split(model, nnx.Param, ...)
        self._graph: Any = split[0]
        self._parameters: Any = split[1]
        self._rest: Any = split[2]
        self._gradients: Any = None

        def forward(parameters: Any, rest: Any, images: Any, labels: Any, coefficient: Any) -> Any:
            model = nnx.merge(self._graph, parameters, rest, copy=True)
            given = model(images, coefficient=coefficient, time_axis=_time_axis(images))
            output = given if isinstance(given, ShortcutOutput) else ShortcutOutput(given, ())
            loss = criterion(output, labels, coefficient)
            return loss, ((output.main, *output.branches), nnx.state(model, nnx.Not(nnx.Param)))

        self._differentiated = jax.value_and_grad(forward, has_aux=True)

    def differentiate(
        self, images: jax.Array, labels: jax.Array, coefficient: float
    ) -> tuple[jax.Array, Sequence[jax.Array]]:
        arguments = (self._parameters, self._rest, images, labels, jnp.asarray(coefficient, images.dtype))
        (loss, (logits, self._rest)), self._gradients = self._run(self._differentiated)(*arguments)
        return loss, logits

    def evaluate(self, images: jax.Array) -> jax.Array:
        model = self._model
        model.eval()
        logits: jax.Array = model(images, time_axis=_time_axis(images))
        return logits

    def blocks(self, images: jax.Array) -> Mapping[str, jax.Array]:
        _, blocks = self._model.main(images, taps=self._taps, time_axis=_time_axis(images))
        return dict(blocks)

    def weights(self) -> Mapping[str, Array]:
        return export_weights(self._model)

    def gradients(self) -> Mapping[str, Array]:
        # a model that holds the gradients in place of its weights exports them by name
        return export_weights(nnx.merge(self._graph, self._gradients, self._rest))

    def trainer(
        self, schedule: Schedule, optimizer: MomentumSGD
    ) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, Sequence[jax.Array]]]:
        sgd = optax.sgd(optimizer.learning_rate, optimizer.momentum)
        moments, number = sgd.init(self._parameters), 0

        def advance(number: Any, parameters: Any, rest: Any, moments: Any, images: Any, labels: Any) -> Any:
            (loss, (logits, rest)), gradients = self._differentiated(parameters, rest, images, labels, schedule(number))
            updates, moments = sgd.update(gradients, moments, parameters)
            return loss, logits, optax.apply_updates(parameters, updates), rest, moments

        run = self._run(advance)

        def train(images: jax.Array, labels: jax.Array) -> tuple[jax.Array, Sequence[jax.Array]]:
            nonlocal moments, number
            number += 1
            loss, logits, self._parameters, self._rest, moments = run(
                jnp.asarray(number), self._parameters, self._rest, moments, images, labels
            )
            return loss, logits

        return train

    @property
    def _model(self) -> Any:
        return nnx.merge(self._graph, self._parameters, self._rest)


def _time_axis(images: jax.Array) -> Literal[0] | None:
    return 0 if images.ndim == 5 else None


def make_engine() -> JaxEngine:
    """Return the engine."""
    return JaxEngine()
