"""The neuron over all of time in one compiled loop for the forward and one for the adjoint.

The loops are generated from the spec (:mod:`sbp_core.trace`) and compiled when first used: by numba for the CPU
(:mod:`sbp_torch.kernels.numba_loops`), by Triton for CUDA (:mod:`sbp_torch.kernels.triton_loops`). Memory keeps the
input alone for the backward, or a few bits of each element where those are all that the adjoint needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from sbp_core.specs.neurons import LIFSpec, LIFState
from sbp_torch import private
from sbp_torch.kernels import numba_loops, triton_loops
from sbp_torch.kernels.layout import Layout
from sbp_torch.kernels.source import Keep, Variant, bits_per_step

#: Below this many elements a loop of tensor operations is as quick, and needs no compilation.
LEAST_ELEMENTS = 1 << 15
Loop = Callable[[LIFSpec, Tensor, LIFState | None, Tensor | None], tuple[Tensor, LIFState]]


class Engine(Protocol):
    """What runs the generated loops on one kind of device; every tensor is flat, and what is written is passed in."""

    def supports(self, x: Tensor, keep: Keep) -> bool:
        """Say whether it can take this input here."""

    def forward(
        self,
        spec: LIFSpec,
        variant: Variant,
        x: Tensor,
        output: Tensor,
        decay: Tensor | None,
        bits: Tensor | None,
        initial: list[Tensor],
        final: list[Tensor],
    ) -> None:
        """Write the output, the last state and the bits to keep."""

    def backward(
        self,
        spec: LIFSpec,
        variant: Variant,
        kept: Tensor,
        given: Tensor,
        grad_x: Tensor,
        decay: Tensor | None,
        initial: list[Tensor],
        final: list[Tensor],
        grad_initial: list[Tensor],
    ) -> Tensor | None:
        """Write the gradients of the input and the initial state; return the decay's."""


ENGINES: tuple[Engine, ...] = (numba_loops, triton_loops)


def available() -> bool:
    """Say whether a compiler of loops is installed: numba, or Triton with CUDA."""
    return numba_loops.available() or triton_loops.available()


def engine_for(x: Tensor, decay: Tensor | float | None, keep: Keep = "input") -> Engine | None:
    """Return what can run the loops on this input, or None: nothing can in torch.func, or in forward mode."""
    if private.in_transform() or (isinstance(decay, Tensor) and decay.ndim != 0):
        return None
    return engine_of(x, keep)


def engine_of(x: Tensor, keep: Keep = "input") -> Engine | None:
    """Return what can run the loops on a tensor of this kind, or None."""
    return next((engine for engine in ENGINES if engine.supports(x, keep)), None)


def run(
    spec: LIFSpec,
    x: Tensor,
    state: LIFState | None,
    decay: Tensor | None,
    engine: Engine,
    *,
    keep: Keep,
    wants_state: bool,
    loop: Loop,
) -> tuple[Tensor, LIFState | None]:
    """Run a neuron over ``x``, ``(time, batch, ...)``.

    Args:
        spec: the neuron.
        x: its input.
        state: where it starts, parts in the shape and dtype of one step; None for afresh.
        decay: takes the place of ``spec.decay``; a scalar.
        engine: what :func:`engine_for` gave.
        keep: what is kept for the backward.
        wants_state: return the last state too.
        loop: the same neuron in tensor operations, for a gradient of the gradient.
    """
    initial = () if state is None else tuple(part for part in state if part is not None)
    variant = Variant(fresh=state is None, final=wants_state, keep=keep)
    plan = _Plan(spec, key(spec, learns=decay is not None), variant, engine, loop)
    results = _Fused.apply(plan, x, decay, *initial)  # type: ignore[no-untyped-call]
    return results[0], plan.state(results[1:]) if wants_state else None


@dataclass(frozen=True)
class _Plan:
    spec: LIFSpec
    key: LIFSpec
    variant: Variant
    engine: Engine
    loop: Loop

    def state(self, parts: tuple[Tensor, ...]) -> LIFState:
        return LIFState(**dict(zip(self.spec.state_parts, parts, strict=True)))

    def bits(self, x: Tensor) -> Tensor | None:
        if self.variant.keep == "input":
            return None
        per_byte = 8 // (bits_per_step(self.key) or 8)
        return torch.zeros(-(-len(x) // per_byte), x[0].numel(), dtype=torch.uint8, device=x.device)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, x: Tensor, decay: Tensor | None, *initial: Tensor) -> tuple[Tensor, ...]:
        layout, bits = Layout(x), plan.bits(x)
        ctx.plan, ctx.layout, ctx.shape, ctx.starts = plan, layout, x.shape, len(initial)
        if bits is None:
            ctx.save_for_backward(x, decay, *initial)
        else:
            ctx.save_for_backward(bits, decay)
        ctx.set_materialize_grads(False)
        return tuple(forward(plan.engine, plan.key, plan.variant, layout, x, decay, bits, list(initial)))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        kept, decay, *initial = ctx.saved_tensors
        plan, layout = ctx.plan, ctx.layout
        if all(grad is None for grad in grads):
            return (None, None, None, *(None for _ in range(ctx.starts)))
        if torch.is_grad_enabled():
            if plan.variant.keep == "bits":
                raise RuntimeError(
                    "implementation 'packed' keeps too little for a gradient of the gradient; use 'fused'"
                )
            return (None, *_differentiable_backward(plan, kept, decay, tuple(initial), grads))
        like = next(grad for grad in grads if grad is not None)
        given = grads[0] if grads[0] is not None else like.new_zeros(()).expand(ctx.shape)
        # no cotangent of the last state: a kernel without it
        some = any(grad is not None for grad in grads[1:])
        final = [torch.zeros_like(given[0]) if grad is None else grad for grad in grads[1:]] if some else []
        variant = Variant(fresh=plan.variant.fresh, final=some, keep=plan.variant.keep)
        flat = kept if variant.keep == "bits" else layout.flat(kept)
        found = backward(plan.engine, plan.key, variant, layout, flat, decay, initial, given, final, ctx.starts)
        return (None, *found)


def forward(
    engine: Engine,
    spec: LIFSpec,
    variant: Variant,
    layout: Layout,
    x: Tensor,
    decay: Tensor | None,
    bits: Tensor | None,
    initial: list[Tensor],
) -> list[Tensor]:
    """Return the output and, if the variant has it, the last state's parts."""
    output = layout.empty(x)
    final = [layout.empty_step(x) for _ in spec.state_parts] if variant.final else []
    engine.forward(
        spec,
        variant,
        layout.flat(x),
        layout.flat(output),
        decay,
        bits,
        [layout.flat_step(part) for part in initial],
        [layout.flat_step(part) for part in final],
    )
    return [output, *final]


def backward(
    engine: Engine,
    spec: LIFSpec,
    variant: Variant,
    layout: Layout,
    kept: Tensor,
    decay: Tensor | None,
    initial: list[Tensor],
    given: Tensor,
    final: list[Tensor],
    starts: int,
) -> list[Tensor | None]:
    """Return the gradients of the input, the decay and the ``starts`` parts of the initial state."""
    grad_x = layout.empty(given)
    grad_initial = [layout.empty_step(grad_x) for _ in range(starts)]
    grad_decay = engine.backward(
        spec,
        variant,
        kept,
        layout.whole(given),
        layout.flat(grad_x),
        decay,
        [layout.flat_step(part) for part in initial],
        [layout.flat_step(part) for part in final],
        [layout.flat_step(part) for part in grad_initial],
    )
    return [grad_x, None if grad_decay is None or decay is None else grad_decay.to(decay), *grad_initial]


def _differentiable_backward(
    plan: _Plan, x: Tensor, decay: Tensor | None, initial: tuple[Tensor, ...], grads: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    # a gradient of the gradient is wanted: tensor operations record it
    inputs = [value for value in (x, decay, *initial) if value is not None]
    wanted = [value for value in inputs if value.requires_grad]
    output, final = plan.loop(plan.spec, x, plan.state(initial) if initial else None, decay)
    outputs = (output, *(part for part in final if part is not None))[: len(grads)]
    # an output may depend on nothing: the first step's of a neuron that fires a step late
    given = [(o, grad) for o, grad in zip(outputs, grads, strict=True) if grad is not None and o.requires_grad]
    if not given:
        return tuple(None for _ in (x, decay, *initial))
    found = iter(
        torch.autograd.grad([o for o, _ in given], wanted, [g for _, g in given], create_graph=True, allow_unused=True)
    )
    return tuple(next(found) if value is not None and value.requires_grad else None for value in (x, decay, *initial))


def key(spec: LIFSpec, *, learns: bool) -> LIFSpec:
    """Return the spec to generate from: a decay that is passed in is a variable of the loops, another a constant."""
    if spec.learn_decay == learns:
        return spec
    decay = spec.decay if not learns or 0.0 < spec.decay < 1.0 else 0.5
    return spec.replace(decay=decay, learn_decay=learns)
