"""``sbp pretrained``: trained networks that are shipped."""

from __future__ import annotations

from rich.table import Table

from sbp_core import pretrained as shipped
from sbp_lab.cli.console import console as new_console


def pretrained() -> None:
    """List the small trained networks that `sbp evaluate` and `sbp predict` know by name, and where their files are."""
    table = Table(box=None, pad_edge=False)
    table.add_column("network", no_wrap=True)
    table.add_column("accuracy, %", justify="right")
    table.add_column("what it is")
    for name in shipped.names():
        found = shipped.log(name)
        table.add_row(name, f"{100 * found['accuracy']:.1f}", found["about"])
    console = new_console()
    console.print(table)
    folder = shipped.file(shipped.names()[0]).parent
    console.print(f"Files and logs: {folder}", soft_wrap=True)
