"""What a model's neurons and gradients do on a few batches: where in Keras the figures are taken, on each backend."""

# mypy: allow-subclassing-any
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Unpack

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from sbp_core import signal
from sbp_core.composition import ShortcutOutput
from sbp_core.signal import Diagnosis, Look, Met, Pass, Watch
from sbp_keras import native, private
from sbp_keras.losses import ShortcutLoss
from sbp_keras.networks import Network, layer_names
from sbp_keras.neurons import LIF
from sbp_keras.shortcut import ShortcutModel
from sbp_keras.weights import variables

Loss = Callable[[Any, Any], Any]
Meet = Callable[[str, Any], Any]
_Both = Callable[[Any, Any, Any, Any, Any], tuple[Any, Any, Any, Any]]


def diagnose(
    model: keras.Model,
    batches: Iterable[tuple[Any, Any]],
    *,
    loss: Loss | None = None,
    **options: Unpack[signal.Options],
) -> Diagnosis:
    """Say why a model does not learn, from a few batches forward and backward.

    It runs in training but without dropout, and its weights and running statistics are left as they were.

    Args:
        model: a network, a :class:`ShortcutModel` of one, or any built model with :class:`LIF` layers, each called
            once in a pass.
        batches: pairs of images and labels, two or more, as the model takes them; four of 64 tell much.
        loss: of what the model gives and the labels; cross-entropy, of the mean over time where logits are those of
            each step, and with a :class:`ShortcutModel` its composed loss, unless given.
        **options: ``noise``, ``seed`` and ``slopes`` of :func:`sbp_core.signal.diagnose`.

    Returns:
        The figures; ``print`` them, or see ``.findings``.

    Raises:
        ValueError: fewer than two batches, no neurons, or one that is called more than once.
        TypeError: not a Keras model.

    Example:
        >>> import numpy as np
        >>> from sbp_keras import network
        >>> net = network("mlp", (4, 4, 1), size=(4, 4), hidden=(8,), time_steps=2)
        >>> images = np.random.default_rng(1).normal(size=(2, 4, 4, 4, 1)).astype("float32")
        >>> found = diagnose(net, [(batch, np.arange(4)) for batch in images])
        >>> [neuron.path for neuron in found.neurons]
        ['hidden1.neuron']
    """
    return _figures(_Observer(model, loss), batches, **options)


class Diagnoser:
    """:func:`diagnose` of one model again and again while its values move, traced once.

    On TensorFlow and JAX the first call makes a program of the pass, which later ones run; on PyTorch there is none. It
    is made anew for another model or schedule, for variables that are frozen or freed, and for other shapes of batches.

    Args:
        loss: as in :func:`diagnose`.
        **options: as in :func:`diagnose`.

    Example:
        >>> import numpy as np
        >>> from sbp_keras import network
        >>> net = network("mlp", (4, 4, 1), size=(4, 4), hidden=(8,), time_steps=2)
        >>> images = np.random.default_rng(1).normal(size=(2, 4, 4, 4, 1)).astype("float32")
        >>> batches, diagnoser = [(batch, np.arange(4)) for batch in images], Diagnoser()
        >>> [len(diagnoser(net, batches).weights) for _ in range(2)]
        [2, 2]
    """

    def __init__(self, *, loss: Loss | None = None, **options: Unpack[signal.Options]) -> None:
        self._loss, self._options = loss, options
        self._observer: _Observer | None = None

    def __call__(self, model: keras.Model, batches: Iterable[tuple[Any, Any]]) -> Diagnosis:
        """Return the figures."""
        if self._observer is None or not self._observer.follows(model):
            self._observer = _Observer(model, self._loss, native.traced)
        return _figures(self._observer, batches, **self._options)


def _figures(observer: _Observer, batches: Iterable[tuple[Any, Any]], **options: Unpack[signal.Options]) -> Diagnosis:
    pairs = [(ops.convert_to_numpy(images), ops.convert_to_numpy(labels)) for images, labels in batches]
    return signal.diagnose(observer, pairs, channels_last=True, **options)


class WatchCallback(keras.callbacks.Callback):
    """Takes the figures of :func:`diagnose` while ``fit`` trains, and says once what goes wrong.

    The training is not touched: a run with it gives the same weights, bit for bit. A ``fit`` that goes on from a later
    epoch goes on with what was said, as ``folder`` tells it.

    Args:
        batches: always the same ones, so that looks can be compared; four quarters of a training batch are enough.
        loss: as in :func:`diagnose`.
        noise: as in :func:`diagnose`.
        seed: as in :func:`diagnose`.
        **options: ``every``, ``folder`` and ``tell`` of :class:`sbp_core.signal.Watch`.

    Attributes:
        batches: those that are looked at.
        looks: those of this ``fit``.

    Raises:
        ValueError: ``every`` is less than 1; after the first step what :func:`diagnose` raises.

    Example:
        >>> import numpy as np
        >>> callback = WatchCallback([(np.zeros((4, 4, 4, 1)), np.arange(4))] * 2, every=100)
    """

    def __init__(
        self,
        batches: Iterable[tuple[Any, Any]],
        *,
        loss: Loss | None = None,
        noise: float = 0.1,
        seed: int = 0,
        **options: Unpack[signal.WatchOptions],
    ) -> None:
        super().__init__()
        self.batches = list(batches)
        self.looks: list[Look] = []
        self._first = self._taken = 0
        diagnoser = Diagnoser(loss=loss, noise=noise, seed=seed)
        # self.model, which on JAX puts fit's state back into the variables
        self._watch = Watch(lambda: diagnoser(self.model, self.batches), **options)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Begin a list of looks."""
        self.looks = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Find the epoch's first step."""
        steps = (self.params or {}).get("steps")
        self._first = self._taken if steps is None else epoch * steps

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Look, if it is time."""
        self._taken = self._first + batch + 1
        look = self._watch.at(self._taken)
        if look is not None:
            self.looks.append(look)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the files."""
        self._watch.close()


class _Observer:
    """Runs the model forward and backward as a function of its weights.

    Args:
        model: the model.
        loss: of what it gives, None for its own.
        program: gives a function that computes what its argument does.
    """

    def __init__(
        self, model: keras.Model, loss: Loss | None, program: Callable[[_Both], _Both] = lambda function: function
    ) -> None:
        if not isinstance(model, keras.Model):
            raise TypeError(f"model must be a Keras model, got {model!r:.100} of type {type(model).__name__}")
        self._model, self._loss = model, loss
        self._vjp = native.engine().vjp
        self._paths = neuron_paths(model)
        trained = {id(variable) for variable in model.trainable_variables}
        self._trained = {name: v for name, v in _named(model).items() if id(v) in trained}
        held = {id(variable) for variable in self._trained.values()}
        self._moving = [variable for variable in model.variables if id(variable) not in held]
        self._fixed = _fixed(model)
        # of each shape of images: layers of neurons in the order in which they ran, and nothing to add to their inputs
        self._nudges: dict[tuple[int, ...], dict[str, Any]] = {}
        self._both = program(self._differentiated)

    def follows(self, model: keras.Model) -> bool:
        """Whether it is the same model, and what it computes has not changed but for its values."""
        return model is self._model and _fixed(model) == self._fixed

    def __call__(self, images: NDArray[Any], labels: NDArray[np.integer]) -> Pass:
        """See :class:`sbp_core.signal.Observe`."""
        x, y = ops.convert_to_tensor(images), ops.convert_to_tensor(labels.astype(np.int32))
        values, moving = ([ops.copy(v.value) for v in held] for held in (self._trained.values(), self._moving))
        if images.shape not in self._nudges:
            _, seen = self._run(x, y, values, moving, {})
            self._nudges[images.shape] = {name: ops.zeros_like(value) for name, value in seen.items()}
        nudges = self._nudges[images.shape]
        loss, given, of_weights, of_inputs = self._both(x, y, values, moving, list(nudges.values()))
        layers = {self._paths[id(layer)]: layer for layer in _neurons(self._model)}
        met = {}
        for name, *arrays in zip(nudges, given, of_inputs, strict=True):
            # time leads there
            into, gradient = (np.swapaxes(_array(each), 0, 1) for each in arrays)
            layer = layers[name]
            first = layer.initial_potential if layer.running_potential is None else layer.running_potential
            learns = (None if each is None else _array(each) for each in (layer.decay_logit, first))
            met[name] = Met(name, signal.learnt(layer.spec, *learns), into, gradient)
        order = self._paths.values() if _spec_of(self._model) is not None else nudges
        gradients = dict(zip(self._trained, map(_array, of_weights), strict=True))
        return Pass.of([met[name] for name in order if name in met], gradients, float(ops.convert_to_numpy(loss)))

    def weight(self, name: str) -> NDArray[Any]:
        """See :class:`sbp_core.signal.ObserveMoved`."""
        return _array(self._trained[name].value)

    def moved(self, images: NDArray[Any], labels: NDArray[np.integer], name: str, move: NDArray[Any]) -> float:
        """See :class:`sbp_core.signal.ObserveMoved`."""
        x, y = ops.convert_to_tensor(images), ops.convert_to_tensor(labels.astype(np.int32))
        values = [
            v.value + ops.convert_to_tensor(move, v.dtype) if key == name else ops.copy(v.value)
            for key, v in self._trained.items()
        ]
        moving = [ops.copy(v.value) for v in self._moving]
        return float(ops.convert_to_numpy(self._run(x, y, values, moving, {})[0]))

    def _differentiated(self, x: Any, y: Any, values: Any, moving: Any, nudges: Any) -> tuple[Any, Any, Any, Any]:
        """Return the loss, what went into each layer of neurons, and the gradients of weights and of that."""
        names, count = list(self._nudges[tuple(x.shape)]), len(values)

        def run(*given: Any) -> list[Any]:
            loss, seen = self._run(x, y, given[:count], moving, dict(zip(names, given[count:], strict=True)))
            return [loss, *(seen[name] for name in names)]

        # of the loss alone
        cotangents = [ops.ones((), x.dtype), *map(ops.zeros_like, nudges)]
        (loss, *seen), gradients = self._vjp(run, [*values, *nudges], cotangents, "eager")
        return loss, seen, list(gradients[:count]), list(gradients[count:])

    def _run(
        self, images: Any, labels: Any, values: Any, moving: Any, nudges: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Return the loss, and what went into each layer of neurons, by path in the order in which they ran."""
        # what moves in training moves in the scope alone
        scope = [*zip(self._trained.values(), values, strict=True), *zip(self._moving, moving, strict=True)]
        seen: dict[str, Any] = {}

        def meet(path: str, inputs: Any) -> Any:
            seen[path] = inputs + nudges[path] if path in nudges else inputs
            return seen[path]

        with watched(self._model, self._paths, meet), keras.StatelessScope(scope):
            loss = self._loss_of(self._model(images, training=True), labels)
        return loss, seen

    def _loss_of(self, given: Any, labels: Any) -> Any:
        if self._loss is not None:
            return self._loss(given, labels)
        if isinstance(given, ShortcutOutput):
            return ShortcutLoss("losses")(given, labels, ops.convert_to_tensor(self._model.coefficient))
        logits = ops.mean(given, 1) if len(given.shape) == 3 else given
        return ShortcutLoss("logits")(ShortcutOutput(logits, ()), labels, 0.0)


@contextlib.contextmanager
def watched(model: keras.Model, paths: dict[int, str], meet: Meet) -> Iterator[None]:
    """Let neurons take ``meet(path, inputs)`` for their inputs while this holds; dropout passes everything."""
    seen: set[str] = set()

    def watching(layer: Any, call: Any) -> Any:
        path = paths[id(layer)]

        def met(inputs: Any, *arguments: Any, **options: Any) -> Any:
            if path in seen:
                raise ValueError(f"neuron {path!r} is called more than once in a pass, which diagnose cannot follow")
            seen.add(path)
            return call(meet(path, inputs), *arguments, **options)

        return met

    changed = []
    try:
        for layer in private.layers_of(model):
            if isinstance(layer, LIF):
                private.replace_call(layer, watching(layer, layer.call))
            elif isinstance(layer, keras.layers.Dropout):
                private.replace_call(layer, lambda inputs, training=False: inputs)
            else:
                continue
            changed.append(layer)
        yield
    finally:
        for layer in changed:
            private.restore_call(layer)


def _neurons(model: keras.Model) -> list[Any]:
    return [layer for layer in private.layers_of(model) if isinstance(layer, LIF)]


def _spec_of(model: keras.Model) -> Any:
    net = model.main if isinstance(model, ShortcutModel) else model
    return net.spec if isinstance(net, Network) else None


def neuron_paths(model: keras.Model) -> dict[int, str]:
    """Return the name of each layer of neurons: of a spec, its path, in the order that it states."""
    layers = {layer.name: layer for layer in _neurons(model)}
    spec = _spec_of(model)
    if spec is None:
        return {id(layer): name for name, layer in layers.items()}
    names, prefix = layer_names(spec), "main." if isinstance(model, ShortcutModel) else ""
    return {id(layers[names[path]]): prefix + path for path, _ in spec.neurons()}


def _fixed(model: keras.Model) -> Any:
    """Return what a trace of the model holds beside its values."""
    schedule = model.schedule if isinstance(model, ShortcutModel) else None
    return [(id(variable), variable.trainable) for variable in model.variables], schedule


def _named(model: keras.Model) -> dict[str, Any]:
    if _spec_of(model) is not None:
        return variables(model)
    return {variable.path.removesuffix("/kernel"): variable for variable in model.variables}


def _array(value: Any) -> NDArray[Any]:
    narrow = keras.backend.standardize_dtype(value.dtype) == "bfloat16"
    return np.asarray(ops.convert_to_numpy(ops.cast(value, "float32") if narrow else value))
