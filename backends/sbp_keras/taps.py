"""Finds the blocks of a functional model that a shortcut taps, and runs the model so that it gives them too.

A tap is the name of a layer; inside models used as layers it is a path, ``"encoder/block3"``. Of a layer with several
outputs it names one by its position, ``"lstm:0"``.
"""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import keras

from sbp_core.specs.shortcut import ShortcutSpec
from sbp_keras.readout import Readout

#: A layer's calls in a graph, by position among its calls; each has the tensors that went in and that came out.
_Calls = dict[int, "_Call"]


class _Call(NamedTuple):
    inputs: list[Any]
    outputs: list[Any]


class TapModel:
    """A net that gives its tapped blocks' outputs along with its own; it shares the net's layers and changes none.

    Attributes:
        tensors: the symbolic output of each tapped block, by tap.
        head: the layer that makes logits of what the graph gives, where every step's are wanted.

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

    def __call__(self, inputs: Any) -> tuple[Any, dict[str, Any]]:
        """Return the main logits and the tapped outputs, as in training."""
        outputs = self._graph(inputs, training=True)
        main = outputs["output"]
        if self.head is not None:
            main = self.head(main, per_step=True)
        return main, outputs["taps"]


class _Graph(keras.Model):
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

    def _run_through_graph(
        self, inputs: Any, operation_fn: Callable[[Any], Any] = lambda operation: operation, call_fn: Any = None
    ) -> Any:
        nested = getattr(self, "_nested", None)
        if not nested or call_fn is not None:
            return super()._run_through_graph(inputs, operation_fn, call_fn)
        found: dict[str, Any] = {}

        def choose(operation: Any) -> Any:
            graph = nested.get(id(operation))
            return operation_fn(operation if graph is None else _StandIn(graph, found))

        outputs = super()._run_through_graph(inputs, choose)
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


def _called_once(tap: str, name: str, calls: _Calls) -> _Call:
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
        operation, index, _ = pending.pop()._keras_history
        if operation is None or (id(operation), index) in seen:
            continue
        seen.add((id(operation), index))
        node = operation._inbound_nodes[index]
        found.setdefault(operation.name, {})[index] = _Call(node.input_tensors, list(node.outputs))
        pending.extend(node.input_tensors)
    return found


def _before_the_mean(net: keras.Model) -> tuple[Any, Any]:
    """Return the tensor that the last layer takes, and that layer if it is to make logits of every step of it."""
    operation, index, _ = net.outputs[0]._keras_history
    if isinstance(operation, Readout) and operation.time_axis is not None:
        return operation._inbound_nodes[index].input_tensors[0], operation
    if isinstance(operation, keras.layers.GlobalAveragePooling1D):
        return operation._inbound_nodes[index].input_tensors[0], None
    raise ValueError(
        f"net must end in the mean over time for a loss of every step, and its last layer is {operation.name!r}, a "
        f"{type(operation).__name__}: end it in sbp_keras.Readout over time, or in keras.layers.GlobalAveragePooling1D "
        "over logits (batch, time, classes)"
    )


def _inputs(model: keras.Model) -> Any:
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input
