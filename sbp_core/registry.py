"""Finds adapters: entry points of the group ``sbp.backends``, or a ``package.module:factory`` of your own."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from typing import cast

from sbp_core import backend as contract

GROUP = "sbp.backends"


def missing_framework(framework: str, extra: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Return the error an adapter raises when its framework is not installed: it says which extra to install.

    On the public index the name sbp is another project's, so there is one place to install from.

    Example:
        >>> str(missing_framework("PyTorch", "torch", ModuleNotFoundError("No module named 'torch'")))
        'PyTorch is not installed; in a checkout of sbp: pip install ".[torch]"'
    """
    return ModuleNotFoundError(
        f'{framework} is not installed; in a checkout of sbp: pip install ".[{extra}]"', name=error.name
    )


def names() -> list[str]:
    """Return the names of the registered backends, whether or not their framework is installed."""
    return sorted({entry.name for entry in importlib.metadata.entry_points(group=GROUP)})


def load(name: str) -> contract.Declared:
    """Return the engine or backend called ``name``, or what ``package.module:factory`` makes.

    Args:
        name: of an entry point, or a factory's place.

    Raises:
        ValueError: no backend of that name is registered, or the text names no module or no callable.
        ModuleNotFoundError: the backend's framework is not installed.
        ImportError: a module of the backend's own package is missing.
        TypeError: what the factory returned does not say what it is.

    Example:
        >>> load("abacus")
        Traceback (most recent call last):
        ...
        ValueError: backend must be one of 'jax', 'keras', 'tf', 'torch' or 'package.module:factory'; got 'abacus'
    """
    module, attribute = _place(name)
    try:
        found = _factory(name, module, attribute)()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise ImportError(f"backend {name!r}: {error}", name=error.name) from error
    missing = [member for member in contract.DECLARATIONS if not hasattr(found, member)]
    if missing:
        raise TypeError(f"backend {name!r} lacks {', '.join(missing)}: see sbp_core.backend")
    return cast(contract.Declared, found)


def _place(name: str) -> tuple[str, str]:
    """Return module and attribute of a backend's factory."""
    if ":" not in name:
        entries = [entry for entry in importlib.metadata.entry_points(group=GROUP) if entry.name == name]
        if not entries:
            known = ", ".join(map(repr, names()))
            raise ValueError(f"backend must be one of {known} or 'package.module:factory'; got {name!r}")
        return entries[0].module, entries[0].attr
    module, _, attribute = name.partition(":")
    return module, attribute


def _factory(name: str, module: str, attribute: str) -> Callable[[], object]:
    try:
        factory: object = importlib.import_module(module)
    except ModuleNotFoundError as error:
        # of 'a.b.c', 'a' and 'a.b' are missing under their own names
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"backend {name!r}: there is no module {error.name!r}") from None
    for part in attribute.split("."):
        if not hasattr(factory, part):
            raise ValueError(f"backend {name!r}: module {module!r} has no {attribute!r}")
        factory = getattr(factory, part)
    if not callable(factory):
        raise ValueError(f"backend {name!r} is not callable; a factory without arguments is expected")
    return cast(Callable[[], object], factory)
