"""Keeps a run: what is written into its folder, and when that cannot be done."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sbp_lab import trainers
from sbp_lab.data import Source
from sbp_lab.environment import machine, versions
from sbp_lab.files import write_bytes
from sbp_lab.inputs import Inputs
from sbp_lab.recipe import Recipe
from sbp_lab.record import Epoch, Run
from sbp_lab.trainers import StepResult, Trainer
from sbp_lab.training import checkpoint, first_steps, logs
from sbp_lab.training import folder as folders
from sbp_lab.training.events import CheckpointWritten, Event, Notice
from sbp_lab.training.progress import Progress

#: Steps left out of the timing: the first ones compile and allocate.
WARM_UP_STEPS = 3


class Keeper:
    """Writes what a run leaves.

    Args:
        recipe: of the run.
        place: its folder.
        source: its data.
        on_event: called with what happens.
        writes: whether this process does: of several the first alone.
        processes: how many train.

    Attributes:
        progress: where the run is.
        times: of the steps of this session, in seconds.
        saved: what is on the disk, in words.
        signal: what a coefficient follows, if it does.
    """

    def __init__(
        self,
        recipe: Recipe,
        place: Path,
        source: Source,
        on_event: Callable[[Event], None],
        *,
        writes: bool = True,
        processes: int = 1,
    ) -> None:
        self.recipe, self.place, self.source, self.on_event = recipe, place, source, on_event
        self.writes, self.processes = writes, processes
        self.progress = Progress()
        self.times: list[float] = []
        self.saved = "no checkpoint was written yet"
        self.signal: float | None = None
        self.sessions: list[dict[str, Any]] = []
        self.data = {
            "name": source.name,
            "checksum": source.checksum,
            "train": len(source.train),
            "test": len(source.test),
        }
        self._began = time.perf_counter()
        self._steps: first_steps.FirstSteps | None = None
        self._board: logs.TensorBoard | None = None

    def found(self) -> tuple[checkpoint.Checkpoint | None, list[str]]:
        """Return the checkpoint to go on from, and what a person should know of those that are damaged.

        Raises:
            ValueError: it is of another recipe or of other data, or none is sound.
        """
        checkpoint.tidy(self.place)
        found, told = checkpoint.latest(self.place)
        if found is not None:
            folders.check_recipe(self.recipe, found.header["recipe"], found.file)
            folders.check_data(self.data, found.header["data"], found.file)
            return found, told
        file = self.place / folders.RECIPE
        if file.exists():  # it ended before its first checkpoint
            folders.check_recipe(self.recipe, Recipe.from_toml(file.read_text("utf-8")).to_dict(), file)
        return None, told

    def restore(self, found: checkpoint.Checkpoint | None, told: list[str], trainer: Trainer) -> None:
        """Put trainer and progress where a checkpoint was taken.

        Raises:
            ValueError: it does not fit the network.
        """
        if found is None:
            self.progress.created = datetime.now(UTC).isoformat(timespec="seconds")
            return
        try:
            trainer.load_state(found.arrays)
        except ValueError as error:
            raise ValueError(f"{found.file} does not fit the network: {error}") from None
        self.progress = Progress.from_dict(found.header["progress"])
        self.sessions = list(found.header["sessions"])
        self.signal = found.header.get("signal")
        for text in told:
            self.on_event(Notice(text=f"{text}. Going on from the one before, {found.file}, step {self.progress.step}"))
        then, now = self.sessions[-1], versions()
        changed = [
            f"{name} {was} then, {now.get(name)} now" for name, was in then["versions"].items() if now.get(name) != was
        ]
        if changed:
            self.on_event(Notice(text=f"other versions than before, so bits may differ: {', '.join(changed)}"))
        if then.get("processes", 1) != self.processes:
            text = f"{then.get('processes', 1)} processes then, {self.processes} now, so bits may differ"
            self.on_event(Notice(text=text))
        self.saved = f"{found.file} holds step {self.progress.step}"

    def begin(self, steps_per_epoch: int) -> None:
        """Write who begins to train.

        Raises:
            OSError: the folder cannot be written.
        """
        session = {
            "backend": self.recipe.backend,
            "first_step": self.progress.step + 1,
            "began": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            "machine": machine(),
            "processes": self.processes,
            "data": self.data,
        }
        self.sessions.append(session)
        if not self.writes:
            return
        write_bytes(self.place / folders.RECIPE, self.recipe.to_toml().encode())
        folders.write_sessions(self.place, self.sessions)
        self._rewrite()
        self._board = logs.TensorBoard(self.place, self.progress.epochs, steps_per_epoch)

    def remember(self, trainer: Trainer, result: StepResult) -> None:
        """Keep the bits of the first steps, for ``sbp verify``."""
        step = self.progress.step
        if not self.writes or step > first_steps.STEPS or (self._steps is None and step > 1):
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

    def keep(self, trainer: Trainer, *, best: bool) -> None:
        """Write weights, checkpoint and curve after an epoch; where that fails the training goes on, unless it ends.

        Raises:
            OSError: the last epoch's could not be written.
        """
        if not self.writes:
            return
        record = self.progress.epochs[-1]
        try:
            self._keep_epoch(trainer, record, best)
        except OSError as error:
            if self.progress.epoch > self.recipe.epochs:
                raise self._end_lost(error) from error
            self._lost(error)
        try:
            if self._board is not None:
                self._board.add(record)
        except OSError as error:
            self._lost(error)

    def save(self, trainer: Trainer) -> None:
        """Write a checkpoint; where that fails it is said."""
        if not self.writes:
            return
        try:
            self._write_checkpoint(trainer)
        except OSError as error:
            self._lost(error)

    def end(self) -> Run:
        """Write the end, and return the run.

        Raises:
            OSError: it could not be written.
        """
        run = self._record()
        if self.writes:
            try:
                run.write(self.place)
            except OSError as error:
                raise self._end_lost(error) from error
        return run

    def close(self) -> None:
        """Close what is open."""
        if self._board is not None:
            self._board.close()

    def _keep_epoch(self, trainer: Trainer, record: Epoch, best: bool) -> None:
        notes = {
            "data": self.source.name,
            "checksum": self.source.checksum,
            "epoch": str(record.number),
            "accuracy": f"{record.accuracy:.6f}",
            "inputs": Inputs.of(self.source).to_json(),
            "recipe": self.recipe.to_toml(),
        }
        arrays = trainer.weights()
        if best:
            folders.write_weights(self.place / folders.BEST, arrays, trainer.spec, notes)
        folders.write_weights(self.place / folders.LAST, arrays, trainer.spec, notes)
        self._write_checkpoint(trainer)
        self._rewrite()

    def _write_checkpoint(self, trainer: Trainer) -> None:
        progress = self.progress
        steady = self.times[WARM_UP_STEPS:] or self.times
        progress.step_ms = statistics.median(steady) * 1e3 if steady else progress.step_ms
        now = time.perf_counter()
        progress.seconds, self._began = progress.seconds + now - self._began, now
        header = {
            "recipe": self.recipe.to_dict(),
            "data": self.data,
            "progress": progress.to_dict(),
            "sessions": self.sessions,
            "signal": self.signal,
        }
        file = checkpoint.write(self.place, trainer.state(), header)
        self.saved = f"{file} holds step {progress.step}"
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

    def _lost(self, error: OSError) -> None:
        text = f"step {self.progress.step} could not be written: {error.strerror or error}; {self.saved}; going on"
        self.on_event(Notice(text=text))

    def _end_lost(self, error: OSError) -> OSError:
        reason = error.strerror or str(error)
        text = f"the end of the training could not be written: {reason}; {self.saved}. Make room and resume"
        return OSError(error.errno, text, str(self.place))
