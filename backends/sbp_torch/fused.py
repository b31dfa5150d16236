"""The neuron over all of time in one compiled loop for the forward and one for the adjoint, on the CPU.

The loops are generated from the spec (:mod:`sbp_core.codegen`) and compiled by numba when first used. Memory keeps the
input alone for the backward; the potentials are computed again in cache.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sbp_core.codegen.kernels import BLOCK_BYTES, generate
from sbp_core.specs.neurons import LIFSpec, LIFState

#: Below this many elements a loop of tensor operations is as quick, and needs no compilation.
LEAST_ELEMENTS = 1 << 15
_DTYPES = {torch.float32: np.float32, torch.float64: np.float64}
Loop = Callable[[LIFSpec, Tensor, LIFState, Tensor | float | None], tuple[Tensor, LIFState]]


def available() -> bool:
    """Say whether the compiler of loops, numba, is installed."""
    return importlib.util.find_spec("numba") is not None


def supports(x: Tensor, decay: Tensor | float | None) -> bool:
    """Say whether the loops can take this input: float32 or float64 on the CPU, not in torch.compile or torch.func."""
    return (
        x.device.type == "cpu"
        and x.dtype in _DTYPES
        and not torch.compiler.is_compiling()
        and torch._C._functorch.maybe_current_level() is None
        and (not isinstance(decay, Tensor) or decay.ndim == 0)
        and available()
    )


def run(
    spec: LIFSpec, x: Tensor, state: LIFState, decay: Tensor | float | None, *, loop: Loop
) -> tuple[Tensor, LIFState]:
    """Run a neuron over ``x``, ``(time, batch, ...)``.

    Args:
        spec: the neuron.
        x: its input, as :func:`supports` asks.
        state: where it starts, parts in the shape and dtype of one step.
        decay: takes the place of ``spec.decay``; a scalar.
        loop: the same neuron in tensor operations, for a gradient of the gradient.
    """
    if decay is not None and not isinstance(decay, Tensor):
        decay = torch.tensor(decay, dtype=x.dtype)
    results = _Fused.apply(spec, loop, x, decay, *(part for part in state if part is not None))  # type: ignore[no-untyped-call]
    return results[0], _as_state(spec, results[1:])


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, spec: LIFSpec, loop: Loop, x: Tensor, decay: Tensor | None, *initial: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.spec, ctx.loop = spec, loop
        ctx.save_for_backward(x, decay, *initial)
        ctx.set_materialize_grads(False)
        layout = _Layout(x)
        output, final = layout.empty(x), [layout.empty_step(part) for part in initial]
        kernel = _compile(_key(spec, decay), str(x.dtype))[0]
        _in_threads(
            kernel,
            layout.neurons,
            (layout.flat(x), layout.flat(output), _scalar(decay, x), _block(x)),
            (*map(layout.flat_step, initial), *map(layout.flat_step, final)),
        )
        return (output, *final)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, decay, *initial = ctx.saved_tensors
        if torch.is_grad_enabled():
            return (None, None, *_differentiable_backward(ctx, x, decay, tuple(initial), grads))
        layout = _Layout(x)
        given = grads[0] if grads[0] is not None else torch.zeros_like(x)
        final = [torch.zeros_like(x[0]) if grad is None else grad for grad in grads[1:]]
        grad_x, grad_initial = layout.empty(x), [layout.empty_step(part) for part in initial]
        kernel = _compile(_key(ctx.spec, decay), str(x.dtype))[1]
        parts = _in_threads(
            kernel,
            layout.neurons,
            (layout.flat(x), layout.flat(given), layout.flat(grad_x), _scalar(decay, x), _block(x)),
            tuple(layout.flat_step(part) for part in (*initial, *final, *grad_initial)),
        )
        grad_decay = None if decay is None else torch.tensor(sum(parts), dtype=x.dtype)
        return (None, None, grad_x, grad_decay, *grad_initial)


def _differentiable_backward(
    ctx: Any, x: Tensor, decay: Tensor | None, initial: tuple[Tensor, ...], grads: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    # a gradient of the gradient is wanted: tensor operations record it
    inputs = [value for value in (x, decay, *initial) if value is not None]
    wanted = [value for value in inputs if value.requires_grad]
    output, final = ctx.loop(ctx.spec, x, _as_state(ctx.spec, initial), decay)
    outputs = (output, *(part for part in final if part is not None))
    given = [(output, grad) for output, grad in zip(outputs, grads, strict=True) if grad is not None]
    found = iter(
        torch.autograd.grad([o for o, _ in given], wanted, [g for _, g in given], create_graph=True, allow_unused=True)
    )
    return tuple(next(found) if value is not None and value.requires_grad else None for value in (x, decay, *initial))


class _Layout:
    """How a dense tensor with time outermost lies in memory, so that channels-last input is not copied."""

    def __init__(self, x: Tensor) -> None:
        strides = x.stride()
        order = sorted(range(x.ndim), key=lambda axis: (-strides[axis], axis))
        if order[0] != 0 or not x.permute(order).is_contiguous():
            order = list(range(x.ndim))
        self.order = order
        self.step_order = [axis - 1 for axis in order[1:]]
        self.neurons = x[0].numel()

    def flat(self, x: Tensor) -> np.ndarray[Any, Any]:
        """Return ``(time, neurons)``, a view where ``x`` lies as the layout says."""
        return x.detach().permute(self.order).contiguous().view(len(x), -1).numpy()

    def flat_step(self, part: Tensor) -> np.ndarray[Any, Any]:
        """Return one step's values, flat, a view where they lie as the layout says."""
        return part.detach().permute(self.step_order).contiguous().view(-1).numpy()

    def empty(self, x: Tensor) -> Tensor:
        """Return a new tensor like ``x`` that lies as the layout says."""
        return _permuted_empty(x, self.order)

    def empty_step(self, part: Tensor) -> Tensor:
        """Return a new tensor like one step that lies as the layout says."""
        return _permuted_empty(part, self.step_order)


def _permuted_empty(like: Tensor, order: list[int]) -> Tensor:
    inverse = [order.index(axis) for axis in range(like.ndim)]
    return torch.empty([like.shape[axis] for axis in order], dtype=like.dtype).permute(inverse)


def _as_state(spec: LIFSpec, parts: tuple[Tensor, ...]) -> LIFState:
    return LIFState(**dict(zip(spec.state_parts, parts, strict=True)))


def _key(spec: LIFSpec, decay: Tensor | None) -> LIFSpec:
    # a decay that is passed in is a variable of the loops; one that is not, a constant
    learns = decay is not None
    if spec.learn_decay == learns:
        return spec
    return (
        spec.replace(learn_decay=learns)
        if not learns or 0.0 < spec.decay < 1.0
        else spec.replace(decay=0.5, learn_decay=True)
    )


@functools.cache
def _compile(spec: LIFSpec, dtype: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    import numba  # heavy, and optional

    source = generate(spec)
    real = np.float32 if dtype == "torch.float32" else np.float64
    scope: dict[str, Any] = {"real": real, "empty": np.empty, "exp": np.exp, "tanh": np.tanh}
    exec(source.forward + source.backward, scope)  # our own generated source
    compiler = numba.njit(nogil=True, error_model="numpy")
    return compiler(scope["forward"]), compiler(scope["backward"])


def _scalar(decay: Tensor | None, x: Tensor) -> Any:
    real = _DTYPES[x.dtype]
    return real(0.0) if decay is None else real(decay.item())


def _block(x: Tensor) -> int:
    return max(16, BLOCK_BYTES // (x.element_size() * (len(x) + 1)))


def _in_threads(
    kernel: Callable[..., float | None], neurons: int, front: tuple[Any, ...], back: tuple[Any, ...]
) -> list[Any]:
    """Run ``kernel(*front, start, stop, *back)`` on equal parts of the neurons, as many as torch has threads."""
    count = max(1, min(torch.get_num_threads(), neurons))
    bounds = [neurons * index // count for index in range(count + 1)]
    parts = list(itertools.pairwise(bounds))
    if count == 1:
        return [kernel(*front, *parts[0], *back)]
    futures: list[Future[Any]] = [_pool(count - 1).submit(kernel, *front, *part, *back) for part in parts[1:]]
    first = kernel(*front, *parts[0], *back)
    return [first, *(future.result() for future in futures)]


@functools.cache
def _pool(size: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(size, thread_name_prefix="sbp-fused")


# threads do not survive a fork: a child starts its own
os.register_at_fork(after_in_child=_pool.cache_clear)
