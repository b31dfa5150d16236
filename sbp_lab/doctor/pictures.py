"""The heat maps of a diagnosis, layer by time step, and of a training, layer by training step."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from sbp_core.signal import Diagnosis
from sbp_lab.files import write_bytes
from sbp_lab.plots import INK

#: Figure of a layer and step, its title and its range.
_MAPS = (
    ("rate", "firing rate", (0.0, 0.5)),
    ("silent", "silent neurons", (0.0, 1.0)),
    ("inside", "potentials inside\nthe surrogate", (0.0, 1.0)),
    ("near", "likeness of a sample\nand its noisy copy", (0.0, 1.0)),
    ("different", "likeness of\ntwo samples", (0.0, 1.0)),
)


def draw_diagnosis(found: Diagnosis, title: str, path: Path) -> Path:
    """Draw what the neurons of each layer do at each step, the gradient there, and its agreement, as a PNG."""
    return write_bytes(path, diagnosis_png(found, f"{title}\n{found.findings[0]}"))


def diagnosis_png(found: Diagnosis, title: str = "") -> bytes:
    """Return the same picture's content."""
    names = [neuron.path for neuron in found.neurons]
    steps = len(found.neurons[0].rate)
    rows = max(len(names), len(found.weights))
    figure = Figure(figsize=(15.0, 2.4 + 0.17 * rows), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(_MAPS) + 2, gridspec_kw={"width_ratios": [1] * (len(_MAPS) + 1) + [1.6]})
    shown: list[tuple[str, NDArray[np.float64], object]] = [
        (label, np.array([getattr(neuron, name) for neuron in found.neurons]), ends) for name, label, ends in _MAPS
    ]
    gradients = np.array([neuron.gradient for neuron in found.neurons])
    shown.append(("norm of the gradient\nat the input", np.where(gradients > 0, gradients, np.nan), None))
    for place, (axes, (label, values, ends)) in enumerate(zip(panels, shown, strict=False)):
        scale = {"norm": _logarithmic(values)} if ends is None else {"vmin": ends[0], "vmax": ends[1]}  # type: ignore[index]
        cells = np.ma.masked_invalid(values)
        drawn = axes.imshow(cells, aspect="auto", cmap="viridis", interpolation="nearest", **scale)
        axes.set_facecolor("#dddddd")
        bar = figure.colorbar(drawn, ax=axes, orientation="horizontal", pad=0.02, aspect=12)
        bar.ax.tick_params(which="both", labelsize=7)
        if ends is None:
            # its own ticks run into each other
            bar.minorticks_off()
            bar.set_ticks(drawn.get_clim(), labels=[f"{end:.1g}" for end in drawn.get_clim()])
        axes.set_title(label, fontsize=9, color=INK)
        axes.set_xticks(range(steps), [str(step + 1) for step in range(steps)], fontsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.set_yticks(range(len(names)), names if place == 0 else [""] * len(names), fontsize=7)
        axes.set_xlabel("step", fontsize=8)
    _agreement(panels[-1], found)
    if title:
        figure.suptitle(title, fontsize=10, x=0.01, ha="left", color=INK)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _agreement(axes: Axes, found: Diagnosis) -> None:
    values = [weights.agreement for weights in found.weights]
    colours = ["#b0b0b0" if weights.is_noise else "#0072b2" for weights in found.weights]
    places = range(len(values))
    axes.barh(places, values, color=colours)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.axvline(0.0, color=INK, lw=0.6)
    axes.set_yticks(places, [weights.path for weights in found.weights], fontsize=7)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_title("agreement of the gradients\nof two batches (grey: noise)", fontsize=9, color=INK)


def _logarithmic(values: NDArray[np.float64]) -> LogNorm:
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (1.0, 10.0)
    return LogNorm(low, high if high > low else low * math.e)


#: Figure of a look, its title and its range; None: logarithmic.
_LOOKS: tuple[tuple[str, str, tuple[float, float] | None], ...] = (
    ("rate", "firing rate", (0.0, 0.5)),
    ("kept", "nearness of near inputs\nthat is left", (0.0, 1.0)),
    ("gradient", "norm of the gradient\nat the neurons' input", None),
    ("agreement", "agreement of the\ngradients of two batches", (0.0, 0.3)),
)


def draw_looks(looks: Sequence[Mapping[str, Any]], title: str, path: Path) -> Path:
    """Draw what each layer did while a network trained, layer by training step, as a PNG.

    Args:
        looks: of :func:`sbp_core.signal.watch.read`, one or more.
        title: what trained.
        path: of the PNG.
    """
    rows = max(sum(name.startswith(f"{kind}/") for name in looks[0]["figures"]) for kind, _, _ in _LOOKS)
    figure = Figure(figsize=(16.0, 2.4 + 0.17 * rows), dpi=130, layout="constrained")
    steps = [look["step"] for look in looks]
    for axes, (kind, label, ends) in zip(figure.subplots(1, len(_LOOKS)), _LOOKS, strict=True):
        names = [name for name in looks[0]["figures"] if name.startswith(f"{kind}/")]
        values = np.array([[look["figures"].get(name, np.nan) for look in looks] for name in names])
        if ends is None:
            values = np.where(values > 0, values, np.nan)
        scale = {"norm": _logarithmic(values)} if ends is None else {"vmin": ends[0], "vmax": ends[1]}
        cells = np.ma.masked_invalid(values)
        drawn = axes.imshow(cells, aspect="auto", cmap="viridis", interpolation="nearest", **scale)
        axes.set_facecolor("#dddddd")
        bar = figure.colorbar(drawn, ax=axes, orientation="horizontal", pad=0.02, aspect=20)
        bar.minorticks_off()
        bar.set_ticks(drawn.get_clim(), labels=[f"{end:.1g}" for end in drawn.get_clim()])
        bar.ax.tick_params(labelsize=7)
        axes.set_title(label, fontsize=9, color=INK)
        shown = sorted({round(place) for place in np.linspace(0, len(steps) - 1, min(5, len(steps)))})
        axes.set_xticks(shown, [str(steps[place]) for place in shown], fontsize=7)
        axes.set_yticks(range(len(names)), [name.partition("/")[2] for name in names], fontsize=6)
        axes.set_xlabel("training step of the look", fontsize=8)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left", color=INK)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return write_bytes(path, picture.getvalue())
