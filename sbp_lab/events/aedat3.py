"""AEDAT 3.1, cAER's format: a header of text lines, then packets, each a header of 28 bytes and its events.

All numbers are little-endian. A packet's header holds type and source (16 bits each), the size of an event in bytes,
where in it the time is, how often the clock's 31 bits have run over, and how many events there is room for, there are,
and are valid. A polarity event (type 1) has 32 bits of data, bit 0 "valid", bit 1 polarity, bits 2 to 16 y and 17 to 31
x, both from the upper left corner, and 32 of time in microseconds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbp_lab.events.events import Events, checked_size
from sbp_lab.events.header import header
from sbp_lab.events.order import Order, in_order

_PACKET = struct.Struct("<hhiiiiii")
_SPECIAL, _POLARITY = 0, 1
#: Bytes of an event, where the type fixes it: special, polarity, and two of motion.
_SIZES = {0: 8, 1: 8, 3: 36, 4: 48}
#: What cameras write: special, polarity, frame, two of motion, configuration. Other types are refused, and special
#: events of codes far beyond the 18 that there are: a damaged type must not hide a packet of polarity events.
_KINDS, _LAST_CODE = (0, 1, 2, 3, 4, 7), 31


@dataclass(frozen=True, kw_only=True)
class Span:
    """Where in a file the packets of some time lie: from byte ``begin``, where packet ``first`` starts, to ``end``."""

    begin: int
    end: int
    first: int


def read_aedat3(
    path: str | Path,
    *,
    size: tuple[int, int] = (128, 128),
    start: int | None = None,
    stop: int | None = None,
    order: Order = "strict",
    span: Span | None = None,
) -> Events:
    r"""Return the polarity events of an AEDAT 3.1 file: all, or those of ``start <= t < stop``.

    Packets of other types, and events that the camera's software has marked as invalid, are none of the recording's.

    Args:
        path: of the file.
        size: the sensor's (height, width); a DVS128's unless given.
        start: first microsecond, as the file counts; None: from the first event on.
        stop: the microsecond after the last; None: to the end.
        order: "strict", or "sort" where the camera wrote some times out of order.
        span: from :func:`spans`: so many bytes of the file are read and no others.

    Raises:
        ValueError: the file is of another version, empty, or ends within a packet, a packet's header contradicts
            itself, an event lies outside the sensor, or a time goes back; the message names file, packet, byte and
            what was expected.

    Example:
        >>> import tempfile
        >>> packet = _PACKET.pack(1, 0, 8, 4, 0, 1, 1, 1) + struct.pack("<Ii", 5 << 17 | 6 << 2 | 1 << 1 | 1, 9)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "user01_led.aedat"
        ...     _ = path.write_bytes(b"#!AER-DAT3.1\r\n#Format: RAW\r\n#!END-HEADER\r\n" + packet)
        ...     events = read_aedat3(path)
        >>> events.t.tolist(), events.x.tolist(), events.y.tolist(), events.p.tolist()
        ([9], [5], [6], [1])
    """
    path, size = Path(path), checked_size("size", size)
    with path.open("rb") as file:
        file.seek(span.begin if span else 0)
        content = file.read(span.end - span.begin if span else -1)
    packets = [
        (packet, _events(path, content, packet, size))
        for packet in _packets(path, content, span)
        if packet.kind == _POLARITY
    ]
    none = np.zeros(0, np.uint8)
    t, x, y, p = (np.concatenate([none, *(events[column] for _, events in packets)]) for column in range(4))
    kept = np.ones(len(t), np.bool_)
    if start is not None:
        kept &= t >= start
    if stop is not None:
        kept &= t < stop
    t, x, y, p = t[kept], x[kept], y[kept], p[kept]
    ends, places = np.cumsum([len(events[0]) for _, events in packets]), np.flatnonzero(kept)

    def place(event: int) -> str:
        which = int(np.searchsorted(ends, places[event], "right"))
        packet, events = packets[which]
        return f"{packet}, valid event {places[event] - (ends[which] - len(events[0]))}"

    return in_order(path, (t, x, y, p), size, order, place)


def spans(path: str | Path, windows: Sequence[tuple[int, int]], *, size: tuple[int, int] = (128, 128)) -> list[Span]:
    """Return where in a file the packets lie that hold events of each window ``start <= t < stop``.

    All of the file is read and checked, so that later the few bytes of a span are enough.

    Args:
        path: of an AEDAT 3.1 file.
        windows: start and stop, microseconds as the file counts.
        size: the sensor's (height, width).

    Raises:
        ValueError: as in :func:`read_aedat3`.
    """
    path, size = Path(path), checked_size("size", size)
    content = path.read_bytes()
    ranges = []
    for packet in _packets(path, content, None):
        t = _events(path, content, packet, size)[0] if packet.kind == _POLARITY else np.zeros(0, np.int64)
        if t.size:
            ranges.append((packet.number, packet.begin, packet.end, int(t.min()), int(t.max())))
    found = []
    for start, stop in windows:
        within = [packet for packet in ranges if packet[4] >= start and packet[3] < stop]
        found.append(
            Span(first=within[0][0], begin=within[0][1], end=within[-1][2]) if within else Span(first=0, begin=0, end=0)
        )
    return found


@dataclass(frozen=True, kw_only=True)
class _Packet:
    number: int  # counted from the file's start, as are its bytes
    begin: int
    end: int
    at: int  # where in what was read its events begin
    kind: int
    count: int
    valid: int
    overflows: int

    def __str__(self) -> str:
        return f"packet {self.number} at byte {self.begin}"


def _packets(path: Path, content: bytes, span: Span | None) -> Iterator[_Packet]:
    if span is None:
        lines, at = header(path, content, "3.1")
        if lines[-1].strip() != "!END-HEADER":
            raise ValueError(f"{path}, byte {at}: expected the header to end with a line #!END-HEADER, and it does not")
        odd = [line for line in lines if line.startswith("Format:") and line.split(":", 1)[1].strip() != "RAW"]
        if odd:
            raise ValueError(f"{path}, its header: expected #Format: RAW, found {('#' + odd[0])!r}")
        if at == len(content):
            raise ValueError(f"{path}, byte {at}: expected packets, and the file ends after its header")
        base, number = 0, 0
    else:
        at, base, number = 0, span.begin, span.first
    while at < len(content):
        begin = base + at
        where = f"{path}, packet {number} at byte {begin}"
        if at + _PACKET.size > len(content):
            raise ValueError(
                f"{where}: expected a header of {_PACKET.size} bytes, the file ends after {len(content) - at}"
            )
        kind, _, each, time_at, overflows, room, count, valid = _PACKET.unpack_from(content, at)
        fixed = _SIZES.get(kind, each)
        for what, value, right in (
            ("a type that cameras write, one of 0, 1, 2, 3, 4 and 7", kind, kind in _KINDS),
            (f"{fixed} bytes an event of type {kind}", each, each == fixed and each > 0),
            ("the time at byte 4 of an event", time_at, time_at == 4 or kind not in _SIZES),
            ("a count of overflows of at least 0", overflows, overflows >= 0),
            ("a number of events of at least 0", count, count >= 0),
            (f"room for the {count} events that there are", room, room == count),
            (f"0 to {count} valid events", valid, 0 <= valid <= count),
        ):
            if not right:
                raise ValueError(f"{where}: expected {what}, found {value}")
        at += _PACKET.size
        if at + each * count > len(content):
            there = len(content) - at
            raise ValueError(f"{where}: expected {count} events of {each} bytes, the file ends after {there} bytes")
        if kind == _SPECIAL:
            codes = (np.frombuffer(content, "<u4", count=2 * count, offset=at)[0::2] >> 1) & 0x7F
            if codes.max(initial=0) > _LAST_CODE:
                raise ValueError(
                    f"{where}: expected codes of special events, 0 to {_LAST_CODE}, found {codes.max()}; are these "
                    f"polarity events?"
                )
        yield _Packet(
            number=number,
            begin=begin,
            end=base + at + each * count,
            at=at,
            kind=kind,
            count=count,
            valid=valid,
            overflows=overflows,
        )
        at, number = at + each * count, number + 1


def _events(path: Path, content: bytes, packet: _Packet, size: tuple[int, int]) -> list[NDArray[Any]]:
    """Return t, x, y and p of a packet's valid events."""
    words = np.frombuffer(content, "<u4", count=2 * packet.count, offset=packet.at)
    data, t = words[0::2], words[1::2]
    valid = (data & 1) != 0
    if np.count_nonzero(valid) != packet.valid:
        raise ValueError(f"{path}, {packet}: expected {packet.valid} valid events, found {np.count_nonzero(valid)}")
    x, y = (data >> 17).astype(np.int16), ((data >> 2) & 0x7FFF).astype(np.int16)
    if x.max(initial=0) >= size[1] or y.max(initial=0) >= size[0] or t.max(initial=0) >= 2**31:
        odd = valid & ((x >= size[1]) | (y >= size[0]) | (t >= 2**31))
        if odd.any():
            first = int(np.argmax(odd))
            raise ValueError(
                f"{path}, {packet}, event {first}: expected x below {size[1]}, y below {size[0]} and a time below "
                f"2^31, found {x[first]}, {y[first]} and {t[first]}"
            )
    columns: list[NDArray[Any]] = [
        t.astype(np.int64) + (packet.overflows << 31),
        x,
        y,
        ((data >> 1) & 1).astype(np.uint8),
    ]
    return columns if packet.valid == packet.count else [values[valid] for values in columns]
