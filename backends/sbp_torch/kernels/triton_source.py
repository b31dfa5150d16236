"""Writes a neuron's forward and adjoint over all of time as Triton kernels: one program for a block of neurons.

The state stays in registers. The adjoint reads the input once where all of time fits in :data:`CHUNK` steps; beyond
that it first runs forward to store the state at each chunk's start, then goes through the chunks in reverse, computing
the potentials of each again. Computation is in float32, or float64 for float64 tensors.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from sbp_core.specs.neurons import LIFSpec
from sbp_core.trace.expression import COMPARISONS
from sbp_core.trace.step import StepGraph, step_graph
from sbp_torch.kernels.emit import indented, statements
from sbp_torch.kernels.source import KernelSource, Variant

#: The most steps whose state is held in registers at once.
CHUNK = 8
_HEADER = [
    "lane = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)",
    "inside = lane < neurons",
    # offsets may pass 2^31
    "wide = tl.full([], 0, tl.int64)",
    "neurons = wide + neurons",
    "row = wide + row",
    "each = tl.zeros([BLOCK], tl.int64)",
    "zero = tl.zeros([BLOCK], REAL)",
    "one = zero + 1.0",
]


def generate(spec: LIFSpec, variant: Variant | None = None, chunk: int = CHUNK) -> KernelSource:
    """Return the source of ``forward`` and ``backward``, Triton kernels without their decorator.

    ``forward(x, output, decay, neurons, steps, row, *initial, *final, REAL, BLOCK)`` and ``backward(x,
    output_cotangent, grad_input, decay, neurons, steps, row, *checkpoints, grad_decay*, *initial, *final_cotangent,
    *grad_initial, REAL, BLOCK)``. Tensors are flat over neurons; ``decay`` points to one number; ``row`` is
    ``neurons``, or 0 for an input that is the same at each step. ``checkpoints`` have room for the state at each
    chunk's start and ``grad_decay``, where the decay is learnt, for a number of each neuron. The scope must supply
    ``tl``.

    Args:
        spec: the neuron.
        variant: what the kernels are given; None for a fresh start and no last state. Triton kernels keep the input.
        chunk: steps whose state is held in registers at once.
    """
    variant = Variant() if variant is None else variant
    graph = step_graph(spec)
    return KernelSource(_forward(graph, variant), _backward(graph, variant, chunk), graph.parts)


def _expression(operation: str, operands: list[str]) -> str:
    if operation in ("+", "-", "*", "/"):
        return f"{operands[0]} {operation} {operands[1]}"
    if operation in COMPARISONS:
        return f"tl.where({operands[0]} {operation} {operands[1]}, one, zero)"
    if operation == "where":
        return f"tl.where({operands[0]} > 0.0, {operands[1]}, {operands[2]})"
    if operation == "detach":
        return operands[0]
    if operation == "tanh":
        return f"2.0 / (1.0 + tl.exp(-2.0 * {operands[0]})) - 1.0"
    return f"tl.{operation}({operands[0]})"


# a bare number might be rounded to float32
_write = functools.partial(
    statements, expression=_expression, literal=lambda value: f"tl.full([BLOCK], {value!r}, REAL)"
)


def _function(name: str, arguments: Iterable[str], body: Iterable[str]) -> str:
    given = [*arguments, "REAL: tl.constexpr", "BLOCK: tl.constexpr"]
    return "\n".join([f"def {name}({', '.join(given)}):", *indented([*_HEADER, *body], 1)]) + "\n"


def _named(prefix: str, parts: Sequence[str], present: bool = True) -> list[str]:
    return [f"{prefix}_{part}" for part in parts] if present else []


def _load(pointer: str) -> str:
    return f"tl.load({pointer} + lane, mask=inside, other=0.0).to(REAL)"


def _store(pointer: str, value: str) -> str:
    return f"tl.store({pointer} + lane, {value}, mask=inside)"


def _decay(graph: StepGraph) -> list[str]:
    return [] if graph.grad_decay is None else ["kept = tl.load(decay).to(REAL)"]


def _start(graph: StepGraph, variant: Variant) -> list[str]:
    return [
        f"{part} = tl.full([BLOCK], {rest!r}, REAL)" if variant.fresh else f"{part} = {_load(f'first_{part}')}"
        for part, rest in zip(graph.parts, graph.rest, strict=True)
    ]


def _advance(graph: StepGraph, *, output: bool) -> list[str]:
    """Return one step forward, from the input ``c`` and the state in variables named by its parts."""
    wanted = [graph.output, *graph.after] if output else [*graph.after]
    lines, _, names = _write(wanted, leaves={"decay": "kept"})
    after = names[1:] if output else names
    if output:
        lines = [*lines, _store("output + t * neurons", f"zero + {names[0]}")]
    # a part may pass into another: all are renamed at once
    lines += [f"next_{part} = zero + {value}" for part, value in zip(graph.parts, after, strict=True)]
    return [*lines, *(f"{part} = next_{part}" for part in graph.parts)]


def _forward(graph: StepGraph, variant: Variant) -> str:
    arguments = ["x", "output", "decay", "neurons", "steps", "row"]
    arguments += _named("first", graph.parts, not variant.fresh) + _named("last", graph.parts, variant.final)
    body = [*_decay(graph), *_start(graph, variant), "for t in range(steps):"]
    body += indented([f"c = {_load('x + t * row')}", *_advance(graph, output=True)], 1)
    if variant.final:
        body += [_store(f"last_{part}", part) for part in graph.parts]
    return _function("forward", arguments, body)


def _backward(graph: StepGraph, variant: Variant, chunk: int) -> str:
    learns = graph.grad_decay is not None
    arguments = ["x", "output_cotangent", "grad_input", "decay", "neurons", "steps", "row"]
    arguments += _named("checkpoints", graph.parts) + (["grad_decay"] if learns else [])
    arguments += _named("first", graph.parts, not variant.fresh) + _named("a_last", graph.parts, variant.final)
    arguments += _named("grad_first", graph.parts, not variant.fresh)
    # the state at each chunk's start
    body = [*_decay(graph), *_start(graph, variant), f"chunks = (steps + {chunk - 1}) // {chunk}"]
    body += ["for chunk in range(chunks - 1):"]
    body += indented([_store(f"checkpoints_{part} + chunk * neurons", part) for part in graph.parts], 1)
    body += indented([f"for t in range(chunk * {chunk}, chunk * {chunk} + {chunk}):"], 1)
    body += indented([f"c = {_load('x + t * row')}", *_advance(graph, output=False)], 2)
    body += [f"a_{part} = {_load(f'a_last_{part}') if variant.final else 'zero'}" for part in graph.parts]
    body += ["decays = zero"] if learns else []
    body += ["for back in range(chunks):", *indented(_chunk(graph, chunk), 1)]
    if not variant.fresh:
        body += [_store(f"grad_first_{part}", f"a_{part}") for part in graph.parts]
    if learns:
        body += [_store("grad_decay", "decays")]
    return _function("backward", arguments, body)


def _chunk(graph: StepGraph, chunk: int) -> list[str]:
    """Return a chunk's steps forward with every potential kept in registers, then its adjoint; all unrolled."""
    lines = [f"first = (wide + chunks - 1 - back) * {chunk}", "later = each + back > 0"]
    # the last chunk goes on from where the first pass ended
    for part in graph.parts:
        stored = f"tl.load(checkpoints_{part} + (chunks - 1 - back) * neurons + lane, mask=inside & later, other=0.0)"
        lines += [f"{part}_0 = tl.where(later, {stored}, {part})"]
    for k in range(chunk):
        # a step past the end sees no input and has no cotangent
        lines += [f"here = inside & (each + first + {k} < steps)"]
        lines += [f"c_{k} = tl.load(x + (first + {k}) * row + lane, mask=here, other=0.0).to(REAL)"]
        if k + 1 < chunk:
            step, _, after = _write(graph.after, leaves=_leaves(graph, k), prefix=f"f{k}_")
            lines += step
            lines += [f"{part}_{k + 1} = zero + {value}" for part, value in zip(graph.parts, after, strict=True)]
    for k in reversed(range(chunk)):
        lines += [f"here = inside & (each + first + {k} < steps)"]
        at = f"(first + {k}) * neurons + lane"
        lines += [f"given = tl.load(output_cotangent + {at}, mask=here, other=0.0).to(REAL)"]
        step, _, names = _write(graph.gradients, leaves=_leaves(graph, k), prefix=f"b{k}_")
        lines += [*step, f"tl.store(grad_input + {at}, zero + {names[0]}, mask=here)"]
        before = names[1 : 1 + len(graph.parts)]
        # past the end, the cotangent of the state passes through
        new = [
            f"new_{part} = tl.where(here, {value}, a_{part})" for part, value in zip(graph.parts, before, strict=True)
        ]
        lines += [*new, *(f"a_{part} = new_{part}" for part in graph.parts)]
        if graph.grad_decay is not None:
            lines += [f"decays += tl.where(here, {names[-1]}, 0.0)"]
    return lines


def _leaves(graph: StepGraph, k: int) -> dict[str, str]:
    return {"c": f"c_{k}", "decay": "kept"} | {part: f"{part}_{k}" for part in graph.parts}
