"""What a network's neurons and gradients do on a few batches: where in JAX the figures are taken."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from sbp_core import signal
from sbp_core.composition import ShortcutOutput
from sbp_core.signal import Diagnosis, Met, Pass, Watch
from sbp_jax import weights
from sbp_jax.losses import ShortcutLoss
from sbp_jax.networks import Network
from sbp_jax.neurons import LIF
from sbp_jax.shortcut import Shortcut
from sbp_jax.taps import children, walk

Loss = Callable[[Any, jax.Array], jax.Array]


class Nudge(nnx.Variable[Any]):
    """What is added to a neuron's input: nothing, and the gradient of it is that of the input."""


class Seen(nnx.Variable[Any]):
    """What went into a neuron."""


def diagnose(
    model: nnx.Module,
    batches: Iterable[tuple[Any, Any]],
    *,
    loss: Loss | None = None,
    coefficient: float = 1.0,
    **options: Unpack[signal.Options],
) -> Diagnosis:
    """Say why a network does not learn, from a few batches forward and backward.

    A copy of the model runs, in training but without dropout: nothing is left behind on the model itself.

    Args:
        model: a network, a :class:`Shortcut` of one, or any nnx module with :class:`LIF` neurons, each called once in
            a pass.
        batches: pairs of images and labels, two or more, as the model takes them; four of 64 tell much.
        loss: of what the model gives and the labels; cross-entropy, of the mean over time where logits have time in
            front, and with a :class:`Shortcut` its composed loss, unless given.
        coefficient: weight of a :class:`Shortcut`'s branches.
        **options: ``noise``, ``seed`` and ``slopes`` of :func:`sbp_core.signal.diagnose`.

    Returns:
        The figures; ``print`` them, or see ``.findings``.

    Raises:
        ValueError: fewer than two batches, no neurons, or one that is called more than once.
        TypeError: not a module.

    Example:
        >>> from sbp_jax import network
        >>> net = network("mlp", size=(4, 4), hidden=(8,), time_steps=2, rngs=nnx.Rngs(0))
        >>> images = jax.random.normal(jax.random.key(0), (2, 4, 4, 4, net.spec.in_channels))
        >>> found = diagnose(net, [(batch, jnp.arange(4)) for batch in images])
        >>> [neuron.path for neuron in found.neurons]
        ['hidden1.neuron']
    """
    return Diagnoser(loss=loss, **options)(model, batches, coefficient)


def watch(
    batches: Iterable[tuple[Any, Any]],
    *,
    loss: Loss | None = None,
    noise: float = 0.1,
    seed: int = 0,
    **options: Unpack[signal.WatchOptions],
) -> Watch:
    """Return what takes the figures of :func:`diagnose` while a model trains, and says once what goes wrong.

    The training is not touched: a run with it gives the same weights, bit for bit. One program is compiled, at the
    first look.

    Args:
        batches: always the same ones, so that looks can be compared; four quarters of a training batch are enough.
        loss: as in :func:`diagnose`.
        noise: as in :func:`diagnose`.
        seed: as in :func:`diagnose`.
        **options: ``every``, ``folder`` and ``tell`` of :class:`sbp_core.signal.Watch`.

    Returns:
        Call its ``step(model)`` after each optimizer step, or ``step(model, coefficient)`` of a :class:`Shortcut`; it
        gives the look, or None between two.

    Raises:
        ValueError: ``every`` is less than 1; at the first step what :func:`diagnose` raises.

    Example:
        >>> from sbp_jax import network
        >>> net = network("mlp", size=(4, 4), hidden=(8,), time_steps=2, rngs=nnx.Rngs(0))
        >>> images = jax.random.normal(jax.random.key(0), (2, 4, 4, 4, net.spec.in_channels))
        >>> look = watch([(batch, jnp.arange(4)) for batch in images]).step(net)
        >>> look.step, look.found.neurons[0].path
        (1, 'hidden1.neuron')
    """
    pairs, diagnoser = list(batches), Diagnoser(loss=loss, noise=noise, seed=seed)
    return Watch(lambda model, coefficient=1.0: diagnoser(model, pairs, coefficient), **options)


class Diagnoser:
    """:func:`diagnose` of one model again and again while its values move, compiled once.

    Args:
        loss: as in :func:`diagnose`.
        **options: as in :func:`diagnose`.
    """

    def __init__(self, *, loss: Loss | None = None, **options: Unpack[signal.Options]) -> None:
        self._loss, self._options = loss, options
        self._observer: _Observer | None = None

    def __call__(self, model: nnx.Module, batches: Iterable[tuple[Any, Any]], coefficient: float = 1.0) -> Diagnosis:
        """Return the figures; a model that is built otherwise than the last is compiled anew."""
        if self._observer is None or not self._observer.follows(model):
            self._observer = _Observer(model, self._loss)
        self._observer.coefficient = coefficient
        pairs = [(np.asarray(images), np.asarray(labels)) for images, labels in batches]
        return signal.diagnose(self._observer, pairs, channels_last=True, **self._options)


class _Observer:
    """Runs a copy of the model forward and backward.

    Attributes:
        coefficient: weight of a Shortcut's branches.
    """

    def __init__(self, model: nnx.Module, loss: Loss | None) -> None:
        if not isinstance(model, nnx.Module):
            raise TypeError(f"model must be an nnx module, got {model!r:.100} of type {type(model).__name__}")
        self.coefficient = 1.0
        self._loss = loss
        self._order = _order(model)
        # a copy has its attributes in another order
        self._names = tuple(_parameters(model))
        self._graph, self._state = _twin(model)
        self._seen: dict[tuple[Any, ...], Any] = {}
        self._ran: list[str] = []
        # compiled once for all batches of a shape
        self._differentiate = jax.jit(jax.value_and_grad(self._run, argnums=(0, 1), has_aux=True))
        self._forward = jax.jit(self._run)

    def follows(self, model: nnx.Module) -> bool:
        """Take over a model's values; whether it is built like the one before."""
        graph, state = _twin(model)
        if graph != self._graph:
            return False
        self._state = state
        return True

    def __call__(self, images: NDArray[Any], labels: NDArray[np.integer]) -> Pass:
        """See :class:`sbp_core.signal.Observe`."""
        x, y = jnp.asarray(images), jnp.asarray(labels)
        values = self._values()
        rest = self._state, x, y, jnp.float32(self.coefficient)
        if x.shape not in self._seen:
            self._seen[x.shape] = jax.eval_shape(self._run, values, {}, *rest)[1]
        nudges = {name: jnp.zeros(found.shape, found.dtype) for name, found in self._seen[x.shape].items()}
        (loss, seen), (gradients, of_inputs) = self._differentiate(values, nudges, *rest)
        neurons = _neurons(nnx.merge(self._graph, self._state, copy=True))
        met = []
        for name in sorted(seen, key=(self._order or self._ran).index):
            neuron = neurons[name]
            decay = neuron.decay_logit[...] if neuron.spec.learn_decay else None
            first = neuron.initial_potential[...] if neuron.spec.learn_initial else None
            first = neuron.running_potential[...] if neuron.spec.initial_follows else first
            spec = signal.learnt(neuron.spec, decay, first)
            met.append(Met(name, spec, _array(seen[name]), _array(of_inputs[name])))
        # jax gives a dictionary in the order of its keys
        return Pass.of(met, {name: _array(gradients[name]) for name in self._names}, float(loss))

    def weight(self, name: str) -> NDArray[Any]:
        """See :class:`sbp_core.signal.ObserveMoved`."""
        return _array(self._values()[name])

    def moved(self, images: NDArray[Any], labels: NDArray[np.integer], name: str, move: NDArray[Any]) -> float:
        """See :class:`sbp_core.signal.ObserveMoved`."""
        values = self._values()
        values[name] = values[name] + jnp.asarray(move, values[name].dtype)
        coefficient = jnp.float32(self.coefficient)
        loss, _ = self._forward(values, {}, self._state, jnp.asarray(images), jnp.asarray(labels), coefficient)
        return float(loss)

    def _values(self) -> dict[str, jax.Array]:
        held = _parameters(nnx.merge(self._graph, self._state, copy=True))
        return {name: held[name][...] for name in self._names}

    def _run(
        self,
        values: dict[str, jax.Array],
        nudges: dict[str, jax.Array],
        state: Any,
        images: jax.Array,
        labels: jax.Array,
        coefficient: jax.Array,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        net = nnx.merge(self._graph, state, copy=True)
        for name, variable in _parameters(net).items():
            variable.set_value(values[name])
        for name, neuron in _neurons(net).items():
            if name in nudges:
                neuron.nudge = Nudge(nudges[name])
        self._ran.clear()
        keywords: dict[str, Any] = {}
        if isinstance(net, Shortcut) and net.spec.combine == "logits":
            keywords["coefficient"] = coefficient
        given = net(images, **keywords)
        ran = {name: neuron for name, neuron in _neurons(net).items() if hasattr(neuron, "seen")}
        self._ran.extend(sorted(ran, key=lambda name: ran[name].place))
        return self._loss_of(given, labels, coefficient), {name: neuron.seen[...] for name, neuron in ran.items()}

    def _loss_of(self, given: Any, labels: jax.Array, coefficient: jax.Array) -> jax.Array:
        if self._loss is not None:
            return self._loss(given, labels)
        if isinstance(given, ShortcutOutput):
            return ShortcutLoss("losses")(given, labels, coefficient)
        logits = given.mean(0) if given.ndim == 3 else given
        return ShortcutLoss("logits")(ShortcutOutput(logits, ()), labels, coefficient)


def _twin(model: nnx.Module) -> tuple[Any, Any]:
    """Return a copy of the model, in training but without dropout, with neurons that keep what goes into them."""
    twin: Any = nnx.clone(model)
    twin.train()
    for name, neuron in _neurons(twin).items():
        kind: Any = type(neuron)
        object.__setattr__(neuron, "__class__", _watched(kind, name))
    for _, _, module in walk(twin):
        if isinstance(module, nnx.Dropout):
            module.deterministic = True
    graph, state = nnx.split(twin)
    return graph, state


@functools.cache
def _watched(kind: type[LIF], name: str) -> type[LIF]:
    """Return the subclass whose instances keep what goes into them."""

    def watched(self: Any, x: jax.Array, *inputs: Any, **keywords: Any) -> Any:
        if hasattr(self, "seen"):
            raise ValueError(f"neuron {name!r} is called more than once in a pass, and diagnose takes it at its word")
        if hasattr(self, "nudge"):
            x = x + self.nudge[...]
        self.seen = Seen(x)
        self.place = next(_COUNT)
        return kind.__call__(self, x, *inputs, **keywords)

    return type(kind.__name__, (kind,), {"__call__": watched, "__module__": kind.__module__})


def _count() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


#: The order in which neurons run.
_COUNT = _count()


def _neurons(net: nnx.Module) -> dict[str, Any]:
    return {".".join(name): module for name, _, module in walk(net) if isinstance(module, LIF)}


def _parameters(net: nnx.Module) -> dict[str, nnx.Variable[Any]]:
    """Return the parameters, from the input to the output; of a network of ours by their canonical names."""
    if isinstance(net, Network) or (isinstance(net, Shortcut) and isinstance(net.main, Network)):
        found = weights.variables(net)
        return {name: variable for name, variable in found.items() if isinstance(variable, nnx.Param)}
    named: dict[str, nnx.Variable[Any]] = {}
    for name, _, module in walk(net):
        for key, child in children(module).items():
            if isinstance(child, nnx.Param) and not any(child is other for other in named.values()):
                named[".".join((*name, str(key)))] = child
    return named


def _order(model: nnx.Module) -> list[str]:
    """Return the neurons of a spec in the order that it states, the same in every framework."""
    net, prefix = (model.main, "main.") if isinstance(model, Shortcut) else (model, "")
    if not isinstance(net, Network):
        return []
    return [prefix + path for path, _ in net.spec.neurons()]


def _array(value: Any) -> NDArray[Any]:
    return np.asarray(value, np.float32) if value.dtype == jnp.bfloat16 else np.asarray(value)
