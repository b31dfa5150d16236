"""The doctor's figures while a run trains."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from sbp_core import Following, Schedule
from sbp_core.signal import Diagnosis, Watch
from sbp_lab.data import Source
from sbp_lab.loader import Loader
from sbp_lab.recipe import Recipe
from sbp_lab.trainers import Array, Labels, Trainer

#: Parts that a training batch's number of samples is measured in: gradients of six pairs are compared.
PARTS = 4
#: What looking may cost of the training before a person is told.
SHARE = 0.02


def probe(recipe: Recipe, source: Source) -> list[tuple[Array, Labels]]:
    """Return the batches that are looked at, always the same: of the training samples, as stored.

    Raises:
        ValueError: there are too few samples for two of them.
    """
    size = max(2, recipe.batch_size // PARTS)
    if recipe.frames is not None and size == recipe.time_steps:
        size += 1  # which axis is time must be plain
    with Loader(source, batch_size=size, seed=recipe.seed, frames=recipe.frames, size=recipe.size) as loader:
        found = list(itertools.islice(loader.epoch(1), PARTS))
    if len(found) < 2:
        raise ValueError(f"watch needs two batches of {size} training samples, and {source.name} has fewer")
    return [(np.asarray(images, np.float32), np.asarray(labels, np.int64)) for images, labels in found]


class Watching:
    """Looks at what trains every so many steps: for a person, and for a coefficient that follows the signal.

    Every process of a training looks alike, since batch norms may add up what all of them have.

    Args:
        recipe: of the run.
        source: the data.
        schedule: of the coefficient.
        every: steps between two looks for a person; None: none.
        folder: that these are written to; None: this process writes nothing.
        tell: gets what a person should know.

    Attributes:
        schedule: of now.

    Raises:
        ValueError: there are too few samples.
    """

    def __init__(
        self,
        recipe: Recipe,
        source: Source,
        schedule: Schedule,
        *,
        every: int | None,
        folder: Path | None,
        tell: Callable[[str], object],
    ) -> None:
        self.schedule, self._every, self._tell, self._looks = schedule, every, tell, 0
        needed = every is not None or isinstance(schedule, Following)
        self._batches = probe(recipe, source) if needed else []
        self._watch = None if every is None else Watch(self._diagnose, every=every, folder=folder, tell=tell)

    @property
    def signal(self) -> float | None:
        """What the schedule follows, as a checkpoint keeps it."""
        return self.schedule.signal if isinstance(self.schedule, Following) else None

    def after(self, step: int, trainer: Trainer, coefficient: float, times: Sequence[float]) -> None:
        """Look, if it is time after this step.

        Args:
            step: of the training, from 1.
            trainer: after it.
            coefficient: of the branches, in it.
            times: seconds of the steps of this session.
        """
        if self._watch is not None:
            self._look(self._watch, step, trainer, coefficient, times)
        if isinstance(self.schedule, Following) and self.schedule.is_due(step):
            self.schedule = self.schedule.seeing(trainer.diagnose(self._batches, 0.0, branches=False))

    def close(self) -> None:
        """Close the files."""
        if self._watch is not None:
            self._watch.close()

    def _look(self, watch: Watch, step: int, trainer: Trainer, coefficient: float, times: Sequence[float]) -> None:
        began = time.perf_counter()
        try:
            look = watch.at(step, trainer, coefficient)
        except ValueError as error:
            self._watch = None
            self._tell(f"this network cannot be watched: {error}")
            return
        self._looks += look is not None
        # the first one compiles and allocates
        if look is not None and self._looks == 2:
            self._price(time.perf_counter() - began, statistics.median(times))

    def _diagnose(self, trainer: Trainer, coefficient: float) -> Diagnosis:
        return trainer.diagnose(self._batches, coefficient)

    def _price(self, look: float, step: float) -> None:
        share = look / (self._every * step) if self._every is not None and step else 0.0
        if share > SHARE:
            enough = math.ceil(look / (SHARE * step) / 10) * 10
            self._tell(
                f"a look takes {look:.2g} s, {100 * share:.0f} % of the training; --watch {enough} makes that 2 %"
            )
