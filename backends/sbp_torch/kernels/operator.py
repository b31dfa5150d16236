"""The fused loops as operators of torch's library, so that they stay whole inside a graph of torch.compile.

Inductor unrolls tensor operations over time, and compiling takes about a second for each step; an operator takes none.
Forward mode and ``torch.func`` do not see through an operator, so it is not used there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sbp_core.specs.neurons import LIFSpec, LIFState
from sbp_torch.kernels import fused
from sbp_torch.kernels.layout import Layout
from sbp_torch.kernels.source import Variant


def run(
    spec: LIFSpec, x: Tensor, state: LIFState | None, decay: Tensor | None, *, wants_state: bool
) -> tuple[Tensor, LIFState | None]:
    """Run a neuron over ``x`` as :func:`sbp_torch.kernels.fused.run` does, inside a graph."""
    initial = [] if state is None else [part for part in state if part is not None]
    output, *final = _lif(x, decay, initial, _text(spec, decay is not None), wants_state)
    return output, LIFState(**dict(zip(spec.state_parts, final, strict=True))) if wants_state else None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _text(spec: LIFSpec, learns: bool) -> str:
    # an operator takes text, not a spec
    return fused.key(spec, learns=learns).to_json()


@torch.library.custom_op("sbp::lif", mutates_args=())
def _lif(x: Tensor, decay: Tensor | None, initial: list[Tensor], spec: str, wants_state: bool) -> list[Tensor]:
    variant = Variant(fresh=not initial, final=wants_state)
    return fused.forward(_engine(x), LIFSpec.from_json(spec), variant, Layout(x), x, decay, None, initial)


@_lif.register_fake
def _(x: Tensor, decay: Tensor | None, initial: list[Tensor], spec: str, wants_state: bool) -> list[Tensor]:
    layout, parts = Layout(x), LIFSpec.from_json(spec).state_parts
    return [layout.empty(x), *([layout.empty_step(x) for _ in parts] if wants_state else [])]


@torch.library.custom_op("sbp::lif_backward", mutates_args=())
def _lif_backward(
    x: Tensor, decay: Tensor | None, initial: list[Tensor], given: Tensor, final: list[Tensor], spec: str
) -> list[Tensor]:
    variant = Variant(fresh=not initial, final=bool(final))
    layout, read = Layout(x), LIFSpec.from_json(spec)
    grad_x, grad_decay, *grad_initial = fused.backward(
        _engine(x), read, variant, layout, layout.flat(x), decay, initial, given, final, len(initial)
    )
    found = [grad_x, *grad_initial, *([] if grad_decay is None else [grad_decay])]
    return [gradient for gradient in found if gradient is not None]


@_lif_backward.register_fake
def _(
    x: Tensor, decay: Tensor | None, initial: list[Tensor], given: Tensor, final: list[Tensor], spec: str
) -> list[Tensor]:
    layout = Layout(x)
    gradients = [layout.empty(x), *(layout.empty_step(x) for _ in initial)]
    return gradients if decay is None else [*gradients, torch.empty_like(decay)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, decay, initial, ctx.spec, _ = inputs
    ctx.save_for_backward(x, decay, *initial)


def _differentiate(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
    x, decay, *initial = ctx.saved_tensors
    given, *final = grads
    if given is None:
        given = torch.zeros_like(x)
    some = any(grad is not None for grad in final)
    cotangents = [torch.zeros_like(x[0]) if grad is None else grad for grad in final] if some else []
    grad_x, *rest = _lif_backward(x, decay, initial, given, cotangents, ctx.spec)
    grad_decay = None if decay is None else rest.pop()
    return grad_x, grad_decay, rest, None, None


_lif.register_autograd(_differentiate, setup_context=_keep)


def _engine(x: Tensor) -> fused.Engine:
    engine = fused.engine_of(x)
    if engine is None:
        raise RuntimeError(f"the compiler of loops that this graph was made with is gone for {x.dtype} on {x.device}")
    return engine
