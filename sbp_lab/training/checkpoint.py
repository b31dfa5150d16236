"""A checkpoint is one file: arrays and a JSON header in safetensors, with a checksum, written whole or not at all."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from sbp_lab.files import write_bytes

#: What a checkpoint of this version calls itself.
SCHEMA = "sbp.checkpoint/1"
CURRENT = "checkpoint.safetensors"
PREVIOUS = "checkpoint-previous.safetensors"

#: As tempfile names what becomes a file of a run.
_TEMPORARY = re.compile(
    r"\.(checkpoint|checkpoint-previous|best|last|results|metrics|recipe|sessions|first_steps)\.\w+\.\w{8}"
)
_HEADER, _SUM = "sbp_checkpoint", "sbp_checksum"


class DamagedError(ValueError):
    """A checkpoint that is not what was written."""


class Checkpoint(NamedTuple):
    """What training goes on from.

    Attributes:
        arrays: the trainer's state, by neutral names.
        header: JSON values: the recipe, where the loop is.
        file: that it was read from.
    """

    arrays: dict[str, NDArray[Any]]
    header: dict[str, Any]
    file: Path


def write(folder: Path, arrays: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> Path:
    """Write a checkpoint; the one before is kept under another name, and there is a whole one at every moment.

    Raises:
        OSError: it could not be written; what was there is as it was.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as name:
        ...     file = write(Path(name), {"weights/head.bias": np.zeros(2, np.float32)}, {"step": 3})
        ...     read(file).header["step"]
        3
    """
    target = folder / CURRENT
    text = json.dumps({"schema": SCHEMA, **header}, allow_nan=False)
    # the order of memory, not of a view
    laid = {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in arrays.items()}
    content = safetensors.numpy.save(laid, {_HEADER: text, _SUM: _checksum(text, laid)})
    write_bytes(target, content, before=lambda: _keep(target, folder / PREVIOUS))
    _settle(folder)
    return target


def read(file: Path) -> Checkpoint:
    """Read what :func:`write` wrote.

    Raises:
        FileNotFoundError: there is none.
        DamagedError: a bit of it is not as it was written, or it is no checkpoint.
        ValueError: another version wrote it.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no checkpoint {file}")
    try:
        with safetensors.safe_open(file, "numpy") as opened:
            metadata = opened.metadata() or {}
            arrays = {name: np.asarray(opened.get_tensor(name)) for name in opened.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, TypeError, ValueError) as error:
        raise DamagedError(f"{file} is damaged, or no checkpoint: {error}") from None
    if _HEADER not in metadata:
        raise DamagedError(f"{file} is damaged, or no checkpoint: it must have {_HEADER!r} in its header")
    text = metadata[_HEADER]
    try:
        header = json.loads(text)
    except ValueError as error:
        raise DamagedError(f"{file} is damaged: its header is no JSON, {error}") from None
    schema = header.get("schema") if isinstance(header, dict) else None
    if isinstance(schema, str) and schema != SCHEMA and schema.startswith("sbp.checkpoint/"):
        raise ValueError(
            f"{file} is a checkpoint of schema {schema!r}, and this version of sbp reads {SCHEMA!r}: go on with the "
            "version that wrote it, or begin anew in another folder"
        )
    if metadata.get(_SUM) != _checksum(text, arrays):
        raise DamagedError(f"{file} is damaged: its content has not the checksum that was written with it")
    return Checkpoint(arrays, header, file)


def latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the last sound checkpoint in a folder, and what a person should know of those that are not.

    Raises:
        DamagedError: there are checkpoints, and none is sound.
        ValueError: another version wrote it.
    """
    told: list[str] = []
    files = [file for file in (folder / CURRENT, folder / PREVIOUS) if file.exists()]
    for file in files:
        try:
            return read(file), told
        except DamagedError as error:
            told.append(str(error))
    if files:
        raise DamagedError(
            "; ".join(told) + f". None is left to go on from: begin anew in another folder than {folder}"
        )
    return None, told


def remove(folder: Path) -> None:
    """Remove the checkpoints of a run that is complete: its weights and its curve stay.

    Raises:
        OSError: they cannot be removed.
    """
    for name in (CURRENT, PREVIOUS):
        (folder / name).unlink(missing_ok=True)


def tidy(folder: Path) -> None:
    """Remove what a process that was killed left half written."""
    for file in folder.iterdir():
        if _TEMPORARY.fullmatch(file.name):
            with suppress(OSError):
                file.unlink()


def _checksum(text: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    value = zlib.crc32(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        value = zlib.crc32(f"{name} {array.dtype.str} {array.shape}".encode(), value)
        value = zlib.crc32(np.ascontiguousarray(array).data, value)
    return f"crc32:{value:08x}"


def _keep(target: Path, previous: Path) -> None:
    """Give the checkpoint before its other name, if there is one; it keeps its own until the new one takes it."""
    if not target.exists():
        return
    link = previous.with_name(f".{previous.name}.the_link")
    with suppress(OSError):  # a file system without links has one checkpoint
        link.unlink(missing_ok=True)
        os.link(target, link)
        link.replace(previous)
        # two names of one file stay two
        link.unlink(missing_ok=True)


def _settle(folder: Path) -> None:
    """Have the folder's names on the disk too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        pass  # some file systems do not offer it
    finally:
        os.close(handle)
