"""Reads idx files, the format of MNIST: four bytes of magic, the sides as 32-bit numbers, then bytes; .gz or not."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from io import BufferedReader
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sbp_lab.data.files import damaged

_CHUNK = 1 << 20
_GZIP = b"\x1f\x8b"


def read_idx(path: Path, *sides: int) -> NDArray[np.uint8]:
    """Return the array of bytes in the idx file at ``path``: (count, *sides), read-only.

    Raises:
        ValueError: the file is damaged, is no idx file of bytes, or has other sides; the message names the file, the
            byte and what was expected there.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "labels-idx1-ubyte")
        >>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
        >>> read_idx(path)
        array([7, 8, 9], dtype=uint8)
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP
        with gzip.open(path) if packed else path.open("rb") as file:
            return _read(path, file, sides)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise damaged(path, f"byte {path.stat().st_size} at the latest", f"broken gzip ({error})", "gzip") from error


def _read(path: Path, file: gzip.GzipFile | BufferedReader, sides: tuple[int, ...]) -> NDArray[np.uint8]:
    axes = 1 + len(sides)
    magic = 0x800 + axes
    header = 4 + 4 * axes
    head = file.read(header)
    if head[:4] != struct.pack(">I", magic):
        found = f"{int.from_bytes(head[:4], 'big'):#010x}" if len(head) >= 4 else f"{len(head)} bytes"
        raise damaged(path, "byte 0", found, f"{magic:#010x}, idx of bytes with {axes} axes")
    if len(head) < header:
        raise damaged(path, f"byte {len(head)}", "the end", f"a header of {header} bytes")
    count, *given = struct.unpack(f">{axes}I", head[4:])
    if tuple(given) != sides:
        raise damaged(path, "byte 8", f"images of {_by(tuple(given))}", f"images of {_by(sides)}")
    if not count:
        raise damaged(path, "byte 4", "a count of 0", "at least one record")
    length = math.prod(sides)
    expected = count * length
    # by chunks: a header that says billions is not believed before the bytes are there
    content = bytearray()
    while len(content) <= expected and (chunk := file.read(min(_CHUNK, expected + 1 - len(content)))):
        content += chunk
    if len(content) != expected:
        end = min(len(content), expected)
        raise damaged(
            path,
            f"byte {header + end}{'' if isinstance(file, BufferedReader) else ' unpacked'}, record {end // length}",
            "the end" if len(content) < expected else "more bytes",
            f"the end after {count} records of {length} byte{'s' * (length > 1)}, as its header says",
        )
    return np.frombuffer(bytes(content), np.uint8).reshape(count, *sides)


def _by(sides: tuple[int, ...]) -> str:
    return " x ".join(map(str, sides))
