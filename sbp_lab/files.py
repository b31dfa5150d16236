"""Writes files so that an interrupt leaves the old content or the new, never a part."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_json(path: Path, content: object) -> Path:
    """Write JSON so that ``path`` holds either what it held before or all of ``content``, whatever interrupts.

    Raises:
        ValueError: ``content`` holds a number that JSON has not (NaN, infinity).
        OSError: the folder cannot be written.
    """
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    return write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes, *, before: Callable[[], object] = lambda: None) -> Path:
    """Write a file under a temporary name beside ``path``, then rename it.

    Args:
        path: of the file; its folder is made where there is none.
        content: of the file.
        before: called when the new file is on the disk and the old one still has its name.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        before()
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def finite(value: Any) -> Any:
    """Return JSON content with None in place of every number that is not finite.

    Example:
        >>> finite({"loss": float("nan"), "seeds": (1, 2)})
        {'loss': None, 'seeds': [1, 2]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
