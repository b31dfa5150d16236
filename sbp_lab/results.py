"""What a comparison found: figures, files, and the table."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from sbp_core import ResNetSpec
from sbp_lab.environment import machine as machine
from sbp_lab.environment import versions as versions
from sbp_lab.files import finite, write_json
from sbp_lab.methods import METHODS
from sbp_lab.training.old import Epoch, Recipe, Run

SCHEMA = "sbp.comparison/1"


class Summary(NamedTuple):
    """One method over its seeds.

    Attributes:
        method: its name.
        runs: number of seeds.
        accuracy: mean test accuracy of the main output after the last epoch, in 0 .. 1.
        accuracy_deviation: sample standard deviation over the seeds; None for a single one.
        gradient_ratio: mean over the seeds of ||first layer's gradient|| / ||last's|| in the first epoch.
        gradient_ratio_range: the least and the greatest of them.
        step_ms: median over the seeds of the median time of a step, in milliseconds.
    """

    method: str
    runs: int
    accuracy: float
    accuracy_deviation: float | None
    gradient_ratio: float
    gradient_ratio_range: tuple[float, float]
    step_ms: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs of one recipe.

    Attributes:
        recipe: what they share.
        methods: names of the methods that were asked for.
        seeds: the seeds that were asked for.
        jobs: how many ran at a time; it bears on the time per step.
        runs: the finished ones, in the order of methods and seeds.
        versions: package to version.
        machine: where it ran.
        created: when it began, ISO 8601 in UTC.
    """

    recipe: Recipe
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    jobs: int
    runs: tuple[Run, ...] = ()
    versions: dict[str, str] = dataclasses.field(default_factory=lambda: versions())
    machine: dict[str, Any] = dataclasses.field(default_factory=lambda: machine())
    created: str = dataclasses.field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def complete(self) -> bool:
        """Whether every run that was asked for is there."""
        return len(self.runs) == len(self.methods) * len(self.seeds)

    def with_run(self, run: Run) -> Comparison:
        """Return a copy that holds ``run`` too, in its place."""
        order = {(method, seed): index for index, (method, seed) in enumerate(self.pairs())}
        runs = sorted([*self.runs, run], key=lambda each: order[each.method, each.seed])
        return dataclasses.replace(self, runs=tuple(runs))

    def pairs(self) -> list[tuple[str, int]]:
        """Return the method and seed of every run that was asked for."""
        return [(method, seed) for method in self.methods for seed in self.seeds]

    def of(self, method: str) -> list[Run]:
        """Return the finished runs of a method."""
        return [run for run in self.runs if run.method == method]

    def summaries(self) -> list[Summary]:
        """Return one summary for each method that has a finished run."""
        return [_summary(method, self.of(method)) for method in self.methods if self.of(method)]

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``results.json``; what is not a finite number becomes None."""
        schedules = {name: METHODS[name].schedule for name in self.methods}
        content = {
            "schema": SCHEMA,
            "complete": self.complete,
            "created": self.created,
            "recipe": self.recipe.to_dict(),
            "methods": {name: schedule and schedule.to_dict() for name, schedule in schedules.items()},
            "seeds": list(self.seeds),
            "jobs": self.jobs,
            "versions": self.versions,
            "machine": self.machine,
            "summary": [summary._asdict() for summary in self.summaries()],
            "runs": [dataclasses.asdict(run) | {"gradient_ratio": run.gradient_ratio} for run in self.runs],
        }
        return {key: finite(value) for key, value in content.items()}

    def write(self, folder: Path) -> Path:
        """Write ``results.json`` into ``folder`` and return its path."""
        return write_json(folder / "results.json", self.to_dict())

    @classmethod
    def read(cls, path: Path) -> Comparison:
        """Return the comparison that :meth:`write` wrote.

        Raises:
            ValueError: the file is not such a file.
        """
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise ValueError(f"{path} does not hold a comparison of schema {SCHEMA!r}")
        return cls(
            recipe=Recipe.from_dict(content["recipe"]),
            methods=tuple(content["methods"]),
            seeds=tuple(content["seeds"]),
            jobs=content["jobs"],
            runs=tuple(_read_run(run) for run in content["runs"]),
            versions=content["versions"],
            machine=content["machine"],
            created=content["created"],
        )


def table(comparison: Comparison) -> Table:
    """Return the figures as a table for the terminal."""
    seeds = len(comparison.seeds)
    drawn = Table(title=f"{describe(comparison.recipe)}; mean over {seeds} seed{'s' if seeds > 1 else ''}")
    drawn.add_column("method", no_wrap=True)
    for heading in (
        "accuracy, %\n(main alone)",
        "first / last\ngradient in epoch 1",
        "ms per step",
    ):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for row in comparison.summaries():
        spread = "" if row.accuracy_deviation is None else f" ± {row.accuracy_deviation * 100:.1f}"
        low, high = row.gradient_ratio_range
        reach = "" if row.runs == 1 else f" ({low:.2g} to {high:.2g})"
        short = "" if row.runs == seeds else f" ({row.runs} of {seeds})"
        drawn.add_row(
            row.method + short,
            f"{row.accuracy * 100:.1f}{spread}",
            f"{row.gradient_ratio:.2g}{reach}",
            f"{row.step_ms:.1f}",
        )
    return drawn


def describe_network(recipe: Recipe) -> str:
    """Return the network, its neuron and the data in a line."""
    network = recipe.network
    surrogate = next(spec for _, spec in network.neurons()).surrogate.to_dict()
    shape = ", ".join(f"{key} {value:g}" for key, value in surrogate.items() if isinstance(value, float))
    name = f"{network.kind} of {network.parameter_count:,} parameters"
    if isinstance(network, ResNetSpec):
        name = f"ResNet-{network.layers} of widths {network.widths[0]} to {network.widths[-1]}"
    return f"{name} on {recipe.data}, T = {network.time_steps}, {surrogate['kind']} ({shape})"


def describe(recipe: Recipe) -> str:
    """Return one line that says what was trained."""
    return f"{describe_network(recipe)}, {recipe.epochs} epochs, {recipe.backend}"


def _summary(method: str, runs: Sequence[Run]) -> Summary:
    accuracies = [run.accuracy for run in runs]
    ratios = [run.gradient_ratio for run in runs]
    return Summary(
        method=method,
        runs=len(runs),
        accuracy=statistics.fmean(accuracies),
        accuracy_deviation=statistics.stdev(accuracies) if len(runs) > 1 else None,
        gradient_ratio=statistics.fmean(ratios),
        gradient_ratio_range=(min(ratios), max(ratios)),
        step_ms=statistics.median(run.step_ms for run in runs),
    )


def _read_run(content: dict[str, Any]) -> Run:
    fields = {field.name: content[field.name] for field in dataclasses.fields(Run)}
    fields["epochs"] = tuple(
        Epoch(**{name: _number(value) for name, value in epoch.items()}) for epoch in content["epochs"]
    )
    return Run(**fields | {"initial_loss": _number(content["initial_loss"])})


def _number(value: float | None) -> float:
    return math.nan if value is None else value
