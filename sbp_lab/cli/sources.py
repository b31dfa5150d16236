"""Opens the data that a recipe names, and sees that recipe, data and framework go together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sbp_lab import trainers
from sbp_lab.checks import check
from sbp_lab.cli.usage import UsageError, blamed_on
from sbp_lab.data import Source, open_data
from sbp_lab.recipe import Recipe

DataFolder = Annotated[
    Path, Parameter(env_var="SBP_DATA", help="Folder that the data sets lie in, each in its own; SBP_DATA.")
]
Workers = Annotated[int, Parameter(help="Processes that make batches ahead of time.")]
DATA_FOLDER = Path("data")


def opened(recipe: Recipe, folder: Path) -> Source:
    """Return the recipe's data.

    Raises:
        UsageError: the data is not there or damaged, the framework is not installed, or something does not fit.
    """
    try:
        trainers.check(recipe.backend)
    except ModuleNotFoundError as error:
        raise UsageError(str(error), "--backend") from None
    with blamed_on("--data"):
        source = open_data(recipe.data, folder)
    with blamed_on(among=("batch_size", "frames", "size", "augment", "net", "taps")):
        check(recipe, source)
    return source
