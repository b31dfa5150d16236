"""Where commands print: as wide as the terminal, and wide enough for every table where there is none."""

from __future__ import annotations

import os
import sys

from rich.console import Console

#: Columns of what goes into a file or a pipe: there nobody can widen the window.
PIPED = 160


def console(*, quiet: bool = False) -> Console:
    """Return a console on standard output.

    Args:
        quiet: print nothing.
    """
    told = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(quiet=quiet, width=None if told else PIPED)
