"""What a person typed and can put right: answered in a line, with exit code 2."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager


class UsageError(Exception):
    """A wrong argument; its message is all that is shown.

    Args:
        message: what was wrong, and what is allowed.
        option: as it was typed, ``--epochs``; None where no one option is to blame.
    """

    def __init__(self, message: str, option: str | None = None) -> None:
        super().__init__(f"Invalid value for {option}: {message}" if option else message)


@contextmanager
def blamed_on(option: str | None = None, *, among: Collection[str] = ()) -> Iterator[None]:
    """Turn a complaint about values into a :class:`UsageError`: only while arguments are read, never while it runs.

    Args:
        option: that is to blame; unless given, the one of ``among`` that the message begins with.
        among: options by the names of their fields, ``epochs``, ``optimizer.momentum``.
    """
    try:
        yield
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise UsageError(str(error), option or _named(str(error), among)) from None


def _named(message: str, names: Collection[str]) -> str | None:
    """Return the option that a message is about: the words before its text are the path to a field."""
    path = re.match(r"(?:unknown field ')?([\w.\[\]]+(?:: \w+)*)", message)
    words = re.sub(r"\[\d+\]", "", path[1]).replace(": ", ".").split(".") if path else []
    for length in range(len(words), 0, -1):
        name = ".".join(words[:length])
        if name in names:
            return spelt(name)
    # a field of a field may be complained of without its way
    return next(
        (spelt(name) for name in names if words[:1] in ([name.partition(".")[0]], [name.rpartition(".")[2]])), None
    )


def spelt(name: str) -> str:
    """Return a field's option.

    Example:
        >>> spelt("optimizer.weight_decay")
        '--optimizer.weight-decay'
    """
    return "--" + name.replace("_", "-")
