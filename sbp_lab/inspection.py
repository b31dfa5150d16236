"""What ``sbp inspect`` shows of a network: a table of its layers, and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from sbp_core import NetworkSpec
from sbp_core import weights as files
from sbp_core.costs import Cost, costs
from sbp_core.reference.networks import initial_weights
from sbp_lab import networks
from sbp_lab.data import Source
from sbp_lab.events import Frames
from sbp_lab.loader import Loader
from sbp_lab.plots import draw_costs

#: Picojoules in a millijoule and in a microjoule.
MICROJOULE = 1e6


def open_network(name: str) -> tuple[NetworkSpec, dict[str, NDArray[np.floating]] | None]:
    """Return a network by its name, or the one that a file of weights holds, with its weights.

    Raises:
        ValueError: neither a name nor a file, or a damaged one.
    """
    if Path(name).is_file():
        return files.load_network(name)
    if name not in networks.NETWORKS:
        near = get_close_matches(name, networks.NETWORKS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"net must be a file of weights, or one of {', '.join(networks.NETWORKS)}; got {name!r}{hint}")
    return networks.build(name), None


def adapt(spec: NetworkSpec, width: int | None, size: tuple[int, int] | None, **fields: int | None) -> NetworkSpec:
    """Return the network with other sizes, those that are not None.

    Raises:
        ValueError: it does not take them.
    """
    changes: dict[str, object] = {name: value for name, value in fields.items() if value is not None}
    if size is not None and None not in spec.image_size:
        changes["size"] = size
    changed = spec.replace(**changes) if changes else spec
    return changed if width is None else changed.with_width(width)


def rows(
    spec: NetworkSpec,
    weights: dict[str, NDArray[np.floating]] | None,
    source: Source | None,
    *,
    size: int | None,
    images: int,
) -> list[Cost]:
    """Return the costs of every layer, with what is counted on test images of a data set if one is given.

    Weights that are not given are drawn, and batch norm then takes the images' own statistics, for it has no others.

    Raises:
        ValueError: a size that the network does not take, or weights of other sizes.
    """
    if source is None:
        fixed = spec.image_size
        found = (size, size) if size is not None else None if None not in fixed else (32, 32)
        return costs(spec, found)
    drawn = initial_weights(spec, 0) if weights is None else files.checked(spec.parameter_shapes(), weights)
    frames = Frames(steps=spec.time_steps) if source.events else None
    height, width = spec.image_size
    given = None if frames is not None or height is None or width is None else (height, width)
    with Loader(source, batch_size=images, seed=0, frames=frames, size=given) as loader:
        batch, _ = next(loader.test())
    shown = np.moveaxis(batch, -1, -3)
    if frames is not None:
        shown = np.moveaxis(shown, 1, 0)
    return costs(spec, weights=drawn, images=shown, training=weights is None)


def table(spec: NetworkSpec, costs: Sequence[Cost]) -> Table:
    """Return a row a layer with weights, a neuron or a join, and the sums."""
    counted = costs[0].active is not None
    drawn = Table(title=f"{spec.kind}: {spec.parameter_count:,} parameters, T = {spec.time_steps}")
    for name in ("layer", "kind", "output"):
        drawn.add_column(name)
    names = ["parameters", "MACs"]
    if counted:
        names += ["active inputs", "firing rate", "synaptic ops", "energy µJ", "with memory µJ"]
    for name in names:
        drawn.add_column(name, justify="right")
    taps = set(spec.default_taps)
    for cost in costs:
        part = cost.path.partition(".")[0]
        row = [cost.path, cost.kind, str(cost.output), _count(cost.parameters), _count(cost.operations)]
        drawn.add_row(*row, *(_counted(cost) if counted else ()), style="cyan" if part in taps else None)
    totals = [sum(cost.parameters for cost in costs), sum(cost.operations for cost in costs)]
    last = ["all", "", "", *map(_count, totals)]
    if counted:
        energy, memory = (sum(getattr(cost, name) for cost in costs) / MICROJOULE for name in ("energy", "memory"))
        synaptic = sum(cost.synaptic or 0.0 for cost in costs)
        last += ["", "", f"{synaptic:,.0f}", f"{energy:.3g}", f"{energy + memory:.3g}"]
    drawn.add_section()
    drawn.add_row(*last)
    drawn.caption = f"one image; coloured: parts that are tapped unless told otherwise, {', '.join(spec.default_taps)}"
    return drawn


def picture(spec: NetworkSpec, costs: Sequence[Cost], path: Path) -> Path:
    """Draw operations, and with data firing rates, of every layer as a PNG."""
    return draw_costs(costs, f"{spec.kind}, {spec.parameter_count:,} parameters, T = {spec.time_steps}", path)


def _counted(cost: Cost) -> list[str]:
    energy, memory = (getattr(cost, name) / MICROJOULE for name in ("energy", "memory"))
    weighs = cost.operations > 0
    return [
        f"{100 * (cost.active or 0.0):.1f} %" if weighs else "",
        "" if cost.rate is None else f"{100 * cost.rate:.1f} %",
        f"{cost.synaptic:,.0f}" if weighs and cost.spikes else "",
        f"{energy:.3g}" if weighs else "",
        f"{energy + memory:.3g}" if weighs or cost.updates else "",
    ]


def _count(number: int) -> str:
    return f"{number:,}" if number else ""
