"""What a comparison found: methods x networks x data x seeds, with spreads and paired differences."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from sbp_core import validation
from sbp_lab.environment import machine, versions
from sbp_lab.files import finite, read_json, sound, write_json
from sbp_lab.methods import PAPERS, Method, method_of
from sbp_lab.recipe import Recipe
from sbp_lab.record import RESULTS, Run

SCHEMA = "sbp.comparison/2"

#: What the others are compared with, seed by seed, unless a plan says otherwise.
BASELINE = "vanilla"
CONFIDENCE = 0.95


class Cell(NamedTuple):
    """One run of a comparison."""

    data: str
    net: str
    method: str
    seed: int

    @property
    def folder(self) -> Path:
        """Its folder below the comparison's.

        Example:
            >>> Cell("folder/flowers", "resnet18", "vanilla", 0).folder.as_posix()
            'runs/folder-flowers/resnet18/vanilla/seed0'
        """
        return Path("runs", _word(self.data), _word(self.net), self.method, f"seed{self.seed}")


class Interval(NamedTuple):
    """A mean and its interval of 95 %; without ends where one value says nothing of a spread."""

    mean: float
    low: float | None
    high: float | None
    pairs: int


class Summary(NamedTuple):
    """One method on one network and data set, over its seeds.

    Attributes:
        data: the data set.
        net: the network.
        method: the method.
        runs: number of finished seeds.
        accuracy: mean test accuracy of the main output after the last epoch, in 0 .. 1.
        accuracy_deviation: sample standard deviation over the seeds; None for a single one.
        best: mean over the seeds of the best epoch's test accuracy: it is chosen on the test set, so it flatters.
        difference: accuracy less the baseline's at the same seeds; None for the baseline, or where none is in both.
        gradient_ratio: mean over the seeds of ||first layer's gradient|| / ||last's|| in the first epoch.
        gradient_ratio_range: the least and the greatest of them.
        step_ms: median over the seeds of the median time of a step, in milliseconds.
        seconds: mean time of a run.
    """

    data: str
    net: str
    method: str
    runs: int
    accuracy: float
    accuracy_deviation: float | None
    best: float
    difference: Interval | None
    gradient_ratio: float
    gradient_ratio_range: tuple[float, float]
    step_ms: float
    seconds: float


def paired(values: Sequence[float], baseline: Sequence[float]) -> Interval:
    r"""Return the mean difference of pairs and its interval, by Student's t.

    .. code-block:: text

        d_i = values_i - baseline_i        mean +- t(0.975, n - 1) * sqrt(sum (d_i - mean)^2 / (n - 1) / n)

    Raises:
        ValueError: there are no pairs, or not as many of one as of the other.

    Example:
        >>> paired([0.75, 0.875, 0.75], [0.5, 0.5, 0.625])
        Interval(mean=0.25, low=-0.06051..., high=0.56051..., pairs=3)
    """
    differences = [value - base for value, base in zip(values, baseline, strict=True)]
    if not differences:
        raise ValueError("values must hold at least one, got none")
    count, mean = len(differences), statistics.fmean(differences)
    if count == 1:
        return Interval(mean, None, None, count)
    from scipy.special import stdtrit  # half a second, which `sbp --help` need not take

    quantile = float(stdtrit(count - 1, 0.5 + CONFIDENCE / 2))
    half = quantile * statistics.stdev(differences) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half, count)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The runs of a comparison: every method with every network, data set and seed.

    Attributes:
        recipe: what they share; its data, net, method and seed are those of no run.
        data: data sets.
        nets: networks.
        methods: methods.
        seeds: seeds.
        own: methods of one's own, among the names.
        baseline: the method that the others are compared with.

    Raises:
        ValueError: an unknown name, or one that is there twice, or none; the message names the field.

    Example:
        >>> plan = Plan(recipe=Recipe(), data=("digits",), nets=("resnet18",), methods=("vanilla",), seeds=(0, 1))
        >>> [cell.seed for cell in plan.cells()]
        [0, 1]
    """

    recipe: Recipe
    data: tuple[str, ...]
    nets: tuple[str, ...]
    methods: tuple[str, ...] = PAPERS
    seeds: tuple[int, ...] = (0, 1, 2)
    own: tuple[Method, ...] = ()
    baseline: str = BASELINE

    def __post_init__(self) -> None:
        for name in ("data", "nets", "methods", "seeds"):
            values = getattr(self, name)
            if not values:
                raise ValueError(f"{name} must hold at least one, got none")
            if len(set(values)) < len(values):
                raise ValueError(
                    f"{name} must not repeat a name, the same runs twice; got {', '.join(map(str, values))}"
                )
        for name in self.methods:
            self.method_of(name)
        if self.baseline != BASELINE:
            validation.choice("baseline", self.baseline, self.methods)
        for seed in self.seeds:
            validation.count("seeds", seed, 0)
        # a seed more makes no other mistake
        firsts = [cell for cell in self.cells() if cell.seed == self.seeds[0]]
        if len({cell.folder for cell in firsts}) < len(firsts):
            raise ValueError(f"data and nets must differ in more than punctuation, got {self.data}, {self.nets}")
        for cell in firsts:
            self.recipe_of(cell)

    def method_of(self, name: str) -> Method:
        """Return one of the methods.

        Raises:
            ValueError: there is none of that name.
        """
        return next((method for method in self.own if method.name == name), None) or method_of(name, "methods")

    def cells(self) -> list[Cell]:
        """Return every run, in the order of the tables."""
        return [Cell(*each) for each in itertools.product(self.data, self.nets, self.methods, self.seeds)]

    def groups(self) -> list[tuple[str, str]]:
        """Return every pair of a data set and a network."""
        return list(itertools.product(self.data, self.nets))

    def recipe_of(self, cell: Cell) -> Recipe:
        """Return a run's recipe.

        Raises:
            ValueError: the shared recipe does not go with the cell.
        """
        own = next((method for method in self.own if method.name == cell.method), cell.method)
        return self.recipe.replace(data=cell.data, net=cell.net, seed=cell.seed).with_method(own)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is known so far.

    Attributes:
        plan: the runs that were asked for.
        jobs: how many ran at a time; it bears on the time per step.
        runs: the finished ones.
        versions: package to version.
        machine: where it ran.
        created: when it began, ISO 8601 in UTC.
    """

    plan: Plan
    jobs: int = 1
    runs: Mapping[Cell, Run] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=versions)
    machine: Mapping[str, Any] = field(default_factory=machine)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def complete(self) -> bool:
        """Whether every run that was asked for is there."""
        return len(self.runs) == len(self.plan.cells())

    def with_run(self, cell: Cell, run: Run) -> Comparison:
        """Return a copy that holds ``run`` too."""
        plan, runs = self.plan, {**self.runs, cell: run}
        asked = (plan.data, plan.nets, plan.methods, plan.seeds)
        places = [{value: place for place, value in enumerate(values)} for values in asked]
        ordered = sorted(runs, key=lambda each: [place[value] for place, value in zip(places, each, strict=True)])
        return dataclasses.replace(self, runs={each: runs[each] for each in ordered})

    def of(self, data: str, net: str, method: str) -> dict[int, Run]:
        """Return the finished runs of a method by seed."""
        return {cell.seed: run for cell, run in self.runs.items() if cell[:3] == (data, net, method)}

    def summaries(self) -> list[Summary]:
        """Return one summary for each method on each network and data set that has a finished run."""
        return list(self._summaries())

    def _summaries(self) -> Iterator[Summary]:
        for data, net in self.plan.groups():
            baseline = self.of(data, net, self.plan.baseline)
            for method in self.plan.methods:
                runs = self.of(data, net, method)
                if runs:
                    yield _summary(data, net, method, runs, {} if method == self.plan.baseline else baseline)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``results.json``; what is not a finite number becomes None."""
        plan = self.plan
        first = {cell.method: plan.recipe_of(cell) for cell in plan.cells()}
        schedules = {name: first[name].schedule for name in plan.methods}
        content: dict[str, Any] = finite(
            {
                "schema": SCHEMA,
                "complete": self.complete,
                "created": self.created,
                "recipe": plan.recipe.to_dict(),
                "data": plan.data,
                "nets": plan.nets,
                "methods": {name: schedule and schedule.to_dict() for name, schedule in schedules.items()},
                "own": [method.to_dict() for method in plan.own],
                "baseline": plan.baseline,
                "seeds": plan.seeds,
                "jobs": self.jobs,
                "versions": dict(self.versions),
                "machine": dict(self.machine),
                "summary": [_told(summary) for summary in self.summaries()],
                "runs": [_line(cell, run) for cell, run in self.runs.items()],
            }
        )
        return content

    def write(self, folder: Path) -> Path:
        """Write ``results.json`` into ``folder``, whole or not at all, and return its path.

        Raises:
            OSError: the folder cannot be written.
        """
        return write_json(folder / RESULTS, self.to_dict())

    @classmethod
    def read(cls, folder: Path) -> Comparison:
        """Return the comparison in ``folder``: its plan from ``results.json``, its runs from their own folders.

        Raises:
            FileNotFoundError: there is none.
            ValueError: the file is damaged, or of another kind or version; or a run is not what the plan says.
        """
        path = folder / RESULTS
        content = read_json(path, SCHEMA, "a comparison")
        with sound(path):
            plan = Plan(
                recipe=Recipe.from_dict(content["recipe"]),
                data=tuple(content["data"]),
                nets=tuple(content["nets"]),
                methods=tuple(content["methods"]),
                seeds=tuple(content["seeds"]),
                own=tuple(map(Method.from_dict, content.get("own", ()))),
                baseline=content.get("baseline", BASELINE),
            )
            found = cls(
                plan=plan,
                jobs=content["jobs"],
                versions=content["versions"],
                machine=content["machine"],
                created=content["created"],
            )
        return dataclasses.replace(found, runs=finished(plan, folder))


def finished(plan: Plan, folder: Path) -> dict[Cell, Run]:
    """Return the runs below ``folder`` that are complete.

    Raises:
        ValueError: a run's recipe is not what the plan says, or its file is damaged; the message names it.
    """
    found = {}
    for cell in plan.cells():
        place = folder / cell.folder
        if not (place / RESULTS).is_file():
            continue
        run = Run.read(place)
        planned = plan.recipe_of(cell)
        if run.recipe != planned:
            name = next(
                each.name
                for each in dataclasses.fields(Recipe)
                if getattr(run.recipe, each.name) != getattr(planned, each.name)
            )
            was, now = getattr(run.recipe, name), getattr(planned, name)
            raise ValueError(f"{place} was run with {name}={was!r}, and the comparison asks for {now!r}")
        if run.complete:
            found[cell] = run
    return found


def describe_network(recipe: Recipe) -> str:
    """Return the network, its neuron and the data in a line."""
    width = "" if recipe.width is None else f" of width {recipe.width}"
    neuron = ""
    if recipe.neuron is not None:
        surrogate = recipe.neuron.surrogate.to_dict()
        shape = ", ".join(f"{key} {value:g}" for key, value in surrogate.items() if isinstance(value, float))
        neuron = f", {surrogate['kind']} ({shape})"
    return f"{recipe.net}{width} on {recipe.data}, T = {recipe.time_steps}{neuron}"


def describe(recipe: Recipe) -> str:
    """Return one line that says what was trained."""
    return f"{describe_network(recipe)}, {recipe.epochs} epochs, {recipe.backend}"


def _summary(data: str, net: str, method: str, runs: Mapping[int, Run], baseline: Mapping[int, Run]) -> Summary:
    accuracies = [run.accuracy for run in runs.values()]
    ratios = [run.gradient_ratio for run in runs.values()]
    both = [seed for seed in runs if seed in baseline]
    pairs = [runs[seed].accuracy for seed in both], [baseline[seed].accuracy for seed in both]
    return Summary(
        data=data,
        net=net,
        method=method,
        runs=len(runs),
        accuracy=statistics.fmean(accuracies),
        accuracy_deviation=statistics.stdev(accuracies) if len(runs) > 1 else None,
        best=statistics.fmean(run.best.accuracy for run in runs.values()),
        difference=paired(*pairs) if both else None,
        gradient_ratio=statistics.fmean(ratios),
        gradient_ratio_range=(min(ratios), max(ratios)),
        step_ms=statistics.median(run.step_ms for run in runs.values()),
        seconds=statistics.fmean(run.seconds for run in runs.values()),
    )


def _told(summary: Summary) -> dict[str, Any]:
    difference = summary.difference
    return summary._asdict() | {"difference": difference and difference._asdict()}


def _line(cell: Cell, run: Run) -> dict[str, Any]:
    return cell._asdict() | {
        "folder": cell.folder.as_posix(),
        "accuracy": run.accuracy,
        "best": {"epoch": run.best.number, "accuracy": run.best.accuracy},
        "gradient_ratio": run.gradient_ratio,
        "initial_loss": run.initial_loss,
        "step_ms": run.step_ms,
        "seconds": run.seconds,
    }


def _word(name: str) -> str:
    return re.sub(r"[^\w.]+", "-", name)
