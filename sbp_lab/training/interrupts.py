"""Ctrl-C and SIGTERM in a training: it stops between two steps, when all can be kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A training was asked to stop, and has; the message says what was kept.

    Attributes:
        number: of the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class Asked:
    """Whether someone asked to stop.

    Args:
        more: signals after the first that are the same wish.

    Attributes:
        number: of the signal; None while nobody did.
    """

    def __init__(self, more: int = 0) -> None:
        self.number: int | None = None
        self._more = more

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Remember a signal; a second one ends at once."""
        if self.number is None:
            self.number = number
        elif self._more:
            self._more -= 1
        else:
            raise KeyboardInterrupt


@contextmanager
def listening(*, several: bool = False) -> Iterator[Asked]:
    """Keep signals until someone looks for them; in a thread other than the main one there are none.

    Args:
        several: whether torchrun started the processes: it passes a Ctrl-C on to those that the terminal told already.

    Example:
        >>> with listening() as asked:
        ...     signal.raise_signal(signal.SIGTERM)
        >>> asked.number == signal.SIGTERM
        True
    """
    asked = Asked(more=1 if several else 0)
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, asked) for number in _SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            # None: a handler that was not set from Python
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
