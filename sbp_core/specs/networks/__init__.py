"""Architectures, a file each: its spec, its sizes by name in ``ZOO``, and narrow ones for tests in ``NARROW``."""

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
#: Fields that make each small enough to be held to the oracle in seconds.
NARROW: dict[str, dict[str, Any]] = {}
for _name in sorted(module.name for module in iter_modules(__path__)):
    _module = import_module(f"{__name__}.{_name}")
    ZOO |= getattr(_module, "ZOO", {})
    NARROW |= getattr(_module, "NARROW", {})


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


__all__ = ["NARROW", "ZOO", "CustomSpec", "NetworkSpec", "ResNetSpec", "network_spec", "resnet18_spec", "resnet34_spec"]
