"""Compiles a neuron's generated loops for CUDA with Triton, and runs them.

``TRITON_INTERPRET=1`` in the environment runs them on the CPU instead, operation by operation in NumPy: for tests.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import linecache
import os
from typing import Any

import torch
from torch import Tensor

from sbp_core.specs.neurons import LIFSpec
from sbp_torch.kernels import triton_source as source_of
from sbp_torch.kernels.source import Keep, Variant

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
#: Neurons of one program: the state over a chunk of steps stays in registers.
BLOCK = 256


def available() -> bool:
    """Say whether Triton is installed, and has CUDA or its interpreter to run on."""
    return importlib.util.find_spec("triton") is not None and (torch.cuda.is_available() or _interpreted())


def supports(x: Tensor, keep: Keep) -> bool:
    """Say whether the kernels can take this input: on CUDA, in any floating dtype, the input kept."""
    return keep == "input" and x.dtype in _DTYPES and x.device.type == _device_type() and available()


def forward(
    spec: LIFSpec,
    variant: Variant,
    x: Tensor,
    output: Tensor,
    decay: Tensor | None,
    bits: Tensor | None,
    initial: list[Tensor],
    final: list[Tensor],
) -> None:
    """Write the output and the last state; every tensor is flat (:func:`sbp_torch.kernels.triton_source.generate`)."""
    kernel = compiled(spec, variant, _chunk(output))[0]
    _launch(kernel, output, [x, output, _pointer(decay, x)], _row(x), [*initial, *final])


def backward(
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
    """Write the gradients of the input and the initial state, and return the decay's, None where none is passed."""
    kernel = compiled(spec, variant, _chunk(given))[1]
    real = _computed_in(given)
    chunks = max(1, -(-len(given) // _chunk(given)) - 1)
    checkpoints = [given.new_empty((chunks, given.shape[1]), dtype=real) for _ in spec.state_parts]
    decays = [] if decay is None else [given.new_zeros(given.shape[1], dtype=real)]
    tensors = [kept, given, grad_x, _pointer(decay, given)]
    _launch(kernel, given, tensors, _row(kept), [*checkpoints, *decays, *initial, *final, *grad_initial])
    return decays[0].sum(dtype=torch.float64) if decays else None


@functools.cache
def compiled(spec: LIFSpec, variant: Variant, chunk: int) -> tuple[Any, Any]:
    """Return the forward and the backward of ``spec``, which Triton compiles when first called.

    Args:
        spec: the neuron.
        variant: what the kernels are given.
        chunk: steps whose state is held in registers at once.
    """
    triton = importlib.import_module("triton")  # optional

    source = source_of.generate(spec, variant, chunk)
    text = source.forward + "\n" + source.backward
    scope: dict[str, Any] = {"tl": triton.language}
    # Triton reads a kernel's source again from its file: the line cache stands in for one
    name = f"<sbp neuron {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    exec(compile(text, name, "exec"), scope)  # our own generated source
    return triton.jit(scope["forward"]), triton.jit(scope["backward"])


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _device_type() -> str:
    return "cpu" if _interpreted() else "cuda"


def _computed_in(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _pointer(decay: Tensor | None, x: Tensor) -> Tensor:
    # a neuron that learns no decay does not read it
    return x if decay is None else decay.detach().to(device=x.device, dtype=_computed_in(x))


def _chunk(x: Tensor) -> int:
    return min(len(x), source_of.CHUNK)


def _row(x: Tensor) -> int:
    return x.shape[1] if len(x) > 1 else 0


def _launch(kernel: Any, like: Tensor, tensors: list[Tensor], row: int, rest: list[Tensor]) -> None:
    triton = importlib.import_module("triton")
    steps, neurons = like.shape
    if neurons == 0:
        return
    real = triton.language.float64 if like.dtype == torch.float64 else triton.language.float32
    grid = (triton.cdiv(neurons, BLOCK),)
    # no fused multiply-add: spikes are those of tensor operations, bit for bit
    with torch.cuda.device(like.device if like.is_cuda else -1):
        kernel[grid](*tensors, neurons, steps, row, *rest, REAL=real, BLOCK=BLOCK, enable_fp_fusion=False)
