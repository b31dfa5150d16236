"""What named modules of a network give during one call, found on a copy of the path to them.

A call makes shallow copies of the tapped modules and of the modules that hold them; variables and everything else are
shared. The copies of the tapped modules record their output in variables of their own, so that ``nnx.remat`` carries
them out, and are dropped after the call: the network has no trace of them at any time, and no other caller sees them.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import errors, nnx

from sbp_core.selection import Select, part
from sbp_core.taps import Main, TapLayout, TimeAxis, same_shape, several_calls

Path = tuple[Any, ...]

_RECORD = "_sbp_tapped_"


class Tapped(nnx.Variable[Any]):
    """What a tapped module gave in one of its calls."""


def module_names(net: nnx.Module) -> dict[str, tuple[Path, ...]]:
    """Return the name of every module in ``net`` that can be called, and the paths to it, outermost names first.

    A name is a path with dots; the list of an ``nnx.Sequential`` has no part in it, so ``layer2.1`` is a block. A
    module that is held in several places has as many names, and each of them all the paths.

    Example:
        >>> layers = nnx.Sequential(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
        >>> list(module_names(nnx.Sequential(layers)))
        ['0', '0.0', '0.1']
    """
    names: dict[str, nnx.Module] = {}
    paths: dict[int, list[Path]] = {}
    for name, path, module in walk(net):
        if path and callable(module):
            names[".".join(name)] = module
            paths.setdefault(id(module), []).append(path)
    ordered = sorted(names.items(), key=lambda item: (item[0].count("."), item[0]))
    return {name: tuple(paths[id(module)]) for name, module in ordered}


def call_tapped(
    net: nnx.Module, taps: Mapping[str, Sequence[Path]], inputs: Sequence[Any], keywords: Mapping[str, Any]
) -> tuple[Any, dict[str, list[Any]]]:
    """Return ``net(*inputs, **keywords)``, and by tap what the module at these paths gave in each of its calls.

    Attributes that the modules set on themselves during the call reach the network, as without taps.

    Raises:
        RuntimeError: a path that leads to no module any more; a tapped module that did not run, or ran inside a JAX
            transformation in the network that its output cannot leave.
    """
    twins: dict[int, _Twin] = {}
    root = _copy(net, {path: tap for tap, paths in taps.items() for path in paths}, twins)
    result = root(*inputs, **keywords)
    tapped = {}
    for twin in twins.values():
        if twin.tap is not None:
            tapped[twin.tap] = [value.get_value() for _, value in _records(twin.copy)]
            if not tapped[twin.tap]:
                raise RuntimeError(
                    f"tap {twin.tap!r} did not run in this call; tap a module that the network always calls, and if it "
                    "was put inside another after the network was wrapped, wrap the network again"
                )
        _write_back(twin)
    return result, tapped


def gather(tap: str, outputs: Sequence[Any], select: Select, time_axis: TimeAxis) -> jax.Array:
    """Return the array that a tap is: the one output, or the calls stacked along a leading axis of time.

    Raises:
        RuntimeError: several calls where they are no steps.
        TypeError: a part that is no array.
        ValueError: no such part, or calls of several shapes.
    """
    parts = [part(f"tap {tap!r}", output, select, "select", jax.Array) for output in outputs]
    if time_axis == "calls":
        same_shape(tap, [x.shape for x in parts])
        return jnp.stack(parts)
    if len(parts) > 1:
        raise RuntimeError(several_calls(tap, len(parts), time_axis))
    array: jax.Array = parts[0]
    return array


def arrange(
    tap: str, x: jax.Array, layout: TapLayout, main: jax.Array, num_classes: int, channels: int | None = None
) -> tuple[jax.Array, Main]:
    """Return a tapped output as ``(time, batch, ..., channels)``, one step where it has no time, and what ``main`` is.

    Args:
        tap: its name, for messages.
        x: the output.
        layout: how it lies.
        main: the main logits.
        num_classes: classes that they must have.
        channels: what its branch was made for; None not to check it.

    Raises:
        ValueError: the logits have other classes; it does not lie so, does not fit them, or has other channels.
    """
    form = layout.check_main(main.shape, num_classes, items=(*x.shape, None)[0])
    axes = layout.check_tap(tap, x.shape, form)
    x = x.reshape(layout.split(x.shape)).transpose(axes.time_first_channels_last)
    if channels not in (None, x.shape[-1]):
        raise ValueError(
            f"tap {tap!r} must have the {channels} channels that its branch was made for, got {x.shape[-1]}"
        )
    return (x[None] if axes.time is None else x), form


def as_main(logits: jax.Array, main: Main, time_axis: TimeAxis) -> jax.Array:
    """Return a branch's logits at each step, ``(time, batch, classes)``, in the form of the main ones."""
    if main.form == "mean":
        return logits.mean(axis=0)
    if main.form == "merged":
        return logits.reshape(-1, logits.shape[-1])
    return logits.swapaxes(0, 1) if time_axis == 1 else logits


def shapes(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what ``function(*arguments)`` gives as shapes, without computing; what holds no array stays as it is."""
    leaves, tree = jax.tree.flatten(arguments)
    dynamic = [hasattr(leaf, "dtype") and not isinstance(leaf, np.generic) for leaf in leaves]

    def run(arrays: Sequence[Any]) -> Any:
        rest = iter(arrays)
        filled = [next(rest) if is_array else leaf for leaf, is_array in zip(leaves, dynamic, strict=True)]
        return function(*jax.tree.unflatten(tree, filled))

    return jax.eval_shape(run, [leaf for leaf, is_array in zip(leaves, dynamic, strict=True) if is_array])


class _Twin(NamedTuple):
    """A module, its copy, the attributes that hold copies of other modules, and the tap if it is one."""

    original: nnx.Module
    copy: nnx.Module
    replaced: frozenset[str]
    tap: str | None


def walk(
    node: Any, name: tuple[str, ...] = (), path: Path = (), above: frozenset[int] = frozenset()
) -> Iterator[tuple[tuple[str, ...], Path, nnx.Module]]:
    """Yield the parts of the name, the path and the module, of every module in ``node`` wherever it is held."""
    if id(node) in above:
        return
    if isinstance(node, nnx.Module):
        yield name, path, node
    for key, child in children(node).items():
        in_name = () if key == "layers" and isinstance(node, nnx.Sequential) else (str(key),)
        yield from walk(child, (*name, *in_name), (*path, key), above | {id(node)})


def children(node: Any) -> Mapping[Any, Any]:
    """Return what a module or a container holds, by attribute, key or index."""
    if isinstance(node, nnx.Module):
        # an nnx.List keeps its items as attributes, named by their index
        return {key: value for key, value in vars(node).items() if not key.startswith("_pytree__")}
    if isinstance(node, Mapping):
        return node
    return dict(enumerate(node)) if isinstance(node, list | tuple) else {}


def _copy(node: Any, paths: Mapping[Path, str], twins: dict[int, _Twin]) -> Any:
    """Copy ``node`` along ``paths``, which are relative to it."""
    if id(node) in twins:
        return twins[id(node)].copy
    inner: dict[Any, dict[Path, str]] = {}
    for path, tap in paths.items():
        if path:
            inner.setdefault(path[0], {})[path[1:]] = tap
    held = children(node)
    for key, below in inner.items():
        for path, tap in below.items():
            child = held.get(key)
            if child is None or not (path or (isinstance(child, nnx.Module) and callable(child))):
                found = "nothing" if child is None else f"a {type(child).__name__}"
                raise RuntimeError(
                    f"tap {tap!r} leads to {found} where a module was called: the network was changed after it was "
                    "wrapped; put what is new into a module in the same place, or wrap the network again"
                )
    if isinstance(node, nnx.Module):
        twin = copy.copy(node)
        twins[id(node)] = _Twin(node, twin, frozenset(map(str, inner)), paths.get(()))
        for key, below in inner.items():
            vars(twin)[key] = _copy(held[key], below, twins)
        if () in paths:
            object.__setattr__(twin, "__class__", _recording(type(node)))
        return twin
    items = {**held} | {key: _copy(held[key], below, twins) for key, below in inner.items()}
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
        try:
            setattr(self, f"{_RECORD}{len(_records(self))}", Tapped(output))
        except errors.TraceContextError as error:
            raise RuntimeError(
                f"a tapped {kind.__name__} runs inside a JAX transformation in the network, which its output cannot "
                "leave; use the nnx transformation (nnx.remat) with the module as an argument, tap a module outside, "
                "or return the tap explicitly, see sbp_jax.Tappable"
            ) from error
        return output

    return type(kind.__name__, (kind,), {"__call__": recorded, "__module__": kind.__module__})


def _records(module: Any) -> list[tuple[str, Any]]:
    """Return what was recorded, in the order of the calls."""
    found = [item for item in vars(module).items() if item[0].startswith(_RECORD)]
    return sorted(found, key=lambda item: int(item[0].removeprefix(_RECORD)))


def _write_back(twin: _Twin) -> None:
    before, after = vars(twin.original), vars(twin.copy)
    for name, value in after.items():
        if name in twin.replaced or name.startswith((_RECORD, "_pytree__")):
            continue
        if name not in before or before[name] is not value:
            setattr(twin.original, name, value)
