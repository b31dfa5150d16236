"""``sbp predict``: files to labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sbp_lab.cli.commands.evaluate import Backend, Run, Weights
from sbp_lab.cli.console import console as new_console
from sbp_lab.cli.sources import DATA_FOLDER, DataFolder
from sbp_lab.cli.usage import UsageError, blamed_on

Files = Annotated[
    Path,
    Parameter(help="Images, .npy or .npz arrays of them (channels last), event files (.bin, .aedat), or folders."),
]

#: Rows that are printed where a file is written as well.
_SHOWN = 20


def predict(
    run: Run,
    /,
    *files: Files,
    weights: Weights = "best",
    time_steps: Annotated[
        int | None, Parameter(name=["--time-steps", "-T"], help="How often an image is shown; as trained unless given.")
    ] = None,
    backend: Backend = None,
    batch_size: Annotated[int, Parameter(help="Samples at a time.")] = 32,
    data_folder: DataFolder = DATA_FOLDER,
    out: Annotated[Path | None, Parameter(help="CSV file to write, with the probability of every class.")] = None,
) -> None:
    """Say which class images or recordings are of, with a trained network; they are normalised as in training.

    The data of the training need not be there: what is needed of it lies beside the weights.
    """
    from sbp_lab import prediction, trainers
    from sbp_lab.data import open_data
    from sbp_lab.trained import open_trained

    with blamed_on("RUN"):
        trained = open_trained(run, weights)
    if not files:
        raise UsageError("there must be files to predict, got none", "FILES")
    if batch_size < 1:
        raise UsageError(f"it must be at least 1, got {batch_size}", "--batch-size")
    with blamed_on("--backend"):
        try:
            trainers.check(backend or trained.recipe.backend)
        except ModuleNotFoundError as error:
            raise UsageError(str(error), "--backend") from None
    with blamed_on("--time-steps"):
        trained.network(time_steps)
    source = None
    if trained.inputs.events and ":" in trained.recipe.data:  # only its own reader knows
        with blamed_on("--data-folder"):
            source = open_data(trained.recipe.data, data_folder)
    with blamed_on("FILES"):
        found = list(
            prediction.predict(
                trained, files, backend=backend, time_steps=time_steps, batch_size=batch_size, source=source
            )
        )
    console = new_console()
    names = trained.inputs.class_names
    shown = found if out is None else found[:_SHOWN]
    console.print(prediction.table(shown, names))
    if out is None:
        return
    if len(shown) < len(found):
        console.print(f"... and {len(found) - len(shown)} more")
    try:
        console.print(f"Wrote {prediction.write_csv(out, found, names)}", soft_wrap=True)
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror or error}; name another file", "--out") from None
