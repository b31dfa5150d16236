"""Finds adapters: entry points of the group ``sbp.backends``, or a ``package.module:factory`` of your own."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Sequence
from typing import cast

from sbp_core import backend as contract

GROUP = "sbp.backends"


def missing_framework(framework: str, extra: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Return the error an adapter raises when its framework is not installed: it says which extra to install.

    Example:
        >>> str(missing_framework("PyTorch", "torch", ModuleNotFoundError("No module named 'torch'")))
        'PyTorch is not installed; install it with: pip install "sbp[torch]" (from a checkout: pip install ".[torch]")'
    """
    return ModuleNotFoundError(
        f'{framework} is not installed; install it with: pip install "sbp[{extra}]" '
        f'(from a checkout: pip install ".[{extra}]")',
        name=error.name,
    )


def names() -> list[str]:
    """Return the names of the registered backends, whether or not their framework is installed."""
    return sorted({entry.name for entry in importlib.metadata.entry_points(group=GROUP)})


def load(name: str, *, members: Sequence[str] = contract.MEMBERS) -> contract.Backend:
    """Return the backend called ``name``, or the one that ``package.module:factory`` makes.

    Args:
        name: of an entry point, or a factory's place.
        members: what it must have; a backend that is being written has less than the whole contract.

    Raises:
        ValueError: no backend of that name is registered, or the text names no callable.
        ModuleNotFoundError: the backend's framework is not installed.
        TypeError: what the factory returned lacks a member of the contract.

    Example:
        >>> load("abacus")
        Traceback (most recent call last):
        ...
        ValueError: backend must be one of 'jax', 'keras', 'tf', 'torch' or 'package.module:factory'; got 'abacus'
    """
    backend = _factory(name)()
    missing = [member for member in members if not hasattr(backend, member)]
    if missing:
        raise TypeError(f"backend {name!r} lacks {', '.join(missing)}: see sbp_core.backend.Backend")
    return cast(contract.Backend, backend)


def _factory(name: str) -> Callable[[], object]:
    if ":" in name:
        module_name, _, attribute = name.partition(":")
        try:
            factory = getattr(importlib.import_module(module_name), attribute)
        except AttributeError:
            raise ValueError(f"backend {name!r}: module {module_name!r} has no {attribute!r}") from None
    else:
        entries = [entry for entry in importlib.metadata.entry_points(group=GROUP) if entry.name == name]
        if not entries:
            known = ", ".join(map(repr, names()))
            raise ValueError(f"backend must be one of {known} or 'package.module:factory'; got {name!r}")
        factory = entries[0].load()
    if not callable(factory):
        raise ValueError(f"backend {name!r} is not callable; a factory without arguments is expected")
    return cast(Callable[[], object], factory)
