"""The text at the start of .aedat files: which version they are of, and where their events begin."""

from __future__ import annotations

import re
from pathlib import Path

_VERSION = re.compile(rb"#!AER-DAT(\d+\.\d+)\s*$")


def header(path: Path, content: bytes, version: str) -> tuple[list[str], int]:
    """Return the lines of the header of a file of that version, without their "#", and the byte after it.

    Args:
        path: of the file, for messages.
        content: of the file: all, or so much that the header is in it.
        version: as in "2.0".

    Raises:
        ValueError: there is no header, it is of another version, it does not end, or is not of text.
    """
    lines: list[str] = []
    end = 0
    while content[end : end + 1] == b"#":
        stop = content.find(b"\n", end)
        line = content[end:] if stop < 0 else content[end : stop + 1]
        # events may begin with the byte of a "#": a line of a header is text
        text = sum(_is_text(line[:200])) / len(line[:200])
        if text < 0.9:
            break
        if stop < 0 or not all(_is_text(line)):
            found = "the file ends within a line of its header" if stop < 0 else f"{line[:60]!r}"
            raise ValueError(f"{path}, byte {end}: expected a line of text, and {found}")
        lines.append(line.decode("latin-1").rstrip("\r\n")[1:])
        end = stop + 1
        if lines[-1].strip().lower() in ("end of ascii header", "!end-header"):
            break
    start = content[end : end + 16]
    if lines and len(start) == 16 and all(_is_text(start)):
        raise ValueError(f"{path}, byte {end}: expected events, or a line of the header with its #, found {start!r}")
    first = _VERSION.match(b"#" + lines[0].encode("latin-1")) if lines else None
    if first is None or first[1].decode() != version:
        what = f"AEDAT {first[1].decode()}" if first else repr(content[:16])
        hint = " (Tonic packs data sets anew so: take the original files)" if first and first[1] >= b"4" else ""
        raise ValueError(f"{path}, byte 0: expected a first line of #!AER-DAT{version}, found {what}{hint}")
    return lines, end


def _is_text(some: bytes) -> list[bool]:
    # letters of any language's 8 bits, as users' names have them
    return [byte in b"\t\r\n" or 32 <= byte < 127 or byte >= 160 for byte in some]
