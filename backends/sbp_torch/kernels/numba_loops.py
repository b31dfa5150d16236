"""Compiles a neuron's generated loops for the CPU with numba, and runs them on as many threads as torch has.

numba alone calls ``exp`` and ``tanh`` one number at a time; those here are made of operations that it vectorises.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sbp_core.specs.neurons import LIFSpec
from sbp_torch.kernels import native
from sbp_torch.kernels.source import Keep, Variant, generate

#: Computation's type by the name of the storage's; a bfloat16 is stored as 16 bits, the upper half of a float32.
COMPUTED_IN = {"float32": np.float32, "float64": np.float64, "bfloat16": np.float32}
#: Numbers that a thread takes at once: enough for what it costs to wake one.
PART_ELEMENTS = 1 << 15
Kernel = Callable[..., float | None]


def available() -> bool:
    """Say whether the compiler of loops, numba, is installed."""
    return importlib.util.find_spec("numba") is not None


def supports(x: Tensor, keep: Keep) -> bool:
    """Say whether the loops can take this input: on the CPU, in float32, float64 or bfloat16."""
    return x.device.type == "cpu" and _name(x) in COMPUTED_IN and available()


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
    """Write the output, the last state and the bits to keep; every tensor is flat (:class:`KernelSource`)."""
    kernel = compiled(spec, _name(x), variant)[0]
    back = [*([] if bits is None else [bits]), *initial, *final]
    _run(kernel, output.shape, [x, output], decay, back, sums=False)


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
    kernel = compiled(spec, _name(given), variant)[1]
    found = _run(kernel, given.shape, [kept, given, grad_x], decay, [*initial, *final, *grad_initial], sums=True)
    return None if decay is None else torch.tensor(found, dtype=torch.float64)


def _name(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _array(x: Tensor) -> np.ndarray[Any, Any]:
    # NumPy has no bfloat16
    return x.view(torch.int16).numpy().view(np.uint16) if x.dtype == torch.bfloat16 else x.numpy()


def block_size(steps: int) -> int:
    """Return how many neurons a block has: measured, their state stays in cache and runs of memory are long enough."""
    return min(1024, max(256, 16 * steps))


@functools.cache
def compiled(spec: LIFSpec, stored: str, variant: Variant) -> tuple[Kernel, Kernel]:
    """Return the forward and the backward of ``spec``, compiled when first called.

    Args:
        spec: the neuron.
        stored: name of the arrays' dtype, a key of :data:`COMPUTED_IN`.
        variant: what the kernels are given.
    """
    source = generate(spec, variant)
    scope: dict[str, Any] = dict(_scope(stored))
    exec(source.forward + source.backward, scope)  # our own generated source
    return _compiler()(scope["forward"]), _compiler()(scope["backward"])


def _compiler() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    import numba  # heavy, and optional

    compiler: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.njit(nogil=True, error_model="numpy")
    return compiler


@functools.cache
def _scope(stored: str) -> dict[str, Any]:
    real = COMPUTED_IN[stored]
    compiler = _compiler()
    load, store = _conversions(compiler) if stored == "bfloat16" else (compiler(_same), compiler(_same))
    exp = _exponential(compiler, real)
    return {
        "real": real,
        "wide": np.float64,
        "byte": np.uint8,
        "empty": np.empty,
        "exp": exp,
        "cos": np.cos,
        "log": np.log,
        "sin": np.sin,
        "sqrt": np.sqrt,
        "tanh": _hyperbolic_tangent(compiler, real, exp),
        "load": load,
        "store": store,
    }


def _same(value: Any) -> Any:
    return value


def _conversions(compiler: Callable[..., Any]) -> tuple[Any, Any]:
    """Return a bfloat16's way to float32 and back, to the nearest, ties to even."""
    narrow, word, real = np.uint16, np.uint32, np.float32
    half, one, shift, silent = np.uint32(0x7FFF), np.uint32(1), np.uint32(16), np.uint32(0x7FC0)

    def load(value: Any) -> Any:
        return word(word(value) << shift).view(real)

    def store(value: Any) -> Any:
        bits = real(value).view(word)
        rounded = word(bits + half + ((bits >> shift) & one)) >> shift
        return narrow(rounded if value == value else silent)

    return compiler(load), compiler(store)


def _exponential(compiler: Callable[..., Any], real: Any) -> Any:
    """Return exp, right to about one unit in the last place: 2^n times a Taylor polynomial of what remains.

    2^n is a product of two, so that what is too large or too small for a normal number becomes what it should.
    """
    single = real is np.float32
    integer: Any = np.int32 if single else np.int64
    bias, mantissa = (integer(127), integer(23)) if single else (integer(1023), integer(52))
    lowest, highest = (real(-105.0), real(90.0)) if single else (real(-747.0), real(711.0))
    # ln 2 in two parts, of which the first times n is exact
    upper = real(0.693359375) if single else real(float.fromhex("0x1.62e42fee00000p-1"))
    lower = real(-2.12194440054690583e-4) if single else real(float.fromhex("0x1.a39ef35793c76p-33"))
    per_power, half, one = real(1.0 / math.log(2.0)), real(0.5), real(1.0)
    c = tuple(real(1.0 / math.factorial(k)) for k in range(14))

    def tail(r: Any) -> Any:
        if single:
            return c[7]
        return c[7] + r * (c[8] + r * (c[9] + r * (c[10] + r * (c[11] + r * (c[12] + r * c[13])))))

    tail = compiler(tail)

    def exp(x: Any) -> Any:
        x = lowest if x < lowest else (highest if x > highest else x)
        n = np.floor(x * per_power + half)
        r = (x - n * upper) - n * lower
        rest = c[2] + r * (c[3] + r * (c[4] + r * (c[5] + r * (c[6] + r * tail(r)))))
        whole = integer(n)
        part = integer(whole >> integer(1))
        first = integer((part + bias) << mantissa).view(real)
        second = integer((integer(whole - part) + bias) << mantissa).view(real)
        return (one + (r + r * r * rest)) * first * second

    return compiler(exp)


def _hyperbolic_tangent(compiler: Callable[..., Any], real: Any, exp: Any) -> Any:
    """Return tanh, right to a rounding of 1."""
    one, two, zero = real(1.0), real(2.0), real(0.0)

    def tanh(x: Any) -> Any:
        e = exp(-two * abs(x))
        size = (one - e) / (one + e)
        return -size if x < zero else size

    return compiler(tanh)


def _run(
    kernel: Kernel, shape: torch.Size, front: list[Tensor], decay: Tensor | None, back: list[Tensor], *, sums: bool
) -> float:
    """Run a kernel over ``(time, neurons)`` and return the sum of what its parts give."""
    steps, neurons = shape
    block = block_size(steps)
    real = COMPUTED_IN[_name(front[1])]
    return native.run(
        kernel,
        [_array(tensor) for tensor in front],
        np.array([0.0 if decay is None else decay.item()], real),
        [_array(tensor) for tensor in back],
        neurons=neurons,
        block=block,
        size=block * max(1, PART_ELEMENTS // (steps * block)),
        most_threads=torch.get_num_threads(),
        sums=sums,
    )
