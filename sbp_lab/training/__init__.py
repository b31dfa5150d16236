"""Trains by a recipe into a folder, so that nothing is lost whatever ends the process."""

from __future__ import annotations

from sbp_lab.trainers.processes import LeftAloneError as LeftAloneError
from sbp_lab.training.checkpoint import DamagedError as DamagedError
from sbp_lab.training.events import CheckpointWritten as CheckpointWritten
from sbp_lab.training.events import EpochDone as EpochDone
from sbp_lab.training.events import Event as Event
from sbp_lab.training.events import Finished as Finished
from sbp_lab.training.events import Notice as Notice
from sbp_lab.training.events import Started as Started
from sbp_lab.training.events import StepDone as StepDone
from sbp_lab.training.interrupts import Interrupted as Interrupted
from sbp_lab.training.lock import LockedError as LockedError
from sbp_lab.training.loop import train as train
from sbp_lab.training.setup import build as build
