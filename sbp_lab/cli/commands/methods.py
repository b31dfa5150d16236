"""``sbp methods``: ways to train, by name."""

from __future__ import annotations

from rich.table import Table

from sbp_lab.cli.console import console as new_console
from sbp_lab.methods import METHODS


def methods() -> None:
    """List the training methods that `--method` and `--methods` know, what each states and whose it is."""
    table = Table(box=None, pad_edge=False)
    table.add_column("method", no_wrap=True)
    table.add_column("what it does")
    table.add_column("whose")
    for each in METHODS.values():
        table.add_row(each.name, each.summary, each.source)
    new_console().print(table)
