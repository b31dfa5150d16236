"""Records arithmetic as an expression graph, so that the core's formulas can be turned into kernel source.

A :class:`Node` goes through :func:`sbp_core.dynamics.step` and ``Surrogate.derivative`` like any array; what comes out
is the formula itself. :func:`pullback` differentiates it in reverse mode. What cannot be recorded raises
:class:`NotTraceableError`: whoever wanted kernels computes by array operations then.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from typing import Any, NoReturn, Union

from sbp_core.specs.surrogates import Surrogate

Operand = Union["Node", float]


#: Operations whose result is 1 or 0.
COMPARISONS = ("<", "<=", ">", ">=")
#: Functions of one number that kernels have.
FUNCTIONS = ("abs", "cos", "exp", "log", "sin", "sqrt", "tanh")


class NotTraceableError(Exception):
    """A formula does what no expression of numbers records; the message says what."""


class Node:
    """An operation on operands. Comparisons give nodes that hold 1 or 0."""

    __slots__ = ("operands", "operation", "surrogate")
    dtype = "node"
    # a number of NumPy's leaves arithmetic to the node, which takes it as any other
    __array_ufunc__ = None
    __hash__ = object.__hash__

    def __init__(self, operation: str, *operands: Operand, surrogate: Surrogate | None = None) -> None:
        self.operation = operation
        self.operands = tuple(value if isinstance(value, Node) else _number(value) for value in operands)
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

    def __pow__(self, power: int) -> Operand:
        if power == 2:
            return Node("*", self, self)
        raise NotTraceableError(f"a power of {power!r}")

    def __neg__(self) -> Operand:
        return Node("*", self, -1.0)

    def __abs__(self) -> Node:
        return Node("abs", self)

    def __lt__(self, other: Operand) -> Node:
        return Node("<", self, other)

    def __le__(self, other: Operand) -> Node:
        return Node("<=", self, other)

    def __gt__(self, other: Operand) -> Node:
        return Node(">", self, other)

    def __ge__(self, other: Operand) -> Node:
        return Node(">=", self, other)

    def __and__(self, other: Node) -> Operand:
        return Namespace().logical_and(self, other)

    def __or__(self, other: Node) -> Operand:
        return Namespace().logical_or(self, other)

    def __invert__(self) -> Operand:
        return Namespace().logical_not(self)

    # dictionaries look a node up by identity first, and its hash is its identity's
    def __eq__(self, other: object) -> NoReturn:
        raise NotTraceableError("a comparison by == or !=")

    __ne__ = __eq__

    def __bool__(self) -> NoReturn:
        raise NotTraceableError("a choice of Python's by a value (if, and, or, max); xp.where records one")

    def __array__(self, *arguments: object, **options: object) -> NoReturn:
        raise NotTraceableError("a function of NumPy's own; those of xp are recorded")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotTraceableError(f"the attribute {name!r} of an array")


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise NotTraceableError(f"an operand of type {type(value).__name__}") from None


def _is(value: Operand, number: float) -> bool:
    return isinstance(value, float | int) and value == number


def _add(left: Operand, right: Operand) -> Operand:
    if _is(left, 0.0):
        return right
    if _is(right, 0.0):
        return left
    if _is_condition(left) and _is_condition(right):
        raise NotTraceableError("the sum of two comparisons, which is 1 in arrays where both hold")
    return Node("+", left, right)


def _is_condition(value: Operand) -> bool:
    return isinstance(value, Node) and value.operation in COMPARISONS and value.surrogate is None


def _multiply(left: Operand, right: Operand) -> Operand:
    # 0 times a value stays: the value may be infinite
    if _is(left, 1.0):
        return right
    if _is(right, 1.0):
        return left
    if not isinstance(left, Node) and not isinstance(right, Node):
        return left * right
    return Node("*", left, right)


class Namespace:
    """The array functions that surrogates use, over nodes."""

    pi, e, inf, nan = math.pi, math.e, math.inf, math.nan

    def __getattr__(self, name: str) -> Any:
        if name in FUNCTIONS:
            return lambda x: Node(name, x)
        raise NotTraceableError(f"xp.{name}")

    def where(self, condition: Operand, chosen: Operand, other: Operand) -> Node:
        """Record a choice."""
        return Node("where", condition, chosen, other)

    def astype(self, x: Operand, dtype: object) -> Operand:
        """Return ``x``: nodes have no dtype."""
        if dtype != Node.dtype:
            raise NotTraceableError(f"a conversion to {dtype!r}")
        return x

    def zeros_like(self, x: Node) -> float:
        """Return the number 0."""
        return 0.0

    def ones_like(self, x: Node) -> float:
        """Return the number 1."""
        return 1.0

    def full_like(self, x: Node, value: float) -> float:
        """Return the number."""
        return _number(value)

    def square(self, x: Operand) -> Operand:
        """Record a product."""
        return x * x

    def negative(self, x: Operand) -> Operand:
        """Record a negation."""
        return -x

    def sign(self, x: Node) -> Node:
        """Record 1, -1 or, of 0 and NaN, the number itself."""
        return self.where(x > 0.0, 1.0, self.where(x < 0.0, -1.0, x))

    def maximum(self, x: Operand, y: Operand) -> Node:
        """Record the larger of a node and a number; NaN stays."""
        node, number = _node_and_number(x, y)
        return self.where(node < number, number, node)

    def minimum(self, x: Operand, y: Operand) -> Node:
        """Record the smaller of a node and a number; NaN stays."""
        node, number = _node_and_number(x, y)
        return self.where(node > number, number, node)

    def clip(self, x: Node, min: float | None = None, max: float | None = None) -> Node:
        """Record a value kept between two numbers."""
        raised = x if min is None else self.maximum(x, min)
        return raised if max is None else self.minimum(raised, max)

    def logical_and(self, x: Operand, y: Operand) -> Operand:
        """Record that both of two comparisons hold."""
        return self.where(x, y, 0.0)

    def logical_or(self, x: Operand, y: Operand) -> Operand:
        """Record that one of two comparisons holds."""
        return self.where(x, 1.0, y)

    def logical_not(self, x: Operand) -> Operand:
        """Record that a comparison does not hold."""
        return self.where(x, 0.0, 1.0)


def _node_and_number(x: Operand, y: Operand) -> tuple[Node, float]:
    if isinstance(x, Node) and not isinstance(y, Node):
        return x, _number(y)
    if isinstance(y, Node) and not isinstance(x, Node):
        return y, _number(x)
    raise NotTraceableError("the larger or smaller of two arrays")


def derivative(surrogate: Surrogate, x: Operand) -> Operand:
    """Record a surrogate's formula.

    Raises:
        NotTraceableError: it does what cannot be recorded, or fails on nodes.
    """
    try:
        found = surrogate.derivative(x, Namespace())
    except NotTraceableError as error:
        raise NotTraceableError(f"the derivative of {type(surrogate).__name__} uses {error}") from None
    except Exception as error:
        # whatever a formula of a user's does to a node that arrays allow
        raise NotTraceableError(f"the derivative of {type(surrogate).__name__} cannot be recorded: {error}") from error
    return found if isinstance(found, Node) else _number(found)


def spike(x: Node, surrogate: Surrogate, *, inclusive: bool) -> Node:
    """Record a spike at ``x > 0`` (``>=`` if inclusive) whose derivative is the surrogate's."""
    return Node(">=" if inclusive else ">", x, 0.0, surrogate=surrogate)


def sigmoid(x: Operand) -> Operand:
    """Record a sigmoid."""
    return 0.5 * Node("tanh", 0.5 * x) + 0.5


def spread(x: Operand) -> Operand:
    """Refuse: it is of all elements at once.

    Raises:
        NotTraceableError: always.
    """
    raise NotTraceableError("the spread of a layer's potentials, which width_follows needs")


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
        elif node.operation == "tanh":
            give(left, _multiply(gradient, 1.0 - node * node))
        elif node.surrogate is not None:
            give(left, _multiply(gradient, derivative(node.surrogate, left)))
        elif node.operation != "detach":
            raise ValueError(f"operation {node.operation!r} of a neuron's step has no derivative here")
    return [gradients.get(node, 0.0) for node in inputs]
