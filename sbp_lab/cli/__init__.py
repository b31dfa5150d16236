"""The ``sbp`` command. A command is one file in ``commands``, with a function of the same name."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError
from rich.console import Console
from rich.markup import escape

from sbp_lab.cli import commands
from sbp_lab.cli.usage import UsageError

# framework chatter that would drown the tables; a setting of the user's own wins
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

HELP = """Train deep spiking networks with shortcut back-propagation, and see what it does to the gradient.

Try first: sbp demo
"""


def app(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ``arguments`` are the process's own unless given.

    Raises:
        SystemExit: with 2 for a wrong argument, 130 for an interrupt, 1 for a failure that was answered.
    """
    try:
        _commands()(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except (UsageError, CycloptsError) as error:
        console = Console(stderr=True)
        console.print(f"[bold red]sbp:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(2)


def _commands() -> App:
    from sbp_core import __version__

    made = App(name="sbp", help=HELP, version=__version__, suppress_keyboard_interrupt=False)
    for module in pkgutil.iter_modules(commands.__path__):
        made.command(getattr(importlib.import_module(f"{commands.__name__}.{module.name}"), module.name))
    return made
