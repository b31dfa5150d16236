"""Records arithmetic as an expression graph, so that the core's formulas can be turned into kernel source.

A :class:`Node` goes through :func:`sbp_core.dynamics.step` and ``Surrogate.derivative`` like any array; what comes out
is the formula itself. :func:`pullback` differentiates it in reverse mode.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Union

from sbp_core.specs.surrogates import Surrogate

Operand = Union["Node", float]


class Node:
    """An operation on operands. Comparisons give nodes that hold 1 or 0."""

    __slots__ = ("operands", "operation", "surrogate")
    dtype = "node"

    def __init__(self, operation: str, *operands: Operand, surrogate: Surrogate | None = None) -> None:
        self.operation = operation
        self.operands = tuple(value if isinstance(value, Node) else float(value) for value in operands)
        self.surrogate = surrogate

    def __add__(self, other: Operand) -> Operand:
        return _add(self, other)

    def __radd__(self, other: Operand) -> Operand:
        return _add(other, self)

    def __sub__(self, other: Operand) -> Operand:
        return self if _is(other, 0.0) else Node("-", self, other)

    def __rsub__(self, other: Operand) -> Operand:
        return Node("-", other, self)

    def __mul__(self, other: Operand) -> Operand:
        return _multiply(self, other)

    def __rmul__(self, other: Operand) -> Operand:
        return _multiply(other, self)

    def __truediv__(self, other: Operand) -> Operand:
        return self if _is(other, 1.0) else Node("/", self, other)

    def __rtruediv__(self, other: Operand) -> Operand:
        return Node("/", other, self)

    def __neg__(self) -> Operand:
        return Node("-", 0.0, self)

    def __lt__(self, other: Operand) -> Node:
        return Node("<", self, other)


def _is(value: Operand, number: float) -> bool:
    return isinstance(value, float | int) and value == number


def _add(left: Operand, right: Operand) -> Operand:
    if _is(left, 0.0):
        return right
    if _is(right, 0.0):
        return left
    return Node("+", left, right)


def _multiply(left: Operand, right: Operand) -> Operand:
    # a factor of 0 arises only from a cotangent that is 0, never from a value that may be infinite
    if _is(left, 0.0) or _is(right, 0.0):
        return 0.0
    if _is(left, 1.0):
        return right
    if _is(right, 1.0):
        return left
    return Node("*", left, right)


class Namespace:
    """The array functions that surrogates use, over nodes."""

    @staticmethod
    def abs(x: Node) -> Node:
        """Record an absolute value."""
        return Node("abs", x)

    @staticmethod
    def exp(x: Node) -> Node:
        """Record an exponential."""
        return Node("exp", x)

    @staticmethod
    def tanh(x: Node) -> Node:
        """Record a hyperbolic tangent."""
        return Node("tanh", x)

    @staticmethod
    def where(condition: Node, chosen: Operand, other: Operand) -> Node:
        """Record a choice."""
        return Node("where", condition, chosen, other)

    @staticmethod
    def astype(x: Node, dtype: object) -> Node:
        """Return ``x``: nodes have no dtype."""
        return x

    @staticmethod
    def zeros_like(x: Node) -> float:
        """Return the number 0."""
        return 0.0

    @staticmethod
    def ones_like(x: Node) -> float:
        """Return the number 1."""
        return 1.0


def spike(x: Node, surrogate: Surrogate, *, inclusive: bool) -> Node:
    """Record a spike at ``x > 0`` (``>=`` if inclusive) whose derivative is the surrogate's."""
    return Node(">=" if inclusive else ">", x, 0.0, surrogate=surrogate)


def detach(x: Operand) -> Operand:
    """Record a value that lets no gradient through."""
    return Node("detach", x)


def in_order(outputs: Sequence[Operand], known: Container[Node] = ()) -> list[Node]:
    """Return every node that ``outputs`` need besides those ``known``, operands before what uses them."""
    found: dict[Node, None] = {}

    def visit(value: Operand) -> None:
        if isinstance(value, Node) and value not in found and value not in known:
            for operand in value.operands:
                visit(operand)
            found[value] = None

    for output in outputs:
        visit(output)
    return list(found)


def pullback(cotangents: Mapping[Node, Operand], inputs: Sequence[Node]) -> list[Operand]:
    """Return the gradient of ``sum(output * cotangent)`` with respect to each input, as expressions.

    Args:
        cotangents: each output and its cotangent.
        inputs: leaves of the graph.
    """
    gradients: dict[Node, Operand] = {}

    def give(node: Operand, gradient: Operand) -> None:
        if isinstance(node, Node) and not _is(gradient, 0.0):
            gradients[node] = _add(gradients[node], gradient) if node in gradients else gradient

    for output, cotangent in cotangents.items():
        give(output, cotangent)
    for node in reversed(in_order(list(cotangents))):
        gradient = gradients.get(node)
        if gradient is None or not node.operands:
            continue
        left, right = node.operands[0], node.operands[-1]
        if node.operation == "+":
            give(left, gradient)
            give(right, gradient)
        elif node.operation == "-":
            give(left, gradient)
            give(right, _multiply(-1.0, gradient))
        elif node.operation == "*":
            give(left, _multiply(gradient, right))
            give(right, _multiply(gradient, left))
        elif node.surrogate is not None:
            give(left, _multiply(gradient, node.surrogate.derivative(left, Namespace)))
        elif node.operation != "detach":
            raise ValueError(f"operation {node.operation!r} of a neuron's step has no derivative here")
    return [gradients.get(node, 0.0) for node in inputs]
