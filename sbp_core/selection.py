"""Which part of what a module gives is meant, and one argument for all taps or one for each: for every adapter."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

#: An index, a key or field, or a function of all of it; None for all of it.
Select = int | str | Callable[[Any], Any] | None


def check_select(name: str, select: object, *, or_function: bool = True) -> None:
    """Raise unless ``select`` says which part of an output is meant.

    Raises:
        TypeError: it is of another type.
    """
    if select is None or (isinstance(select, int | str) and not isinstance(select, bool)):
        return
    if not (or_function and callable(select)):
        kinds = "an index, a key, a function or None" if or_function else "an index, a key or None"
        raise TypeError(f"{name} must be {kinds}, got {select!r} of type {type(select).__name__}")


def part(owner: str, value: Any, select: Select, option: str, kind: type, noun: str = "array") -> Any:
    """Return the array that ``select`` takes from what a module gave.

    Args:
        owner: whose output it is, for messages.
        value: what the module gave.
        select: which part of it.
        option: the name of the argument that says so, for messages.
        kind: the type of the framework's arrays.
        noun: what the framework calls them.

    Raises:
        TypeError: the part is no array, or an array is to be indexed.
        ValueError: there is no such part.

    Example:
        >>> part("tap 'lif'", (2.5, None), 0, "select", float)
        2.5
    """
    chosen = value
    if isinstance(select, int | str):
        if isinstance(value, kind) or not (isinstance(value, Sequence | Mapping) or dataclasses.is_dataclass(value)):
            raise TypeError(
                f"{option}={select!r} takes a part of a tuple, list or mapping, but {owner} gave a "
                f"{type(value).__name__}; pass {option}=None where it gives a {noun}"
            )
        try:
            chosen = getattr(value, str(select)) if _is_field(value, select) else value[select]  # type: ignore[index]
        except (IndexError, KeyError, TypeError):
            has = f"the keys {sorted(map(str, value))}" if isinstance(value, Mapping) else f"the parts {_parts(value)}"
            raise ValueError(
                f"{option}={select!r} does not exist: {owner} gave a {type(value).__name__} of {has}"
            ) from None
    elif select is not None:
        chosen = select(value)
    if not isinstance(chosen, kind):
        source = "gave" if select is None else f"with {option}={select!r} gave"
        article = "an" if noun[0] in "aeiou" else "a"
        raise TypeError(
            f"{owner} must give {article} {noun}, it {source} a {type(chosen).__name__}; say with {option} which part "
            "is meant"
        )
    return chosen


def replaced(value: Any, select: int | str | None, new: Any) -> Any:
    """Return ``value`` with ``new`` in place of the selected part; ``value`` itself is left as it is.

    Example:
        >>> replaced((1, 2), 0, 3)
        (3, 2)
    """
    if select is None:
        return new
    if isinstance(value, Mapping):
        changed: Any = copy.copy(value)
        changed[select] = new
        return changed
    if isinstance(select, str) and _is_field(value, select):
        return (
            value._replace(**{select: new})
            if hasattr(value, "_fields")
            else dataclasses.replace(value, **{select: new})
        )
    items = list(value)
    items[select] = new  # type: ignore[index]
    if isinstance(value, list):
        return items
    return type(value)(*items) if hasattr(value, "_fields") else tuple(items)


def of_each(name: str, given: Any, taps: Sequence[str], default: Any) -> dict[str, Any]:
    """Return tap to value, from one value for all taps or from a mapping; taps left out have the default.

    Raises:
        ValueError: the mapping names something else than taps.

    Example:
        >>> of_each("channels", {"a": "last"}, ["a", "b"], "first")
        {'a': 'last', 'b': 'first'}
    """
    if not isinstance(given, Mapping):
        return dict.fromkeys(taps, given)
    unknown = [key for key in given if key not in taps]
    if unknown:
        raise ValueError(f"{name} must be given for taps, {', '.join(map(repr, taps))}; got {unknown[0]!r}")
    return {tap: given.get(tap, default) for tap in taps}


def fields(value: Any) -> tuple[str, ...]:
    """Return the names of a dataclass's or a named tuple's fields; none of anything else."""
    if dataclasses.is_dataclass(value):
        return tuple(field.name for field in dataclasses.fields(value))
    return tuple(getattr(value, "_fields", ()))


def _is_field(value: Any, select: int | str) -> bool:
    return not isinstance(value, Mapping) and select in fields(value)


def _parts(value: Any) -> str:
    return ", ".join(fields(value) or map(str, range(len(value))))
