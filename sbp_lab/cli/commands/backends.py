"""``sbp backends``: what is installed."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from sbp_core import registry
from sbp_lab import trainers
from sbp_lab.cli.console import console as new_console


def backends() -> None:
    """List the backends: what is installed, versions, dtypes, devices, and how a neuron is computed."""
    table = Table()
    for heading in ("backend", "versions", "runs", "dtypes", "devices", "neurons"):
        table.add_column(heading)
    for name in registry.names():
        devices = neurons = ""
        try:
            backend = registry.load(name)
            if name in trainers.TRAINERS:
                trainer = trainers.load(name)
                devices, neurons = ", ".join(trainer.devices()), trainer.neurons()
        except ModuleNotFoundError as error:
            table.add_row(name, escape(str(error)))
            continue
        versions = ", ".join(f"{package} {version}" for package, version in backend.versions.items())
        table.add_row(name, versions, ", ".join(backend.modes), ", ".join(backend.dtypes), devices, neurons)
    new_console().print(table)
