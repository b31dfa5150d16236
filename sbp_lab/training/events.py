"""What a training tells while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sbp_lab.record import Epoch, Run


@dataclass(frozen=True, kw_only=True)
class Started:
    """The first step is about to come.

    Attributes:
        folder: of the run.
        parameters: trained numbers of the network, its branches left out; None where they are not known.
        steps_per_epoch: batches of an epoch.
        total_steps: of the whole training.
        step: the steps that were made before, in an earlier session.
        neurons: how a neuron is computed.
        devices: what the framework sees.
    """

    folder: Path
    parameters: int | None
    steps_per_epoch: int
    total_steps: int
    step: int
    neurons: str
    devices: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """A training step is done.

    Attributes:
        epoch: its number, from 1.
        step: of the whole training, from 1.
        loss: of the batch.
        accuracy: share of the batch that the composed training output gets right.
        gradient: norm of all of it, before clipping.
        coefficient: of the branches.
        learning_rate: of the optimiser.
        firing_rate: after the last epoch; None in the first.
        seconds_left: until the end of the training, as far as one can tell; None in the first steps.
        skipped: whether float16 overflowed and the step was left out.
    """

    epoch: int
    step: int
    loss: float
    accuracy: float
    gradient: float
    coefficient: float
    learning_rate: float
    firing_rate: float | None
    seconds_left: float | None
    skipped: bool


@dataclass(frozen=True, kw_only=True)
class EpochDone:
    """An epoch is done and tested, and its checkpoint written.

    Attributes:
        epoch: its record.
        best: whether its accuracy is the best so far.
        seconds_left: until the end of the training.
    """

    epoch: Epoch
    best: bool
    seconds_left: float | None


@dataclass(frozen=True, kw_only=True)
class CheckpointWritten:
    """All that the training goes on from is on the disk.

    Attributes:
        file: the checkpoint.
        step: after which it was taken.
    """

    file: Path
    step: int


@dataclass(frozen=True, kw_only=True)
class Notice:
    """Something that a person should know, and that does not end the training.

    Attributes:
        text: a sentence.
    """

    text: str


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The training is complete.

    Attributes:
        run: its record.
    """

    run: Run


Event = Started | StepDone | EpochDone | CheckpointWritten | Notice | Finished
