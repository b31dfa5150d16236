"""``sbp verify``: a run's first steps again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.markup import escape

from sbp_lab.cli.console import console as new_console
from sbp_lab.cli.sources import DATA_FOLDER, DataFolder, opened
from sbp_lab.cli.usage import UsageError, blamed_on


def verify(
    run: Annotated[Path, Parameter(help="Folder of a run, finished or not.")],
    /,
    *,
    steps: Annotated[int | None, Parameter(help="How many to compare; all that the run kept unless given.")] = None,
    data_folder: DataFolder = DATA_FOLDER,
) -> None:
    """Repeat a run's first steps from its recipe and compare losses, gradients and weights bit for bit.

    Exit code 0 if all bits are equal, 1 if not; what else differs (data, versions, machine, settings) is said.
    """
    from sbp_lab import verification
    from sbp_lab.training.first_steps import FirstSteps

    if steps is not None and steps < 1:
        raise UsageError(f"it must be at least 1, got {steps}", "--steps")
    with blamed_on("RUN"):
        kept = FirstSteps.read(run)
        recipe = verification.recipe_of(kept)
        if not kept.steps:
            raise ValueError(f"{run} must hold steps to compare, it kept none")
    source = opened(recipe, data_folder)
    found = verification.verify(run, source, steps=steps, kept=kept)
    console = new_console()

    def say(text: str) -> None:
        console.print(escape(text), soft_wrap=True, highlight=False)

    for each in found.steps:
        loss = float.fromhex(each.now.loss)
        if not each.different:
            say(f"step {each.now.step}: equal, loss {loss:.9g}")
            continue
        then = float.fromhex(each.then.loss)
        say(f"step {each.now.step}: {', '.join(each.different)} differ; loss {then:.9g} then, {loss:.9g} now")
    for difference in found.differences:
        say(f"  {difference}")
    if found.same:
        say(f"{len(found.steps)} steps of {recipe.backend} came out bit for bit the same.")
        return
    say("The bits differ." + ("" if found.differences else " Data, versions, machine and settings are the same."))
    raise SystemExit(1)
