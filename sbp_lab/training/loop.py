"""The one training loop: every backend and method runs through it, so that a comparison compares like with like."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from sbp_core import Constant, validation
from sbp_lab import trainers
from sbp_lab.data import Source
from sbp_lab.environment import machine, versions
from sbp_lab.files import write_bytes
from sbp_lab.inputs import Inputs
from sbp_lab.recipe import Recipe
from sbp_lab.record import Epoch, Run
from sbp_lab.trainers import StepResult, TrainerFactory
from sbp_lab.training import checkpoint, first_steps, logs
from sbp_lab.training import folder as folders
from sbp_lab.training.events import CheckpointWritten, EpochDone, Event, Finished, Notice, Started, StepDone
from sbp_lab.training.interrupts import Asked, Interrupted, listening
from sbp_lab.training.lock import locked
from sbp_lab.training.progress import Progress, Sums
from sbp_lab.training.setup import Built, build

#: Steps left out of the timing: the first ones compile and allocate.
WARM_UP_STEPS = 3


def train(
    recipe: Recipe,
    folder: Path,
    *,
    source: Source,
    resume: bool = False,
    checkpoint_every: int | None = None,
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

    Args:
        recipe: what to train.
        folder: of this run alone.
        source: the data.
        resume: go on from the folder's checkpoint, from the beginning where there is none; a complete run is returned.
        checkpoint_every: steps between checkpoints within an epoch.
        on_event: called with what happens.
        workers: processes that make batches ahead of time.
        make_trainer: takes the place of the backend's own trainer.

    Raises:
        ValueError: a recipe that does not fit the data or the checkpoint, a folder that holds a run already, a damaged
            checkpoint, one of another version.
        LockedError: another process trains in the folder.
        NotFiniteError: loss or gradient became NaN or infinite; the last checkpoint is of before.
        Interrupted: the training was asked to stop.
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
    if make_trainer is None:
        trainers.check(recipe.backend)
    world = os.environ.get("WORLD_SIZE", "1")
    if world not in ("", "1"):
        raise ValueError(
            f"a run is trained by one process, and WORLD_SIZE={world} says that torchrun started several. JAX uses all "
            "devices of its process; for several in PyTorch wrap the Shortcut in DistributedDataParallel, in a loop of "
            "your own"
        )
    place = Path(folder)
    _enter(place, resume)
    with locked(place), listening() as asked:
        if resume:
            done = _finished(place, recipe)
            if done is not None:
                on_event(Finished(run=done))
                return done
        session = _Session(recipe, place, source, checkpoint_every, on_event, asked)
        built = build(recipe, source, workers=workers, make_trainer=make_trainer)
        with built.loader:
            return session.run(built)


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
    place: Path
    source: Source
    checkpoint_every: int | None
    on_event: Callable[[Event], None]
    asked: Asked
    progress: Progress = field(default_factory=Progress)
    sessions: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    _times: list[float] = field(default_factory=list)
    _began: float = field(default_factory=time.perf_counter)
    _saved: str = "no checkpoint was written yet"
    _first: tuple[int, float] | None = None
    _steps: first_steps.FirstSteps | None = None

    def run(self, built: Built) -> Run:
        """Train to the end."""
        trainer, loader = built
        self.data = {
            "name": self.source.name,
            "checksum": self.source.checksum,
            "train": len(self.source.train),
            "test": len(self.source.test),
        }
        self._restore(trainer)
        per_epoch = loader.steps_per_epoch
        total = self.recipe.epochs * per_epoch
        schedule = (self.recipe.schedule or Constant(value=0.0)).resolve(total_steps=total, steps_per_epoch=per_epoch)
        rates = self.recipe.learning_rates(total_steps=total, steps_per_epoch=per_epoch)
        self._begin(trainer, per_epoch, total)
        board = logs.TensorBoard(self.place, self.progress.epochs, per_epoch)
        try:
            while self.progress.epoch <= self.recipe.epochs:
                self._epoch(built, schedule, rates, total, board)
        finally:
            board.close()
        run = self._record()
        self._must(lambda: run.write(self.place))
        self.on_event(Finished(run=run))
        return run

    def _epoch(self, built: Built, schedule: Any, rates: Any, total: int, board: logs.TensorBoard) -> None:
        trainer, loader = built
        progress, clock = self.progress, time.perf_counter()
        coefficient, rate = float(schedule(progress.step)), float(rates(max(progress.step - 1, 0)))
        firing = progress.epochs[-1].firing_rate if progress.epochs else None
        earlier = progress.sums.seconds
        for images, labels in loader.epoch(progress.epoch, progress.sums.steps):
            step = progress.step + 1
            coefficient, rate = float(schedule(step)), float(rates(step - 1))
            started = time.perf_counter()
            result = trainer.train_step(images, labels, coefficient, rate, step)
            self._times.append(time.perf_counter() - started)
            self._count(result)
            self._remember(trainer, result)
            progress.sums.seconds = earlier + time.perf_counter() - clock
            self._tell(result, coefficient, rate, firing, total)
            whole = progress.sums.steps == loader.steps_per_epoch
            if self.asked.number is not None:
                self._stop(trainer)
            if self.checkpoint_every and not whole and progress.sums.steps % self.checkpoint_every == 0:
                self._save(trainer)
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
            coefficient=coefficient,
            learning_rate=rate,
            firing_rate=firing,
            seconds=earlier + time.perf_counter() - clock,
        )
        best = all(record.accuracy > other.accuracy for other in progress.epochs)
        progress.epochs.append(record)
        progress.epoch, progress.sums = progress.epoch + 1, Sums()
        self._keep(trainer, best)
        try:
            board.add(record)
        except OSError as error:
            self._lost(error)
        self.on_event(EpochDone(epoch=record, best=best, seconds_left=self._left(total)))
        if self.asked.number is not None and progress.epoch <= self.recipe.epochs:
            raise Interrupted(f"stopped after epoch {record.number}: {self._saved}", self.asked.number)

    def _count(self, result: StepResult) -> None:
        progress = self.progress
        progress.step += 1
        progress.sums.add(result)
        if progress.step == 1:
            progress.initial_loss = result.loss
        if self._first is None and len(self._times) >= WARM_UP_STEPS:
            self._first = progress.step, time.perf_counter()

    def _remember(self, trainer: Any, result: StepResult) -> None:
        """Keep the bits of the first steps, for ``sbp verify``."""
        step = self.progress.step
        if step > first_steps.STEPS or (self._steps is None and step > 1):
            return  # a run that goes on after its first step has them, as far as they were made
        if self._steps is None:
            session = self.sessions[-1]
            self._steps = first_steps.FirstSteps(
                recipe=self.recipe.to_dict(),
                data=self.data,
                versions=session["versions"],
                machine=session["machine"],
                devices=tuple(trainers.load(self.recipe.backend).devices()),
                settings=first_steps.settings(),
            )
        steps = (*self._steps.steps, first_steps.Step.of(step, result, trainer.state()))
        self._steps = replace(self._steps, steps=steps)
        try:
            self._steps.write(self.place)
        except OSError as error:
            self._lost(error)

    def _tell(self, result: StepResult, coefficient: float, rate: float, firing: float | None, total: int) -> None:
        self.on_event(
            StepDone(
                epoch=self.progress.epoch,
                step=self.progress.step,
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
        if self._first is None or self.progress.step == self._first[0]:
            return None
        step, moment = self._first
        return (total - self.progress.step) * (time.perf_counter() - moment) / (self.progress.step - step)

    def _test(self, built: Built) -> tuple[float, float | None]:
        """Return the main output's accuracy on the test samples, and the mean firing rate on their first batch."""
        right = count = 0
        rates: Mapping[str, float] = {}
        for place, (images, labels) in enumerate(built.loader.test()):
            if self.asked.number is not None:
                self._stop(built.trainer)
            logits = built.trainer.predict(images)
            right += int(np.sum(np.argmax(logits, axis=-1) == labels))
            count += len(labels)
            if place == 0:
                rates = built.trainer.firing_rates(images)
        return right / count, statistics.fmean(rates.values()) if rates else None

    def _restore(self, trainer: Any) -> None:
        checkpoint.tidy(self.place)
        found, told = checkpoint.latest(self.place)
        if found is None:
            file = self.place / folders.RECIPE
            if file.exists():  # it ended before its first checkpoint
                folders.check_recipe(self.recipe, Recipe.from_toml(file.read_text("utf-8")).to_dict(), file)
            self.progress.created = datetime.now(UTC).isoformat(timespec="seconds")
            return
        folders.check_recipe(self.recipe, found.header["recipe"], found.file)
        folders.check_data(self.data, found.header["data"], found.file)
        try:
            trainer.load_state(found.arrays)
        except ValueError as error:
            raise ValueError(f"{found.file} does not fit the network: {error}") from None
        self.progress = Progress.from_dict(found.header["progress"])
        self.sessions = list(found.header["sessions"])
        for text in told:
            self.on_event(Notice(text=f"{text}. Going on from the one before, {found.file}, step {self.progress.step}"))
        then, now = self.sessions[-1]["versions"], versions()
        changed = [f"{name} {then[name]} then, {now.get(name)} now" for name in then if now.get(name) != then[name]]
        if changed:
            self.on_event(Notice(text=f"other versions than before, so bits may differ: {', '.join(changed)}"))
        self._saved = f"{found.file} holds step {self.progress.step}"

    def _begin(self, trainer: Any, per_epoch: int, total: int) -> None:
        session = {
            "backend": self.recipe.backend,
            "first_step": self.progress.step + 1,
            "began": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            "machine": machine(),
            "data": self.data,
        }
        self.sessions.append(session)
        write_bytes(self.place / folders.RECIPE, self.recipe.to_toml().encode())
        folders.write_sessions(self.place, self.sessions)
        self._rewrite()
        spec = trainer.spec
        module = trainers.load(self.recipe.backend)
        self.on_event(
            Started(
                folder=self.place,
                parameters=None if spec is None else spec.parameter_count,
                steps_per_epoch=per_epoch,
                total_steps=total,
                step=self.progress.step,
                neurons=module.neurons(),
                devices=tuple(module.devices()),
            )
        )

    def _keep(self, trainer: Any, best: bool) -> None:
        """Write weights, checkpoint and curve after an epoch; where that fails the training goes on, unless it ends."""
        record = self.progress.epochs[-1]
        notes = {
            "data": self.source.name,
            "checksum": self.source.checksum,
            "epoch": str(record.number),
            "accuracy": f"{record.accuracy:.6f}",
            "inputs": Inputs.of(self.source).to_json(),
            "recipe": self.recipe.to_toml(),
        }

        def write() -> None:
            arrays = trainer.weights()
            if best:
                folders.write_weights(self.place / folders.BEST, arrays, trainer.spec, notes)
            folders.write_weights(self.place / folders.LAST, arrays, trainer.spec, notes)
            self._write_checkpoint(trainer)
            self._rewrite()

        if self.progress.epoch > self.recipe.epochs:
            self._must(write)
            return
        try:
            write()
        except OSError as error:
            self._lost(error)

    def _save(self, trainer: Any) -> None:
        try:
            self._write_checkpoint(trainer)
        except OSError as error:
            self._lost(error)

    def _lost(self, error: OSError) -> None:
        text = f"step {self.progress.step} could not be written: {error.strerror or error}; {self._saved}; going on"
        self.on_event(Notice(text=text))

    def _must(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            reason = error.strerror or str(error)
            text = f"the end of the training could not be written: {reason}; {self._saved}. Make room and resume"
            raise OSError(error.errno, text, str(self.place)) from error

    def _stop(self, trainer: Any) -> None:
        self._save(trainer)
        raise Interrupted(f"stopped after step {self.progress.step}: {self._saved}", self.asked.number or 0)

    def _write_checkpoint(self, trainer: Any) -> None:
        progress = self.progress
        steady = self._times[WARM_UP_STEPS:] or self._times
        progress.step_ms = statistics.median(steady) * 1e3 if steady else progress.step_ms
        now = time.perf_counter()
        progress.seconds, self._began = progress.seconds + now - self._began, now
        header = {
            "recipe": self.recipe.to_dict(),
            "data": self.data,
            "progress": progress.to_dict(),
            "sessions": self.sessions,
        }
        file = checkpoint.write(self.place, trainer.state(), header)
        self._saved = f"{file} holds step {progress.step}"
        self.on_event(CheckpointWritten(file=file, step=progress.step))

    def _rewrite(self) -> None:
        logs.write_csv(self.place, self.progress.epochs)
        self._record().write(self.place)

    def _record(self) -> Run:
        progress, first = self.progress, self.sessions[0]
        return Run(
            recipe=self.recipe,
            epochs=tuple(progress.epochs),
            initial_loss=math.nan if progress.initial_loss is None else progress.initial_loss,
            step_ms=math.nan if progress.step_ms is None else progress.step_ms,
            seconds=progress.seconds,
            data=self.data,
            versions=first["versions"],
            machine=first["machine"],
            created=progress.created,
        )
