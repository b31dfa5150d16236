"""``sbp train``: one run."""

from __future__ import annotations

from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.markup import escape

from sbp_lab.cli.console import console as new_console
from sbp_lab.cli.folders import Out, new_folder, writable
from sbp_lab.cli.options import with_recipe
from sbp_lab.cli.progress import Told
from sbp_lab.cli.sources import DATA_FOLDER, DataFolder, Workers, opened
from sbp_lab.cli.usage import UsageError, blamed_on
from sbp_lab.recipe import Recipe

Resume = Annotated[
    Path | None,
    Parameter(help="Folder of a run that ended before its time: go on, with its recipe; --backend may be another."),
]
CheckpointEvery = Annotated[
    int | None, Parameter(help="Steps between checkpoints within an epoch; there is one after each epoch.")
]
Watch = Annotated[
    int | None,
    Parameter(
        help="Steps between two looks of the doctor, 200 say: figures go into signal/, and what goes wrong is said."
    ),
]


@with_recipe()
def train(
    recipe: Recipe,
    *,
    out: Out = None,
    resume: Resume = None,
    checkpoint_every: CheckpointEvery = None,
    watch: Watch = None,
    workers: Workers = 0,
    data_folder: DataFolder = DATA_FOLDER,
) -> None:
    """Train one network with one method: a line per epoch, then weights, results.json and a plot in a folder.

    Ctrl-C and SIGTERM end it between two steps with a checkpoint, from which --resume goes on.

    Several devices or machines, PyTorch: torchrun --nproc-per-node 2 --no-python sbp train RECIPE --out RUN
    """
    from sbp_core.signal.watch import read
    from sbp_lab.doctor.pictures import draw_looks
    from sbp_lab.plots import plot_run
    from sbp_lab.results import describe
    from sbp_lab.trainers import NotFiniteError, processes
    from sbp_lab.training import Interrupted, LeftAloneError
    from sbp_lab.training import train as run_recipe

    if checkpoint_every is not None and checkpoint_every < 1:
        raise UsageError(f"checkpoint_every must be at least 1, got {checkpoint_every}", "--checkpoint-every")
    if watch is not None and watch < 1:
        raise UsageError(f"watch must be at least 1, got {watch}", "--watch")
    with blamed_on("--workers"):
        if workers < 0:
            raise ValueError(f"workers must be at least 0, got {workers}")
    with blamed_on():
        first = processes.index() == 0
    source = opened(recipe, data_folder)
    # of several processes the first writes and tells
    console = new_console(quiet=not first)
    with _folder(out, resume) if first else nullcontext(resume or out or Path()) as folder:
        console.print(f"{describe(recipe)}, {recipe.method}, seed {recipe.seed}; into {folder}", soft_wrap=True)
        with closing(Told(console)) as told:
            try:
                run = run_recipe(
                    recipe,
                    folder,
                    source=source,
                    resume=resume is not None,
                    checkpoint_every=checkpoint_every,
                    watch=watch,
                    on_event=told,
                    workers=workers,
                )
            except Interrupted as stop:
                told.close()
                console.print(f"Interrupted: {escape(str(stop))}.", soft_wrap=True)
                console.print(f"Go on with: sbp train --resume {folder}", soft_wrap=True)
                raise SystemExit(128 + stop.number) from None
            except KeyboardInterrupt:
                raise SystemExit(130) from None
            except LeftAloneError as error:
                told.close()
                console.print(f"Stopped: {escape(str(error))}", soft_wrap=True)
                raise SystemExit(1) from None
            except (OSError, NotFiniteError) as error:
                told.close()
                console.print(f"Stopped: {escape(str(error))}", soft_wrap=True)
                raise SystemExit(1) from None
            except (ValueError, RuntimeError) as error:
                if told.started:
                    raise
                # the folder, its checkpoint and the recipe do not go together
                raise UsageError(str(error), "--resume" if resume is not None else None) from None
        if not first:
            return
        if not told.started:
            console.print("It was complete already: nothing was trained.")
        picture = plot_run(run, folder / "training.png")
        looks = read(folder)
        if looks:
            draw_looks(looks, f"{describe(recipe)}, {recipe.method}", folder / "signal" / "signal.png")
        console.print(
            f"Accuracy {run.accuracy * 100:.1f} %, best {run.best.accuracy * 100:.1f} % in epoch {run.best.number}. "
            f"Wrote {folder / 'results.json'}, last.safetensors, best.safetensors and {picture.name}",
            soft_wrap=True,
        )


def _folder(out: Path | None, resume: Path | None) -> AbstractContextManager[Path]:
    return new_folder(out, "train") if resume is None else writable(resume, "--resume")
