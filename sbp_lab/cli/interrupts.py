"""Ends a command in order: on Ctrl-C, and on a request to terminate."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from rich.console import Console


@contextmanager
def interruptible() -> Iterator[None]:
    """Let a request to terminate end the command as Ctrl-C does, so that no process is left behind."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def ending(kept: Callable[[], str]) -> Iterator[None]:
    """Say what is kept where the work within is interrupted or fails; an interrupt ends the command with 130."""
    console = Console()
    try:
        with interruptible():
            yield
    except KeyboardInterrupt:
        console.print(f"Interrupted: {kept()}.", soft_wrap=True)
        raise SystemExit(130) from None
    except Exception:
        console.print(f"Failed: {kept()}.", soft_wrap=True)
        raise
