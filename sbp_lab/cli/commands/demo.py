"""``sbp demo``: the methods side by side on real images."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from sbp_lab import recipes
from sbp_lab.cli.commands.compare import compare
from sbp_lab.cli.console import console as new_console
from sbp_lab.cli.folders import Out
from sbp_lab.cli.sources import DATA_FOLDER, DataFolder
from sbp_lab.data import open_data
from sbp_lab.trainers import TRAINERS

#: What is shown, and what in its place where its files are missing; recipes.
SHOWN, INSTEAD = "demo", "digits"
COMPARED = ("vanilla", "evolutionary", "deep")


def demo(
    *,
    backend: Annotated[str, Parameter(help=f"One of {', '.join(TRAINERS)}.")] = "torch",
    jobs: Annotated[int, Parameter(help="Runs at a time, each with one thread; 0 for one per processor.")] = 0,
    out: Out = None,
    data_folder: DataFolder = DATA_FOLDER,
) -> None:
    """Compare the methods on real images, some minutes on two cores: Fashion-MNIST where its files are, else digits.

    It is `sbp compare demo`, or `sbp compare digits`.
    """
    name = SHOWN
    try:
        open_data(recipes.load(name).data, data_folder)
    except FileNotFoundError:
        name = INSTEAD
        text = f"Fashion-MNIST is not in {data_folder} (--data-folder, SBP_DATA): scikit-learn's digits instead."
        new_console().print(text, soft_wrap=True, highlight=False)
    compare(name, backend=backend, methods=",".join(COMPARED), jobs=jobs, out=out, data_folder=data_folder)
