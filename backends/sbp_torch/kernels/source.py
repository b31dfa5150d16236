"""Writes a neuron's forward and adjoint over all of time as the source of scalar loops.

The source is plain Python over flat arrays, ``(time, neurons)``: any compiler of loops can take it (numba does on the
CPU). Work goes through blocks of neurons whose state stays in cache, so memory sees the input, the output and nothing
between. The adjoint keeps the input alone and computes the potentials again; or, where bits are all it needs, it keeps
them and computes nothing again.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from sbp_core.specs.neurons import LIFSpec
from sbp_core.trace.expression import COMPARISONS, Node
from sbp_core.trace.step import StepGraph, step_graph
from sbp_torch.kernels.emit import indented, statements

Keep = Literal["input", "bits"]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What a kernel is given and gives besides input and output.

    Attributes:
        fresh: the neuron starts at rest; otherwise from arrays that are passed.
        final: the forward gives the last state; the adjoint gets cotangents of it.
        keep: what the adjoint works from: the input, or the comparisons' bits.
    """

    fresh: bool = True
    final: bool = False
    keep: Keep = "input"


@dataclass(frozen=True)
class KernelSource:
    """Source of the functions ``forward`` and ``backward`` of a :class:`Variant`.

    With ``parts`` the names of the state's parts that the neuron has, in order:

    ``forward(x, output, decay, block, start, stop, bits*, *initial, *final)`` and ``backward(kept, output_cotangent,
    grad_input, decay, block, start, stop, *initial, *final_cotangent, *grad_initial) -> grad_decay``; ``kept`` is ``x``
    or ``bits``, and what the variant has not is left out. Every array is flat over neurons, ``start`` and ``stop``
    bound the neurons to do, ``decay`` is a scalar of the computation's dtype. ``x`` may have one row, the same input at
    each step. The scope must supply ``real``, ``wide`` (float64), ``byte``, ``empty``, the functions of
    :data:`sbp_core.trace.expression.FUNCTIONS`, and ``load``
    and ``store`` between storage and computation.
    """

    forward: str
    backward: str
    parts: tuple[str, ...]


def bits_per_step(spec: LIFSpec) -> int | None:
    """Return how many bits an element and step must keep for the adjoint, or None where bits are not enough.

    Example:
        >>> bits_per_step(LIFSpec(reset="soft")), bits_per_step(LIFSpec(surrogate="arctan"))
        (1, None)
    """
    bits = step_graph(spec).bits
    return None if bits is None or len(bits) > 8 else max(1, len(bits))


def generate(spec: LIFSpec, variant: Variant | None = None) -> KernelSource:
    """Return the source of a neuron's two loops, derived from :func:`sbp_core.dynamics.step`.

    Args:
        spec: the neuron.
        variant: what the kernels are given; None for a fresh start, no last state, the input kept.

    Raises:
        ValueError: bits are to be kept, and the adjoint needs more.
    """
    variant = Variant() if variant is None else variant
    graph = step_graph(spec)
    if variant.keep == "bits":
        bits = graph.bits
        if bits is None:
            raise ValueError(f"the adjoint of {spec!r} needs more of the forward than bits")
        return KernelSource(_forward(graph, variant, bits), _backward_of_bits(graph, variant, bits), graph.parts)
    return KernelSource(_forward(graph, variant, ()), _backward(graph, variant), graph.parts)


def _expression(operation: str, operands: list[str]) -> str:
    if operation in ("+", "-", "*", "/"):
        return f"{operands[0]} {operation} {operands[1]}"
    if operation in COMPARISONS:
        return f"real(1.0) if {operands[0]} {operation} {operands[1]} else real(0.0)"
    if operation == "where":
        return f"{operands[1]} if {operands[0]} > real(0.0) else {operands[2]}"
    if operation == "detach":
        return operands[0]
    return f"{operation}({operands[0]})"


_write = functools.partial(statements, expression=_expression, literal=lambda value: f"real({value!r})")


def _function(name: str, arguments: Iterable[str], body: Iterable[str]) -> str:
    return "\n".join([f"def {name}({', '.join(arguments)}):", *indented(body, 1)]) + "\n"


def _named(prefix: str, parts: Sequence[str], present: bool = True) -> list[str]:
    return [f"{prefix}_{part}" for part in parts] if present else []


def _start(graph: StepGraph, variant: Variant, target: str) -> list[str]:
    """Return the loop that sets a block's state before the first step."""
    lines = ["for i in range(size):"]
    for part, rest in zip(graph.parts, graph.rest, strict=True):
        value = f"real({rest!r})" if variant.fresh else f"load(first_{part}[begin + i])"
        lines += indented([f"{target.format(part)} = {value}"], 1)
    return lines


def _blocks(body: Iterable[str]) -> list[str]:
    inner = ["size = min(block, stop - begin)", *body]
    return ["for begin in range(start, stop, block):", *indented(inner, 1)]


def _forward(graph: StepGraph, variant: Variant, bits: Sequence[Node]) -> str:
    lines, names, results = _write([graph.output, *graph.after, *bits])
    arguments = ["x", "output", "decay", "block", "start", "stop", *(["bits"] if variant.keep == "bits" else [])]
    arguments += _named("first", graph.parts, not variant.fresh) + _named("last", graph.parts, variant.final)
    step = [f"{part} = running_{part}[i]" for part in graph.parts]
    step += ["c = load(x_t[i])", *lines, f"output_t[i] = store({results[0]})"]
    after = results[1 : 1 + len(graph.parts)]
    step += [f"running_{part}[i] = {value}" for part, value in zip(graph.parts, after, strict=True)]
    row = ["x_t = x[t if rows > 1 else 0, begin : begin + size]", "output_t = output[t, begin : begin + size]"]
    row += _row_of_bits(len(bits))
    if bits:
        fields = [f"(byte({names[node]} > real(0.0)) << byte({index}))" for index, node in enumerate(bits)]
        step += [f"bits_t[i] = bits_t[i] | (byte({' | '.join(fields)}) << shift)"]
    body = _start(graph, variant, "running_{}[i]")
    body += ["for t in range(output.shape[0]):", *indented([*row, "for i in range(size):", *indented(step, 1)], 1)]
    if variant.final:
        body += ["for i in range(size):"]
        body += indented([f"last_{part}[begin + i] = store(running_{part}[i])" for part in graph.parts], 1)
    buffers = [f"running_{part} = empty(block, real)" for part in graph.parts]
    return _function("forward", arguments, ["rows = x.shape[0]", *buffers, *_blocks(body)])


def _backward_frame(
    graph: StepGraph,
    variant: Variant,
    kept: str,
    buffers: list[str],
    replay: list[str],
    row: list[str],
    step: list[str],
) -> str:
    """Return the adjoint: blocks of neurons, in each a replay and then time in reverse."""
    arguments = [kept, "output_cotangent", "grad_input", "decay", "block", "start", "stop"]
    arguments += _named("first", graph.parts, not variant.fresh and variant.keep == "input")
    arguments += _named("a_last", graph.parts, variant.final)
    arguments += _named("grad_first", graph.parts, not variant.fresh)
    learns = graph.grad_decay is not None
    body = ["for i in range(size):"]
    for part in graph.parts:
        value = f"load(a_last_{part}[begin + i])" if variant.final else "real(0.0)"
        body += indented([f"running_{part}[i] = {value}"], 1)
    row = [
        *row,
        "given_t = output_cotangent[t, begin : begin + size]",
        "grad_t = grad_input[t, begin : begin + size]",
        "for i in range(size):",
    ]
    body += [*replay, "for back in range(steps):"]
    body += indented(["t = steps - 1 - back", *row, *indented(step, 1)], 1)
    if not variant.fresh:
        body += ["for i in range(size):"]
        body += indented([f"grad_first_{part}[begin + i] = store(running_{part}[i])" for part in graph.parts], 1)
    if learns:
        body += ["for i in range(size):", *indented(["grad_decay += decays[i]"], 1)]
    lines = ["steps = output_cotangent.shape[0]", "grad_decay = 0.0", *buffers]
    lines += [f"running_{part} = empty(block, real)" for part in graph.parts]
    lines += ["decays = empty(block, wide)"] if learns else []
    body = (["for i in range(size):", *indented(["decays[i] = 0.0"], 1)] if learns else []) + body
    return _function("backward", arguments, [*lines, *_blocks(body), "return grad_decay"])


def _row_of_bits(count: int) -> list[str]:
    # the bits of a few steps share a byte: no step's bits cross from one into the next
    if not count:
        return []
    per_byte = 8 // count
    return [f"bits_t = bits[t // {per_byte}, begin : begin + size]", f"shift = byte({count} * (t % {per_byte}))"]


def _adjoint_step(graph: StepGraph, names: Sequence[str]) -> list[str]:
    lines = [f"grad_t[i] = store({names[0]})"]
    before = names[1 : 1 + len(graph.parts)]
    lines += [f"running_{part}[i] = {value}" for part, value in zip(graph.parts, before, strict=True)]
    if graph.grad_decay is not None:
        lines += [f"decays[i] += {names[-1]}"]
    return lines


def _cotangents(graph: StepGraph) -> list[str]:
    return [*(f"a_{part} = running_{part}[i]" for part in graph.parts), "given = load(given_t[i])"]


def _backward(graph: StepGraph, variant: Variant) -> str:
    replayed, _, after = _write(graph.after)
    lines, _, gradients = _write(graph.gradients)
    read = [f"{part} = tape_{part}_t[i]" for part in graph.parts]
    tape = [f"tape_{part}_t = tape_{part}[t]" for part in graph.parts]
    current = "x_t = x[t if rows > 1 else 0, begin : begin + size]"
    replay = [current, *tape, *(f"next_{part}_t = tape_{part}[t + 1]" for part in graph.parts), "for i in range(size):"]
    replay += indented([*read, "c = load(x_t[i])", *replayed], 1)
    replay += indented([f"next_{part}_t[i] = {value}" for part, value in zip(graph.parts, after, strict=True)], 1)
    return _backward_frame(
        graph,
        variant,
        "x",
        ["rows = x.shape[0]", *(f"tape_{part} = empty((steps, block), real)" for part in graph.parts)],
        [*_start(graph, variant, "tape_{}[0, i]"), "for t in range(steps - 1):", *indented(replay, 1)],
        [current, *tape],
        [*read, "c = load(x_t[i])", *_cotangents(graph), *lines, *_adjoint_step(graph, gradients)],
    )


def _backward_of_bits(graph: StepGraph, variant: Variant, bits: Sequence[Node]) -> str:
    known = {node: f"bit{index}" for index, node in enumerate(bits)}
    lines, _, gradients = _write(graph.gradients, known=known)
    row, read = _row_of_bits(len(bits)), ["word = bits_t[i] >> shift"] if bits else []
    read += [f"{name} = real((word >> byte({index})) & byte(1))" for index, name in enumerate(known.values())]
    step = [*read, *_cotangents(graph), *lines, *_adjoint_step(graph, gradients)]
    return _backward_frame(graph, variant, "bits", [], [], row, step)
