"""Checks at the edge: each raises an error that names the argument, what it was and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real


def finite(name: str, value: float) -> float:
    """Return ``value`` as a float, or raise if it is not a finite number.

    Raises:
        TypeError: ``value`` is not a real number.
        ValueError: ``value`` is infinite or NaN.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a real number, got {value!r} of type {type(value).__name__}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return float(value)


def positive(name: str, value: float) -> float:
    """Return ``value`` as a float, or raise if it is not finite and greater than zero.

    Raises:
        TypeError: ``value`` is not a real number.
        ValueError: ``value`` is not finite, or not greater than 0.
    """
    number = finite(name, value)
    if number <= 0:
        raise ValueError(f"{name} must be greater than 0, got {value!r}")
    return number


def within(name: str, value: float, low: float, high: float) -> float:
    """Return ``value`` as a float, or raise if it lies outside ``[low, high]``.

    Raises:
        TypeError: ``value`` is not a real number.
        ValueError: ``value`` is not finite, or outside the interval.
    """
    number = finite(name, value)
    if not low <= number <= high:
        raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {value!r}")
    return number


def count(name: str, value: int, least: int = 1) -> int:
    """Return ``value`` as an int, or raise if it is not a whole number of at least ``least``.

    Raises:
        TypeError: ``value`` is not an integer.
        ValueError: ``value`` is less than ``least``.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r} of type {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return int(value)


def flag(name: str, value: bool) -> bool:
    """Return ``value``, or raise if it is not a bool.

    Raises:
        TypeError: ``value`` is not True or False.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def choice(name: str, value: str, allowed: Iterable[str]) -> str:
    """Return ``value``, or raise if it is not one of ``allowed``.

    Raises:
        ValueError: ``value`` is none of ``allowed``.
    """
    options = tuple(allowed)
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}; got {value!r}")
    return value


def counts(name: str, values: Sequence[int]) -> tuple[int, ...]:
    """Return ``values`` as a non-empty tuple of integers of at least 1.

    Raises:
        TypeError: an entry is not an integer, or ``values`` is not a sequence.
        ValueError: it is empty, or an entry is less than 1.
    """
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"{name} must be a sequence of integers, got {values!r}")
    if not values:
        raise ValueError(f"{name} must not be empty")
    return tuple(count(f"{name}[{index}]", value) for index, value in enumerate(values))
