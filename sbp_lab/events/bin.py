"""The .bin files of N-MNIST and N-Caltech101: records of 40 bits, as an ATIS camera's recordings were published.

Byte 0 is x, byte 1 is y from the top, bit 7 of byte 2 is the polarity (1: brighter), and the other 23 bits, the highest
first, are microseconds (Orchard et al. 2015).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sbp_lab.events.events import Events, checked_size
from sbp_lab.events.order import in_order

_RECORD = 5
#: y of a record that is no event: the clock's counter has run over, and this much is to be added from here on.
_OVERFLOW_ROW, _OVERFLOW = 240, 2**13


def read_bin(path: str | Path, *, size: tuple[int, int], overflow: bool = False) -> Events:
    """Return the recording in a .bin file.

    Args:
        path: of the file.
        size: the sensor's (height, width); N-MNIST's is (34, 34), N-Caltech101's (180, 240).
        overflow: a record whose y is 240 says that the clock ran over: 2^13 microseconds are added to its time and to
            all later ones, and it is no event. So it is in N-Caltech101; in N-MNIST no such record exists.

    Raises:
        ValueError: the file is empty, ends within a record, has a pixel outside the sensor, or a time goes back; the
            message names file, byte and what was expected.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "00001.bin"
        ...     _ = path.write_bytes(bytes([3, 9, 0x80, 0x01, 0x02, 4, 9, 0x00, 0x01, 0x05]))
        ...     events = read_bin(path, size=(34, 34))
        >>> events.t, events.x, events.y, events.p
        (array([258, 261]), array([3, 4], dtype=int16), array([9, 9], dtype=int16), array([1, 0], dtype=uint8))
    """
    path, (height, width) = Path(path), checked_size("size", size)
    content = path.read_bytes()
    whole, rest = divmod(len(content), _RECORD)
    if rest or not whole:
        end = f"the file ends {rest} bytes into record {whole}" if rest else "the file is empty"
        raise ValueError(f"{path}, byte {len(content)}: expected records of {_RECORD} bytes, and {end}")
    records = np.frombuffer(content, np.uint8).reshape(whole, _RECORD)
    x, y = records[:, 0], records[:, 1]
    t = ((records[:, 2] & 127).astype(np.int64) << 16) | (records[:, 3].astype(np.int64) << 8) | records[:, 4]
    p = records[:, 2] >> 7
    kept = np.arange(whole)
    if overflow and (over := y == _OVERFLOW_ROW).any():
        t = t + _OVERFLOW * np.cumsum(over)
        kept = np.flatnonzero(~over)
        t, x, y, p = t[kept], x[kept], y[kept], p[kept]
    for name, values, sides in (("x", x, width), ("y", y, height)):
        if values.size and values.max() >= sides:
            bad = int(np.argmax(values >= sides))
            raise ValueError(
                f"{path}, byte {_RECORD * kept[bad]}: expected {name} below {sides}, the sensor being {height} x "
                f"{width} (height x width), found {values[bad]} in record {kept[bad]}"
            )

    def place(event: int) -> str:
        return f"byte {_RECORD * kept[event]}, record {kept[event]}"

    return in_order(path, (t, x, y, p), (height, width), "strict", place)
