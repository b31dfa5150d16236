"""The paper's Figure 2 for any network: how the first layer's gradient is distributed, with and without shortcuts."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sbp_lab.data import Source
from sbp_lab.doctor.examination import coefficient_of, first_batch, start, train
from sbp_lab.files import write_bytes
from sbp_lab.methods import PAPERS
from sbp_lab.plots import COLOURS, INK
from sbp_lab.recipe import Recipe
from sbp_lab.trainers import Trainer

#: Method to step to the gradient of each weight of the first layer.
Gradients = dict[str, dict[int, NDArray[np.float64]]]

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def first_layer(recipe: Recipe, source: Source, *, steps: int, methods: Sequence[str] = PAPERS) -> Gradients:
    """Return the gradient of the first layer's weights at the start, half way and at the end of some steps.

    It is that of the batch that the training begins with, always the same, at the coefficient of the step (Guo et al.
    2024, Figure 2). Methods begin with the same weights.

    Args:
        recipe: of the network; its method and coefficient are replaced by each method's own.
        source: the data.
        steps: of training; 0 for the start alone.
        methods: to compare.

    Raises:
        ValueError: an unknown method, or a network of the user's own.
    """
    images, labels = first_batch(recipe, source)
    times = sorted({0, steps // 2, steps})
    found: Gradients = {}
    for method in methods:
        changes: dict[str, Any] = {"method": method, "coefficient": None}
        case = start(recipe.replace(**changes | ({"taps": None} if method == "vanilla" else {})), source)
        name = next(name for name, shape in case.spec.parameter_shapes().items() if len(shape) > 1)
        seen = found[method] = {}

        def see(step: int, trainer: Trainer, case: Any = case, name: str = name, seen: Any = seen) -> None:
            if step in times:
                coefficient = coefficient_of(case.recipe, total_steps=max(steps, 1), step=step)
                gradients = trainer.gradients(images, labels, coefficient)
                seen[step] = np.asarray(gradients[name], np.float64).ravel()

        train(case, source, steps=steps, see=see)
    return found


def described(found: Gradients) -> dict[str, dict[str, dict[str, Any]]]:
    """Return norm, deviation, share of zeros and quantiles, by method and step, as JSON values."""
    return {
        method: {
            str(step): {
                "weights": int(values.size),
                "norm": float(np.linalg.norm(values)),
                "deviation": float(np.std(values)),
                "zero": float(np.mean(values == 0.0)),
                "quantiles": dict(zip(map(str, QUANTILES), np.quantile(values, QUANTILES).tolist(), strict=True)),
            }
            for step, values in steps.items()
        }
        for method, steps in found.items()
    }


def write(found: Gradients, title: str, folder: Path) -> Path:
    """Write ``figure2.png``, and ``figure2.npz`` with every gradient under ``method/step``.

    Raises:
        OSError: the folder cannot be written.
    """
    arrays = io.BytesIO()
    named = {f"{method}/{step}": values for method, steps in found.items() for step, values in steps.items()}
    np.savez(arrays, **named)  # type: ignore[arg-type]
    write_bytes(folder / "figure2.npz", arrays.getvalue())
    return write_bytes(folder / "figure2.png", png(found, title))


def png(found: Gradients, title: str) -> bytes:
    """Return the picture: above the gradients as the paper draws them, below by their size."""
    steps = sorted({step for each in found.values() for step in each})
    figure = Figure(figsize=(1.0 + 4.0 * len(steps), 6.2), dpi=130, layout="constrained")
    panels = figure.subplots(2, len(steps), squeeze=False)
    for (above, below), step in zip(panels.T, steps, strict=True):
        here = {method: each[step] for method, each in found.items() if step in each}
        above.set_title("at the start" if step == 0 else f"after {step} steps", fontsize=10, color=INK)
        _values(above, here)
        _sizes(below, here)
    panels[0][0].set_ylabel("share of the weights, %")
    panels[1][0].set_ylabel("share of the weights, %")
    panels[0][0].legend(frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left", color=INK)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _values(axes: Axes, here: Mapping[str, NDArray[np.float64]]) -> None:
    # so that no method's tails squeeze the rest into a bin
    reach = max((float(np.quantile(np.abs(values), 0.98)) for values in here.values()), default=0.0) or 1.0
    edges = np.linspace(-reach, reach, _bins(here) + 1)
    _steps(axes, here, edges)
    axes.set_xlabel("gradient of a weight of the first layer", fontsize=9)
    axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3))


def _sizes(axes: Axes, here: Mapping[str, NDArray[np.float64]]) -> None:
    sizes = {method: np.abs(values[values != 0.0]) for method, values in here.items()}
    known = np.concatenate(list(sizes.values()))
    low, high = (np.quantile(known, 0.002), known.max()) if known.size else (0.1, 1.0)
    edges = np.geomspace(low, max(high, low * 10.0), _bins(here) + 1)
    _steps(axes, sizes, edges, of={method: values.size for method, values in here.items()})
    axes.set_xscale("log")
    axes.set_xlabel("its size", fontsize=9)


def _bins(here: Mapping[str, NDArray[np.float64]]) -> int:
    """Return a number that so many weights fill: odd, so that one bin holds 0."""
    most = max((values.size for values in here.values()), default=0)
    return 2 * int(min(max(np.sqrt(most), 4.0), 30.0)) + 1


def _steps(
    axes: Axes, here: Mapping[str, NDArray[np.float64]], edges: NDArray[np.float64], of: Mapping[str, int] | None = None
) -> None:
    for method, values in here.items():
        count = max(1, values.size if of is None else of[method])
        shares = 100.0 * np.histogram(values, edges)[0] / count
        axes.stairs(shares, edges, color=COLOURS.get(method), lw=1.6, label=method)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
