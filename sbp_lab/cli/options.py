"""The options of a command that takes a recipe: one for each field of the dataclass, found in it."""

from __future__ import annotations

import inspect
import tomllib
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Concatenate, Literal, ParamSpec, Union, get_args, get_origin, get_type_hints

from cyclopts import Group, Parameter

from sbp_core import Schedule, Surrogate, as_surrogate
from sbp_core.specs.surrogates import FAMILIES, of_half_width
from sbp_lab import networks, recipes
from sbp_lab.cli.descriptions import described
from sbp_lab.cli.usage import UsageError, blamed_on, spelt
from sbp_lab.events import Frames
from sbp_lab.methods import METHODS, method_of
from sbp_lab.recipe import SPECS, Recipe

P = ParamSpec("P")

#: Beside the name that a field gives its option: what is typed often.
SHORT = {
    "time_steps": "-T",
    "neuron.surrogate": "--surrogate",
    "loss.combine": "--combine",
    "optimizer.weight_decay": "--weight-decay",
}
#: Fields that bear on training alone.
TRAINING = ("optimizer", "learning_rate", "warm_up", "decay", "milestones", "epochs", "clip_norm", "accumulate", "ema")

_HELP = {
    "net": f"A network, {', '.join(networks.NETWORKS)}; or one of your own, module:function.",
    "method": "; ".join(f"{method.name}: {method.summary}" for method in METHODS.values())
    + ". Several at once: losses+sew.",
    "neuron.surrogate": "NAME[:HALF_WIDTH], surrogate gradient. HALF_WIDTH, one measure for all: how far from the "
    f"threshold it falls to half its height. {', '.join(FAMILIES)}.",
}
_LISTS = "with commas between"
_PLAIN = (int, float, bool, str)


def with_recipe(
    *, without: Collection[str] = ()
) -> Callable[[Callable[Concatenate[Recipe, P], None]], Callable[..., None]]:
    """Return a decorator: the command's first argument becomes RECIPE and an option for each of its fields.

    What a person does not give is as in the recipe: of the name, of the file, of the folder that ``--resume`` names, or
    of ``digits``.

    Args:
        without: fields that the command has no option for.
    """

    def decorate(function: Callable[Concatenate[Recipe, P], None]) -> Callable[..., None]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        made = {name: each for name, each in _parameters().items() if name.partition(".")[0] not in without}
        names = {_identifier(name): name for name in made}

        @wraps(function)
        def command(recipe: str | None = None, /, *arguments: P.args, **given: P.kwargs) -> None:
            changes = {names[key]: given.pop(key) for key in list(given) if key in names}
            function(read(recipe, changes, given.get("resume")), *arguments, **given)

        text = "A recipe of `sbp recipes`, a TOML file, or a network, on digits unless --data says."
        first = inspect.Parameter(
            "recipe", inspect.Parameter.POSITIONAL_ONLY, default=None, annotation=_annotated(str | None, help=text)
        )
        parameters = [first, *made.values(), *own]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        return command

    return decorate


def read(recipe: str | None, changes: Mapping[str, Any], resume: object = None) -> Recipe:
    """Return a recipe with ``changes`` made.

    Args:
        recipe: a name, or a file, or a network, which is put into "digits"; the folder's, or "digits", unless given.
        changes: field, or field.field, to a value or its text.
        resume: the folder of a run that goes on.

    Raises:
        UsageError: there is no such recipe, or a change does not fit.

    Example:
        >>> read("digits", {"optimizer": "sgd", "optimizer.momentum": 0.5, "taps": "layer1,layer2"}).optimizer.momentum
        0.5
    """
    if recipe is not None and resume is not None:
        raise UsageError("RECIPE must be left out with --resume: the folder has its own")
    if recipe in networks.NETWORKS and recipe not in recipes.names():
        recipe, changes = None, {"net": recipe} | dict(changes)
    with blamed_on("--resume" if resume is not None else "RECIPE"):
        base = recipes.load(recipe or "digits") if resume is None else _of_run(Path(str(resume)))
    values = parsed(changes)
    with blamed_on(among=changes):
        return changed(base, values)


def _of_run(folder: Path) -> Recipe:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    return recipes.read(folder / "recipe.toml")


def parsed(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of options' texts.

    Raises:
        UsageError: a text that cannot be read.

    Example:
        >>> parsed({"taps": "layer1,layer2", "size": "32,32", "width": "none"})
        {'taps': ['layer1', 'layer2'], 'size': [32, 32], 'width': None}
    """
    found = {}
    for name, value in changes.items():
        with blamed_on(spelt(name)):
            found[name] = _parsed(name.rpartition(".")[2], value)
    return found


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Return a recipe with ``changes`` made, as in :func:`read`.

    Raises:
        ValueError: an unknown field, or one out of range.
        TypeError: a field of the wrong type.
    """
    values = recipe.to_dict()
    for name, value in changes.items():
        if "." not in name:
            values[name] = value
    if "method" in changes and "coefficient" not in changes and not method_of(values["method"]).branches:
        values["coefficient"] = None
    for name, value in changes.items():
        field, _, part = name.partition(".")
        if part:
            held = values[field]
            if isinstance(held, str) or held is None:
                held = _default(field, held, recipe, values)
            values[field] = held | {part: value}
    _agree(values, changes)
    return Recipe.from_dict(values)


def _agree(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Let fields follow that the changes left alone: time_steps and frames.steps each other, and width the network."""
    if "width" not in changes and ":" in str(values["net"]):
        values["width"] = None  # the recipe's is that of its own network
    frames = values["frames"]
    if frames == Frames.kind:
        frames = values["frames"] = Frames().to_dict()
    if not isinstance(frames, Mapping):
        return
    if "time_steps" in changes and "frames.steps" not in changes:
        values["frames"] = dict(frames) | {"steps": values["time_steps"]}
    elif "time_steps" not in changes:
        values["time_steps"] = frames.get("steps", values["time_steps"])


def _default(field: str, held: str | None, recipe: Recipe, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of what a spec is before one of them is changed."""
    if held is not None:
        return {"kind": held}
    if field == "neuron":
        return networks.neuron_of(values["net"]).to_dict()
    if field == "coefficient":
        schedule: Schedule | None = method_of(values["method"]).states.get("coefficient")
        if schedule is None:
            raise ValueError(f"coefficient must be left out with method={values['method']!r}, which has no branches")
        return schedule.to_dict()
    return Frames(steps=values["time_steps"]).to_dict()


def _parsed(name: str, value: Any) -> Any:
    """Return the value of an option's text: a TOML list or table, names with commas between, or as it is."""
    if not isinstance(value, str):
        return value
    if value.lower() == "none" and name not in _NAMED_NONE:
        return None
    if name == "surrogate":
        return _surrogate(value).to_dict()
    if value[:1] in ("[", "{"):
        try:
            return tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{name} must be written as in TOML, got {value!r}: {error}") from None
    if name in _TUPLES:
        return [_number(part) for part in value.split(",")] if value else []
    return value


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _surrogate(text: str) -> Surrogate:
    name, colon, half_width = text.partition(":")
    family = as_surrogate(name)
    if not colon:
        return family
    try:
        number = float(half_width)
    except ValueError:
        raise ValueError(f"surrogate must be NAME or NAME:HALF_WIDTH, a number; got {text!r}") from None
    return of_half_width(name, number)


def _identifier(name: str) -> str:
    return name.replace(".", "__")


def _annotated(hint: Any, **of: Any) -> Any:
    return Annotated[hint, Parameter(**of)]


def _parameters() -> dict[str, inspect.Parameter]:
    """Return a parameter for every field of a recipe, and of every spec in it, in order."""
    hints, texts = get_type_hints(Recipe), described(Recipe)
    found = {field.name: _parameter(field.name, hints[field.name], texts[field.name]) for field in fields(Recipe)}
    for name, family in SPECS.items():
        group = Group(spelt(name), help=texts[name], sort_key=1)
        for kind, cls in family.families().items():
            shown, inner = described(cls), get_type_hints(cls)
            for field in fields(cls):
                path = f"{name}.{field.name}"
                if path not in found:
                    of = "" if len(family.families()) == 1 else f"({kind}) "
                    text = of + shown.get(field.name, "")
                    found[path] = _parameter(path, inner[field.name], text, group)
    return found


def _parameter(path: str, hint: Any, text: str, group: Group | None = None) -> inspect.Parameter:
    names = [spelt(path), *([SHORT[path]] if path in SHORT else [])]
    given: dict[str, Any] = {"name": names, "help": _HELP.get(path, text), "show_default": False, "negative_none": ""}
    if group is not None:
        given["group"] = group
    shown, listed = _shown(hint)
    if listed:
        given["help"] += f" ({_LISTS})"
    return inspect.Parameter(
        _identifier(path), inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotated(shown | None, **given)
    )


def _shown(hint: Any) -> tuple[Any, bool]:
    """Return the type that an option is read as, and whether it takes several: what is not plain is read as text."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)] if _is_union(hint) else [hint]
    if len(kinds) == 1:
        kind = kinds[0]
        if kind in _PLAIN or get_origin(kind) is Literal:
            return kind, False
        return str, get_origin(kind) is tuple
    return str, False


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


_TUPLES = {field.name for field in fields(Recipe) if _shown(get_type_hints(Recipe)[field.name])[1]} | {"size"}
_NAMED_NONE = ("reset",)
