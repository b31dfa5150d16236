"""A start from one batch: every layer of neurons scaled into a healthy range of firing rates, at any depth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from sbp_core import validation
from sbp_core.signal.feeds import structure_of
from sbp_core.signal.identity import MIX, RESIDUAL, identity_weights
from sbp_core.signal.passes import Array, fired, learnt_in
from sbp_core.specs.networks import NetworkSpec
from sbp_core.specs.neurons import LIFSpec

#: Spikes per neuron and step that are healthy.
RATES = (0.1, 0.5)
#: Factors are powers of 2 in sixteenths: frameworks whose sums differ in their last digits come to the same ones.
_GRID, _MOST = 16, 6 * 16
#: Values that are looked at to find a factor.
_ENOUGH = 2**20

Factor = Callable[[str, Array], float]


class RunScaled(Protocol):
    """What an adapter offers: a forward pass in training that leaves nothing behind on the network."""

    def __call__(self, weights: Mapping[str, Array], factor: Factor) -> None:
        """Run the batch with ``weights``, each neuron's input ``x``, time first, times ``factor(path, x)``."""


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """What became of a layer of neurons.

    Attributes:
        neuron: its path.
        layers: whose weights were multiplied; none where the input is not theirs alone, or is set by the start.
        factor: by how much.
        before: spikes per neuron and step without it, the layers before already scaled.
        after: with it.
    """

    neuron: str
    layers: tuple[str, ...]
    factor: float
    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What ``calibrate`` did; ``print`` shows it as a table.

    Attributes:
        layers: of neurons, in the order in which they run.
        identity: names of the weights that were put near the identity.
        before: the weights that were changed, by canonical name, as they were: importing them undoes it.
        after: as they are.
    """

    layers: tuple[Scaled, ...]
    identity: tuple[str, ...]
    before: Mapping[str, Array]
    after: Mapping[str, Array]

    def __str__(self) -> str:
        """Return the layers as a table, and what else was changed."""
        width = max((len(each.neuron) for each in self.layers), default=0)
        lines = [f"{'neurons':{width}} {'rate':>6} {'factor':>7} {'rate':>6}  weights"]
        for each in self.layers:
            figures = f"{each.before:6.3f} {each.factor:7.3f} {each.after:6.3f}"
            lines.append(f"{each.neuron:{width}} {figures}  {' '.join(each.layers)}".rstrip())
        some = ", ".join(self.identity[:3]) + (", ..." if len(self.identity) > 3 else "")
        rest = f"near the identity: {len(self.identity)} weights, {some}" if self.identity else ""
        return "\n".join([*lines, rest]).strip()


class StartOptions(TypedDict, total=False):
    """What every adapter's ``calibrate`` takes as :func:`calibrate` does."""

    residual: float | None
    mix: float | None
    rates: tuple[float, float]


def calibrate(
    spec: NetworkSpec,
    weights: Mapping[str, Array],
    run: RunScaled,
    *,
    residual: float | None = RESIDUAL,
    mix: float | None = MIX,
    rates: tuple[float, float] = RATES,
) -> Calibration:
    """Return first weights near the identity with which every layer of neurons fires in a healthy range.

    One pass over a batch, from the input to the output: a layer of neurons whose rate lies outside ``rates`` has the
    weights in front of it multiplied, so that it fires at the nearer end. Like LSUV (Mishkin and Matas 2016) it goes
    layer by layer on a batch; LSUV makes the variance of an output 1, this the rate of spikes, by the neuron's own
    equations over all steps. Fluctuation-driven initialisation (Rossbroich et al. 2022) also aims at the rate, from
    the inputs' rate in theory and without a batch. Before the pass, :func:`~sbp_core.signal.identity_weights`.

    The weights in front of a neuron are those its input is a multiple of, the scale of the batch norm say. An input
    that has an identity path in it is left alone, and so is one that small residual paths alone make. A residual path
    that ends in neurons of its own, as SEW's and a transformer's do, is small where these hardly fire, and not where
    they are silent: they are brought to the least rate. What products and sums of spikes make, the input of a
    transformer's attention and of its gates, is no weights' multiple: it is told, and not set.

    Args:
        spec: the network, its neurons best :func:`~sbp_core.signal.at_identity`.
        weights: fresh ones, by canonical name.
        run: runs the batch.
        residual: greatest scale of the last batch norm of a residual path; None leaves it.
        mix: how much of its random kernel a plain layer keeps; None leaves it as it is.
        rates: the range, spikes per neuron and step.

    Raises:
        ValueError: a number that is out of range.
    """
    _check(rates)
    start = identity_weights(spec, weights, residual=residual, mix=mix)
    structure, neurons = structure_of(spec), dict(spec.neurons())
    feeds = {feed.neuron: feed.layers for feed in structure.feeds}
    small = set(structure.ends if residual is not None else ())
    taken, found = set[str](), dict[str, Scaled]()

    def factor(path: str, x: Array) -> float:
        layers = feeds[path]
        # a small residual path that ends in spikes is one that hardly fires
        if taken & set(layers) or (set(layers) <= small and path not in structure.lone):
            layers = ()
        taken.update(feeds[path])
        if neurons[path].output != "spikes":
            return 1.0
        found[path] = scaled(path, learnt_in(start, path, neurons[path]), x, layers, rates)
        return found[path].factor

    run(start, factor)
    after = dict(start)
    for each in found.values():
        for name in (f"{path}.{part}" for path in each.layers for part in ("weight", "bias")):
            if name in after and each.factor != 1.0:
                after[name] = after[name] * after[name].dtype.type(each.factor)
    changed = [name for name, value in after.items() if not np.array_equal(value, weights[name])]
    identity = tuple(name for name, value in start.items() if not np.array_equal(value, weights[name]))
    return Calibration(
        layers=tuple(found[feed.neuron] for feed in structure.feeds if feed.neuron in found),
        identity=identity,
        before={name: np.array(weights[name]) for name in changed},
        after={name: after[name] for name in changed},
    )


def scaled(
    path: str,
    neuron: LIFSpec,
    x: Array,
    layers: tuple[str, ...],
    rates: tuple[float, float] = RATES,
) -> Scaled:
    """Return the factor that brings neurons into a range of rates.

    Args:
        path: their name.
        neuron: what they are, as they have :func:`~sbp_core.signal.learnt`; their output must be spikes.
        x: their input, ``(time, batch, ...)``.
        layers: whose weights the input is a multiple of; nothing is scaled where there are none.
        rates: the range.

    Raises:
        ValueError: no such range.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(2, 64, 8))
        >>> round(scaled("neuron", LIFSpec(threshold=4.0), x, ("fc",)).factor, 3)
        3.364
    """
    low, high = _check(rates)
    rate = _rate_of(neuron, x)
    by = _factor(rate, low, high) if layers else 1.0
    return Scaled(neuron=path, layers=layers, factor=by, before=rate(1.0), after=rate(by))


def _check(rates: tuple[float, float]) -> tuple[float, float]:
    low, high = (validation.within(f"rates[{place}]", rate, 0.0, 1.0) for place, rate in enumerate(rates))
    if low > high:
        raise ValueError(f"rates must be the least and the most, got {rates!r}")
    return low, high


def _rate_of(neuron: LIFSpec, x: Array) -> Callable[[float], float]:
    """Return what tells the rate of the neurons with their input times a factor."""
    samples = max(1, _ENOUGH // max(1, x[:, :1].size))
    looked_at: NDArray[np.float64] = np.asarray(x[:, :samples], np.float64)

    def rate(by: float) -> float:
        spikes = fired("", neuron, looked_at * by, looked_at).spikes
        return float(np.count_nonzero(spikes) / spikes.size)

    return rate


def _factor(rate: Callable[[float], float], low: float, high: float) -> float:
    """Return the power of 2 nearest to 0 that brings a rate into the range, or as near as it gets."""
    now = rate(1.0)
    if low <= now <= high:
        return 1.0
    sign = 1 if now < low else -1
    # half of what the strongest input can do, where that is below the range
    aim = min(low, 0.5 * rate(2.0 ** (_MOST / _GRID))) if now < low else high
    if now >= aim if sign > 0 else rate(2.0 ** (-_MOST / _GRID)) > aim:
        return 1.0
    near, far = 0, _MOST
    while far - near > 1:
        middle = (near + far) // 2
        reached = rate(2.0 ** (sign * middle / _GRID))
        near, far = (near, middle) if (reached >= aim if sign > 0 else reached <= aim) else (middle, far)
    return float(2.0 ** (sign * far / _GRID))
