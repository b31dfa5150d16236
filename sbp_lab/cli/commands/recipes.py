"""``sbp recipes``: what is shipped."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from sbp_lab import recipes as shipped
from sbp_lab.cli.console import console as new_console
from sbp_lab.cli.usage import blamed_on


def recipes(
    name: Annotated[str | None, Parameter(help="Print this one as TOML, every field of it.")] = None, /
) -> None:
    """List the recipes that `sbp train` and `sbp compare` know by name, with a line each."""
    if name is not None:
        with blamed_on("NAME"):
            print(shipped.load(name).to_toml(), end="")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("recipe", no_wrap=True)
    table.add_column("what it is")
    for each in shipped.names():
        table.add_row(each, shipped.about(each))
    new_console().print(table)
