"""Whether a run's first steps come out again, bit for bit: here, now, by its recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sbp_core import Constant, validation
from sbp_lab import trainers
from sbp_lab.data import Source
from sbp_lab.environment import machine, versions
from sbp_lab.recipe import Recipe
from sbp_lab.training.first_steps import FirstSteps, Step, settings
from sbp_lab.training.setup import build
from sbp_lab.training.watching import Watching


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A step of then and of now.

    Attributes:
        then: as the run kept it.
        now: as it came out.
    """

    then: Step
    now: Step

    @property
    def different(self) -> tuple[str, ...]:
        """What is another: of loss, gradient and state."""
        return tuple(
            name for name in ("loss", "gradient", "state") if getattr(self.then, name) != getattr(self.now, name)
        )


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What :func:`verify` found.

    Attributes:
        steps: each step of then and now.
        differences: what else is another: data, versions, machine, settings, as "what: then, now".
    """

    steps: tuple[Compared, ...]
    differences: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether every bit is."""
        return not any(each.different for each in self.steps)


def verify(folder: Path, source: Source, *, steps: int | None = None, kept: FirstSteps | None = None) -> Verification:
    """Make the first steps of a run again and compare the bits.

    Args:
        folder: of the run.
        source: the data that its recipe names.
        steps: how many to compare; all that the run kept, unless given.
        kept: what the run kept, if that has been read.

    Raises:
        FileNotFoundError: the folder holds no first steps.
        ValueError: they are damaged, or the recipe does not fit the data.
        ModuleNotFoundError: the run's framework is not installed.
    """
    kept = FirstSteps.read(Path(folder)) if kept is None else kept
    recipe = recipe_of(kept)
    wanted = len(kept.steps)
    if steps is not None:
        wanted = min(wanted, validation.count("steps", steps))
    if not wanted:
        raise ValueError(f"{folder} must hold steps to compare, it kept none")
    found = []
    trainer, loader = build(recipe, source)
    per_epoch = loader.steps_per_epoch
    total = recipe.epochs * per_epoch
    schedule = (recipe.schedule or Constant(value=0.0)).resolve(total_steps=total, steps_per_epoch=per_epoch)
    watching = Watching(recipe, source, schedule, every=None, folder=None, tell=lambda text: None)
    rates = recipe.learning_rates(total_steps=total, steps_per_epoch=per_epoch)
    with loader:
        for then in kept.steps[:wanted]:
            epoch, place = divmod(then.step - 1, per_epoch)
            images, labels = next(loader.epoch(epoch + 1, place))
            coefficient, rate = float(watching.schedule(then.step)), float(rates(then.step - 1))
            result = trainer.train_step(images, labels, coefficient, rate, then.step)
            found.append(Compared(then=then, now=Step.of(then.step, result, trainer.state())))
            watching.after(then.step, trainer, coefficient, ())
    return Verification(steps=tuple(found), differences=tuple(differences(kept, source)))


def recipe_of(kept: FirstSteps) -> Recipe:
    """Return the recipe of the session that made the first steps.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return Recipe.from_dict(kept.recipe)
    except (ValueError, TypeError) as error:
        raise ValueError(f"first_steps.json is damaged, in its recipe: {error}") from None


def differences(kept: FirstSteps, source: Source) -> list[str]:
    """Return what is another than when a run began: data, versions, machine, devices, settings."""
    now = {"checksum": source.checksum, "train": len(source.train), "test": len(source.test)}
    devices = tuple(trainers.load(str(kept.recipe["backend"])).devices())
    return [
        *_changes("data", {name: kept.data.get(name) for name in now}, now),
        *_changes("version of", kept.versions, versions()),
        *_changes("machine", kept.machine, machine()),
        *_changes("devices", {"": ", ".join(kept.devices)}, {"": ", ".join(devices)}),
        *_changes("setting", kept.settings, settings()),
    ]


def _changes(what: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    names = [*then, *(name for name in now if name not in then)]
    return [
        f"{what} {name}".rstrip() + f": {_said(then.get(name))} then, {_said(now.get(name))} now"
        for name in names
        if then.get(name) != now.get(name)
    ]


def _said(value: object) -> str:
    return "none" if value is None else str(value)
