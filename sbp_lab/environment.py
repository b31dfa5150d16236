"""What a result depends on beside its recipe: versions, the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

_PACKAGES = ("sbp", "numpy", "grain", "pillow", "scikit-learn", "torch", "tensorflow", "keras", "jax", "flax", "optax")


def versions() -> dict[str, str]:
    """Return the versions of this package and of what computes, of those that are installed.

    Example:
        >>> "numpy" in versions()
        True
    """
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Return the platform, the processor and the number of processors that this process may use."""
    return {"platform": platform.platform(), "processor": _processor(), "processors": processors()}


def processors() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
