"""Architectures, a file each: its spec, and its sizes by name in ``ZOO``."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from sbp_core.specs.networks.base import NetworkSpec
from sbp_core.specs.networks.custom import CustomSpec
from sbp_core.specs.networks.resnet import ResNetSpec, resnet18_spec, resnet34_spec

#: Every named network: a function of the spec's fields.
ZOO: dict[str, Callable[..., NetworkSpec]] = {}
for _module in sorted(module.name for module in iter_modules(__path__)):
    ZOO |= getattr(import_module(f"{__name__}.{_module}"), "ZOO", {})


def network_spec(name: str, **fields: Any) -> NetworkSpec:
    """Return a network of the zoo by its name.

    Args:
        name: one of :data:`ZOO`'s.
        **fields: what its spec should have otherwise.

    Raises:
        ValueError: an unknown name, or a field out of range.
        TypeError: an unknown field, or one of the wrong type.

    Example:
        >>> network_spec("resnet18", num_classes=100).parameter_count
        11220132
    """
    if name not in ZOO:
        near = get_close_matches(str(name), ZOO, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"name must be one of {', '.join(ZOO)}; got {name!r}{hint}")
    return ZOO[name](**fields)


__all__ = ["ZOO", "CustomSpec", "NetworkSpec", "ResNetSpec", "network_spec", "resnet18_spec", "resnet34_spec"]
