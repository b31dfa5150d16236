"""AEDAT 2.0, jAER's format: a header of text lines, then address and time of each event, 32 bits each, big-endian.

What an address means depends on the camera. Cameras count x and y from the lower right corner of the picture that they
see; :class:`Events` have them from the upper left.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sbp_lab.events.events import Events
from sbp_lab.events.header import header
from sbp_lab.events.order import Order, in_order

_RECORD = 8


@dataclass(frozen=True, kw_only=True)
class Camera:
    """How a camera's addresses are made, in jAER and in AEDAT 2.0.

    Attributes:
        name: the camera's.
        size: (height, width).
        x: lowest bit and number of bits of the column, from the right.
        y: the same of the row, from the bottom.
        polarity: the bit that says which way the brightness went.
        on: its value where the pixel grew brighter.
        other: bits of which any marks a record that is not of a pixel's events: of a pin, of frames, of motion.
        unused: bits that are 0.
    """

    name: str
    size: tuple[int, int]
    x: tuple[int, int]
    y: tuple[int, int]
    polarity: int
    on: int
    other: int
    unused: int = 0


#: CIFAR10-DVS, MNIST-DVS and others were recorded with it. A 0 is "on".
DVS128 = Camera(
    name="DVS128", size=(128, 128), x=(1, 7), y=(8, 7), polarity=0, on=0, other=0x0000_8000, unused=0xFFFF_0000
)


def _davis(name: str, height: int, width: int) -> Camera:
    return Camera(name=name, size=(height, width), x=(12, 10), y=(22, 9), polarity=11, on=1, other=0x8000_0400)


DAVIS240 = _davis("DAVIS240", 180, 240)
DAVIS346 = _davis("DAVIS346", 260, 346)
DAVIS640 = _davis("DAVIS640", 480, 640)


def read_aedat2(path: str | Path, camera: Camera, *, order: Order = "strict") -> Events:
    r"""Return the recording in an AEDAT 2.0 file.

    Records that a camera writes beside its pixels' events (a pin's, frames', motion's) are left out, by their flags.

    Args:
        path: of the file.
        camera: that it was recorded with: ``DVS128``, ``DAVIS240``, ``DAVIS346``, ``DAVIS640`` or one of your own.
        order: "strict", or "sort" where the camera wrote some times out of order, which older ones did.

    Raises:
        ValueError: the file is of another version, empty, ends within a record, has an address that is not the
            camera's, or a time goes back; the message names file, byte and what was expected.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "cat.aedat"
        ...     _ = path.write_bytes(b"#!AER-DAT2.0\r\n" + bytes([0, 0, 0x7F, 0xFE, 0, 0, 0, 9]))
        ...     read_aedat2(path, DVS128).x
        array([0], dtype=int16)
    """
    path = Path(path)
    content = path.read_bytes()
    _, start = header(path, content, "2.0")
    whole, rest = divmod(len(content) - start, _RECORD)
    if rest or not whole:
        end = f"the file ends {rest} bytes into record {whole}" if rest else "the file ends after its header"
        raise ValueError(f"{path}, byte {len(content)}: expected records of {_RECORD} bytes, and {end}")

    def record(event: int) -> int:
        return event if kept is None else int(kept[event])

    def refuse(odd: NDArray[np.bool_], address: NDArray[np.uint32]) -> None:
        if odd.any():
            first = int(np.argmax(odd))
            raise ValueError(
                f"{path}, byte {start + _RECORD * record(first)}: expected an address of a {camera.name}, "
                f"{camera.size[0]} x {camera.size[1]} (height x width), found {int(address[first]):#010x} in record "
                f"{record(first)}"
            )

    words = np.frombuffer(content, ">u4", offset=start).astype(np.uint32)
    address, t = words[0::2], words[1::2].astype(np.int64)
    kept: NDArray[np.int64] | None = None  # all, as mostly
    used = int(np.bitwise_or.reduce(address))
    if used & (camera.other | camera.unused):
        special = (address & np.uint32(camera.other)) != 0
        # a pin's event in a file of an old jAER: 16 bits, stretched to 32 with their sign
        stretched = special & ((address >> np.uint32(15)) == 0x1FFFF)
        refuse(((address & np.uint32(camera.unused)) != 0) & ~stretched, address)
        kept = np.flatnonzero(~special)
        address, t = address[kept], t[kept]
    height, width = camera.size
    x, y = _field(address, *camera.x), _field(address, *camera.y)
    if x.max(initial=0) >= width or y.max(initial=0) >= height:
        refuse((x >= width) | (y >= height), address)
    p = _field(address, camera.polarity, 1) == camera.on

    def place(event: int) -> str:
        return f"byte {start + _RECORD * record(event)}, record {record(event)}"

    return in_order(path, (t, width - 1 - x, height - 1 - y, p), camera.size, order, place)


def _field(address: NDArray[np.uint32], lowest: int, bits: int) -> NDArray[np.int16]:
    return ((address >> np.uint32(lowest)) & np.uint32(2**bits - 1)).astype(np.int16)
