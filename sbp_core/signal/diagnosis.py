"""The figures of a few passes, and what they say."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from sbp_core import validation
from sbp_core.signal.findings import findings
from sbp_core.signal.passes import Array, Firing, Observe, ObserveMoved, Pass

PerStep = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class NeuronFigures:
    """A layer of spiking neurons, step by step.

    Attributes:
        path: its name.
        size: how many neurons it has.
        rate: spikes per neuron.
        silent: share of neurons that fired for no sample.
        saturated: share of neurons that fired for every sample.
        inside: share of potentials where the surrogate lets the gradient through.
        near: cosine of the spikes of a sample and of its noisy copy; NaN where nothing fires.
        different: cosine of the spikes of two samples.
        gradient: norm of the gradient with respect to the input of the neurons.
        gain: how much that of the neuron layer before is larger, over all steps; NaN of the first.
    """

    path: str
    size: int
    rate: PerStep
    silent: PerStep
    saturated: PerStep
    inside: PerStep
    near: PerStep
    different: PerStep
    gradient: PerStep
    gain: float

    @property
    def kept(self) -> float:
        """How much nearer near inputs are than different ones: 1 where they are the same, 0 where strangers."""
        near, different = _mean(self.near), _mean(self.different)
        return (near - different) / (1.0 - different) if different < 1.0 else math.nan

    @property
    def norm(self) -> float:
        """Norm of the gradient over all steps."""
        return float(np.linalg.norm(self.gradient))

    def means(self) -> dict[str, float]:
        """Return the figures without time: means over the steps, what is kept, and the gradient's norm over all."""
        names = ("rate", "silent", "saturated", "inside", "near", "different")
        return {name: _mean(getattr(self, name)) for name in names} | {"kept": self.kept, "gradient": self.norm}


@dataclass(frozen=True, kw_only=True)
class WeightFigures:
    """The weights of a layer.

    Attributes:
        path: the layer's name.
        size: how many weights.
        gradient: norm of the gradient, mean over the batches.
        agreement: cosine between the gradients of two batches, mean over all pairs.
        floor: what gradients that have nothing in common may reach by chance: 0.02, or two deviations of the mean,
            by the number of weights or as the pairs scatter.
        descent: share of the slope that the gradient promises which is there in the loss, along it: the central
            difference over 2 % of the weights' norm, on the first batch. 1 where the surrogate's gradient is the
            loss's; NaN where it was not asked for.
    """

    path: str
    size: int
    gradient: float
    agreement: float
    floor: float
    descent: float = math.nan

    @property
    def is_noise(self) -> bool:
        """Whether the gradients of two batches have nothing in common."""
        return not self.agreement > self.floor


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What :func:`diagnose` found; ``print`` shows it as a table, the finding first.

    Attributes:
        neurons: layers of neurons, from the input to the output.
        weights: layers with weights, from the input to the output; one-dimensional weights are left out.
        loss: mean over the batches.
        batches: how many.
        samples: in each.
        noise: deviation of the noise on a near input, as a share of the images'.
        after: steps of training that the network has had, as far as it is known.
    """

    neurons: tuple[NeuronFigures, ...]
    weights: tuple[WeightFigures, ...]
    loss: float
    batches: int
    samples: int
    noise: float
    after: int | None = None

    @property
    def findings(self) -> tuple[str, ...]:
        """What is wrong, in words, the worst first; one sentence that says so where nothing is."""
        return findings(self)

    @property
    def block_gains(self) -> dict[str, float]:
        """How much the gradient grows from the end of a block to the end of the one before, by the block's name."""
        gains: dict[str, float] = {}
        for found in self.neurons:
            block = found.path.rpartition(".")[0] or found.path
            gains[block] = gains.get(block, 1.0) * found.gain
        return gains

    @property
    def early_agreement(self) -> float:
        """Mean agreement in the first quarter of the layers with weights, one or more; branches left out."""
        found, quarter = self._of_main()
        return float(np.mean([weights.agreement for weights in found[:quarter]]))

    @property
    def early_share(self) -> float:
        r"""How much of the gradient the first layers have, ``f / (f + l)``; 1/2 where it is as large as in the last.

        ``f`` and ``l`` are the mean norms in the first and the last quarter of the layers with weights, one or more;
        branches left out. 0 where there is no gradient at all.
        """
        found, quarter = self._of_main()
        norms = [weights.gradient for weights in found]
        first, last = (float(np.mean(part)) for part in (norms[:quarter], norms[-quarter:]))
        return first / (first + last) if first else 0.0

    def _of_main(self) -> tuple[list[WeightFigures], int]:
        """Return the layers with weights without those of branches, and how many are a quarter."""
        found = [weights for weights in self.weights if not weights.path.startswith("branches.")]
        return found, max(1, len(found) // 4)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; what is not a number is None."""
        figures: dict[str, Any] = _plain(asdict(self))
        for entry, neuron in zip(figures["neurons"], self.neurons, strict=True):
            entry["kept"] = _plain(neuron.kept)
        return figures | {"findings": list(self.findings), "block_gains": _plain(self.block_gains)}

    def __str__(self) -> str:
        """Return the findings and the figures as text."""
        lines = [*self.findings, ""]
        paths = [*(neuron.path for neuron in self.neurons), *(weight.path for weight in self.weights)]
        width = max(map(len, paths), default=0)
        titles = ("rate", "silent", "saturated", "inside", "near", "different", "kept", "gradient", "gain")
        lines.append(f"{'neurons':{width}} " + " ".join(f"{title:>9}" for title in titles))
        for neuron in self.neurons:
            values = [*neuron.means().values(), neuron.gain]
            lines.append(f"{neuron.path:{width}} " + " ".join(f"{value:9.3g}" for value in values))
        lines += ["", f"{'weights':{width}} {'gradient':>9} {'agreement':>9} {'descent':>9}"]
        lines += [
            f"{found.path:{width}} {found.gradient:9.3g} {found.agreement:9.3f} {found.descent:9.3f}"
            for found in self.weights
        ]
        return "\n".join(lines)


class Options(TypedDict, total=False):
    """What every adapter's ``diagnose`` takes as :func:`diagnose` does."""

    noise: float
    seed: int
    slopes: int


def diagnose(
    observe: Observe,
    batches: Iterable[tuple[Array, NDArray[np.integer]]],
    *,
    noise: float = 0.1,
    seed: int = 0,
    channels_last: bool = False,
    slopes: int = 0,
) -> Diagnosis:
    """Measure a network on a few disjoint batches: what every adapter's ``diagnose`` does.

    Args:
        observe: runs a batch forward and backward.
        batches: images and labels; two or more, of the same size. Agreement is measured better by more. Images whose
            first axis is not as long as the labels have time in front.
        noise: deviation of the noise that makes a near input of a sample, as a share of the images'.
        seed: of the noise.
        channels_last: whether they are the last axis of images, and not the first behind the batch: every layout gets
            the same noise.
        slopes: how many layers' gradients are held against the loss itself, two passes forward each, from the first
            layer to the last.

    Raises:
        TypeError: slopes are asked for, and the observer cannot move weights.
        ValueError: fewer than two batches, a batch of fewer than two samples, or a network without spiking neurons.
    """
    validation.positive("noise", noise)
    validation.count("slopes", slopes, 0)
    passes: list[Pass] = []
    descents: dict[str, float] = {}
    totals: list[_Total] = []
    near: Pass | None = None
    samples = 0
    for images, labels in batches:
        if len(labels) < 2:
            raise ValueError(f"batches must have two samples or more each, got one of {len(labels)}")
        found = observe(images, labels)
        if not found.neurons:
            raise ValueError(
                "model must have spiking neurons that fire, and none was run; see diagnose for those known"
            )
        if near is None:
            batch = int(images.ndim > 1 and len(images) != len(labels))
            axes = batch, -1 if channels_last else batch + 1
            near = observe(perturbed(images, noise, seed, axes), labels)
            totals = [_Total(first, other) for first, other in zip(found.neurons, near.neurons, strict=True)]
            samples = len(labels)
            descents = _descents(observe, images, labels, found, slopes)
        for total, firing in zip(totals, found.neurons, strict=True):
            total.add(firing)
        # what a neuron did is in the totals
        passes.append(found._replace(neurons=()))
    if len(passes) < 2:
        raise ValueError(f"batches must be two or more, to compare their gradients; got {len(passes)}")
    norms = [float(np.linalg.norm(total.gradient)) for total in totals]
    gains = [math.nan, *(_ratio(before, after) for before, after in itertools.pairwise(norms))]
    return Diagnosis(
        neurons=tuple(total.figures(gain) for total, gain in zip(totals, gains, strict=True)),
        weights=tuple(_weights(name, passes, descents) for name in _kernels(passes[0])),
        loss=float(np.mean([found.loss for found in passes])),
        batches=len(passes),
        samples=samples,
        noise=noise,
    )


def perturbed(images: Array, noise: float, seed: int, axes: tuple[int, int] = (0, 1)) -> Array:
    """Return the images with noise, the same in every layout.

    Args:
        images: of any layout.
        noise: its deviation, as a share of the images'.
        seed: of the noise.
        axes: which are batch and channels.

    Example:
        >>> images = np.arange(24.0).reshape(2, 3, 2, 2)
        >>> last = perturbed(np.moveaxis(images, 1, -1), 0.1, 0, (0, 3))
        >>> bool(np.array_equal(np.moveaxis(last, -1, 1), perturbed(images, 0.1, 0)))
        True
    """
    if images.ndim < 2:
        raise ValueError(f"images must have axes of batch and of channels, got shape {images.shape}")
    first = np.moveaxis(images, axes, (0, 1))
    # a stream of its own: images drawn with the same seed are not to be their own noise
    stream = np.random.default_rng([seed, zlib.crc32(b"noise")])
    drawn = stream.standard_normal(first.shape) * (noise * float(np.std(first, dtype=np.float64)))
    moved: Array = np.moveaxis(first + drawn.astype(images.dtype), (0, 1), axes)
    return moved


class _Total:
    """What is summed over the batches of one layer of neurons."""

    def __init__(self, first: Firing, near: Firing) -> None:
        self.path = first.path
        steps = first.spikes.shape[0]
        here, there = (_rows(found.spikes).astype(np.float32) for found in (first, near))
        self.near = _cosines(here, there)
        self.different = _cosines(here, np.roll(here, 1, axis=1))
        self.counts = np.zeros((steps, here.shape[2]))
        self.inside, self.gradient, self.samples, self.batches = np.zeros(steps), np.zeros(steps), 0, 0

    def add(self, found: Firing) -> None:
        spikes = _rows(found.spikes)
        self.counts += spikes.sum(1)
        self.inside += _rows(found.inside).mean(2).sum(1)
        self.gradient += np.linalg.norm(_rows(found.gradient).reshape(len(spikes), -1).astype(np.float64), axis=1)
        self.samples += spikes.shape[1]
        self.batches += 1

    def figures(self, gain: float) -> NeuronFigures:
        counts = self.counts
        return NeuronFigures(
            path=self.path,
            size=counts.shape[1],
            rate=_steps(counts.mean(1) / self.samples),
            silent=_steps((counts == 0).mean(1)),
            saturated=_steps((counts == self.samples).mean(1)),
            inside=_steps(self.inside / self.samples),
            near=self.near,
            different=self.different,
            gradient=_steps(self.gradient / self.batches),
            gain=gain,
        )


def _kernels(found: Pass) -> list[str]:
    return [name for name, value in found.gradients.items() if value.ndim > 1]


def _descents(
    observe: Observe, images: Array, labels: NDArray[np.integer], found: Pass, count: int
) -> dict[str, float]:
    """Return what the loss does along the gradients of some layers, as a share of what they promise."""
    if not count:
        return {}
    if not isinstance(observe, ObserveMoved):
        raise TypeError(f"slopes need an observer that can move weights, got {type(observe).__name__}")
    names = _kernels(found)
    places = np.unique(np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int))
    shares = {}
    for name in (names[place] for place in places):
        gradient = np.asarray(found.gradients[name], np.float64)
        norm = float(np.linalg.norm(gradient))
        step = REACH * float(np.linalg.norm(observe.weight(name)))
        if norm and step:
            move = (step / norm * gradient).astype(found.gradients[name].dtype)
            ends = [observe.moved(images, labels, name, sign * move) for sign in (1, -1)]
            shares[name] = (ends[0] - ends[1]) / (2.0 * step * norm)
    return shares


def _weights(name: str, passes: Sequence[Pass], descents: Mapping[str, float]) -> WeightFigures:
    found = [np.asarray(one.gradients[name], np.float64).ravel() for one in passes]
    norms = [float(np.linalg.norm(gradient)) for gradient in found]
    pairs = list(itertools.combinations(range(len(found)), 2))
    # a gradient of zero agrees with none
    cosines = [float(found[i] @ found[j]) / (norms[i] * norms[j]) if norms[i] * norms[j] else 0.0 for i, j in pairs]
    size = found[0].size
    return WeightFigures(
        path=name.removesuffix(".weight"),
        size=size,
        gradient=float(np.mean(norms)),
        agreement=float(np.mean(cosines)),
        floor=max(NOISE, 2.0 * max(1.0 / math.sqrt(size), float(np.std(cosines))) / math.sqrt(len(pairs))),
        descent=descents.get(name, math.nan),
    )


#: How far weights are moved to see the loss's own slope, as a share of their norm: its steps are smoothed over that.
REACH = 0.02
#: The least agreement that counts as a signal (docs of the doctor: where it comes from).
NOISE = 0.02


def _rows(values: Any) -> Any:
    """Return ``(time, batch, neurons)``."""
    return values.reshape(*values.shape[:2], -1)


def _cosines(here: NDArray[np.float32], there: NDArray[np.float32]) -> PerStep:
    products = np.einsum("tbn,tbn->tb", here, there, dtype=np.float64)
    sizes = np.linalg.norm(here, axis=2).astype(np.float64) * np.linalg.norm(there, axis=2)
    found = []
    for product, size in zip(products, sizes, strict=True):
        fires = size > 0
        found.append(float(np.mean(product[fires] / size[fires])) if fires.any() else math.nan)
    return tuple(found)


def _steps(values: NDArray[np.float64]) -> PerStep:
    return tuple(float(value) for value in values)


def _ratio(before: float, after: float) -> float:
    return before / after if after else math.nan


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple | list) else value
