"""``sbp evaluate``: a trained network on test samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sbp_lab.cli.console import console as new_console
from sbp_lab.cli.sources import DATA_FOLDER, DataFolder, Workers
from sbp_lab.cli.usage import UsageError, blamed_on
from sbp_lab.trained import Which

Run = Annotated[Path, Parameter(help="Folder of a run, a file of weights in it, or a name of `sbp pretrained`.")]
Weights = Annotated[Which, Parameter(help="The weights of the best epoch by test accuracy, or of the last.")]
Backend = Annotated[str | None, Parameter(help="Framework that computes; the run's own unless given.")]


def evaluate(
    run: Run,
    /,
    *,
    weights: Weights = "best",
    time_steps: Annotated[
        str | None,
        Parameter(name=["--time-steps", "-T"], help="T to try with these weights: 4, or 1,2,4, or 1-8 (the default)."),
    ] = None,
    backend: Backend = None,
    data: Annotated[str | None, Parameter(help="Another data set, with as many classes.")] = None,
    batch_size: Annotated[int | None, Parameter(help="Samples at a time; the run's unless given.")] = None,
    count: Annotated[int, Parameter(help="Samples that operations are counted on, in NumPy; 0 for none.")] = 8,
    workers: Workers = 0,
    data_folder: DataFolder = DATA_FOLDER,
    out: Annotated[
        Path | None, Parameter(help="JSON file to write; RUN/evaluation.json unless given, where RUN is a path.")
    ] = None,
) -> None:
    """Test a trained network: accuracy, also by class, for T = 1 to 8; firing rates, synaptic operations, time."""
    from sbp_lab import evaluation, trainers
    from sbp_lab.data import open_data
    from sbp_lab.trained import open_trained

    with blamed_on("RUN"):
        trained = open_trained(run, weights)
    with blamed_on("--time-steps"):
        steps = parsed(time_steps)
    with blamed_on("--data"):
        source = trained.inputs.normalising(open_data(data or trained.recipe.data, data_folder))
    with blamed_on("--backend"):
        try:
            trainers.check(backend or trained.recipe.backend)
        except ModuleNotFoundError as error:
            raise UsageError(str(error), "--backend") from None
    for option, value, least in (("--batch-size", batch_size, 1), ("--count", count, 0), ("--workers", workers, 0)):
        if value is not None and value < least:
            raise UsageError(f"it must be at least {least}, got {value}", option)
    with blamed_on("--time-steps"):
        for each in steps or ():
            trained.network(each)
    console = new_console()
    with console.status("T = 1") as status:
        found = evaluation.evaluate(
            trained,
            source,
            backend=backend,
            time_steps=steps,
            batch_size=batch_size,
            count=count,
            workers=workers,
            on_steps=lambda done: status.update(f"T = {done.time_steps}: {100 * done.accuracy:.2f} %"),
        )
    for table in evaluation.tables(found):
        console.print(table)
    if out is None and not run.exists():
        return  # a shipped network: its folder is not the user's
    file = out or trained.file.parent / evaluation.FILE
    try:
        console.print(f"Wrote {found.write(file)}", soft_wrap=True)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror or error}; name another file", "--out") from None


def parsed(text: str | None) -> tuple[int, ...] | None:
    """Return the numbers of "4", "1,2,4" or "1-8".

    Raises:
        ValueError: another text.

    Example:
        >>> parsed("1-3,8")
        (1, 2, 3, 8)
    """
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        try:
            found += range(int(first), int(last if dash else first) + 1)
        except ValueError:
            raise ValueError(f"time_steps must be as in 4, or 1,2,4, or 1-8; got {text!r}") from None
    if not found or min(found) < 1 or len(set(found)) < len(found):
        raise ValueError(f"time_steps must be different numbers of at least 1, got {text!r}")
    return tuple(found)
