"""What a trained network does on test samples: accuracy, by class, for several T; what it fires, what that costs."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from sbp_core import validation
from sbp_core.costs import Cost, costs
from sbp_lab.data import Source
from sbp_lab.environment import machine, versions
from sbp_lab.files import finite, write_json
from sbp_lab.loader import Loader
from sbp_lab.trained import Trained

SCHEMA, FILE = "sbp.evaluation/1", "evaluation.json"
#: T that are tried unless told otherwise.
TIME_STEPS = tuple(range(1, 9))
#: Test samples that operations are counted on unless told otherwise: in float64 NumPy, so few of them.
COUNTED = 8
#: Classes that a table shows at most: the worst.
_MOST_CLASSES = 20
_PICOJOULES = 1e6


@dataclass(frozen=True, kw_only=True)
class AtSteps:
    """What the network does with a number of time steps.

    Attributes:
        time_steps: how often an image is shown, or frames of a recording.
        accuracy: of the main output, in 0 .. 1.
        per_class: of the samples of each class, in the order of the classes; None where there are none.
        firing_rates: spikes a neuron and step, by layer.
        milliseconds: for a sample, in batches, the first one left out.
        synaptic_operations: accumulates that spikes cause for a sample; None where they were not counted.
        energy: microjoules of arithmetic for a sample, at 45 nm (:mod:`sbp_core.costs`); None where not counted.
    """

    time_steps: int
    accuracy: float
    per_class: tuple[float | None, ...]
    firing_rates: Mapping[str, float]
    milliseconds: float
    synaptic_operations: float | None = None
    energy: float | None = None

    @property
    def firing_rate(self) -> float:
        """The mean over the layers; NaN where no layer is known to fire."""
        return statistics.fmean(self.firing_rates.values()) if self.firing_rates else math.nan


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What :func:`evaluate` found.

    Attributes:
        file: of the weights.
        epoch: that they are of.
        backend: that computed.
        trained_steps: T of the training.
        data: name, checksum and number of the samples.
        class_names: one a class.
        class_counts: samples of each.
        rated: samples that firing rates are of.
        counted: samples that operations are of.
        results: one a T.
        impossible: T that the network cannot make, with the reason.
        versions: package to version.
        machine: where it ran.
    """

    file: str
    epoch: int | None
    backend: str
    trained_steps: int
    data: Mapping[str, Any]
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    rated: int
    counted: int
    results: tuple[AtSteps, ...]
    impossible: Mapping[int, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=versions)
    machine: Mapping[str, Any] = field(default_factory=machine)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``evaluation.json``."""
        content = {"schema": SCHEMA} | asdict(self)
        content["results"] = [asdict(each) | {"firing_rate": each.firing_rate} for each in self.results]
        content["impossible"] = {str(steps): reason for steps, reason in self.impossible.items()}
        found: dict[str, Any] = finite(content)
        return found

    def write(self, path: Path) -> Path:
        """Write it as JSON, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        return write_json(path, self.to_dict())


def evaluate(
    trained: Trained,
    source: Source,
    *,
    backend: str | None = None,
    time_steps: Sequence[int] | None = None,
    batch_size: int | None = None,
    count: int = COUNTED,
    workers: int = 0,
    on_steps: Callable[[AtSteps], None] = lambda _: None,
) -> Evaluation:
    """Test a trained network, with one set of weights for all numbers of time steps.

    Args:
        trained: the network.
        source: the data, the run's or others with as many classes; normalised as in training.
        backend: that computes; the recipe's unless given.
        time_steps: T to try; 1 to 8, those that are possible, unless given.
        batch_size: samples at a time; the recipe's unless given.
        count: test samples that synaptic operations are counted on; 0 for none.
        workers: processes that make batches ahead of time.
        on_steps: called with what each T gave.

    Raises:
        ValueError: data of another kind, a T that is asked for and not possible, or none that is.
        ModuleNotFoundError: the backend's framework is not installed.
    """
    asked = TIME_STEPS if time_steps is None else tuple(time_steps)
    for steps in asked:
        validation.count("time_steps", steps)
    size = trained.recipe.batch_size if batch_size is None else validation.count("batch_size", batch_size)
    validation.count("count", count, least=0)
    shown = trained.inputs.normalising(source)
    impossible: dict[int, str] = {}
    for steps in asked:
        try:
            trained.network(steps)
        except ValueError as error:
            impossible[steps] = str(error)
    possible = [steps for steps in asked if steps not in impossible]
    if impossible and (time_steps is not None or not possible):
        raise ValueError(next(iter(impossible.values())))
    name = trained.recipe.backend if backend is None else backend
    results = []
    for steps in possible:
        with _loader(trained, shown, min(size, len(shown.test)), steps, workers) as loader:
            results.append(_at(trained, loader, name, steps, count))
        on_steps(results[-1])
    labels = shown.test.labels
    epoch = trained.notes.get("epoch", "")
    return Evaluation(
        file=str(trained.file),
        epoch=int(epoch) if epoch.isdigit() else None,
        backend=name,
        trained_steps=trained.recipe.time_steps,
        data={"name": source.name, "checksum": source.checksum, "test": len(labels)},
        class_names=trained.inputs.class_names,
        class_counts=tuple(np.bincount(labels, minlength=len(trained.inputs.class_names)).tolist()),
        rated=min(size, len(labels)),
        counted=min(count, size, len(labels)) if trained.spec is not None else 0,
        results=tuple(results),
        impossible=impossible,
    )


def _loader(trained: Trained, source: Source, batch_size: int, steps: int, workers: int) -> Loader:
    wanted = None
    if trained.recipe.frames is None:
        wanted = trained.recipe.size or trained.inputs.size
    # the training samples are not touched, and may be fewer than a batch
    tested = replace(source, train=source.test)
    return Loader(tested, batch_size=batch_size, seed=0, frames=trained.frames(steps), size=wanted, workers=workers)


def _at(trained: Trained, loader: Loader, backend: str, steps: int, count: int) -> AtSteps:
    trainer = trained.trainer(backend=backend, time_steps=steps)
    classes = len(trained.inputs.class_names)
    right, total = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    times: list[tuple[float, int]] = []
    first: NDArray[np.float32] | None = None
    for images, labels in loader.test():
        if first is None:
            first = images
            trainer.predict(images)  # compiles
        began = time.perf_counter()
        logits = trainer.predict(images)
        times.append((time.perf_counter() - began, len(images)))
        hit = np.argmax(logits, axis=-1) == labels
        total += np.bincount(labels, minlength=classes)
        right += np.bincount(labels[hit], minlength=classes)
    if first is None:
        raise ValueError(f"data {loader.source.name!r} must have test samples, got none")
    # a last batch of another size may have been compiled for
    whole = [seconds / size for seconds, size in times if size == len(first)]
    found = _counted(trained, first[:count], steps) if count and trained.spec is not None else None
    return AtSteps(
        time_steps=steps,
        accuracy=float(right.sum() / total.sum()),
        per_class=tuple(float(r / t) if t else None for r, t in zip(right, total, strict=True)),
        firing_rates=trainer.firing_rates(first),
        milliseconds=statistics.median(whole) * 1e3,
        synaptic_operations=None if found is None else sum(cost.synaptic or 0.0 for cost in found),
        energy=None if found is None else sum(cost.energy or 0.0 for cost in found) / _PICOJOULES,
    )


def _counted(trained: Trained, images: NDArray[np.float32], steps: int) -> list[Cost]:
    network = trained.network(steps)
    shown = np.moveaxis(images, -1, -3)
    if trained.inputs.events:
        shown = np.moveaxis(shown, 1, 0)
    return costs(network, weights=dict(trained.weights), images=shown)  # type: ignore[arg-type]  # a spec, see count


def tables(evaluation: Evaluation) -> list[Table]:
    """Return tables: a row a T, a row a class, a row a layer."""
    return [_steps(evaluation), _classes(evaluation), *([_layers(evaluation)] if _rated(evaluation) else [])]


def _steps(evaluation: Evaluation) -> Table:
    what = f"{evaluation.file}, epoch {evaluation.epoch}, {evaluation.backend}"
    table = Table(title=f"{what}: {evaluation.data['test']} test samples of {evaluation.data['name']}")
    counted = evaluation.counted > 0
    headings = ["T", "accuracy %", "firing rate %", *(["synaptic ops", "energy µJ"] if counted else []), "ms"]
    for heading in headings:
        table.add_column(heading, justify="right")
    for each in evaluation.results:
        row = [
            str(each.time_steps),
            f"{100 * each.accuracy:.2f}",
            "" if math.isnan(each.firing_rate) else f"{100 * each.firing_rate:.2f}",
        ]
        if counted:
            row += [f"{each.synaptic_operations or 0.0:,.0f}", f"{each.energy or 0.0:.3g}"]
        table.add_row(*row, f"{each.milliseconds:.3g}", style=_style(evaluation, each))
    notes = [f"a sample; coloured: T = {evaluation.trained_steps}, as trained"]
    if counted:
        notes.append(f"operations of the first {evaluation.counted} samples, energy of 45 nm without memory")
    if evaluation.impossible:
        notes.append(f"not possible: T = {', '.join(map(str, evaluation.impossible))}")
        notes.append(next(iter(evaluation.impossible.values())))
    table.caption = "; ".join(notes)
    return table


def _classes(evaluation: Evaluation) -> Table:
    order = list(range(len(evaluation.class_names)))
    title = "accuracy % by class"
    if len(order) > _MOST_CLASSES:
        chosen = next(
            (e for e in evaluation.results if e.time_steps == evaluation.trained_steps), evaluation.results[0]
        )
        order = sorted(order, key=lambda at: 2.0 if (found := chosen.per_class[at]) is None else found)[:_MOST_CLASSES]
        title += f", the {_MOST_CLASSES} worst at T = {chosen.time_steps} of {len(evaluation.class_names)}"
    table = _by_steps(evaluation, title, "class", "samples")
    for at in order:
        shown = (each.per_class[at] for each in evaluation.results)
        cells = ("" if found is None else f"{100 * found:.1f}" for found in shown)
        table.add_row(evaluation.class_names[at], str(evaluation.class_counts[at]), *cells)
    return table


def _layers(evaluation: Evaluation) -> Table:
    table = _by_steps(evaluation, f"firing rate % by layer, of {evaluation.rated} samples", "layer")
    for name in evaluation.results[0].firing_rates:
        table.add_row(name, *(f"{100 * each.firing_rates.get(name, math.nan):.2f}" for each in evaluation.results))
    return table


def _by_steps(evaluation: Evaluation, title: str, *first: str) -> Table:
    table = Table(title=title)
    for at, heading in enumerate(first):
        table.add_column(heading, justify="right" if at else "left")
    for each in evaluation.results:
        table.add_column(f"T = {each.time_steps}", justify="right", style=_style(evaluation, each))
    return table


def _rated(evaluation: Evaluation) -> bool:
    return any(each.firing_rates for each in evaluation.results)


def _style(evaluation: Evaluation, each: AtSteps) -> str | None:
    return "cyan" if each.time_steps == evaluation.trained_steps else None
