"""TensorBoard's event files, written without TensorBoard, whose own writer loads TensorFlow."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path


class EventFile:
    """Writes scalars as TensorBoard reads them.

    Args:
        folder: of this curve alone, a "run" to TensorBoard. Event files in it are of an earlier process, and may go
            further than what is resumed: they are removed.

    Raises:
        OSError: the folder cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as name:
        ...     events = EventFile(Path(name))
        ...     events.add(200, {"loss": 0.5})
        ...     events.close()
        ...     len(list(Path(name).glob("events.out.tfevents.*")))
        1
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._file = (folder / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}.sbp").open("wb", buffering=0)
        self._write(_text(3, b"brain.Event:2"))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Draw a point of each curve.

        Args:
            step: where.
            values: tag to value; what stands before a slash is a group.

        Raises:
            OSError: the file cannot be written.
        """
        points = (
            _text(1, _text(1, name.encode()) + b"\x15" + struct.pack("<f", value)) for name, value in values.items()
        )
        self._write(b"\x10" + _varint(step) + _text(5, b"".join(points)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, event: bytes) -> None:
        # tensorflow.Event: 1 wall time, 2 step, 3 version of the file, 5 summary; in a TFRecord
        event = b"\x09" + struct.pack("<d", time.time()) + event
        length = struct.pack("<Q", len(event))
        place = self._file.tell()
        try:
            rest = length + _masked(length) + event + _masked(event)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            # a part of an event would hide what comes after it
            self._file.seek(place)
            self._file.truncate()
            raise


def _text(field: int, content: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _masked(content: bytes) -> bytes:
    """Return the CRC-32C of a TFRecord's part, rotated and shifted as they are there."""
    value = 0xFFFFFFFF
    for byte in content:
        value = _TABLE[(value ^ byte) & 255] ^ (value >> 8)
    value ^= 0xFFFFFFFF
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


_TABLE = [_entry(value) for value in range(256)]
