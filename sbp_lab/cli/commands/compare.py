"""``sbp compare``: methods x networks x data x seeds."""

from __future__ import annotations

import os
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sbp_lab.cli.console import console as new_console
from sbp_lab.cli.folders import Out, new_folder, writable
from sbp_lab.cli.interrupts import ending
from sbp_lab.cli.options import with_recipe
from sbp_lab.cli.sources import DATA_FOLDER, DataFolder, opened
from sbp_lab.cli.usage import UsageError, blamed_on
from sbp_lab.environment import processors
from sbp_lab.files import write_bytes
from sbp_lab.methods import METHODS, Method, read_method
from sbp_lab.recipe import Recipe
from sbp_lab.record import Epoch, Run
from sbp_lab.results import Cell, Comparison, Plan, finished

_LISTED = "with commas between"


@with_recipe(without=("data", "net", "method", "seed"))
def compare(
    recipe: Recipe,
    *,
    data: Annotated[str | None, Parameter(help=f"Data sets, {_LISTED}; the recipe's unless given.")] = None,
    net: Annotated[str | None, Parameter(name=["--net", "--nets"], help=f"Networks, {_LISTED}.")] = None,
    methods: Annotated[
        str | None,
        Parameter(
            name=["--methods", "--method"],
            help=f"Of {', '.join(METHODS)}, several at once with +, losses+sew; TOML files of your own; {_LISTED}. "
            "vanilla,shortcut,evolutionary unless given.",
        ),
    ] = None,
    seeds: Annotated[str | None, Parameter(help="How many, 0, 1, ...; or which, 0,4,7. 3 unless given.")] = None,
    baseline: Annotated[
        str | None, Parameter(help="Of the methods, the one that the others are compared with. vanilla unless given.")
    ] = None,
    jobs: Annotated[int, Parameter(help="Runs at a time, each with one thread; 0 for one per processor.")] = 0,
    keep_checkpoints: Annotated[
        bool, Parameter(help="Of finished runs too, not their weights alone.", negative="")
    ] = False,
    out: Out = None,
    resume: Annotated[
        Path | None,
        Parameter(
            help="Folder of a comparison: make the runs that it lacks. More methods, nets, data, seeds may be given."
        ),
    ] = None,
    data_folder: DataFolder = DATA_FOLDER,
) -> None:
    """Train methods over several seeds, vanilla, shortcut and evolutionary; a table, a report, results.json and a plot.

    Accuracy is the main output's alone, as in inference. At equal seeds every method and framework starts alike.
    """
    if os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        raise UsageError("compare starts its own processes, one a run: leave torchrun out, or train a run at a time")
    if jobs < 0:
        raise UsageError(f"jobs must be at least 0, got {jobs}", "--jobs")
    before = None
    if resume is not None:
        with blamed_on("--resume"):
            before = Comparison.read(resume)
    plan = before.plan if before is not None else Plan(recipe=recipe, data=(recipe.data,), nets=(recipe.net,))
    with blamed_on("--methods"):
        names, own = _methods(methods)
    with blamed_on(among=("methods", "seeds", "data", "net", "coefficient", "baseline")):
        plan = replace(
            plan,
            recipe=recipe,
            data=_words(data) or plan.data,
            nets=_words(net) or plan.nets,
            methods=names or plan.methods,
            seeds=_seeds(seeds) or plan.seeds,
            own=own or plan.own,
            baseline=baseline or plan.baseline,
        )
    for group in plan.groups():
        opened(plan.recipe.replace(data=group[0], net=group[1]), data_folder)
    with new_folder(out, "compare") if resume is None else writable(resume, "--resume") as folder:
        with blamed_on("--resume"):
            runs = finished(plan, folder)
        comparison = Comparison(plan=plan, jobs=jobs or processors(), runs=runs)
        if before is not None:
            comparison = replace(comparison, created=before.created)
        _run(comparison, folder, data_folder, keep_checkpoints)


def _run(comparison: Comparison, folder: Path, data_folder: Path, keep_checkpoints: bool) -> None:
    from sbp_lab.comparison import Failed, run_all
    from sbp_lab.plots import plot_comparison
    from sbp_lab.report import write_report
    from sbp_lab.tables import table, title

    plan, file = comparison.plan, folder / "results.json"
    console = new_console()
    cells = plan.cells()
    todo = [cell for cell in cells if cell not in comparison.runs]
    side_by_side = f"; {min(comparison.jobs, len(todo))} at a time" if min(comparison.jobs, len(todo)) > 1 else ""
    before = f"; {len(comparison.runs)} are done" if comparison.runs else ""
    console.print(f"{title(comparison)}: {len(cells)} runs{before}{side_by_side}", soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    failures = 0

    def kept() -> str:
        if not comparison.runs and not (folder / "runs").exists():
            return "nothing was written"
        # the interrupt may have come between a run's end and this
        with suppress(OSError):
            comparison.write(folder)
        again = f"; go on with: sbp compare --resume {folder}"
        return f"{file} holds the {len(comparison.runs)} finished of {len(cells)} runs{again}"

    with ending(kept), Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("epochs", total=len(todo) * plan.recipe.epochs)

        def on_epoch(cell: Cell, epoch: Epoch) -> None:
            progress.advance(task)

        # a full disk must not throw hours of training away: what is not written now is tried again at the end
        with suppress(OSError):
            write_bytes(folder / "recipe.toml", plan.recipe.to_toml().encode())
            comparison.write(folder)
        found = run_all(
            plan,
            todo,
            folder,
            data_folder=data_folder,
            jobs=comparison.jobs,
            on_epoch=on_epoch,
            keep_checkpoints=keep_checkpoints,
        )
        with closing(found):
            for cell, run in found:
                if isinstance(run, Failed):
                    failures += 1
                    console.print(f"{_name(plan, cell)}: failed: {escape(run.reason)}", soft_wrap=True)
                    continue
                comparison = comparison.with_run(cell, run)
                with suppress(OSError):
                    comparison.write(folder)
                console.print(_line(plan, cell, run), soft_wrap=True)
    if comparison.runs:
        console.print(table(comparison))
        try:
            comparison.write(folder)
            picture = plot_comparison(comparison, folder / "comparison.png")
            report = write_report(comparison, folder / "report.html")
        except OSError as error:
            console.print(f"Could not write {file}: {escape(str(error))}", soft_wrap=True)
            raise SystemExit(1) from None
        console.print(f"Wrote {file}, {picture.name} and {report.name}", soft_wrap=True)
    if failures:
        console.print(f"{failures} of {len(cells)} runs failed; try them again with: sbp compare --resume {folder}")
        raise SystemExit(1)


def _name(plan: Plan, cell: Cell) -> str:
    where = [name for name, several in ((cell.data, plan.data), (cell.net, plan.nets)) if len(several) > 1]
    return f"{', '.join([*where, cell.method])}, seed {cell.seed}"


def _line(plan: Plan, cell: Cell, run: Run) -> str:
    return (
        f"{_name(plan, cell)}: accuracy {run.accuracy * 100:.1f} %, "
        f"first / last gradient {run.gradient_ratio:.2g}, {run.step_ms:.1f} ms per step, {run.seconds:.0f} s"
    )


def _methods(text: str | None) -> tuple[tuple[str, ...] | None, tuple[Method, ...]]:
    """Return the methods' names, and those that are files."""
    words = _words(text) or ()
    own = {word: read_method(Path(word)) for word in words if word.endswith(".toml")}
    return tuple(own[word].name if word in own else word for word in words) or None, tuple(own.values())


def _words(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(text.split(","))


def _seeds(text: str | None) -> tuple[int, ...] | None:
    """Return seeds of a number, so many of them, or of a list."""
    if text is None:
        return None
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"seeds must be an integer, or integers with commas between, got {text!r}", "--seeds"
        ) from None
    if len(numbers) > 1:
        return tuple(numbers)
    if numbers[0] < 1:
        raise UsageError(f"seeds must be at least 1, got {numbers[0]}", "--seeds")
    return tuple(range(numbers[0]))
