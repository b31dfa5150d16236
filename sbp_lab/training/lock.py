"""One run in a folder at a time: a lock that goes with its process, however that ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Folders that this process holds: the system's lock is one of processes.
_held: set[Path] = set()

NAME = ".lock"


class LockedError(RuntimeError):
    """Another process, or another thread, trains in the folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder.

    Raises:
        LockedError: someone else does; the message says which process.
        OSError: the folder cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as name, locked(Path(name)), locked(Path(name)):
        ...     pass  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        sbp_lab.training.lock.LockedError: ... is in use: another run of this process trains in it. ...
    """
    place = folder.resolve()
    if place in _held:
        raise LockedError(_message(folder, "another run of this process"))
    handle = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        # of the process, not of the file: workers that are forked do not hold it
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(handle, 20).decode(errors="replace").strip()
        os.close(handle)
        if isinstance(error, BlockingIOError | PermissionError):
            raise LockedError(_message(folder, f"process {owner}" if owner else "another process")) from None
        raise
    _held.add(place)
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        yield
    finally:
        _held.discard(place)
        os.close(handle)


def _message(folder: Path, owner: str) -> str:
    return f"{folder} is in use: {owner} trains in it. Wait for its end, or name another folder"
