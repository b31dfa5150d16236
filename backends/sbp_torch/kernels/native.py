"""Makes an entry point of a compiled loop that threads call without Python: no thread ever waits for Python's lock.

An entry takes a table of integers: addresses, shapes, and a counter from which threads take parts until none is left.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sbp_torch.kernels import threads

#: What a loop is called with: an array's number of axes and dtype.
Signature = tuple[tuple[int, str], ...]
#: Slots of the table before those of the arrays.
_TAKEN, _DONE, _PARTS, _NEURONS, _SIZE, _BLOCK, _ARRAYS = range(7)


def run(
    kernel: Callable[..., Any],
    front: Sequence[np.ndarray[Any, Any]],
    decay: np.ndarray[Any, Any],
    back: Sequence[np.ndarray[Any, Any]],
    *,
    neurons: int,
    block: int,
    size: int,
    most_threads: int,
    sums: bool,
) -> float:
    """Call ``kernel(*front, decay, block, start, stop, *back)`` on all neurons, in parts of ``size``.

    The parts do not depend on the number of threads, nor does the order in which their results are added.

    Args:
        kernel: a function compiled by numba.
        front: arrays, C-contiguous.
        decay: an array of one number, passed as that.
        back: more arrays.
        neurons: how many there are.
        block: neurons that the kernel treats at once.
        size: neurons of a part.
        most_threads: how many threads may work.
        sums: whether the kernel returns a number.

    Returns:
        The sum of what the parts return, else 0.

    Raises:
        RuntimeError: a part failed.
    """
    parts = -(-neurons // size)
    if parts == 0:
        return 0.0
    arrays = [*front, decay, *back]
    results = np.zeros(parts)
    shapes = [n for array in (*arrays, results) for n in (array.ctypes.data, *array.shape)]
    table = np.array([0, 0, parts, neurons, size, block, *shapes], np.int64)
    entry = _entry(kernel, _signature(front), str(decay.dtype), _signature(back), sums)
    threads.run(entry, table.ctypes.data, min(most_threads, parts))
    if table[_DONE] != parts:
        raise RuntimeError(
            f"{parts - table[_DONE]} of {parts} parts of a neuron's loop failed, for want of memory perhaps"
        )
    return float(results.sum())


def _signature(arrays: Sequence[np.ndarray[Any, Any]]) -> Signature:
    return tuple((array.ndim, str(array.dtype)) for array in arrays)


@functools.cache
def _entry(kernel: Callable[..., Any], front: Signature, decay: str, back: Signature, sums: bool) -> int:
    """Return the address of a function of a table's address."""
    numba: Any = importlib.import_module("numba")  # heavy, and optional
    types = numba.types
    names = [[f"{side}{index}" for index in range(len(given))] for side, given in (("f", front), ("b", back))]
    slot, lines = int(_ARRAYS), []
    given = [*zip(names[0], front, strict=True), ("decay", (1, decay)), *zip(names[1], back, strict=True)]
    for name, (axes, dtype) in [*given, ("results", (1, "float64"))]:
        shape = "".join(f"table[{slot + 1 + axis}], " for axis in range(axes))
        lines.append(f"    {name} = carray(pointer(table[{slot}]), ({shape}), {dtype})")
        slot += 1 + axes
    call = ", ".join([*names[0], "decay[0]", f"table[{_BLOCK}]", "start", "stop", *names[1]])
    source = [
        "def entry(data):",
        f"    table = carray(data, ({slot},))",
        *lines,
        f"    part = count(data, {_TAKEN})",
        f"    while part < table[{_PARTS}]:",
        f"        start = part * table[{_SIZE}]",
        f"        stop = min(start + table[{_SIZE}], table[{_NEURONS}])",
        f"        {'results[part] = ' if sums else ''}kernel({call})",
        f"        count(data, {_DONE})",
        f"        part = count(data, {_TAKEN})",
    ]
    scope: dict[str, Any] = {"carray": numba.carray, "kernel": kernel} | _intrinsics()
    scope |= {name: getattr(np, name) for name in {decay, "float64", *(dtype for _, dtype in (*front, *back))}}
    exec("\n".join(source), scope)  # our own generated source
    compiled = numba.cfunc(types.void(types.CPointer(types.int64)), error_model="numpy")(scope["entry"])
    _KEPT.append(compiled)
    address: int = compiled.address
    return address


#: Functions whose addresses are in use.
_KEPT: list[Any] = []


@functools.cache
def _intrinsics() -> dict[str, Any]:
    extending: Any = importlib.import_module("numba.extending")
    types: Any = importlib.import_module("numba").types

    @extending.intrinsic  # type: ignore[untyped-decorator]
    def pointer(context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

        return types.voidptr(types.int64), generate

    @extending.intrinsic  # type: ignore[untyped-decorator]
    def count(context: Any, data: Any, slot: Any) -> Any:
        """Add 1 to a slot, at once for all threads, and return what it was."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            place = builder.gep(arguments[0], [arguments[1]], source_etype=context.get_value_type(types.int64))
            return builder.atomic_rmw("add", place, context.get_constant(types.int64, 1), "acq_rel")

        return types.int64(data, types.int64), generate

    return {"pointer": pointer, "count": count}
