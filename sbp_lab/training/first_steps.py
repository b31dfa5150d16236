"""The bits of a run's first steps, so that another can be held to them: ``sbp verify``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sbp_lab.files import read_json, sound, write_json
from sbp_lab.trainers import StepResult

FILE, SCHEMA = "first_steps.json", "sbp.first_steps/1"
#: How many steps are kept.
STEPS = 3
#: Settings that change the order in which numbers are added, or what adds them.
SETTINGS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "TF_ENABLE_ONEDNN_OPTS",
    "ONEDNN_MAX_CPU_ISA",
    "XLA_FLAGS",
    "KERAS_BACKEND",
    "WORLD_SIZE",
    "JAX_PLATFORMS",
    "JAX_ENABLE_X64",
    "CUDA_VISIBLE_DEVICES",
    "CUBLAS_WORKSPACE_CONFIG",
)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a step left.

    Attributes:
        step: from 1.
        loss: of the batch, as :meth:`float.hex` writes it: every bit.
        gradient: norm of all of it, the same.
        state: sha256 of the trainer's state after it.
    """

    step: int
    loss: str
    gradient: str
    state: str

    @classmethod
    def of(cls, step: int, result: StepResult, state: Mapping[str, NDArray[Any]]) -> Self:
        """Return what a step left.

        Example:
            >>> Step.of(1, StepResult(0.5, 1.0, 1.0, 2.0), {}).loss
            '0x1.0000000000000p-1'
        """
        return cls(
            step=step,
            loss=float(result.loss).hex(),
            gradient=float(result.gradient).hex(),
            state=fingerprint(state),
        )


def fingerprint(state: Mapping[str, NDArray[Any]]) -> str:
    """Return the sha256 of names, types, shapes and bits, whatever order they come in.

    Example:
        >>> a, b = np.zeros(2), np.ones(2)
        >>> fingerprint({"a": a, "b": b}) == fingerprint({"b": b, "a": a}) != fingerprint({"a": b, "b": a})
        True
    """
    sha = hashlib.sha256()
    for name in sorted(state):
        array = np.asarray(state[name])
        sha.update(f"{name} {array.dtype.str} {array.shape}\0".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def settings() -> dict[str, str]:
    """Return those of :data:`SETTINGS` that are set, with their values."""
    return {name: os.environ[name] for name in SETTINGS if name in os.environ}


@dataclass(frozen=True, kw_only=True)
class FirstSteps:
    """A run's first steps, and what made them.

    Attributes:
        recipe: of the session that made them, as a dictionary.
        data: name, checksum and counts.
        versions: package to version.
        machine: where it ran.
        devices: what the framework saw.
        settings: of the environment.
        steps: in order, from 1.
    """

    recipe: Mapping[str, Any]
    data: Mapping[str, Any]
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    devices: tuple[str, ...]
    settings: Mapping[str, str]
    steps: tuple[Step, ...] = ()

    def write(self, folder: Path) -> Path:
        """Write the file into a run's folder.

        Raises:
            OSError: it cannot be written.
        """
        return write_json(folder / FILE, {"schema": SCHEMA} | asdict(self))

    @classmethod
    def read(cls, folder: Path) -> FirstSteps:
        """Return what :meth:`write` wrote.

        Raises:
            FileNotFoundError: there is none: no step was made, or a version of sbp before it was kept.
            ValueError: it is damaged, or of another version.
        """
        file = folder / FILE
        if not file.is_file():
            raise FileNotFoundError(f"there is no {file}: no step of the run was made, or an earlier sbp made it")
        content = read_json(file, SCHEMA, "the first steps of a run")
        del content["schema"]
        with sound(file):
            steps = tuple(Step(**each) for each in content.pop("steps"))
            return cls(**content | {"devices": tuple(content["devices"]), "steps": steps})
