"""The one training loop: every backend and method runs through it, so that a comparison compares like with like."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sbp_core import Constant, Following, validation
from sbp_lab import trainers
from sbp_lab.data import Source
from sbp_lab.recipe import Recipe
from sbp_lab.record import Epoch, Run
from sbp_lab.trainers import StepResult, TrainerFactory
from sbp_lab.trainers.processes import Processes, joined
from sbp_lab.training import checkpoint
from sbp_lab.training import folder as folders
from sbp_lab.training.events import EpochDone, Event, Finished, Notice, Started, StepDone
from sbp_lab.training.interrupts import Asked, Interrupted, listening
from sbp_lab.training.keeper import WARM_UP_STEPS, Keeper
from sbp_lab.training.lock import locked
from sbp_lab.training.progress import Sums
from sbp_lab.training.setup import Built, build
from sbp_lab.training.watching import Watching


def train(
    recipe: Recipe,
    folder: Path,
    *,
    source: Source,
    resume: bool = False,
    checkpoint_every: int | None = None,
    watch: int | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    workers: int = 0,
    make_trainer: TrainerFactory | None = None,
) -> Run:
    """Train by a recipe into a folder.

    Step k of I uses the coefficient ``schedule(k)`` (Guo et al. 2024, Algorithm 1) and the learning rate of ``k - 1``.
    At equal seeds all backends and methods start from the same weights and see the same batches.

    After each epoch, and every ``checkpoint_every`` steps, a checkpoint has all that the training goes on from. Ctrl-C
    and SIGTERM end it between two steps, with a checkpoint. What is resumed ends, on a CPU with the same versions, in
    the same weights to the bit; it may be resumed under another ``backend``, the weights then being equal to rounding.

    The folder has ``recipe.toml``, ``sessions.json`` (when, with what versions and machine), the checkpoint,
    ``metrics.csv``, ``tensorboard``, ``best.safetensors`` and ``last.safetensors`` for ``sbp_torch.load`` and its like,
    and ``results.json``.

    Of several processes that torchrun started (PyTorch) each computes its part of every batch. All call this alike; the
    first writes the folder and tells what happens.

    Args:
        recipe: what to train.
        folder: of this run alone.
        source: the data.
        resume: go on from the folder's checkpoint, from the beginning where there is none; a complete run is returned.
        checkpoint_every: steps between checkpoints within an epoch.
        watch: steps between two looks of the doctor, whose figures go into ``signal/``; the weights are the same to the
            bit with and without. None: it does not look.
        on_event: called with what happens.
        workers: processes that make batches ahead of time.
        make_trainer: takes the place of the backend's own trainer.

    Raises:
        ValueError: a recipe that does not fit the data or the checkpoint, a folder that holds a run already, a damaged
            checkpoint, one of another version.
        LockedError: another process trains in the folder.
        NotFiniteError: loss or gradient became NaN or infinite; the last checkpoint is of before.
        Interrupted: the training was asked to stop.
        LeftAloneError: another process of the training ended.
        OSError: the folder cannot be written; what was there is as it was.
        ModuleNotFoundError: the backend's framework is not installed.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from sbp_lab.data import open_data
        >>> small = Recipe(net="resnet18", width=2, time_steps=1, epochs=1, batch_size=700)
        >>> with TemporaryDirectory() as name:
        ...     run = train(small, Path(name) / "run", source=open_data("digits"))
        >>> run.complete
        True
    """
    if checkpoint_every is not None:
        validation.count("checkpoint_every", checkpoint_every)
    if watch is not None:
        validation.count("watch", watch)
    if make_trainer is None:
        trainers.check(recipe.backend)
    with joined(recipe.backend) as processes:
        # a function of its own: nothing may hold the trainer when the processes part
        place = Path(folder)
        how = (resume, checkpoint_every, watch, on_event, workers, make_trainer)
        return _train(recipe, place, source, *how, processes)


def _train(
    recipe: Recipe,
    place: Path,
    source: Source,
    resume: bool,
    checkpoint_every: int | None,
    watch: int | None,
    on_event: Callable[[Event], None],
    workers: int,
    make_trainer: TrainerFactory | None,
    processes: Processes,
) -> Run:
    first = processes.index == 0
    tell = on_event if first else _silent
    with ExitStack() as stack:
        if first:
            _enter(place, resume)
            stack.enter_context(locked(place))
        asked = stack.enter_context(listening(several=processes.count > 1))
        done: Run | None = processes.from_first(_finished(place, recipe) if first and resume else None)
        if done is not None:
            tell(Finished(run=done))
            return done
        keeper = Keeper(recipe, place, source, tell, writes=first, processes=processes.count)
        built = build(
            recipe,
            source,
            workers=workers,
            make_trainer=make_trainer or processes.make_trainer,
            shard=(processes.index, processes.count),
        )
        session = _Session(recipe, keeper, source, checkpoint_every, watch, tell, asked, processes)
        with built.loader, closing(keeper):
            return session.run(built)


def _silent(event: Event) -> None:
    """Tell nobody."""


def _enter(place: Path, resume: bool) -> None:
    found = folders.held(place) if place.is_dir() else None
    if found is not None and not resume:
        raise ValueError(f"{place} already holds a run ({found}): resume it, or name another folder")
    folders.prepare(place)


def _finished(place: Path, recipe: Recipe) -> Run | None:
    try:
        return folders.finished(place, recipe)
    except ValueError:
        if (place / checkpoint.CURRENT).exists():
            return None  # written anew from the checkpoint
        raise


@dataclass
class _Session:
    """One process's part of a run."""

    recipe: Recipe
    keeper: Keeper
    source: Source
    checkpoint_every: int | None
    watch: int | None
    on_event: Callable[[Event], None]
    asked: Asked
    processes: Processes
    _first: tuple[int, float] | None = None

    def run(self, built: Built) -> Run:
        """Train to the end."""
        trainer, loader = built
        keeper = self.keeper
        found, told = self.processes.from_first(keeper.found() if keeper.writes else None)
        keeper.restore(found, told, trainer)
        per_epoch = loader.steps_per_epoch
        total = self.recipe.epochs * per_epoch
        schedule = (self.recipe.schedule or Constant(value=0.0)).resolve(total_steps=total, steps_per_epoch=per_epoch)
        if isinstance(schedule, Following):
            schedule = schedule.replace(signal=keeper.signal)
        watching = Watching(
            self.recipe,
            self.source,
            schedule,
            every=self.watch,
            folder=keeper.place if keeper.writes else None,
            tell=lambda text: self.on_event(Notice(text=text)),
        )
        rates = self.recipe.learning_rates(total_steps=total, steps_per_epoch=per_epoch)
        keeper.begin(per_epoch)
        self._started(trainer, per_epoch, total)
        with closing(watching):
            while keeper.progress.epoch <= self.recipe.epochs:
                self._epoch(built, watching, rates, total)
        run = keeper.end()
        self.on_event(Finished(run=run))
        return run

    def _epoch(self, built: Built, watching: Watching, rates: Any, total: int) -> None:
        trainer, loader = built
        keeper = self.keeper
        progress, clock = keeper.progress, time.perf_counter()
        coefficient, rate = float(watching.schedule(progress.step)), float(rates(max(progress.step - 1, 0)))
        firing = progress.epochs[-1].firing_rate if progress.epochs else None
        earlier = progress.sums.seconds
        for images, labels in loader.epoch(progress.epoch, progress.sums.steps):
            step = progress.step + 1
            coefficient, rate = float(watching.schedule(step)), float(rates(step - 1))
            started = time.perf_counter()
            result = trainer.train_step(images, labels, coefficient, rate, step)
            keeper.times.append(time.perf_counter() - started)
            self._count(result)
            keeper.remember(trainer, result)
            progress.sums.seconds = earlier + time.perf_counter() - clock
            self._tell(result, coefficient, rate, firing, total)
            watching.after(step, trainer, coefficient, keeper.times)
            keeper.signal = watching.signal
            self._stop_if_asked(trainer)
            whole = progress.sums.steps == loader.steps_per_epoch
            if self.checkpoint_every and not whole and progress.sums.steps % self.checkpoint_every == 0:
                keeper.save(trainer)
        accuracy, firing = self._test(built)
        sums = progress.sums
        loss = sums.mean("loss")
        record = Epoch(
            number=progress.epoch,
            loss=math.nan if loss is None else loss,
            accuracy=accuracy,
            train_accuracy=sums.mean("accuracy"),
            gradient=sums.mean("gradient"),
            first_gradient=sums.mean("first_gradient"),
            last_gradient=sums.mean("last_gradient"),
            coefficient=None if self.recipe.schedule is None else coefficient,
            learning_rate=rate,
            firing_rate=firing,
            seconds=earlier + time.perf_counter() - clock,
        )
        best = all(record.accuracy > other.accuracy for other in progress.epochs)
        progress.epochs.append(record)
        progress.epoch, progress.sums = progress.epoch + 1, Sums()
        keeper.keep(trainer, best=best)
        self.on_event(EpochDone(epoch=record, best=best, seconds_left=self._left(total)))
        if progress.epoch <= self.recipe.epochs and self._asked():
            raise Interrupted(f"stopped after epoch {record.number}: {keeper.saved}", self.asked.number or 0)

    def _count(self, result: StepResult) -> None:
        progress = self.keeper.progress
        progress.step += 1
        progress.sums.add(result)
        if progress.step == 1:
            progress.initial_loss = result.loss
        if self._first is None and len(self.keeper.times) >= WARM_UP_STEPS:
            self._first = progress.step, time.perf_counter()

    def _tell(self, result: StepResult, coefficient: float, rate: float, firing: float | None, total: int) -> None:
        progress = self.keeper.progress
        self.on_event(
            StepDone(
                epoch=progress.epoch,
                step=progress.step,
                loss=result.loss,
                accuracy=result.accuracy,
                gradient=result.gradient,
                coefficient=coefficient,
                learning_rate=rate,
                firing_rate=firing,
                seconds_left=self._left(total),
                skipped=result.skipped,
            )
        )

    def _left(self, total: int) -> float | None:
        """Return the seconds that are left, tests included as far as there were any."""
        done = self.keeper.progress.step
        if self._first is None or done == self._first[0]:
            return None
        step, moment = self._first
        return (total - done) * (time.perf_counter() - moment) / (done - step)

    def _test(self, built: Built) -> tuple[float, float | None]:
        """Return the main output's accuracy on the test samples, and the mean firing rate on their first batch."""
        right = count = rated = 0
        fired = 0.0
        for place, (images, labels) in enumerate(built.loader.test()):
            self._stop_if_asked(built.trainer)
            if not len(labels):
                continue  # the last samples went to other processes
            logits = built.trainer.predict(images)
            right += int(np.sum(np.argmax(logits, axis=-1) == labels))
            count += len(labels)
            rates = built.trainer.firing_rates(images) if place == 0 else {}
            if rates:
                rated, fired = len(labels), statistics.fmean(rates.values()) * len(labels)
        right, count, rated, fired = self.processes.sum(np.array([right, count, rated, fired]))
        return float(right / count), float(fired / rated) if rated else None

    def _asked(self) -> bool:
        """Return whether a process was asked to stop: all say the same."""
        self.asked.number = self.processes.largest(self.asked.number or 0) or None
        return self.asked.number is not None

    def _stop_if_asked(self, trainer: Any) -> None:
        if self._asked():
            self.keeper.save(trainer)
            text = f"stopped after step {self.keeper.progress.step}: {self.keeper.saved}"
            raise Interrupted(text, self.asked.number or 0)

    def _started(self, trainer: Any, per_epoch: int, total: int) -> None:
        spec = trainer.spec
        module = trainers.load(self.recipe.backend)
        self.on_event(
            Started(
                folder=self.keeper.place,
                parameters=None if spec is None else spec.parameter_count,
                steps_per_epoch=per_epoch,
                total_steps=total,
                step=self.keeper.progress.step,
                neurons=module.neurons(),
                devices=tuple(module.devices()),
            )
        )
