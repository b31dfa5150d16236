"""Writes a neuron's forward and adjoint over all of time as the source of two scalar loops.

The source is plain Python over flat arrays, ``(time, neurons)``: any compiler of loops can take it (numba does on the
CPU). Work goes through blocks of neurons whose state stays in cache, so memory sees the input, the output and nothing
between. The adjoint keeps the input alone and computes the potentials again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sbp_core import dynamics
from sbp_core.codegen import trace
from sbp_core.codegen.trace import Node, Operand
from sbp_core.specs.neurons import LIFSpec, LIFState

BLOCK_BYTES = 16384


@dataclass(frozen=True)
class KernelSource:
    """Source of the functions ``forward`` and ``backward``.

    With ``parts`` the names of the state's parts that the neuron has, in order:

    ``forward(x, output, decay, block, start, stop, *initial, *final)`` and ``backward(x, output_cotangent, grad_input,
    decay, block, start, stop, *initial, *final_cotangent, *grad_initial) -> grad_decay``. Every array is flat over
    neurons, ``start`` and ``stop`` bound the neurons to do, ``decay`` is a scalar of the arrays' dtype.
    """

    forward: str
    backward: str
    parts: tuple[str, ...]


def generate(spec: LIFSpec) -> KernelSource:
    """Return the source of a neuron's two loops, derived from :func:`sbp_core.dynamics.step`."""
    parts = spec.state_parts
    x, decay = Node("c"), Node("decay")
    before = {name: Node(name) for name in parts}
    output, after = dynamics.step(
        spec,
        LIFState(**before),
        x,
        spike=lambda u: trace.spike(u, spec.surrogate, inclusive=spec.inclusive),
        detach=trace.detach,
        decay=decay if spec.learn_decay else None,
    )
    results = [output, *(getattr(after, name) for name in parts)]
    given = [Node("given"), *(Node(f"a_{name}") for name in parts)]
    # a part that passes a leaf through unchanged must not merge its cotangent with the leaf's own
    cotangents: dict[Node, Operand] = {}
    for result, cotangent in zip(results, given, strict=True):
        cotangents[result] = cotangents[result] + cotangent if result in cotangents else cotangent
    gradients = trace.pullback(cotangents, [x, *before.values(), decay])
    return KernelSource(
        forward=_forward(parts, results),
        backward=_backward(parts, results, gradients, learns=spec.learn_decay),
        parts=parts,
    )


def _emit(values: Iterable[Operand], indent: str) -> tuple[list[str], list[str]]:
    """Return statements that compute ``values``, and the names or literals that hold them."""
    wanted = list(values)
    names: dict[Node, str] = {}
    lines: list[str] = []

    def name(value: Operand) -> str:
        return names[value] if isinstance(value, Node) else f"real({value!r})"

    for node in trace.in_order(wanted):
        if not node.operands:
            names[node] = node.operation
            continue
        operands = [name(operand) for operand in node.operands]
        names[node] = f"t{len(names)}"
        lines.append(f"{indent}{names[node]} = {_expression(node.operation, operands)}")
    return lines, [name(value) for value in wanted]


def _expression(operation: str, operands: list[str]) -> str:
    if operation in ("+", "-", "*", "/"):
        return f"{operands[0]} {operation} {operands[1]}"
    if operation in ("<", ">", ">="):
        return f"real(1.0) if {operands[0]} {operation} {operands[1]} else real(0.0)"
    if operation == "where":
        return f"{operands[1]} if {operands[0]} > real(0.0) else {operands[2]}"
    if operation == "detach":
        return operands[0]
    return f"{operation}({operands[0]})"


def _forward(parts: tuple[str, ...], results: list[Operand]) -> str:
    statements, names = _emit(results, " " * 16)
    arguments = ["x", "output", "decay", "block", "start", "stop"]
    arguments += [f"first_{part}" for part in parts] + [f"last_{part}" for part in parts]
    lines = [f"def forward({', '.join(arguments)}):", "    for begin in range(start, stop, block):"]
    lines += ["        size = min(block, stop - begin)"]
    # the last state doubles as the running one
    lines += ["        for i in range(begin, begin + size):"]
    lines += [f"            last_{part}[i] = first_{part}[i]" for part in parts]
    lines += ["        for t in range(x.shape[0]):", "            for i in range(begin, begin + size):"]
    lines += [f"                {part} = last_{part}[i]" for part in parts]
    lines += ["                c = x[t, i]", *statements, f"                output[t, i] = {names[0]}"]
    lines += [f"                last_{part}[i] = {value}" for part, value in zip(parts, names[1:], strict=True)]
    return "\n".join(lines) + "\n"


def _backward(parts: tuple[str, ...], results: list[Operand], gradients: list[Operand], *, learns: bool) -> str:
    replay, replayed = _emit(results[1:], " " * 16)
    statements, names = _emit(gradients, " " * 16)
    arguments = ["x", "output_cotangent", "grad_input", "decay", "block", "start", "stop"]
    for prefix in ("first", "a_last", "grad_first"):
        arguments += [f"{prefix}_{part}" for part in parts]
    lines = [f"def backward({', '.join(arguments)}):", "    steps = x.shape[0]", "    grad_decay = 0.0"]
    lines += [f"    tape_{part} = empty((steps + 1, block), x.dtype)" for part in parts]
    lines += [f"    running_{part} = empty(block, x.dtype)" for part in parts]
    lines += ["    for begin in range(start, stop, block):", "        size = min(block, stop - begin)"]
    lines += ["        for i in range(size):"]
    for part in parts:
        lines += [f"            tape_{part}[0, i] = first_{part}[begin + i]"]
        lines += [f"            running_{part}[i] = a_last_{part}[begin + i]"]
    lines += ["        for t in range(steps - 1):", "            for i in range(size):"]
    lines += [f"                {part} = tape_{part}[t, i]" for part in parts]
    lines += ["                c = x[t, begin + i]", *replay]
    lines += [f"                tape_{part}[t + 1, i] = {value}" for part, value in zip(parts, replayed, strict=True)]
    lines += ["        for back in range(steps):", "            t = steps - 1 - back"]
    lines += ["            for i in range(size):"]
    lines += [f"                {part} = tape_{part}[t, i]" for part in parts]
    lines += [f"                a_{part} = running_{part}[i]" for part in parts]
    lines += ["                c = x[t, begin + i]", "                given = output_cotangent[t, begin + i]"]
    lines += [*statements, f"                grad_input[t, begin + i] = {names[0]}"]
    lines += [f"                running_{part}[i] = {value}" for part, value in zip(parts, names[1:-1], strict=True)]
    if learns:
        lines += [f"                grad_decay += {names[-1]}"]
    lines += ["        for i in range(size):"]
    lines += [f"            grad_first_{part}[begin + i] = running_{part}[i]" for part in parts]
    lines += ["    return grad_decay"]
    return "\n".join(lines) + "\n"
