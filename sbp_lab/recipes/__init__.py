"""Recipes that are shipped, a TOML file each; the first line of a file says what it is."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from sbp_lab.names import known
from sbp_lab.recipe import Recipe


def names() -> list[str]:
    """Return the names of the shipped recipes.

    Example:
        >>> "digits" in names()
        True
    """
    return sorted(file.name.removesuffix(".toml") for file in files(__name__).iterdir() if file.name.endswith(".toml"))


def about(name: str) -> str:
    """Return the line that says what a shipped recipe is."""
    return _text(name).partition("\n")[0].removeprefix("#").strip()


def load(name: str) -> Recipe:
    """Return a shipped recipe by its name, or the one in a file: what ends in ``.toml`` or has a ``/`` is a path.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there is no such name; or the file is no recipe, and the message says where.

    Example:
        >>> load("digits").net
        'resnet34'
    """
    if name.endswith(".toml") or "/" in name:
        return read(Path(name))
    return Recipe.from_toml(_text(name))


def read(path: Path) -> Recipe:
    """Return the recipe in a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no recipe; the message names the file, and the line or the field.
    """
    try:
        return Recipe.from_toml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


def _text(name: str) -> str:
    return (files(__name__) / f"{known('recipe', name, names())}.toml").read_text(encoding="utf-8")
