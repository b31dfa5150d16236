"""Remedies tried side by side, and the one that helped most, as a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sbp_core.signal import Diagnosis
from sbp_lab.data import Source
from sbp_lab.doctor.examination import Case, Trial, Weights, examine, start, train
from sbp_lab.doctor.remedies import Remedy, ranked

#: What the network is called that nothing was done to.
AS_IT_IS = "as it is"


class Tried(NamedTuple):
    """A remedy, and what it did.

    Attributes:
        name: of the remedy, or "as it is".
        case: the network with it.
        trial: what some steps of training did.
        weights: after them.
    """

    name: str
    case: Case
    trial: Trial
    weights: Weights

    def is_a_recipe(self, source: Source) -> bool:
        """Whether the recipe alone makes this network: of one of your own it does not set the neuron."""
        made = start(self.case.recipe, source)
        return made.spec == self.case.spec and made.taps == self.case.taps


class Cure(NamedTuple):
    """What helped most.

    Attributes:
        best: the remedy; "as it is" where none that is a recipe reached a higher test accuracy.
        before: figures of the network as it is, after the steps.
        after: of the best, after as many.
        tried: all, the network as it is first.
    """

    best: Tried
    before: Diagnosis
    after: Diagnosis
    tried: tuple[Tried, ...]


def try_each(case: Case, source: Source, remedies: Sequence[Remedy], *, steps: int) -> Iterator[Tried]:
    """Train the network as it is, and with each remedy, for some steps.

    Args:
        case: the network.
        source: the data.
        remedies: what to try.
        steps: how many each.
    """
    yield Tried(AS_IT_IS, case, *train(case, source, steps=steps))
    for remedy in remedies:
        changed = remedy.apply(case, source)
        yield Tried(remedy.name, changed, *train(changed, source, steps=steps))


def cure(case: Case, source: Source, tried: Sequence[Tried], *, batches: int) -> Cure:
    """Return the remedy of the highest test accuracy that is a recipe, and figures before and after.

    Args:
        case: the network as it is.
        source: the data.
        tried: what :func:`try_each` gave, the network as it is first.
        batches: how many the figures are of.
    """
    first, *others = tried
    better = [each for each in others if each.trial.accuracy > first.trial.accuracy and each.is_a_recipe(source)]
    best = max(better, key=lambda each: each.trial.accuracy, default=first)
    before = examine(case, source, batches=batches, state=first.weights, after=first.trial.steps)
    after = (
        before
        if best is first
        else examine(best.case, source, batches=batches, state=best.weights, after=best.trial.steps)
    )
    return Cure(best, before, after, tuple(tried))


def fix(case: Case, source: Source, *, steps: int = 100, batches: int = 4) -> Cure:
    """Try what the figures ask for, and return what helped most; its recipe is ``.best.case.recipe``.

    Args:
        case: the network, of :func:`~sbp_lab.doctor.start`.
        source: the data.
        steps: of training, for each remedy.
        batches: how many to measure on.
    """
    found = examine(case, source, batches=batches)
    remedies = [remedy for remedy, _ in ranked(case, found)]
    return cure(case, source, list(try_each(case, source, remedies, steps=steps)), batches=batches)
