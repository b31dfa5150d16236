"""Data sets by name. A data set is one file: a module of this package, or of yours, with a function that opens it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias, TypeVar

from sbp_lab.data.source import Source
from sbp_lab.names import known

#: Takes the folder that data lies in (None where none was said) and returns the data set, or says what is missing.
Opener: TypeAlias = Callable[[Path | None], Source]
_Opener = TypeVar("_Opener", bound=Opener)

#: Name in recipes and on the command line to opener.
DATASETS: dict[str, Opener] = {}


def data_set(name: str) -> Callable[[_Opener], _Opener]:
    """Return a decorator that registers a function as what opens the data set called ``name``.

    Raises:
        ValueError: another function has that name, or the name cannot be told from a path or from ``module:function``.

    Example:
        >>> @data_set("example")
        ... def example(folder):
        ...     raise FileNotFoundError("put example.npz into the folder")
        >>> DATASETS.pop("example") is example
        True
    """
    if not name or set(name) & set(":/\\ "):
        raise ValueError(f"name must be a word without ':', '/' and spaces, got {name!r}")

    def register(opener: _Opener) -> _Opener:
        other = DATASETS.get(name, opener)
        # the same function again is its module loaded anew
        if (other.__module__, other.__qualname__) != (opener.__module__, opener.__qualname__):
            raise ValueError(f"name must be new, but {name!r} is {other.__module__}.{other.__qualname__}")
        DATASETS[name] = opener
        return opener

    return register


def open_data(name: str, folder: str | Path | None = None) -> Source:
    """Return the data set called ``name``, from files in ``folder``.

    Args:
        name: of a data set; ``name/below`` looks in the folder, or file, ``below`` of ``folder`` and nowhere else, as
            in ``folder/flowers``; ``package.module:function`` is an opener of your own.
        folder: what data lies in; a data set that needs no files takes None.

    Raises:
        ValueError: there is none of that name, or a file is damaged: the message names it, and the place in it.
        FileNotFoundError: files are missing: the message says where to get them and how to lay them out.
        TypeError: an opener of your own returned something else.

    Example:
        >>> digits = open_data("digits")
        >>> len(digits.train), len(digits.test), digits.size
        (1437, 360, (8, 8))
    """
    word, slash, below = name.partition("/")
    opener = DATASETS.get(word)
    if opener is None and ":" in name:
        opener, slash = _own(name), ""
    if opener is None:
        opener = DATASETS[known("data", word, DATASETS)]
    if slash:
        if folder is None:
            raise ValueError(f"data {name!r} lies in a folder of data, and none was said")
        folder = Path(folder) / below
    source = opener(None if folder is None else Path(folder))
    if not isinstance(source, Source):
        raise TypeError(f"data {name!r} must be opened as a Source, got {type(source).__name__}")
    return replace(source, name=name)


def _own(name: str) -> Opener:
    module, _, attribute = name.partition(":")
    try:
        found: object = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"data {name!r}: there is no module {error.name!r}") from error
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ValueError(f"data {name!r}: {module} has no function {attribute!r}")
    return found
