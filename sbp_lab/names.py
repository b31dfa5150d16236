"""Names that a person types: one that is not known is answered with those that are near."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from sbp_core import validation


def known(argument: str, value: str, allowed: Iterable[str]) -> str:
    """Return ``value``, or raise if it is not one of ``allowed``.

    Raises:
        ValueError: it is none of them; the message names the argument, lists them, and suggests the nearest.

    Example:
        >>> known("method", "vanila", ["vanilla", "shortcut"])
        Traceback (most recent call last):
        ...
        ValueError: method must be one of 'shortcut', 'vanilla'; got 'vanila'; did you mean 'vanilla'?
    """
    names = sorted(allowed)
    near = get_close_matches(str(value), names, n=1)
    try:
        return validation.choice(argument, value, names)
    except ValueError as error:
        raise ValueError(f"{error}; did you mean {near[0]!r}?" if near else str(error)) from None
