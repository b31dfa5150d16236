"""The ``sbp`` command."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from sbp_core import LIFSpec, ShortcutSpec, Surrogate, as_surrogate, registry, validation
from sbp_core.specs.surrogates import FAMILIES, of_half_width
from sbp_lab import networks, trainers
from sbp_lab.data import Dataset
from sbp_lab.data import in_memory as data_sets
from sbp_lab.methods import METHODS
from sbp_lab.training.old import Epoch, Recipe, Run, check_batch_size

# framework chatter that would drown the tables; a setting of the user's own wins
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

app = typer.Typer(
    name="sbp",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    help="Train deep spiking networks with shortcut back-propagation, and see what it does to the gradient.\n\n"
    "Try first: sbp compare --backend torch --data digits",
)


class Combine(StrEnum):
    """How branches join the main output."""

    logits = "logits"
    losses = "losses"


@contextmanager
def _blamed_on(option: str | None = None) -> Iterator[None]:
    """Answer what a person typed, and can put right, in a line: only while arguments are read, never while it runs."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _checked(check: Callable[[Any], object]) -> Callable[[Any], Any]:
    """Return an option's callback; the option that it belongs to is named by typer."""

    def callback(value: Any) -> Any:
        with _blamed_on():
            check(value)
        return value

    return callback


def _known(name: str, value: str, allowed: Iterable[str]) -> None:
    known = sorted(allowed)
    near = get_close_matches(value, known, n=1)
    try:
        validation.choice(name, value, known)
    except ValueError as error:
        raise ValueError(f"{error}; did you mean {near[0]!r}?" if near else str(error)) from None


def _one_of(name: str, allowed: Iterable[str]) -> Any:  # typer types its options so
    known = sorted(allowed)
    return typer.Option(help=f"One of {', '.join(known)}.", callback=_checked(lambda value: _known(name, value, known)))


def _at_least(name: str, least: int, *names: str, help: str) -> Any:
    def check(value: int) -> None:
        validation.count(name, value, least)

    return typer.Option(*names, help=help, callback=_checked(check))


def _backend(value: str) -> str:
    with _blamed_on():
        _known("backend", value, trainers.TRAINERS)
    try:
        trainers.check(value)
    except ModuleNotFoundError as error:
        raise typer.BadParameter(str(error)) from None
    return value


def _methods(value: str) -> None:
    names = value.split(",")
    for name in names:
        _known("method", name, METHODS)
    if len(set(names)) < len(names):
        raise ValueError(f"methods must not repeat a name, the same runs twice; got {value!r}")


def _surrogate(text: str) -> Surrogate:
    name, colon, half_width = text.partition(":")
    family = as_surrogate(name)
    if not colon:
        return family
    try:
        number = float(half_width)
    except ValueError:
        raise ValueError(f"surrogate must be NAME or NAME:HALF_WIDTH, a number; got {text!r}") from None
    return of_half_width(name, number)


Backend = Annotated[
    str,
    typer.Option(
        help=f"One of {', '.join(trainers.TRAINERS)}; tf is Keras on TensorFlow, keras on what KERAS_BACKEND says.",
        callback=_backend,
    ),
]
Data = Annotated[str, _one_of("data", data_sets.DATASETS)]
Net = Annotated[str, _one_of("net", networks.NETWORKS)]
SurrogateOption = Annotated[
    str,
    typer.Option(
        metavar="NAME[:HALF_WIDTH]",
        callback=_checked(_surrogate),
        help="Surrogate gradient. HALF_WIDTH, one measure for all: how far from the threshold it falls to half its "
        f"height. {', '.join(FAMILIES)}.",
    ),
]
Width = Annotated[int, _at_least("width", 1, help="Channels of the first stage, all others in proportion.")]
TimeSteps = Annotated[int, _at_least("time_steps", 1, "--time-steps", "-T", help="How often the image is shown.")]
Taps = Annotated[
    str | None,
    typer.Option(
        help="Parts that get a branch, with commas between; the network's own choice unless given.", show_default=False
    ),
]
CombineOption = Annotated[
    Combine, typer.Option("--combine", help="Add the branches' logits (the paper's), or weigh their losses.")
]
Epochs = Annotated[int, _at_least("epochs", 1, help="Passes over the training images.")]
BatchSize = Annotated[int, _at_least("batch_size", 1, help="Images per step.")]
LearningRate = Annotated[
    float,
    typer.Option(
        help="AdamW's at the start; it falls to 0 along half a cosine.",
        callback=_checked(lambda value: validation.positive("learning_rate", value)),
    ),
]
WeightDecay = Annotated[
    float,
    typer.Option(
        help="AdamW's decoupled weight decay, 0 to 1.",
        callback=_checked(lambda value: validation.within("weight_decay", value, 0.0, 1.0)),
    ),
]
Seed = Annotated[int, _at_least("seed", 0, help="Of the initial weights and the order of the batches.")]
Out = Annotated[Path | None, typer.Option(help="Folder for the files; runs/ and the time if not given.")]

# chosen by measurement so that a deep vanilla network learns at all: see docs/demo.md
BACKEND, DATA, NET = "torch", "digits", "resnet34"
SURROGATE, WIDTH, TIME_STEPS = "rectangle:1", 8, 2
TAPS, EPOCHS, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY, SEEDS = None, 20, 64, 0.01, 0.02, 3


@app.command()
def train(
    backend: Backend = BACKEND,
    data: Data = DATA,
    net: Net = NET,
    method: Annotated[str, _one_of("method", METHODS)] = "evolutionary",
    seed: Seed = 0,
    epochs: Epochs = EPOCHS,
    batch_size: BatchSize = BATCH_SIZE,
    learning_rate: LearningRate = LEARNING_RATE,
    weight_decay: WeightDecay = WEIGHT_DECAY,
    width: Width = WIDTH,
    time_steps: TimeSteps = TIME_STEPS,
    surrogate: SurrogateOption = SURROGATE,
    taps: Taps = TAPS,
    combine: CombineOption = Combine.logits,
    out: Out = None,
) -> None:
    """Train one network with one method; a line per epoch, then results.json and a plot."""
    recipe, _ = _recipe(
        backend, data, net, width, time_steps, surrogate, taps, combine, epochs, batch_size,
        learning_rate, weight_decay,
    )  # fmt: skip
    with _folder(out, "train") as folder:
        _compare(recipe, (method,), (seed,), jobs=1, folder=folder, line_per_epoch=True)


@app.command()
def compare(
    backend: Backend = BACKEND,
    data: Data = DATA,
    net: Net = NET,
    methods: Annotated[
        str, typer.Option(callback=_checked(_methods), help=f"Of {', '.join(METHODS)}; with commas between.")
    ] = ",".join(METHODS),
    seeds: Annotated[int, _at_least("seeds", 1, help="How many seeds: 0, 1, ...")] = SEEDS,
    jobs: Annotated[
        int, _at_least("jobs", 0, help="Runs at a time, each with one thread; 0 for one per processor.")
    ] = 0,
    epochs: Epochs = EPOCHS,
    batch_size: BatchSize = BATCH_SIZE,
    learning_rate: LearningRate = LEARNING_RATE,
    weight_decay: WeightDecay = WEIGHT_DECAY,
    width: Width = WIDTH,
    time_steps: TimeSteps = TIME_STEPS,
    surrogate: SurrogateOption = SURROGATE,
    taps: Taps = TAPS,
    combine: CombineOption = Combine.logits,
    out: Out = None,
) -> None:
    """Train vanilla, shortcut and evolutionary over several seeds; a table, results.json and a plot.

    Accuracy is the main output's alone, as in inference. At equal seeds every method and framework starts alike.
    """
    from sbp_lab.environment import processors

    recipe, _ = _recipe(
        backend, data, net, width, time_steps, surrogate, taps, combine, epochs, batch_size,
        learning_rate, weight_decay,
    )  # fmt: skip
    with _folder(out, "compare") as folder:
        _compare(recipe, methods.split(","), range(seeds), jobs=jobs or processors(), folder=folder)


@app.command()
def gradients(
    backend: Backend = BACKEND,
    data: Data = DATA,
    net: Net = NET,
    seed: Seed = 0,
    batch_size: BatchSize = BATCH_SIZE,
    width: Width = WIDTH,
    time_steps: TimeSteps = TIME_STEPS,
    surrogate: SurrogateOption = SURROGATE,
    taps: Taps = TAPS,
    combine: CombineOption = Combine.logits,
    out: Out = None,
) -> None:
    """Show the gradient's size at every layer at initialisation, with and without shortcuts; a table and a plot.

    Growing towards the input, the gradient explodes; shrinking, it vanishes.
    """
    from sbp_lab.diagnosis import gradient_norms
    from sbp_lab.environment import machine, versions
    from sbp_lab.files import write_json
    from sbp_lab.plots import plot_gradients
    from sbp_lab.results import describe_network

    recipe, dataset = _recipe(
        backend, data, net, width, time_steps, surrogate, taps, combine, 1, batch_size,
        LEARNING_RATE, WEIGHT_DECAY,
    )  # fmt: skip
    with _folder(out, "gradients") as folder:
        norms = gradient_norms(recipe, tuple(METHODS), seed, dataset)
        console = Console()
        title = f"{describe_network(recipe)}, at initialisation, one batch of {batch_size}, {backend}"
        table = Table(title=title)
        table.add_column("L2 norm of the gradient of")
        for name in norms:
            table.add_column(name, justify="right")
        for layer in next(iter(norms.values())):
            table.add_row(layer, *(f"{norms[name][layer]:.3g}" for name in norms))
        console.print(table)
        content = {"schema": "sbp.gradients/1", "recipe": recipe.to_dict(), "seed": seed, "norms": norms}
        file = write_json(folder / "gradients.json", content | {"versions": versions(), "machine": machine()})
        picture = plot_gradients(norms, title, folder / "gradients.png")
        console.print(f"Wrote {file} and {picture.name}", soft_wrap=True)


@app.command()
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
    Console().print(table)


@app.command()
def inspect(
    net: Annotated[str, typer.Argument(help=f"A file of weights, or one of {', '.join(networks.NETWORKS)}.")],
    size: Annotated[
        int | None, typer.Option(help="Height and width of the image, for networks that take any.", min=1)
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Channels of the first stage; as in the source unless given.", min=1)
    ] = None,
    classes: Annotated[int | None, typer.Option(help="Logits.", min=1)] = None,
    time_steps: Annotated[
        int | None, typer.Option("--time-steps", "-T", help="How often the image is shown.", min=1)
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Count spikes and energy on images of this data set, and not operations alone.")
    ] = None,
    images: Annotated[int, typer.Option(help="How many of them.", min=1)] = 16,
    out: Annotated[Path | None, typer.Option(help="Draw a picture into this PNG.")] = None,
) -> None:
    """Show a network's layers: shapes, parameters, operations; with --data firing rates, synaptic operations, energy.

    Energy is of 45 nm: 4.6 pJ a multiply-accumulate, 0.9 pJ an accumulate, and beside it with the traffic to memory.
    """
    from sbp_lab import inspection

    with _blamed_on("NET"):
        spec, weights = inspection.open_network(net)
        given = {"time_steps": time_steps, "num_classes": classes}
        dataset = None if data is None else data_sets.load(validation.choice("data", data, data_sets.DATASETS))
        if dataset is not None:
            given |= {"num_classes": dataset.num_classes, "in_channels": dataset.channels}
        shown = dataset.size if dataset is not None else None if size is None else (size, size)
        spec = inspection.adapt(spec, width, shown, **given)
        rows = inspection.rows(spec, weights, dataset, size=size, images=images)
    Console().print(inspection.table(spec, rows))
    if out is not None:
        with _blamed_on("--out"):
            file = inspection.picture(spec, rows, out)
        Console().print(f"Wrote {file}", soft_wrap=True)


def _recipe(
    backend: str,
    data_name: str,
    net: str,
    width: int,
    time_steps: int,
    surrogate: str,
    taps: str | None,
    combine: Combine,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
) -> tuple[Recipe, Dataset]:
    """Put the arguments together; whatever one can know to be wrong with them before training is answered here."""
    dataset = data_sets.load(data_name)
    with _blamed_on("--batch-size"):
        check_batch_size(batch_size, dataset)
    with _blamed_on("--net"):
        network = networks.build(
            net,
            width=width,
            size=dataset.size,
            num_classes=dataset.num_classes,
            in_channels=dataset.channels,
            time_steps=time_steps,
            neuron=LIFSpec(surrogate=_surrogate(surrogate)),
        )
    tapped = network.default_taps if taps is None else tuple(taps.split(","))
    with _blamed_on("--taps"):
        ShortcutSpec(taps=tapped).check_taps(network.tap_channels)
    recipe = Recipe(
        backend=backend,
        data=data_name,
        network=network,
        taps=tapped,
        combine=combine.value,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
    )
    return recipe, dataset


def _compare(
    recipe: Recipe,
    methods: Iterable[str],
    seeds: Iterable[int],
    *,
    jobs: int,
    folder: Path,
    line_per_epoch: bool = False,
) -> None:
    from sbp_lab.comparison import run_all
    from sbp_lab.plots import plot_comparison
    from sbp_lab.results import Comparison, describe, table

    console = Console()
    comparison = Comparison(recipe=recipe, methods=tuple(methods), seeds=tuple(seeds), jobs=jobs)
    count = len(comparison.pairs())
    console.print(f"{describe(recipe)}: {count} run{'s' * (count > 1)}, {min(jobs, count)} at a time", soft_wrap=True)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        # a log gets a line per run, not a moving bar
        disable=not console.is_terminal,
    )
    bar = progress.add_task("epochs", total=count * recipe.epochs)

    def epoch_done(method: str, seed: int, number: int, epoch: Epoch) -> None:
        progress.advance(bar)
        if line_per_epoch:
            console.print(f"epoch {number}: loss {epoch.loss:.4f}, accuracy {epoch.accuracy * 100:.1f} %")

    file, unwritten, written = folder / "results.json", None, 0

    def kept() -> str:
        held = written
        if len(comparison.runs) > written:
            # what stopped it may have come while the last run was being written
            with suppress(OSError):
                comparison.write(folder)
                held = len(comparison.runs)
        return f"{file} holds the {held} finished of {count} runs" if held else "nothing was written"

    try:
        with _interruptible(), progress, closing(run_all(comparison, epoch_done)) as runs:
            for run in runs:
                comparison = comparison.with_run(run)
                try:
                    comparison.write(folder)
                    unwritten, written = None, len(comparison.runs)
                except OSError as error:  # a full disk, say: no reason to throw hours of training away
                    unwritten = error
                console.print(_line(run), soft_wrap=True)
    except KeyboardInterrupt:
        console.print(f"Interrupted: {kept()}.", soft_wrap=True)
        raise typer.Exit(130) from None
    except Exception:
        console.print(f"Failed: {kept()}.", soft_wrap=True)
        raise
    console.print(table(comparison))
    if unwritten is not None:
        console.print(f"Could not write {file}: {escape(str(unwritten))}", soft_wrap=True)
        raise typer.Exit(1)
    picture = plot_comparison(comparison, folder / "comparison.png")
    console.print(f"Wrote {file} and {picture.name}", soft_wrap=True)


def _line(run: Run) -> str:
    return (
        f"{run.method}, seed {run.seed}: accuracy {run.accuracy * 100:.1f} %, "
        f"first / last gradient {run.gradient_ratio:.2g}, {run.step_ms:.1f} ms per step, {run.seconds:.0f} s"
    )


@contextmanager
def _folder(out: Path | None, command: str) -> Iterator[Path]:
    """Make the folder for the files, and see that it takes some, before anything is computed; an empty one goes."""
    folder = out or Path("runs") / f"{datetime.now():%Y-%m-%d-%H%M%S}-{command}-{os.getpid()}"
    made: list[Path] = []
    try:
        try:
            if folder.exists() and not folder.is_dir():
                raise typer.BadParameter(f"{folder} is a file; name a folder", param_hint="--out")
            held = [name for name in ("results.json", "gradients.json") if (folder / name).exists()]
            if held:
                raise typer.BadParameter(f"{folder} already holds {held[0]}; name another folder", param_hint="--out")
            made = [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder):
                pass
        except OSError as error:
            reason = f"{folder} cannot be written: {error.strerror or error}; name another folder"
            raise typer.BadParameter(reason, param_hint="--out") from None
        yield folder
    finally:
        with suppress(OSError):
            for path in made:
                path.rmdir()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let a request to terminate end the command as Ctrl-C does, so that no process is left behind."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
