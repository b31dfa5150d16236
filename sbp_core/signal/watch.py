"""The figures while a network trains, every so many steps, and what is said of them, once."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypedDict

from sbp_core import validation
from sbp_core.eventfile import EventFile
from sbp_core.signal.diagnosis import Diagnosis
from sbp_core.signal.findings import EARLY, QUIET, where

P = ParamSpec("P")

#: Steps between two looks: at four quarters of a batch a look costs about two steps (benchmarks/watch_cost.py).
EVERY = 200
#: How many looks running a gradient must be noise before it is said: one look at few batches may be bad luck.
RUNNING = 2
#: Batches whose loss has fallen to this share of the first look's are learnt: what is left of their gradients is noise.
LEARNT = 0.1


class Look(NamedTuple):
    """What was seen after a step.

    Attributes:
        step: of the training, from 1.
        found: the figures.
        said: what is new and wrong, in words.
    """

    step: int
    found: Diagnosis
    said: tuple[str, ...]

    def scalars(self) -> dict[str, float]:
        """Return the figures by name, ``figure/layer``, means over the time steps; what is no number is left out."""
        values = {"loss": self.found.loss}
        for neuron in self.found.neurons:
            values |= {f"{name}/{neuron.path}": value for name, value in neuron.means().items()}
        for weights in self.found.weights:
            values |= {
                f"weights_gradient/{weights.path}": weights.gradient,
                f"agreement/{weights.path}": weights.agreement,
            }
        return {name: value for name, value in values.items() if math.isfinite(value)}


class WatchOptions(TypedDict, total=False):
    """What every adapter's watch takes as :class:`Watch` does."""

    every: int
    folder: str | Path | None
    tell: Callable[[str], object] | None


class Watch:
    """Looks at a network every so many training steps, and says once what goes wrong.

    A layer of neurons is said to be silent, and a layer's gradient to be noise where the gradients of two batches had
    nothing in common in :data:`RUNNING` looks running, not before step :data:`EARLY`, when it is noise in networks that
    learn too, and not once the batches are learnt, when noise is what is left. Each adapter's ``watch`` makes one.

    Args:
        diagnose: gives the figures; it is called with what :meth:`step` is given.
        every: steps between two looks; there is one after the first step too, at which mistakes show.
        folder: for ``signal/``, which gets the figures as JSON lines and for TensorBoard, and from which a training
            that is resumed knows what was said; None: nothing is written.
        tell: gets each new sentence; a warning unless given.

    Raises:
        ValueError: ``every`` is less than 1.

    Example:
        >>> from sbp_core import ResNetSpec
        >>> from sbp_core.reference.networks import initial_weights
        >>> from sbp_core.reference.signal import observer
        >>> from sbp_core.signal import diagnose
        >>> import numpy as np
        >>> spec = ResNetSpec(depths=(1,), widths=(2,), num_classes=2, time_steps=1)
        >>> observe = observer(spec, initial_weights(spec, 0))
        >>> images = np.random.default_rng(0).normal(size=(2, 3, 3, 4, 4))
        >>> watch = Watch(lambda: diagnose(observe, [(each, np.arange(3) % 2) for each in images]), every=2)
        >>> [look.step for look in (watch.step() for _ in range(4)) if look]
        [1, 2, 4]
    """

    def __init__(
        self,
        diagnose: Callable[..., Diagnosis],
        *,
        every: int = EVERY,
        folder: str | Path | None = None,
        tell: Callable[[str], object] | None = None,
    ) -> None:
        self.every = validation.count("every", every)
        self._diagnose = diagnose
        self._tell = tell or _warn
        self._log = None if folder is None else SignalLog(Path(folder))
        self._step = 0
        self._memory: dict[str, Any] = {"loss": None, "noisy": {}, "told": []}

    def step(self, *given: Any, **named: Any) -> Look | None:
        """Count a training step that was made, and look if it is time; call it after each optimizer step."""
        return self.at(self._step + 1, *given, **named)

    def at(self, step: int, *given: Any, **named: Any) -> Look | None:
        """Do as :meth:`step` where somebody else counts the steps, perhaps several at a time."""
        if not self._step:
            if self._log is not None:
                self.load_state_dict(self._log.state_before(step) or self.state_dict())
            self._step = step - 1
        before, self._step = self._step, validation.count("step", step)
        if step != 1 and step // self.every == before // self.every:
            return None
        found = replace(self._diagnose(*given, **named), after=step)
        look = Look(step, found, tuple(self._new(step, found)))
        for sentence in look.said:
            self._tell(sentence)
        if self._log is not None:
            try:
                self._log.add(look, self.state_dict())
            except OSError as error:
                self._tell(f"Step {step}: its figures could not be written: {error}.")
        return look

    def state_dict(self) -> dict[str, Any]:
        """Return what :meth:`load_state_dict` needs to go on from here, as JSON values."""
        return {"step": self._step, **json.loads(json.dumps(self._memory))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where :meth:`state_dict` was taken.

        Raises:
            ValueError: the state of something else.
        """
        if set(state) != {"step", *self._memory}:
            raise ValueError(f"state must be that of a Watch, with step, loss, noisy and told; got {list(state)}")
        self._step = validation.count("step", state["step"], 0)
        self._memory = json.loads(json.dumps({name: state[name] for name in self._memory}))

    def close(self) -> None:
        """Close the files; a look after that opens them again."""
        if self._log is not None:
            self._log.close()

    def _new(self, step: int, found: Diagnosis) -> Iterable[str]:
        memory = self._memory
        if memory["loss"] is None:
            memory["loss"] = found.loss
        silent = [neuron.path for neuron in found.neurons if neuron.means()["rate"] < QUIET]
        yield from self._once(
            step,
            "silent",
            silent,
            [neuron.path for neuron in found.neurons],
            "hardly anything fires: what lies behind gets no input.",
        )
        if step < EARLY or found.loss < LEARNT * memory["loss"]:
            memory["noisy"] = {}
            return
        counts = {
            weights.path: 1 + memory["noisy"].get(weights.path, 0) for weights in found.weights if weights.is_noise
        }
        memory["noisy"] = counts
        noisy = [path for path, count in counts.items() if count >= RUNNING]
        yield from self._once(
            step,
            "noise",
            noisy,
            [weights.path for weights in found.weights],
            f"the gradients of two batches had "
            f"nothing in common in {RUNNING} looks running: what reaches these weights is noise.",
        )

    def _once(self, step: int, what: str, paths: Sequence[str], every: Sequence[str], words: str) -> Iterable[str]:
        told = self._memory["told"]
        new = [path for path in paths if f"{what}/{path}" not in told]
        if new:
            told += [f"{what}/{path}" for path in new]
            place = where(new, every)
            yield f"Step {step}: {place[0].lower()}{place[1:]} {words}"


class SignalLog:
    """The figures of a training in ``signal/`` of its folder: ``figures.jsonl``, a line a look, and TensorBoard's.

    What lies there from the first look's step on is of an earlier process that went further than what is resumed, or of
    another training: it is replaced.

    Args:
        folder: of the training.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._events: EventFile | None = None

    def state_before(self, step: int) -> dict[str, Any] | None:
        """Return the state that a watch had after its last look before a step; None where there was none."""
        states = [line["state"] for line in read(self._folder.parent) if line["step"] < step]
        return states[-1] if states else None

    def add(self, look: Look, state: Mapping[str, Any]) -> None:
        """Write a look, and the watch's state after it.

        Raises:
            OSError: the folder cannot be written.
        """
        values = look.scalars()
        line = {"step": look.step, "said": look.said, "figures": values, "state": dict(state)}
        events = self._events = self._events or self._begun(look.step)
        with (self._folder / FIGURES).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        events.add(look.step, values)

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def _begun(self, step: int) -> EventFile:
        self._folder.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read(self._folder.parent) if line["step"] < step]
        file = self._folder / FIGURES
        whole = file.with_suffix(".part")
        whole.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        whole.replace(file)
        events = EventFile(self._folder)
        for line in kept:
            events.add(line["step"], line["figures"])
        return events


FOLDER, FIGURES = "signal", "figures.jsonl"


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the looks of a training: of each its ``step``, what was ``said``, and ``figures`` by ``figure/layer``.

    A line that was not written to its end, by a process that was killed, is left out.

    Args:
        folder: of the training.
    """
    file = folder / FOLDER / FIGURES
    found = []
    for line in file.read_text("utf-8").splitlines() if file.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def _warn(sentence: str) -> None:
    warnings.warn(sentence, stacklevel=4)
