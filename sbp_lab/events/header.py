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
        ValueError: there is no header, it is of another version, or it does not end.
    """
    lines, end = [], 0
    while content[end : end + 1] == b"#":
        stop = content.find(b"\n", end)
        line = content[end : stop + 1] if stop >= 0 else b""
        # events may begin with the byte of a "#": a line of a header is text
        if not line or not line.rstrip(b"\r\n").replace(b"\t", b" ").decode("latin-1").isprintable():
            break
        lines.append(line.decode("latin-1").rstrip("\r\n")[1:])
        end = stop + 1
        if lines[-1].strip().lower() in ("end of ascii header", "!end-header"):
            break
    found = _VERSION.match(b"#" + lines[0].encode("latin-1")) if lines else None
    if found is None or found[1].decode() != version:
        what = f"AEDAT {found[1].decode()}" if found else repr(content[:16])
        hint = " (Tonic packs data sets anew so: take the original files)" if found and found[1] >= b"4" else ""
        raise ValueError(f"{path}: byte 0: expected a first line of #!AER-DAT{version}, found {what}{hint}")
    return lines, end
