"""The comparisons. Each returns a :class:`Finding`; none raises, whatever a backend returned."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbp_conformance.precision import SMALLEST_NORMAL, UNIT_ROUNDOFF
from sbp_conformance.results import Finding, Kind

# bfloat16 crosses the contract as float64; NumPy has it only where another package adds it
_STORED_AS = {"bfloat16": ("bfloat16", "float64")}


def native_dtype(got: object, dtype: str) -> Finding:
    """Compare the name of the dtype that the backend's native output had with the one asked for."""
    problem = None if got == dtype else f"wrong dtype: asked for {dtype}, got {got!r}"
    return Finding(quantity="dtype of the output", kind="contract", problem=problem)


def absent(quantity: str, got: object) -> Finding:
    """Check that something the neuron has not is None."""
    problem = None if got is None else f"wrong type: expected None, got {type(got).__name__}"
    return Finding(quantity=quantity, kind="contract", problem=problem)


def equal(quantity: str, got: object, want: NDArray[Any], dtype: str) -> Finding:
    """Compare spikes: every element equal bit for bit, no tolerance."""
    if (problem := _malformed(got, want, dtype, gradient=False)) is not None:
        return Finding(quantity=quantity, kind="spikes", error=float(want.size), problem=problem)
    found, expected = _double(got), _double(want)
    differ = ~(found == expected)
    if not differ.any():
        return Finding(quantity=quantity, kind="spikes")
    where = _index(differ)
    return Finding(
        quantity=quantity,
        kind="spikes",
        error=float(differ.sum()),
        problem=f"{differ.sum()} of {differ.size} differ, at {where} first: got {found[where]:g}, "
        f"expected {expected[where]:g}",
    )


def close(
    quantity: str, kind: Kind, got: object, want: NDArray[Any], dtype: str, tolerance: float, *, scale: float = 0.0
) -> Finding:
    """Compare arrays: the largest difference, over the largest magnitude expected, is at most ``tolerance``.

    Relative to the whole array and not element by element, because an element that two terms cancel in has no relative
    precision. Where all that is expected is 0 (or below the dtype's normal range), so must be what was got. Where an
    infinity or NaN is expected, either will do, for which comes first depends on the order of operations; a number will
    not.

    Args:
        quantity: what it is.
        kind: what the table counts it as.
        got: the backend's.
        want: the reference's.
        dtype: the one asked for; a gradient may also come in float64, as the reference's do.
        tolerance: 0 asks for equality.
        scale: the least magnitude to divide by.
    """
    if (problem := _malformed(got, want, dtype, gradient=kind == "gradient")) is not None:
        return Finding(quantity=quantity, kind=kind, error=math.inf, problem=problem)
    found, expected = _double(got), _double(want)
    if expected.size == 0:
        return Finding(quantity=quantity, kind=kind)
    floor = SMALLEST_NORMAL[dtype] / UNIT_ROUNDOFF[dtype]
    finite = np.isfinite(expected)
    largest = max(float(np.max(np.abs(expected), initial=0.0, where=finite)), scale, floor)
    with np.errstate(invalid="ignore"):
        errors = np.abs(found - expected) / largest
    errors = np.where(np.isfinite(found) == finite, np.where(finite, errors, 0.0), math.inf)
    error = float(np.max(errors))
    if error <= tolerance:
        return Finding(quantity=quantity, kind=kind, error=error)
    where = _index(errors == error)
    return Finding(
        quantity=quantity,
        kind=kind,
        error=error,
        problem=f"off by {error:.2g} of its largest magnitude, allowed {tolerance:.2g}; worst at {where}: "
        f"got {found[where]:.9g}, expected {expected[where]:.9g}",
    )


def close_number(
    quantity: str, kind: Kind, got: object, want: float, dtype: str, tolerance: float, *, scale: float = 0.0
) -> Finding:
    """Compare numbers as :func:`close` compares arrays."""
    if isinstance(got, bool) or not isinstance(got, Real):
        problem = f"wrong type: expected a float, got {type(got).__name__}"
        return Finding(quantity=quantity, kind=kind, error=math.inf, problem=problem)
    found, expected = np.asarray(float(got)), np.asarray(want)
    return close(quantity, kind, found, expected, "float64", tolerance, scale=max(scale, SMALLEST_NORMAL[dtype]))


def _malformed(got: object, want: NDArray[Any], dtype: str, *, gradient: bool) -> str | None:
    if not isinstance(got, np.ndarray):
        return f"wrong type: expected a NumPy array, got {type(got).__name__}"
    if got.shape != want.shape:
        return f"wrong shape: expected {want.shape}, got {got.shape}"
    allowed = _STORED_AS.get(dtype, (dtype,)) + (("float64",) if gradient else ())
    if got.dtype.name not in allowed:
        return f"wrong dtype: expected {allowed[0]}, got {got.dtype.name}"
    return None


def _double(array: object) -> NDArray[np.float64]:
    return np.asarray(array).astype(np.float64)


def _index(where: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(where)), where.shape))
