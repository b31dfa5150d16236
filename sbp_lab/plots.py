"""The pictures of a run, of a comparison and of a gradient diagnosis."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from sbp_core.costs import Cost
from sbp_lab.files import write_bytes
from sbp_lab.record import Run
from sbp_lab.results import Comparison, describe
from sbp_lab.tables import title

#: Okabe and Ito's colours: told apart by colour-blind readers, and in grey.
COLOURS = {"vanilla": "#4d4d4d", "shortcut": "#e69f00", "evolutionary": "#0072b2"}
#: Of other methods, in the order in which they come.
OTHERS = ("#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#a6761d")
INK = "#333333"


def plot_comparison(comparison: Comparison, path: Path) -> Path:
    """Draw accuracy over the epochs and the first layer's relative gradient, a row a network and data set, as a PNG."""
    groups = [group for group in comparison.plan.groups() if _of(comparison, group)]
    figure = _figure(9.6, 0.6 + 3.6 * len(groups))
    panels = figure.subplots(len(groups), 2, squeeze=False, gridspec_kw={"width_ratios": (1.5, 1)})
    for (left, right), group in zip(panels, groups, strict=True):
        _comparison(left, right, comparison, group)
    figure.suptitle(title(comparison), fontsize=10, x=0.01, ha="left", color=INK)
    return _write(figure, path)


def comparison_svg(comparison: Comparison, group: tuple[str, str]) -> str:
    """Return the same picture of one data set and network as SVG, its ink and its colours left to the page's style."""
    figure = _figure(9.6, 3.8)
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": (1.5, 1)})
    _comparison(left, right, comparison, group)
    _bare(figure)
    picture = io.StringIO()
    # ids of their own, where several pictures stand on a page; letters, not outlines
    with rc_context({"svg.hashsalt": "/".join(group), "svg.fonttype": "none"}):
        figure.savefig(picture, format="svg", transparent=True, metadata={"Date": None})
    text = picture.getvalue()
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    for ink in (INK, "#000000", "#333333", "#555555", "#999999"):
        text = text.replace(ink, "currentColor")
    return text[text.index("<svg") :]


def plot_run(run: Run, path: Path) -> Path:
    """Draw a run's loss, its accuracy and the size of its gradient over the epochs as a PNG."""
    figure = _figure(9.6, 3.6)
    left, middle, right = figure.subplots(1, 3)
    numbers = [epoch.number for epoch in run.epochs]
    marker = "o" if len(numbers) == 1 else None
    left.plot(numbers, [epoch.loss for epoch in run.epochs], color=INK, lw=2, marker=marker)
    left.set_ylabel("training loss, mean of the epoch")
    for name, colour in (("accuracy", "#0072b2"), ("train_accuracy", "#e69f00")):
        values = [getattr(epoch, name) for epoch in run.epochs]
        if None not in values:
            label = "test, main output" if name == "accuracy" else "training, main and branches"
            middle.plot(numbers, [100 * each for each in values], color=colour, lw=2, marker=marker, label=label)
    middle.set_ylabel("accuracy, %")
    middle.legend(frameon=False, fontsize=9)
    for name, colour in (("first_gradient", "#0072b2"), ("last_gradient", "#e69f00")):
        values = [getattr(epoch, name) for epoch in run.epochs]
        if None not in values:
            sizes = [_positive(each) for each in values]
            right.plot(numbers, sizes, color=colour, lw=2, marker=marker, label=name.split("_")[0] + " layer")
    if right.lines:
        _log_scale(right)
        right.legend(frameon=False, fontsize=9)
    right.set_ylabel("L2 norm of the weight's gradient")
    for axes in (left, middle, right):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.suptitle(f"{describe(run.recipe)}, {run.recipe.method}", fontsize=10, x=0.01, ha="left", color=INK)
    return _write(figure, path)


def plot_gradients(norms: Mapping[str, Mapping[str, float]], title: str, path: Path) -> Path:
    """Draw the gradient's norm of every layer, method by method, and write it as a PNG.

    Args:
        norms: method to layer to norm, the layers in order from the input to the output.
        title: what it is of.
        path: of the PNG.
    """
    figure = _figure(9.6, 4.6)
    axes = figure.subplots()
    layers = list(next(iter(norms.values())))
    places = {name: place for place, name in enumerate((name for name in layers if "downsample" not in name), start=1)}
    colours = _colours(norms)
    for method, values in norms.items():
        colour = colours[method]
        axes.plot(
            list(places.values()), [_positive(values[name]) for name in places], "o-", ms=4, color=colour, label=method
        )
        for name in layers:
            if "downsample" in name:
                # beside the block's second convolution, which works in parallel to it
                place = places[name.replace("downsample.conv", "conv2")]
                axes.plot(place, _positive(values[name]), "s", ms=5, mfc="none", color=colour)
    axes.plot([], [], "s", ms=5, mfc="none", color="#777777", label="1x1 convolution of the identity path")
    _stages(axes, list(places))
    _log_scale(axes)
    axes.set_ylabel("L2 norm of the weight's gradient")
    axes.set_title(title, fontsize=10, loc="left", color="#333333", pad=18)
    axes.legend(frameon=False, fontsize=9)
    return _write(figure, path)


def _colours(methods: Iterable[str]) -> dict[str, str]:
    others = itertools.cycle(OTHERS)
    return {method: COLOURS[method] if method in COLOURS else next(others) for method in methods}


def _of(comparison: Comparison, group: tuple[str, str]) -> dict[str, list[Run]]:
    """Return the finished runs of a data set and network by method."""
    found = {method: list(comparison.of(*group, method).values()) for method in comparison.plan.methods}
    return {method: runs for method, runs in found.items() if runs}


def _comparison(left: Axes, right: Axes, comparison: Comparison, group: tuple[str, str]) -> None:
    runs = _of(comparison, group)
    _accuracy(left, runs)
    _ratio(right, runs)
    count = len(comparison.plan.seeds)
    named = [name for name, all_ in zip(group, (comparison.plan.data, comparison.plan.nets), strict=True) if all_[1:]]
    head = ", ".join([*named, f"mean and range of {count} seeds" if count > 1 else "one seed"])
    left.set_title(head, fontsize=9, loc="left")


def _accuracy(axes: Axes, runs: Mapping[str, list[Run]]) -> None:
    colours = _colours(runs)
    for method, several in runs.items():
        curves = np.array([[epoch.accuracy * 100 for epoch in run.epochs] for run in several])
        epochs = np.arange(1, curves.shape[1] + 1)
        colour = colours[method]
        marker = "o" if len(epochs) == 1 else None
        label = f"{method}, {curves[:, -1].mean():.1f} %"
        axes.plot(epochs, curves.mean(axis=0), color=colour, lw=2, marker=marker, label=label)
        axes.fill_between(epochs, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.15, lw=0)
    axes.set_xlabel("epoch")
    axes.set_ylabel("test accuracy of the main output, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend(frameon=False, fontsize=9, loc="best", title="mean at the end", alignment="left", title_fontsize=9)


def _ratio(axes: Axes, runs: Mapping[str, list[Run]]) -> None:
    colours = _colours(runs)
    for place, (method, several) in enumerate(runs.items()):
        values = [run.gradient_ratio for run in several]
        values = [value for value in values if math.isfinite(value) and value > 0]
        colour = colours[method]
        if not values:
            axes.annotate("none", (place, 1.0), ha="center", fontsize=9)
            continue
        axes.scatter([place] * len(values), values, color=colour, alpha=0.6, s=28, lw=0, zorder=3)
        mean = float(np.mean(values))
        axes.hlines(mean, place - 0.25, place + 0.25, color=colour, lw=2)
        axes.annotate(f"{mean:.2g}", (place + 0.3, mean), va="center", fontsize=9, color=colour)
    axes.axhline(1.0, color="#999999", lw=1, ls="--", zorder=0)
    _log_scale(axes)
    axes.set_xlim(-0.6, len(runs) - 0.1)
    axes.set_xticks(range(len(runs)), list(runs))
    axes.set_ylabel("norm at the first layer / at the last")
    axes.set_title("gradient in epoch 1: seeds and their mean", fontsize=9, loc="left")


def _stages(axes: Axes, layers: Sequence[str]) -> None:
    stages = [name.partition(".")[0] for name in layers]
    for number, stage in enumerate(dict.fromkeys(stages)):
        first, last = stages.index(stage), len(stages) - 1 - stages[::-1].index(stage)
        if number % 2:
            axes.axvspan(first + 0.5, last + 1.5, color="#000000", alpha=0.05, lw=0)
        axes.annotate(
            stage,
            ((first + last) / 2 + 1, 1.02),
            xycoords=("data", "axes fraction"),
            ha="center",
            fontsize=9,
            color="#555555",
        )
    axes.set_xlim(0.5, len(stages) + 0.5)
    axes.set_xlabel("layer, from the input to the output")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _log_scale(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def _positive(value: float) -> float:
    return value if value > 0 else math.nan


def _bare(figure: Figure) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25, lw=0.6)


def _write(figure: Figure, path: Path) -> Path:
    _bare(figure)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return write_bytes(path, picture.getvalue())


def draw_costs(costs: Sequence[Cost], title: str, path: Path) -> Path:
    """Draw the operations of every layer with weights, and the firing rate of every neuron where there are data.

    Args:
        costs: of the layers, in order.
        title: what it is of.
        path: of the PNG.
    """
    weighs = [cost for cost in costs if cost.operations]
    fires = [cost for cost in costs if cost.rate is not None]
    figure = _figure(9.6, 7.4 if fires else 4.4)
    panels = figure.subplots(2 if fires else 1, 1, squeeze=False)[:, 0]
    places = range(len(weighs))
    panels[0].bar(
        places, [cost.operations for cost in weighs], color="#bbbbbb", label="multiply-accumulates of numbers"
    )
    if fires:
        panels[0].bar(places, [cost.synaptic or 0.0 for cost in weighs], color="#0072b2", label="accumulates of spikes")
        panels[0].legend(frameon=False, fontsize=8)
    panels[0].set_ylabel("operations an image")
    _names(panels[0], [cost.path for cost in weighs])
    if fires:
        panels[1].bar(range(len(fires)), [100.0 * (cost.rate or 0.0) for cost in fires], color="#e69f00")
        panels[1].set_ylabel("firing rate, % of steps")
        _names(panels[1], [cost.path for cost in fires])
    figure.suptitle(title, fontsize=10, x=0.01, ha="left", color="#333333")
    return _write(figure, path)


def _names(axes: Axes, names: Sequence[str]) -> None:
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_xlabel("layer, from the input to the output")
