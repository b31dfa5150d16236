"""Reading modules by path, with errors that name what is not as SpikingJelly builds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from sbp_core.specs.networks import NetworkSpec

#: Paths and modules, in order.
Modules = list[tuple[str, nn.Module]]


class Place(NamedTuple):
    """Where a layer of ours is in their network.

    Attributes:
        path: of their module.
        part: which of its equal parts of channels: they compute q, k and v in one.
        parts: how many it has.
    """

    path: str
    part: int = 0
    parts: int = 1


class Found(NamedTuple):
    """What was read from a network.

    Attributes:
        spec: the network.
        places: where our layers are in theirs, by our path.
    """

    spec: NetworkSpec
    places: dict[str, Place]


def at(net: nn.Module, path: str) -> nn.Module:
    """Return a module by its path.

    Raises:
        ValueError: there is none.
    """
    try:
        return net.get_submodule(path)
    except AttributeError:
        raise ValueError(f"net has no module {path!r}: {type(net).__name__} is not built as SpikingJelly's") from None


def children(net: nn.Module, path: str) -> Modules:
    """Return what a module has in it, by path.

    Raises:
        ValueError: it is empty, or not there.
    """
    found = [(f"{path}.{name}", module) for name, module in at(net, path).named_children()]
    if not found:
        raise ValueError(f"{path} must have modules, it is empty")
    return found


def convolution(net: nn.Module, path: str) -> nn.Conv1d | nn.Conv2d:
    """Return a convolution by its path.

    Raises:
        ValueError: it is something else, or not there.
    """
    module = at(net, path)
    if not isinstance(module, nn.Conv1d | nn.Conv2d):
        raise ValueError(f"{path} must be a convolution, got {type(module).__name__}")
    return module


def linear(net: nn.Module, path: str) -> nn.Linear:
    """Return a linear layer by its path.

    Raises:
        ValueError: it is something else, or not there.
    """
    module = at(net, path)
    if not isinstance(module, nn.Linear):
        raise ValueError(f"{path} must be a Linear, got {type(module).__name__}")
    return module


def of(module: object, name: str, path: str) -> Any:
    """Return an attribute of what is at ``path``.

    Raises:
        ValueError: it has none of that name.
    """
    if not hasattr(module, name):
        raise ValueError(f"{path} is a {type(module).__name__} without {name!r}")
    return getattr(module, name)


def alike(net: nn.Module, paths: list[str], name: str) -> Any:
    """Return the attribute that all modules of these paths have in common.

    Raises:
        ValueError: one has another value.
    """
    found = [of(at(net, path), name, path) for path in paths]
    for path, value in zip(paths, found, strict=True):
        if value != found[0]:
            raise ValueError(f"{path}: {name} must be {found[0]!r} as that of {paths[0]}, got {value!r}")
    return found[0]


def pair(value: Any) -> tuple[Any, ...]:
    """Return a size of both axes of space, which torch keeps as one number where they are alike."""
    return tuple(value) if isinstance(value, tuple | list) else (value, value)


def under(ours: str, theirs: str, table: Mapping[str, str]) -> dict[str, str]:
    """Return a table of names within a block, each with the paths of its block before it."""
    return {f"{ours}.{name}": f"{theirs}.{module}" for name, module in table.items()}


def placed(table: Mapping[str, str]) -> dict[str, Place]:
    """Return a table of paths as places of whole modules."""
    return {name: Place(path) for name, path in table.items()}
