"""Turns expression graphs into statements of a language that looks like Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from sbp_core.trace.expression import Node, Operand, in_order

#: Writes an operation on operands that are names or literals.
Expression = Callable[[str, list[str]], str]
#: Writes a number.
Literal = Callable[[float], str]


def statements(
    values: Iterable[Operand],
    expression: Expression,
    literal: Literal,
    *,
    leaves: Mapping[str, str] | None = None,
    known: Mapping[Node, str] | None = None,
    prefix: str = "t",
) -> tuple[list[str], dict[Node, str], list[str]]:
    """Return statements that compute ``values``, the name of each node, and the names or literals of ``values``.

    Args:
        values: what to compute.
        expression: writes an operation.
        literal: writes a number.
        leaves: names of the leaves, by operation; a leaf that is missing keeps its own.
        known: nodes that hold already, and their names.
        prefix: of the names given to what is computed.
    """
    wanted = list(values)
    names = dict(known or {})
    given = leaves or {}
    lines: list[str] = []

    def name(value: Operand) -> str:
        return names[value] if isinstance(value, Node) else literal(value)

    for node in in_order(wanted, known=names):
        if not node.operands:
            names[node] = given.get(node.operation, node.operation)
            continue
        operands = [name(operand) for operand in node.operands]
        names[node] = f"{prefix}{len(names)}"
        lines.append(f"{names[node]} = {expression(node.operation, operands)}")
    return lines, names, [name(value) for value in wanted]


def indented(lines: Iterable[str], depth: int) -> list[str]:
    """Return ``lines`` with ``depth`` levels of four spaces in front."""
    return [" " * (4 * depth) + line for line in lines]
