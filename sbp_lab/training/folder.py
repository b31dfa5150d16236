"""A run's folder: what is in it, and whether a training may begin or go on there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from sbp_core import NetworkSpec, weights
from sbp_lab.files import write_bytes, write_json
from sbp_lab.recipe import Recipe
from sbp_lab.record import RESULTS, Run
from sbp_lab.training import checkpoint

RECIPE, BEST, LAST, SESSIONS = "recipe.toml", "best.safetensors", "last.safetensors", "sessions.json"

#: What may be another when a run goes on: the same training by other means.
FREE = ("backend", "compile")


def prepare(folder: Path) -> None:
    """Make the folder, and see that it can be written.

    Raises:
        OSError: it cannot; the message says so.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / SESSIONS, (folder / SESSIONS).read_bytes() if (folder / SESSIONS).exists() else b"[]\n")
    except OSError as error:
        reason = error.strerror or str(error)
        raise type(error)(error.errno, f"a run cannot be written into this folder: {reason}", str(folder)) from None


def held(folder: Path) -> str | None:
    """Return the name of a file of an earlier run in the folder."""
    names = (checkpoint.CURRENT, checkpoint.PREVIOUS, RESULTS, RECIPE)
    return next((name for name in names if (folder / name).exists()), None)


def check_recipe(recipe: Recipe, then: Mapping[str, Any], file: Path) -> None:
    """Raise unless a run of the recipe ``then`` may go on under ``recipe``.

    A field that is newer than ``then`` was at its default.

    Raises:
        ValueError: it may not; the message names what differs.
    """
    if then.get("kind") != recipe.kind:
        raise ValueError(f"{file} is of a {then.get('kind')!r}, not of a recipe")
    try:
        before = Recipe.from_dict(then).to_dict()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} is of a recipe that this version of sbp does not read: {error}") from error
    now = recipe.to_dict()
    names = [field.name for field in fields(Recipe) if field.name not in FREE]
    changed = [name for name in names if before[name] != now[name]]
    if changed:
        shown = ", ".join(f"{name} was {before[name]!r} and is {now[name]!r}" for name in changed[:3])
        raise ValueError(
            f"{file} is of another recipe: {shown}. Resume with the recipe of then ({file.parent / RECIPE}), or begin "
            "anew in another folder"
        )


def check_data(now: Mapping[str, Any], then: Mapping[str, Any], file: Path) -> None:
    """Raise unless the data are those that a run began with.

    Raises:
        ValueError: they are others.
    """
    if dict(now) != dict(then):
        raise ValueError(
            f"{file} was trained on other data: then {dict(then)}, now {dict(now)}. Put the files of then in place, or "
            "begin anew in another folder"
        )


def finished(folder: Path, recipe: Recipe) -> Run | None:
    """Return the run that is complete in the folder.

    Raises:
        ValueError: its results are damaged, or of another recipe.
    """
    if not (folder / RESULTS).exists():
        return None
    run = Run.read(folder)
    check_recipe(recipe, run.recipe.to_dict(), folder / RESULTS)
    return run if run.complete else None


def write_weights(file: Path, arrays: Mapping[str, Any], spec: NetworkSpec | None, notes: Mapping[str, str]) -> None:
    """Write a network's weights as ``sbp_torch.load``, ``sbp_keras.load`` and ``sbp_jax.load`` read them.

    Raises:
        OSError: the file could not be written; what was there is as it was.
    """
    weights.save(file, arrays, spec=spec, notes=notes)


def write_sessions(folder: Path, sessions: list[dict[str, Any]]) -> None:
    """Write who trained when, with what.

    Raises:
        OSError: the file could not be written.
    """
    write_json(folder / SESSIONS, sessions)
