"""Finds the blocks of a functional model that a shortcut taps, and runs the model so that it gives them too.

A tap is the name of a layer; inside models used as layers it is a path, ``"encoder/block3"``. Of a layer with several
outputs it names one by its position, ``"lstm:0"``.
"""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras

from sbp_core.specs.shortcut import ShortcutSpec
from sbp_core.taps import TimeAxis, resolve_time_axis
from sbp_keras import private
from sbp_keras.neurons import LIF
from sbp_keras.readout import Readout
from sbp_keras.steps import RepeatTime, TimeMean

#: A layer's calls in a graph, by position among its calls.
_Calls = dict[int, private.Call]

#: Where time may be in a tapped output: Keras has the batch first.
TIME_AXES: tuple[TimeAxis, ...] = (1, None, "merged")


class TapModel:
    """A net that gives its tapped blocks' outputs along with its own; it shares the net's layers and changes none.

    Attributes:
        tensors: the symbolic output of each tapped block, by tap.
        head: the layer that makes logits of what the graph gives, where every step's are wanted.
        dtype_policy: the first tapped layer's; None where it has none.

    Args:
        net: a functional model, or a Sequential one that knows its input shape, with one output.
        spec: the taps.
        per_step: give logits of every time step, ``(batch, time, classes)``, as they are before their mean is taken.

    Raises:
        TypeError: ``net`` is no Keras model, or one that cannot be tapped.
        ValueError: a tap that does not exist, is called more than once, or does not give one tensor; or a net that
            does not end in the mean over time, and ``per_step``.
    """

    def __init__(self, net: Any, spec: ShortcutSpec, *, per_step: bool = False) -> None:
        _check_net(net)
        _check_taps(net, spec)
        self.head: Any = None
        output = net.outputs[0]
        if per_step:
            output, self.head = _before_the_mean(net)
        self._graph = _Graph(net, {tap: tap for tap in spec.taps}, output)
        self.tensors: dict[str, Any] = {tap: self._graph.tapped[tap] for tap in spec.taps}
        call = private.call_of(self.tensors[spec.taps[0]])
        self.dtype_policy: Any = getattr(None if call is None else call.operation, "dtype_policy", None)

    def __call__(self, inputs: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Return the main logits and the tapped outputs, as in training; ``options`` may hold a ``mask``."""
        outputs = self._graph(inputs, training=True, **options)
        main = outputs["output"]
        if self.head is not None:
            steps, main = main, self.head(main, per_step=True)
            private.set_mask(main, private.mask_of(steps))
        return main, outputs["taps"]


class _Graph(private.Substituting):
    """A functional model over another one's layers that gives its taps, of nested models too, and an output.

    A nested model's layers are not in the outer graph, and calling them anew there would leave a mark on them; so
    the graph runs a :class:`_Graph` in place of a nested model that holds a tap.
    """

    def __init__(self, model: keras.Model, taps: Mapping[str, str], output: Any) -> None:
        calls = _calls(model)
        direct: dict[str, Any] = {}
        within: dict[str, dict[str, str]] = {}
        for tap, path in taps.items():
            name, _, rest = path.partition("/")
            if rest:
                _called_once(tap, name, calls[name])
                within.setdefault(name, {})[tap] = rest
            else:
                direct[tap] = _tensor(tap, name, calls)
        layers = {layer.name: layer for layer in model.layers}
        nested = {name: _Graph(layers[name], inner, layers[name].output) for name, inner in within.items()}
        super().__init__(inputs=_inputs(model), outputs={"taps": direct, "output": output})
        self.tapped: Mapping[str, Any] = _Hidden(
            direct | {tap: tensor for graph in nested.values() for tap, tensor in graph.tapped.items()}
        )
        self._nested = _Hidden({id(layers[name]): graph for name, graph in nested.items()})

    def substituted(self, run: Callable[[Callable[[Any], Any]], Any]) -> Any:
        """Return the outputs, with the taps of nested models among them."""
        nested = getattr(self, "_nested", None)
        if not nested:
            return super().substituted(run)
        found: dict[str, Any] = {}

        def substitute(operation: Any) -> Any:
            graph = nested.get(id(operation))
            return operation if graph is None else _StandIn(graph, found)

        outputs = run(substitute)
        return outputs | {"taps": outputs["taps"] | found}


class _Hidden(Mapping[Any, Any]):
    """A mapping that Keras does not look into: what it holds belongs to the net, and must count once."""

    def __init__(self, items: Mapping[Any, Any]) -> None:
        self._items: Callable[[], Mapping[Any, Any]] = lambda: items

    def __getitem__(self, key: Any) -> Any:
        return self._items()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items())

    def __len__(self) -> int:
        return len(self._items())


class _StandIn:
    """Runs a nested model's graph in its place: gives what the model gives, and puts its taps into ``found``."""

    def __init__(self, graph: _Graph, found: dict[str, Any]) -> None:
        self._graph = graph
        self._found = found

    def __getattr__(self, name: str) -> Any:
        # what Keras asks an operation before it passes on `training`
        return getattr(self._graph, name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        outputs = self._graph(*arguments, **options)
        self._found.update(outputs["taps"])
        return outputs["output"]


def time_axis_of(net: keras.Model, tensors: Mapping[str, Any], given: Any) -> TimeAxis:
    """Return where time is in the tapped outputs: what the caller says, else what the neurons in it say.

    Args:
        net: the network.
        tensors: the symbolic output of each tapped block.
        given: the caller's argument; "stated" where it was left out.

    Raises:
        ValueError: neither says so, or a tapped output is not what the neurons say.
    """
    layers = list(private.layers_of(net))
    neurons = [layer for layer in layers if isinstance(layer, LIF)]
    said = [net.time_axis] if hasattr(net, "time_axis") else []
    said += [neuron.time_axis for neuron in neurons]
    place = resolve_time_axis(given, said, f"net {net.name!r}", allowed=TIME_AXES, channels="last")
    if given != "stated" or place != 1:
        return place
    steps = {inputs[0].shape[1] for neuron in neurons for inputs in private.inputs_of(neuron)}
    before = _before_time(layers)
    for tap, tensor in tensors.items():
        shape = tuple(tensor.shape)
        other = len(shape) > 2 and steps and None not in (*steps, shape[1]) and shape[1] not in steps
        if other or id(tensor) in before:
            why = "comes before the image is repeated over time"
            if id(tensor) not in before:
                why = f"has not their {' or '.join(map(str, sorted(steps)))} steps there"
            raise ValueError(
                f"time_axis must be given: the neurons of {net.name!r} have time in axis 1, and tap {tap!r}, of shape "
                f"{shape}, {why}. Pass time_axis=None if the taps have no time, or time_axis=1 if axis 1 is time all "
                "the same"
            )
    return place


def _check_net(net: Any) -> None:
    if not isinstance(net, keras.Model):
        raise TypeError(f"net must be a keras.Model, got {type(net).__name__}")
    if not _runs_by_its_graph(net):
        what = "has a call() of its own" if getattr(net, "outputs", None) else "is without a graph of layers"
        raise TypeError(
            f"net must be a functional model, and {net.name!r}, a {type(net).__name__}, {what}. "
            "Build it as keras.Model(inputs, outputs), with the blocks to tap as layers of that graph (a block may be "
            "a subclassed layer or model); a Sequential model needs a keras.Input in front"
        )
    if len(net.outputs) != 1:
        raise ValueError(
            f"net must have one output, the main logits; got {len(net.outputs)}: pass keras.Model(net.inputs, logits)"
        )


def _runs_by_its_graph(layer: Any) -> bool:
    """Whether ``layer`` is a functional model, and its class did not put a ``call`` in the place of Keras's."""
    if not getattr(layer, "outputs", None):
        return False
    owner = next(kind for kind in type(layer).__mro__ if "call" in vars(kind))
    return owner.__module__.partition(".")[0] == "keras"


def _before_time(layers: Iterable[Any]) -> set[int]:
    """Return the ids of the tensors that lead to a layer which repeats an image over time, and so have none."""
    found: set[int] = set()
    pending = [
        tensor
        for layer in layers
        if isinstance(layer, RepeatTime)
        for inputs in private.inputs_of(layer)
        for tensor in inputs
    ]
    while pending:
        tensor = pending.pop()
        if id(tensor) not in found:
            found.add(id(tensor))
            call = private.call_of(tensor)
            pending.extend([] if call is None else call.inputs)
    return found


def _check_taps(net: keras.Model, spec: ShortcutSpec) -> None:
    available = list(_names(net, ""))
    for tap in spec.taps:
        parent, slash, _ = tap.rpartition("/")
        while slash and parent not in available:
            parent, slash, _ = parent.rpartition("/")
        if slash and tap not in available and not any(name.startswith(f"{parent}/") for name in available):
            raise ValueError(
                f"tap {tap!r} cannot be reached: {parent!r} is not a functional model, so nothing inside it can be "
                f"tapped; tap {parent!r} itself, or build it as keras.Model(inputs, outputs)"
            )
    # of a layer with several outputs a tap may name one
    bare = [tap if tap in available else tap.partition(":")[0] for tap in spec.taps]
    spec.replace(taps=tuple(dict.fromkeys(bare))).check_taps(available)


def _names(model: keras.Model, prefix: str) -> Iterator[str]:
    calls = _calls(model)
    for layer in model.layers:
        if layer.name in calls and not isinstance(layer, keras.layers.InputLayer):
            yield prefix + layer.name
            if _runs_by_its_graph(layer):
                yield from _names(layer, f"{prefix}{layer.name}/")


def _tensor(tap: str, name: str, calls: Mapping[str, _Calls]) -> Any:
    bare, _, position = (name, "", "") if name in calls else name.rpartition(":")
    tensors = _called_once(tap, bare, calls[bare]).outputs
    if not position and len(tensors) == 1:
        return tensors[0]
    if not position.isdecimal() or int(position) >= len(tensors):
        each = ", ".join(repr(f"{tap.rpartition(':')[0] or tap}:{index}") for index in range(len(tensors)))
        raise ValueError(f"tap {tap!r} must give one tensor, and the layer gives {len(tensors)}: tap one of {each}")
    return tensors[int(position)]


def _called_once(tap: str, name: str, calls: _Calls) -> private.Call:
    if len(calls) != 1:
        raise ValueError(
            f"tap {tap!r}: {name!r} is called {len(calls)} times in the network, so it has no one output; "
            "put the loop inside a layer, or tap a layer that is called once"
        )
    (call,) = calls.values()
    return call


def _calls(model: keras.Model) -> dict[str, _Calls]:
    """Map each layer's name to its calls in the graph that leads to the model's outputs.

    ``layer.output`` would not do: for a model used as a layer it is a tensor of the inner graph.
    """
    found: dict[str, _Calls] = {}
    pending, seen = list(model.outputs), set()
    while pending:
        call = private.call_of(pending.pop())
        if call is None or (id(call.operation), call.place) in seen:
            continue
        seen.add((id(call.operation), call.place))
        found.setdefault(call.operation.name, {})[call.place] = call
        pending.extend(call.inputs)
    return found


def _before_the_mean(net: keras.Model) -> tuple[Any, Any]:
    """Return the tensor that the last layer takes, and that layer if it is to make logits of every step of it."""
    call = private.call_of(net.outputs[0])
    operation = None if call is None else call.operation
    if call is not None and isinstance(operation, Readout) and operation.time_axis is not None:
        return call.inputs[0], operation
    if call is not None and isinstance(operation, TimeMean | keras.layers.GlobalAveragePooling1D):
        return call.inputs[0], None
    raise ValueError(
        f"net must end in the mean over time for a loss of every step, and its last layer is "
        f"{getattr(operation, 'name', None)!r}, a {type(operation).__name__}: end it in sbp_keras.Readout over time, "
        "or in keras.layers.GlobalAveragePooling1D over logits (batch, time, classes)"
    )


def _inputs(model: keras.Model) -> Any:
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input
