"""``sbp doctor``: why a network does not learn, and what might help."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich import box
from rich.markup import escape
from rich.table import Table

from sbp_core import validation
from sbp_core.signal import Diagnosis
from sbp_lab.cli.console import console as new_console
from sbp_lab.cli.folders import Out, new_folder
from sbp_lab.cli.options import with_recipe
from sbp_lab.cli.sources import DATA_FOLDER, DataFolder, opened
from sbp_lab.cli.usage import blamed_on
from sbp_lab.files import write_bytes, write_json
from sbp_lab.recipe import Recipe

if TYPE_CHECKING:
    from sbp_lab.doctor import Cure, Remedy, Tried


@with_recipe(without=("epochs", "warm_up", "decay", "milestones", "augment", "ema"))
def doctor(
    recipe: Recipe,
    *,
    batches: Annotated[int, Parameter(help="How many batches to measure on, two or more.")] = 4,
    after: Annotated[int, Parameter(help="Steps of training before it is measured: agreement shows after some.")] = 0,
    attempts: Annotated[
        int, Parameter(name="--try", help="Try every remedy for so many steps, and the network as it is.")
    ] = 0,
    fix: Annotated[
        bool, Parameter(negative="", help="Try the remedies, 100 steps unless --try says, and write the best's recipe.")
    ] = False,
    slopes: Annotated[
        int,
        Parameter(help="Hold the gradients of so many layers against the loss itself: two passes forward for each."),
    ] = 0,
    figure2: Annotated[
        int | None,
        Parameter(
            help="Draw the paper's Figure 2, the first layer's gradient with and without shortcuts, at the start and "
            "over so many steps of each method; 0: at the start alone."
        ),
    ] = None,
    out: Out = None,
    data_folder: DataFolder = DATA_FOLDER,
) -> None:
    """Say why a network does not learn: in words, as a table and as a picture, layer by time; and what might help.

    A few batches run forward and backward. With --try the remedies are tried, and shown with what they did; with --fix
    the recipe of the best is written besides.
    """
    from sbp_lab.doctor import cure, examine, ranked, start, train, try_each
    from sbp_lab.doctor import figure2 as first
    from sbp_lab.doctor.page import write_page
    from sbp_lab.doctor.pictures import draw_diagnosis
    from sbp_lab.environment import machine, versions
    from sbp_lab.results import describe_network

    least_of = (("batches", batches, 2), ("after", after, 0), ("try", attempts, 0), ("slopes", slopes, 0))
    for name, value, least in (*least_of, ("figure2", figure2 or 0, 0)):
        with blamed_on(f"--{name}"):
            validation.count(name, value, least)
    attempts = attempts or (100 if fix else 0)
    source = opened(recipe, data_folder)
    with blamed_on("--net"):
        case = start(recipe, source)
    console = new_console()
    with new_folder(out, "doctor") as folder:
        weights = train(case, source, steps=after)[1] if after else None
        with blamed_on("--batches"):
            found = examine(case, source, batches=batches, state=weights, after=after, slopes=slopes)
        when = f"after {after} steps" if after else "at the start"
        title = f"{describe_network(recipe)}, {when}, {batches} batches of {recipe.batch_size}, {recipe.backend}"
        for said in found.findings:
            console.print(f"[bold]{escape(said)}[/bold]")
        console.print(_neurons(found, title))
        console.print(_weights(found))
        remedies = [remedy for remedy, _ in ranked(case, found)]
        tried = list(try_each(case, source, remedies, steps=attempts)) if attempts else []
        console.print(_remedies(remedies, tried))
        content = {"schema": "sbp.doctor/1", "recipe": recipe.to_dict(), "after": after, "diagnosis": found.to_dict()}
        content |= {"remedies": [remedy.name for remedy in remedies], "tried": [_told(each) for each in tried]}
        if fix:
            cured = cure(case, source, tried, batches=batches)
            console.print(_before_and_after(cured))
            console.print(_prescribed(cured, folder), soft_wrap=True)
            content["fix"] = {"best": cured.best.name, "before": cured.before.to_dict(), "after": cured.after.to_dict()}
        pictures: dict[str, bytes] = {}
        others: list[str] = []
        if figure2 is not None:
            gradients = first.first_layer(recipe, source, steps=figure2)
            drawn = first.write(gradients, f"{describe_network(recipe)}, {recipe.backend}", folder)
            pictures["The first layer's gradient, with and without shortcuts"] = drawn.read_bytes()
            others = [drawn.name, drawn.with_suffix(".npz").name]
            content["figure2"] = first.described(gradients)
        file = write_json(folder / "doctor.json", content | {"versions": versions(), "machine": machine()})
        picture = draw_diagnosis(found, title, folder / "doctor.png")
        ran = machine() | versions()
        report = write_page(folder / "doctor.html", title, found, remedies, tried, recipe, ran, pictures)
        *names, last = str(report), picture.name, *others, file.name
        console.print(f"Wrote {', '.join(names)} and {last}", soft_wrap=True)


def _told(each: Tried) -> dict[str, object]:
    trial = each.trial
    return {"remedy": each.name, "loss": trial.loss, "accuracy": trial.accuracy, "steps": trial.steps}


def _remedies(remedies: Sequence[Remedy], tried: Sequence[Tried]) -> Table:
    """Return what might help; with what each did, and what the network did as it is, where they were tried."""
    table = Table(title="What might help, the most needed first" if remedies else "Nothing is asked for")
    for heading in ("remedy", "is predicted to"):
        table.add_column(heading)
    predicted = {remedy.name: remedy.predicts for remedy in remedies}
    if not tried:
        for name, predicts in predicted.items():
            table.add_row(name, predicts)
        return table
    for heading in ("loss", "test accuracy"):
        table.add_column(heading, justify="right")
    for each in tried:
        figures = f"{each.trial.loss:.3f}", f"{100 * each.trial.accuracy:.1f} %"
        table.add_row(each.name, predicted.get(each.name, ""), *figures)
    return table


def _prescribed(cured: Cure, folder: Path) -> str:
    """Write the best remedy's recipe, if there is one, and say so."""
    if cured.best is cured.tried[0]:
        return "No remedy that a recipe can hold did better than the network as it is."
    file = write_bytes(folder / "recipe.toml", cured.best.case.recipe.to_toml().encode())
    return f"The recipe with it: sbp train {escape(str(file))}"


def _before_and_after(cured: Cure) -> Table:
    """Return what the figures say after the steps, of the network as it is and with the best remedy."""
    first, best = cured.tried[0], cured.best
    table = Table(title=f"After {first.trial.steps} steps", box=box.SIMPLE)
    for heading in ("", first.name, best.name):
        table.add_column(heading, ratio=1 if heading else None)
    both = (cured.before, cured.after)
    noise = [f"{sum(weights.is_noise for weights in found.weights)} of {len(found.weights)}" for found in both]
    table.add_row("test accuracy", *(f"{100 * each.trial.accuracy:.1f} %" for each in (first, best)))
    table.add_row("layers whose gradient is noise", *noise)
    kept = [f"{_percent(found.neurons[-1].kept)} %" for found in both]
    table.add_row("nearness of near inputs left at the end", *kept)
    table.add_row("finding", *(escape(found.findings[0]) for found in both))
    return table


def _neurons(found: Diagnosis, title: str) -> Table:
    names = ("rate", "silent", "saturated", "inside", "near", "different")
    headings = ("rate", "silent", "always", "inside", "near", "other", "kept", "grad.", "gain")
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("neurons", no_wrap=True, min_width=max(len(neuron.path) for neuron in found.neurons))
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True, min_width=4)
    for neuron in found.neurons:
        values = [_percent(_mean(getattr(neuron, name))) for name in names]
        table.add_row(neuron.path, *values, _percent(neuron.kept), f"{neuron.norm:.2g}", f"{neuron.gain:.2f}")
    table.caption = (
        "rate to kept in %, means over the steps; silent, always: neurons that fire never, or at every sample; inside: "
        "potentials where the surrogate has a slope; near, other: likeness of a sample's spikes to its noisy copy's, "
        "to another's; kept: what is left of the difference of the two"
    )
    return table


def _weights(found: Diagnosis) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("weights", no_wrap=True)
    sloped = any(weights.descent == weights.descent for weights in found.weights)
    for name in ("gradient", "agreement", "", *(["descent"] if sloped else [])):
        table.add_column(name, justify="right")
    for weights in found.weights:
        style = "dim" if weights.is_noise else None
        word = "noise" if weights.is_noise else ""
        slope = ["" if weights.descent != weights.descent else f"{weights.descent:.2f}"] if sloped else []
        table.add_row(weights.path, f"{weights.gradient:.2g}", f"{weights.agreement:.3f}", word, *slope, style=style)
    return table


def _mean(values: tuple[float, ...]) -> float:
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else float("nan")


def _percent(value: float) -> str:
    return "" if value != value else f"{100 * value:.0f}"
