"""Small trained networks, by name: a safetensors file each, and the log of the run that made it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from sbp_core import validation

SCHEMA = "sbp.pretrained/1"
_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Return the names of the trained networks that are shipped: net, data, method.

    Example:
        >>> "resnet34-digits-evolutionary" in names()
        True
    """
    return sorted(path.stem for path in _FOLDER.glob("*.safetensors"))


def file(name: str) -> Path:
    """Return the file of a trained network, for ``load`` of ``sbp_torch``, ``sbp_jax`` or ``sbp_keras``.

    Args:
        name: one of :func:`names`.

    Raises:
        ValueError: there is no such name, or the file is not what its log says.

    Example:
        >>> from sbp_core.weights import load_network
        >>> spec, weights = load_network(file("resnet18-digits-evolutionary"))
        >>> spec.depths, spec.widths, len(weights)
        ((2, 2, 2, 2), (8, 16, 32, 64), 102)
    """
    path = _FOLDER / f"{validation.choice('name', name, names())}.safetensors"
    found, noted = digest(path), log(name)["sha256"]
    if found != noted:
        raise ValueError(f"{path} is damaged: its SHA-256 is {found}, and its log says {noted}; install sbp again")
    return path


def log(name: str) -> dict[str, Any]:
    """Return what is known of a trained network.

    ``about`` says what it is in a line, ``command`` what trained it, ``accuracy`` the share of test samples that the
    main output got right after the last epoch, ``sha256`` what its file must hash to; ``run`` has the recipe, each
    epoch's figures, versions and machine.

    Args:
        name: one of :func:`names`.

    Raises:
        ValueError: there is no such name.

    Example:
        >>> log("resnet34-digits-vanilla")["accuracy"] < log("resnet34-digits-evolutionary")["accuracy"]
        True
    """
    path = _FOLDER / f"{validation.choice('name', name, names())}.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
