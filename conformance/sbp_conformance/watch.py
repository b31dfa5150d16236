"""Watches a backend's calls: what it was given must be left as it was, and what it returned must stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sbp_conformance.results import Finding
from sbp_core.backend import PARTS, Backend


class _Kept(NamedTuple):
    """An array that must not change, where it was seen, and what it held."""

    told: str
    array: NDArray[Any]
    held: NDArray[Any]


class Watched:
    """A backend whose arguments and results are compared with copies: of arguments after each call, of results at last.

    An argument that was written to is put right again, so that what comes after is not blamed.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._results: list[_Kept] = []
        self._written: dict[str, None] = {}
        for part in PARTS:
            if callable(member := getattr(backend, part, None)):
                setattr(self, part, self._watched(part, member))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def findings(self) -> list[Finding]:
        """Return a finding of kind "contract" for each array that was written to."""
        changed = dict.fromkeys(
            f"{kept.told} changed while the backend was called again" for kept in self._results if _changed(kept)
        )
        return [Finding(quantity="arrays", kind="contract", problem=problem) for problem in [*self._written, *changed]]

    def _watched(self, part: str, member: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **given: Any) -> Any:
            named = [(f"argument {index}", value) for index, value in enumerate(arguments, start=1)]
            kept = [
                _Kept(f"{where} of {part}", array, array.copy())
                for name, value in [*named, *given.items()]
                for where, array in _arrays(name, value)
            ]
            try:
                result = member(*arguments, **given)
            finally:
                for each in kept:
                    if _changed(each):
                        self._written[f"the backend wrote into {each.told}"] = None
                        each.array[...] = each.held
            own = [(f"{where} of {part}", array) for where, array in _arrays("result", result)]
            self._results += [_Kept(told, array, array.copy()) for told, array in own]
            return result

        return call


def _changed(kept: _Kept) -> bool:
    same = kept.array.dtype == kept.held.dtype and kept.array.shape == kept.held.shape
    return not (same and np.array_equal(kept.array, kept.held, equal_nan=kept.held.dtype.kind in "fc"))


def _arrays(name: str, value: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield every array in an argument or a result, with what it is called."""
    if isinstance(value, np.ndarray):
        yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _arrays(f"{name}[{key!r}]", part)
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        for key, part in value._asdict().items():
            yield from _arrays(f"{name}.{key}", part)
    elif isinstance(value, tuple | list):
        for index, part in enumerate(value):
            yield from _arrays(f"{name}[{index}]", part)
