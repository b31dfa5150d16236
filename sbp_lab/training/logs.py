"""The curve of a run for other programs: a CSV file, and TensorBoard's event files.

Both are made from the epochs that the checkpoint holds, so that a run that was resumed has no epoch twice.
"""

from __future__ import annotations

import csv
import io
import os
import struct
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from sbp_lab.files import write_bytes
from sbp_lab.record import Epoch

METRICS = "metrics.csv"
FOLDER = "tensorboard"


def write_csv(folder: Path, epochs: Sequence[Epoch]) -> Path:
    """Write ``metrics.csv``, a row an epoch.

    Raises:
        OSError: the folder cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as name:
        ...     file = write_csv(Path(name), [Epoch(number=1, loss=0.5, accuracy=0.75)])
        ...     print(file.read_text().splitlines()[1])
        1,0.5,0.75,,,,,,,,
    """
    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in fields(Epoch)], lineterminator="\n")
    table.writeheader()
    table.writerows(asdict(epoch) for epoch in epochs)
    return write_bytes(folder / METRICS, text.getvalue().encode())


class TensorBoard:
    """Writes the curve as TensorBoard reads it, which need not be installed: its own writer loads TensorFlow.

    Args:
        folder: of the run; the file goes into ``tensorboard`` in it.
        epochs: those of earlier sessions.
        steps_per_epoch: a point is drawn at the step that ended its epoch.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, epochs: Sequence[Epoch], steps_per_epoch: int) -> None:
        self._steps = steps_per_epoch
        place = folder / FOLDER
        place.mkdir(parents=True, exist_ok=True)
        # of a session that was killed they may go further than its checkpoint
        for old in place.glob("events.out.tfevents.*"):
            old.unlink()
        self._file = (place / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}.sbp").open("wb", buffering=0)
        self._write(_text(3, b"brain.Event:2"))
        for epoch in epochs:
            self.add(epoch)

    def add(self, epoch: Epoch) -> None:
        """Draw an epoch.

        Raises:
            OSError: the file cannot be written.
        """
        values = {name: value for name, value in asdict(epoch).items() if name != "number" and value is not None}
        points = (
            _text(1, _text(1, name.encode()) + b"\x15" + struct.pack("<f", value)) for name, value in values.items()
        )
        self._write(b"\x10" + _varint(epoch.number * self._steps) + _text(5, b"".join(points)))

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
