"""What named modules of a network give during one call, found on a copy of the path to them.

A call makes shallow copies of the tapped modules and of the modules that hold them; variables and everything else are
shared. The copies of the tapped modules record their output in a variable of their own, so that ``nnx.remat`` carries
it out, and are dropped after the call: the network has no trace of them at any time, and no other caller sees them.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from flax import errors, nnx

Path = tuple[Any, ...]

_RECORD = "_sbp_tapped"


class Tapped(nnx.Variable[Any]):
    """The output of a tapped module, during one call."""


def module_names(net: nnx.Module) -> dict[str, Path]:
    """Return the name and the path of every module in ``net`` that can be called, outermost first.

    A name is the path with dots; the list of an ``nnx.Sequential`` has no part in it, so ``layer2.1`` is a block.

    Example:
        >>> layers = nnx.Sequential(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
        >>> list(module_names(nnx.Sequential(layers)))
        ['0', '0.0', '0.1']
    """
    modules = dict(nnx.iter_modules(net))
    names = {}
    for path, module in modules.items():
        if path and callable(module):
            kept = [
                str(part)
                for place, part in enumerate(path)
                if not (part == "layers" and isinstance(modules.get(path[:place]), nnx.Sequential))
            ]
            names[".".join(kept)] = path
    return dict(sorted(names.items(), key=lambda item: (len(item[1]), item[0])))


def call_tapped(
    net: nnx.Module, paths: Mapping[str, Path], inputs: Sequence[Any], keywords: Mapping[str, Any]
) -> tuple[Any, dict[str, jax.Array]]:
    """Return ``net(*inputs, **keywords)``, and by tap the output of the module at each path.

    Attributes that the modules set on themselves during the call reach the network, as without taps.

    Raises:
        RuntimeError: a tapped module did not run, ran more than once, or ran inside a JAX transformation in the network
            that its output cannot leave.
        TypeError: its output is not an array.
    """
    twins: list[_Twin] = []
    root = _copy(net, {path: tap for tap, path in paths.items()}, twins)
    result = root(*inputs, **keywords)
    tapped = {}
    for twin in twins:
        if twin.tap is not None:
            tapped[twin.tap] = _recorded(twin)
        _write_back(twin)
    return result, tapped


class _Twin(NamedTuple):
    """A module, its copy, the attributes that hold copies of other modules, and the tap if it is one."""

    original: nnx.Module
    copy: nnx.Module
    replaced: frozenset[str]
    tap: str | None


def _copy(node: Any, paths: Mapping[Path, str], twins: list[_Twin]) -> Any:
    """Copy ``node`` along ``paths``, which are relative to it."""
    inner: dict[Any, dict[Path, str]] = {}
    for path, tap in paths.items():
        if path:
            inner.setdefault(path[0], {})[path[1:]] = tap
    if isinstance(node, nnx.Module):
        twin = copy.copy(node)
        for key, below in inner.items():
            # an nnx.List keeps its items as attributes too, named by their index
            vars(twin)[str(key)] = _copy(vars(node)[str(key)], below, twins)
        if () in paths:
            object.__setattr__(twin, "__class__", _recording(type(node)))
        twins.append(_Twin(node, twin, frozenset(map(str, inner)), paths.get(())))
        return twin
    items = dict(node) if isinstance(node, Mapping) else dict(enumerate(node))
    for key, below in inner.items():
        items[key] = _copy(items[key], below, twins)
    kind: Any = type(node)
    if isinstance(node, Mapping):
        return kind(items)
    # a named tuple takes its items one by one
    return kind(*items.values()) if hasattr(node, "_fields") else kind(items.values())


@functools.cache
def _recording(kind: type[nnx.Module]) -> type[nnx.Module]:
    """Return the subclass whose instances record what they give; one for each class, so that jit knows it again."""
    call: Any = kind.__call__

    @functools.wraps(call)
    def recorded(self: Any, *inputs: Any, **keywords: Any) -> Any:
        output = call(self, *inputs, **keywords)
        if hasattr(self, _RECORD):
            raise RuntimeError(
                f"a tapped {kind.__name__} ran twice in one call, and only one output can be tapped; "
                "tap a module that runs once, over all time steps"
            )
        try:
            setattr(self, _RECORD, Tapped(output))
        except errors.TraceContextError as error:
            raise RuntimeError(
                f"a tapped {kind.__name__} runs inside a JAX transformation in the network, which its output cannot "
                "leave; use the nnx transformation (nnx.remat) with the module as an argument, tap a module outside, "
                "or return the tap explicitly, see sbp_jax.Tappable"
            ) from error
        return output

    return type(kind.__name__, (kind,), {"__call__": recorded, "__module__": kind.__module__})


def _recorded(twin: _Twin) -> jax.Array:
    record: Any = vars(twin.copy).get(_RECORD)
    if record is None:
        raise RuntimeError(f"tap {twin.tap!r} did not run in this call; tap a module that the network always calls")
    output = record.get_value()
    if not isinstance(output, jax.Array):
        raise TypeError(f"tap {twin.tap!r} must give an array, it gave {type(output).__name__}; tap a module that does")
    return output


def _write_back(twin: _Twin) -> None:
    before, after = vars(twin.original), vars(twin.copy)
    for name, value in after.items():
        if name in twin.replaced or name == _RECORD or name.startswith("_pytree__"):
            continue
        if name not in before or before[name] is not value:
            setattr(twin.original, name, value)
