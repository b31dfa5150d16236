"""The folder that a command writes into: made and tried before anything is computed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sbp_lab.cli.usage import UsageError

#: What says that a folder is in use.
HELD = ("results.json", "recipe.toml", "gradients.json", "doctor.json")

Out = Annotated[Path | None, Parameter(help="Folder for the files; runs/ and the time if not given.")]


@contextmanager
def new_folder(out: Path | None, command: str) -> Iterator[Path]:
    """Make a folder that holds no results yet, and see that it takes files; if nothing comes into it, it goes."""
    folder = out or Path("runs") / f"{datetime.now():%Y-%m-%d-%H%M%S}-{command}-{os.getpid()}"
    held = [name for name in HELD if (folder / name).exists()] if folder.is_dir() else []
    if held:
        more = f", or --resume {folder} to go on with it" if command not in ("gradients", "doctor") else ""
        raise UsageError(f"{folder} already holds {held[0]}; name another folder{more}", "--out")
    with writable(folder, "--out"):
        yield folder


@contextmanager
def writable(folder: Path, option: str) -> Iterator[Path]:
    """Make a folder, and see that it takes files; if nothing comes into it, it goes."""
    made: list[Path] = []
    try:
        try:
            if folder.exists() and not folder.is_dir():
                raise UsageError(f"{folder} is a file; name a folder", option)
            made = [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder):
                pass
        except OSError as error:
            reason = f"{folder} cannot be written: {error.strerror or error}; name another folder"
            raise UsageError(reason, option) from None
        yield folder
    finally:
        with suppress(OSError):
            for path in made:
                path.rmdir()
