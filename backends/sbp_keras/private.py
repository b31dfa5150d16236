"""The private names of Keras that this package uses, in one place; they hold for Keras 3.11 to 3.15.

A newer Keras that renames one fails here, in the tests of this file's claim (``tests/keras_front``).
"""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
from keras.src import backend

#: Every private name below, by what has it.
NAMES = {
    "keras.KerasTensor": ("_keras_history",),
    "keras.Layer": ("_inbound_nodes", "_flatten_layers"),
    "keras.Model": ("_compile_loss", "_run_through_graph"),
    "keras.src.backend": ("get_keras_mask", "set_keras_mask", "in_stateless_scope"),
}


class Call(NamedTuple):
    """One call of a layer in a graph: the tensors that went in and that came out."""

    operation: Any
    place: int
    inputs: list[Any]
    outputs: list[Any]


def call_of(tensor: Any) -> Call | None:
    """Return the call that gave a symbolic tensor, None for one that no layer gave."""
    operation, index, _ = tensor._keras_history
    if operation is None:
        return None
    node = operation._inbound_nodes[index]
    return Call(operation, index, list(node.input_tensors), list(node.outputs))


def inputs_of(layer: Any) -> Iterator[list[Any]]:
    """Yield the symbolic tensors that went into each call of a layer."""
    for node in layer._inbound_nodes:
        yield list(node.input_tensors)


def layers_of(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yield every layer in a model, those inside layers too."""
    yield from model._flatten_layers(include_self=False)


def replace_call(layer: keras.layers.Layer, call: Callable[..., Any]) -> None:
    """Let a layer run another function, until :func:`restore_call`; whoever calls the layer notices nothing."""
    # past Keras, which would track it
    object.__setattr__(layer, "call", call)


def restore_call(layer: keras.layers.Layer) -> None:
    """Let a layer run its own function again."""
    object.__delattr__(layer, "call")


def compiled_loss(model: keras.Model) -> Callable[[Any, Any, Any], Any] | None:
    """Return what ``compile`` made of the loss, a function of labels, logits and sample weights."""
    loss: Callable[[Any, Any, Any], Any] | None = model._compile_loss
    return loss


def mask_of(tensor: Any) -> Any:
    """Return Keras's mask of a tensor, None where it has none."""
    return backend.get_keras_mask(tensor)


def set_mask(tensor: Any, mask: Any) -> None:
    """Give a tensor Keras's mask, if there is one."""
    if mask is not None:
        backend.set_keras_mask(tensor, mask)


def is_stateless() -> bool:
    """Whether variables have other values for now, those of a ``keras.StatelessScope``."""
    stateless: bool = backend.in_stateless_scope()
    return stateless


class Substituting(keras.Model):
    """A functional model that may run something else in the place of one of its operations."""

    def substituted(self, run: Callable[[Callable[[Any], Any]], Any]) -> Any:
        """Return what the model gives; ``run(substitute)`` runs the graph with ``substitute(operation)`` for each."""
        return run(lambda operation: operation)

    def _run_through_graph(
        self, inputs: Any, operation_fn: Callable[[Any], Any] = lambda operation: operation, call_fn: Any = None
    ) -> Any:
        run = super()._run_through_graph
        # with a call_fn it runs on symbols
        if call_fn is not None:
            return run(inputs, operation_fn, call_fn)
        return self.substituted(lambda substitute: run(inputs, lambda operation: operation_fn(substitute(operation))))
