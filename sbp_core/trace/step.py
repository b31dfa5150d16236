"""One step of a neuron and its adjoint as expressions, and which of its values the adjoint needs."""

from __future__ import annotations

from dataclasses import dataclass

from sbp_core import dynamics
from sbp_core.specs.neurons import LIFSpec, LIFState
from sbp_core.trace import expression
from sbp_core.trace.expression import COMPARISONS, Node, Operand


@dataclass(frozen=True)
class StepGraph:
    """A step of :func:`sbp_core.dynamics.step` and its adjoint.

    The leaves are named ``c`` (the input), ``decay``, each of ``parts`` (the state before), ``given`` (the cotangent of
    the output) and ``a_`` with a part's name (the cotangent of the state after).

    Attributes:
        parts: names of the state's parts that the neuron has, in order.
        rest: what each part is at a fresh start.
        output: the output.
        after: each part after the step.
        grad_input: gradient of the input.
        grad_before: gradient of each part before the step.
        grad_decay: gradient of the decay, one step's share; None unless it is learnt.
    """

    parts: tuple[str, ...]
    rest: tuple[float, ...]
    output: Operand
    after: tuple[Operand, ...]
    grad_input: Operand
    grad_before: tuple[Operand, ...]
    grad_decay: Operand | None

    @property
    def gradients(self) -> tuple[Operand, ...]:
        """All that the adjoint computes."""
        return (self.grad_input, *self.grad_before, *(() if self.grad_decay is None else (self.grad_decay,)))

    @property
    def bits(self) -> tuple[Node, ...] | None:
        """The comparisons that are all the adjoint needs of the forward, or None where it needs more than bits.

        A rectangle's derivative is a comparison. With the reset detached, or soft, or none, nothing else of the step
        enters; a hard reset with its gradient needs the potential too.

        Example:
            >>> len(step_graph(LIFSpec(detach_reset=True)).bits), step_graph(LIFSpec()).bits
            (2, None)
        """
        values = {"c", *self.parts}
        found: dict[Node, None] = {}
        visited: set[Node] = set()
        pending = [value for value in self.gradients if isinstance(value, Node)]
        while pending:
            node = pending.pop()
            if node in visited:
                continue
            visited.add(node)
            if node.operation in COMPARISONS:
                found[node] = None
            elif node.operation in values:
                return None
            else:
                pending += [operand for operand in node.operands if isinstance(operand, Node)]
        return tuple(node for node in expression.in_order([*self.gradients]) if node in found)


def step_graph(spec: LIFSpec) -> StepGraph:
    """Return one step of ``spec`` and its adjoint, traced through the core's formulas."""
    parts = spec.state_parts
    x, decay = Node("c"), Node("decay")
    before = {name: Node(name) for name in parts}
    output, after = dynamics.step(
        spec,
        LIFState(**before),
        x,
        spike=lambda u: expression.spike(u, spec.surrogate, inclusive=spec.inclusive),
        detach=expression.detach,
        sigmoid=expression.sigmoid,
        spread=expression.spread,
        decay=decay if spec.learn_decay else None,
    )
    results = [output, *(getattr(after, name) for name in parts)]
    given = [Node("given"), *(Node(f"a_{name}") for name in parts)]
    # a part that passes a leaf through unchanged must not merge its cotangent with the leaf's own
    cotangents: dict[Node, Operand] = {}
    for result, cotangent in zip(results, given, strict=True):
        cotangents[result] = cotangents[result] + cotangent if result in cotangents else cotangent
    gradients = expression.pullback(cotangents, [x, *before.values(), decay])
    return StepGraph(
        parts=parts,
        rest=tuple(spec.start.values()),
        output=output,
        after=tuple(results[1:]),
        grad_input=gradients[0],
        grad_before=tuple(gradients[1:-1]),
        grad_decay=gradients[-1] if spec.learn_decay else None,
    )
