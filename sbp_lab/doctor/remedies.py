"""What might help, what it is predicted to do, and how it is applied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sbp_core import LIFSpec
from sbp_core.signal import Diagnosis
from sbp_core.signal.feeds import structure_of
from sbp_core.specs.networks import ResNetSpec
from sbp_lab.data import Source
from sbp_lab.doctor.examination import Case, start


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """Something to try.

    Attributes:
        name: what it is called.
        predicts: what it is expected to do, and why.
        need: how much the figures ask for it, from 0 on; 0 where they do not, or it cannot be applied.
        apply: what makes another case of one; the data are for a start that is measured on a batch.
    """

    name: str
    predicts: str
    need: Callable[[Case, Diagnosis], float]
    apply: Callable[[Case, Source], Case]


def ranked(case: Case, found: Diagnosis) -> list[tuple[Remedy, float]]:
    """Return the remedies that the figures ask for, the most needed first."""
    needs = [(remedy, remedy.need(case, found)) for remedy in REMEDIES]
    return sorted(((remedy, need) for remedy, need in needs if need > 0), key=lambda pair: -pair[1])


def _neuron(case: Case) -> LIFSpec:
    neuron: LIFSpec = getattr(case.spec, "neuron", LIFSpec())
    return neuron


def _with_neuron(case: Case, **changes: object) -> Case:
    neuron = _neuron(case).replace(**changes)
    return Case(case.recipe.replace(neuron=neuron), case.spec.replace(neuron=neuron), case.weights)


def _has_neuron(case: Case) -> bool:
    return hasattr(case.spec, "neuron")


def _parts(found: Diagnosis) -> float:
    """Return how much of the nearness of inputs is lost at the end."""
    kept = [neuron.kept for neuron in found.neurons if neuron.kept == neuron.kept]
    return 1.0 - max(min(kept[-1], 1.0), 0.0) if kept else 1.0


def _noise(found: Diagnosis) -> float:
    """Return the share of layers whose gradient is noise."""
    return float(np.mean([weights.is_noise for weights in found.weights]))


def _share(values: Sequence[float]) -> float:
    return float(np.nanmean(values))


def _silence(found: Diagnosis) -> float:
    """Return the share of layers in which less than 2 % fire."""
    return float(np.mean([_share(neuron.rate) < 0.02 for neuron in found.neurons]))


def _closed(found: Diagnosis) -> float:
    """Return the share of layers in which less than a tenth of the potentials is inside the surrogate."""
    return float(np.mean([_share(neuron.inside) < 0.1 for neuron in found.neurons]))


def _start_need(case: Case, found: Diagnosis) -> float:
    if case.recipe.applied.start == "calibrated":
        return 0.0
    structure = structure_of(case.spec)
    lost = 2.0 * _parts(found) * _noise(found) if structure.ends or structure.plain else 0.0
    return max(lost, 3.1 * _silence(found))


def _blocks_need(case: Case, found: Diagnosis) -> float:
    return 1.2 * _parts(found) if isinstance(case.spec, ResNetSpec) and not case.recipe.own else 0.0


def _wider(case: Case, source: Source) -> Case:
    surrogate = _neuron(case).surrogate
    return _with_neuron(case, surrogate=surrogate.replace(width=2.0 * getattr(surrogate, "width", 1.0)))


def _has_width(case: Case) -> bool:
    return _has_neuron(case) and hasattr(_neuron(case).surrogate, "width")


#: Everything that is known to help some networks; see docs/doctor.md for what each was measured to do.
REMEDIES: tuple[Remedy, ...] = (
    Remedy(
        name="calibrated start",
        predicts="weights near the identity, and thresholds and surrogates to match, let a spike and its gradient pass "
        "a block: near inputs stay near, and early layers get a gradient that batches agree on; silent layers are "
        "scaled until they fire",
        need=_start_need,
        apply=lambda case, source: start(case.recipe.replace(start="calibrated"), source),
    ),
    Remedy(
        name="losses apart",
        predicts="a branch with a loss of its own at each stage brings a gradient that batches agree on to the layers "
        "before it; its weight falls from 1 to 0",
        need=lambda case, found: 1.5 * _noise(found) if case.spec.default_taps and not case.taps else 0.0,
        apply=lambda case, source: start(case.recipe.replace(coefficient=None).with_method("losses"), source),
    ),
    Remedy(
        name="SEW blocks",
        predicts="the identity path has no neuron on it, so that spikes and gradients pass each block by structure",
        need=_blocks_need,
        apply=lambda case, source: start(case.recipe.replace(blocks="sew"), source),
    ),
    Remedy(
        name="threshold halved",
        predicts="more neurons fire: where layers are silent, what lies behind gets an input at all",
        need=lambda case, found: 3.0 * _silence(found) if _has_neuron(case) else 0.0,
        apply=lambda case, _: _with_neuron(case, threshold=0.5 * _neuron(case).threshold),
    ),
    Remedy(
        name="surrogate twice as wide",
        predicts="more potentials lie where the surrogate has a slope: the gradient passes more neurons, and is larger",
        need=lambda case, found: 2.0 * _closed(found) if _has_width(case) else 0.0,
        apply=_wider,
    ),
    Remedy(
        name="detached reset",
        predicts="the gradient no longer runs through the reset: a little less noise in it over many steps",
        need=lambda case, found: 0.3 * _noise(found) if _has_neuron(case) and not _neuron(case).detach_reset else 0.0,
        apply=lambda case, _: _with_neuron(case, detach_reset=True),
    ),
)
