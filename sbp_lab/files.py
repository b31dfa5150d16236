"""Writes files so that an interrupt leaves the old content or the new, never a part."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


def read_json(path: Path, schema: str, what: str) -> dict[str, Any]:
    """Read a file of JSON that says which schema it has.

    Args:
        path: of the file.
        schema: that it must have.
        what: it is, "a run".

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or of another schema; the message says which.
    """
    with sound(path):
        content = json.loads(path.read_text(encoding="utf-8"))
    found = content.get("schema") if isinstance(content, dict) else None
    if found != schema:
        raise ValueError(f"{path} must be {what} of schema {schema!r}, which this version of sbp reads; got {found!r}")
    return dict(content)


@contextmanager
def sound(path: Path) -> Iterator[None]:
    """Say of a file that it is damaged where its content cannot be used.

    Raises:
        ValueError: in place of the ValueError, KeyError or TypeError of the block.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        what = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} is damaged: {what}") from None


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
