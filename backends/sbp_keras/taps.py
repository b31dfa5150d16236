"""Finds the blocks of a functional model that a shortcut taps, without touching the model."""

from __future__ import annotations

from typing import Any

import keras

from sbp_core.specs.shortcut import ShortcutSpec


def tap_model(net: Any, spec: ShortcutSpec) -> keras.Model:
    """Return a model over the same layers that gives the tapped blocks' outputs and then the main output.

    Args:
        net: a functional model, or a Sequential one that knows its input shape, with one output.
        spec: the taps, names of layers (a layer may itself be a model).

    Raises:
        TypeError: ``net`` is no Keras model, or one that cannot be tapped.
        ValueError: a tap that does not exist, is called more than once, or does not give one tensor.
    """
    if not isinstance(net, keras.Model):
        raise TypeError(f"net must be a keras.Model, got {type(net).__name__}")
    outputs = getattr(net, "outputs", None)
    if not outputs:
        raise TypeError(
            f"net must be a functional model, and {net.name!r} is a {type(net).__name__} without a graph of layers. "
            "Build it as keras.Model(inputs, outputs), with the blocks to tap as layers of that graph (a block may be "
            "a subclassed layer or model); a Sequential model needs a keras.Input in front"
        )
    if len(outputs) != 1:
        raise ValueError(f"net must have one output, the main logits; got {len(outputs)}")
    found = _outputs_by_layer(outputs[0])
    spec.check_taps([layer.name for layer in net.layers if layer.name in found])
    tapped = [_single(name, found[name]) for name in spec.taps]
    inputs = net.inputs[0] if isinstance(net, keras.Sequential) else net.input
    return keras.Model(inputs, [*tapped, outputs[0]])


def _single(name: str, calls: dict[int, list[Any]]) -> Any:
    if len(calls) != 1:
        raise ValueError(
            f"tap {name!r} is called {len(calls)} times in the network, so it has no one output; "
            "put the loop inside a layer, or tap a layer that is called once"
        )
    (tensors,) = calls.values()
    if len(tensors) != 1:
        raise ValueError(f"tap {name!r} must give one tensor, it gives {len(tensors)}")
    return tensors[0]


def _outputs_by_layer(output: Any) -> dict[str, dict[int, list[Any]]]:
    """Map each layer's name to its calls in the graph that leads to ``output``, each with the tensors it gave.

    ``layer.output`` would not do: for a model used as a layer it is a tensor of the inner graph.
    """
    found: dict[str, dict[int, list[Any]]] = {}
    pending, seen = [output], set()
    while pending:
        operation, index, _ = pending.pop()._keras_history
        if operation is None or (id(operation), index) in seen:
            continue
        seen.add((id(operation), index))
        node = operation._inbound_nodes[index]
        found.setdefault(operation.name, {})[index] = list(node.outputs)
        pending.extend(node.input_tensors)
    return found
