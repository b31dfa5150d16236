"""Training methods as data: what each states of a recipe's fields. They compose: ``losses+sew``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from sbp_core import Constant, Evolutionary, Following
from sbp_core.specs.base import Spec
from sbp_lab.names import known

#: Between the names of methods that are used together.
AND = "+"
#: What a method may state; the rest of a recipe is the same for every method that is compared.
STATED = ("coefficient", "taps", "branch", "loss", "neuron", "norm", "blocks", "start")


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to train.

    Attributes:
        name: what the command line calls it.
        summary: what a person reads in help and legends.
        source: whose it is.
        states: a recipe's field, ``norm``, or a field of one, ``loss.per_step``, to its value. One that states a
            coefficient has branches.
    """

    name: str
    summary: str
    source: str = ""
    states: Mapping[str, Any] = field(default_factory=dict)

    @property
    def branches(self) -> bool:
        """Whether it trains with branches."""
        return self.states.get("coefficient") is not None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        states = {name: value.to_dict() if isinstance(value, Spec) else value for name, value in self.states.items()}
        return {"name": self.name, "summary": self.summary, "source": self.source, "states": states}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return what :meth:`to_dict` described."""
        return cls(**(dict(values) | {"states": {name: _value(value) for name, value in values["states"].items()}}))


_TAKE_A_SHORTCUT = "Guo et al. 2024"

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(name="vanilla", summary="no branches"),
        Method(
            name="shortcut",
            summary="branches, logits summed, coefficient 1",
            source=f"{_TAKE_A_SHORTCUT}, Eq. 6-9",
            states={"coefficient": Constant(value=1.0)},
        ),
        Method(
            name="evolutionary",
            summary="branches, logits summed, coefficient 0.25 to 0",
            source=f"{_TAKE_A_SHORTCUT}, Eq. 10",
            states={"coefficient": Evolutionary(initial=0.25)},
        ),
        Method(
            name="losses",
            summary="branches, each with a loss of its own, coefficient 1 to 0",
            source=f"{_TAKE_A_SHORTCUT}, introduction; Lee et al. 2015, deep supervision",
            states={"coefficient": Evolutionary(initial=1.0), "loss.combine": "losses"},
        ),
        Method(
            name="following",
            summary="losses, the coefficient falls as the main gradient's agreement in the first blocks rises",
            source="here: docs/doctor.md",
            states={"coefficient": Following(initial=1.0), "loss.combine": "losses"},
        ),
        Method(
            name="distilled",
            summary="losses, a branch learns half from the labels and half from the main output",
            source="Zhang et al. 2019, Be Your Own Teacher",
            states={
                "coefficient": Evolutionary(initial=1.0),
                "loss.combine": "losses",
                "loss.distillation": 0.5,
            },
        ),
        Method(
            name="reliable",
            summary="losses, all learn 0.3 from the mean of those that are right, coefficient 1",
            source="Zhao et al. 2025, Enhanced Self-Distillation: its teacher",
            states={
                "coefficient": Constant(value=1.0),
                "loss.combine": "losses",
                "loss.distillation": 0.3,
                "loss.teacher": "right",
            },
        ),
        Method(
            name="tet",
            summary="a loss of every time step",
            source="Deng et al. 2022, temporal efficient training",
            states={"loss.per_step": True},
        ),
        Method(
            name="staged",
            summary="losses of main output and branches at every time step, coefficient 1 to 0",
            source="after Liu et al. 2025, DeepTAGE: its supervision",
            states={"coefficient": Evolutionary(initial=1.0), "loss.combine": "losses", "loss.per_step": True},
        ),
        Method(
            name="strong-to-weak",
            summary="the time step that is surest teaches the one that is least sure",
            source="Ding et al. 2025, the Strong and the Weak, Eq. 3-7",
            states={"loss.step_distillation": 1.0, "loss.temperature": 2.0},
        ),
        Method(
            name="weak-to-strong",
            summary="the time step that is least sure teaches the one that is surest",
            source="Ding et al. 2025, Eq. 8-10",
            states={"loss.step_distillation": 1.0, "loss.step_teacher": "weak", "loss.temperature": 2.0},
        ),
        Method(
            name="right-to-wrong",
            summary="a sample's time steps that are right teach those that are wrong",
            source="after Dong et al. 2023; Sun et al. 2026, SeAl",
            states={"loss.step_distillation": 1.0, "loss.step_teacher": "right", "loss.temperature": 2.0},
        ),
        Method(
            name="plif",
            summary="decay learnt, one a layer, input scaled by 1 - decay",
            source="Fang et al. 2021, parametric LIF",
            states={"neuron.learn_decay": True, "neuron.input_gain": "complement"},
        ),
        Method(
            name="clif",
            summary="neurons with a second state that remembers spikes and strengthens the reset, which is soft",
            source="Huang et al. 2024, complementary LIF",
            states={"neuron.complementary_state": True, "neuron.reset": "soft"},
        ),
        Method(
            name="imp",
            summary="the potential that neurons start from is learnt, one a layer",
            source="Shen et al. 2024, initial membrane potential",
            states={"neuron.learn_initial": True},
        ),
        Method(
            name="mp-init",
            summary="neurons start from a running mean of the potentials that those which fired ended with",
            source="after Kook et al. 2026, MP-Init",
            states={"neuron.initial_follows": True, "neuron.learn_initial": False},
        ),
        Method(
            name="mpd-agl",
            summary="the surrogate's width follows the spread of the potentials, layer by layer, step by step",
            source="after Jiang et al. 2025, MPD-AGL",
            states={"neuron.width_follows": True},
        ),
        Method(name="detached", summary="no gradient through the reset", states={"neuron.detach_reset": True}),
        Method(
            name="tdbn",
            summary="batch norm whose scale starts at the threshold",
            source="Zheng et al. 2021",
            states={"norm": "tdbn"},
        ),
        Method(
            name="tebn",
            summary="batch norm with a learnt factor for each step",
            source="Duan et al. 2022",
            states={"norm": "tebn"},
        ),
        Method(name="sew", summary="blocks that add spikes", source="Fang et al. 2021", states={"blocks": "sew"}),
        Method(name="ms", summary="blocks that add potentials", source="Hu et al. 2021", states={"blocks": "ms"}),
        Method(
            name="max",
            summary="ms, max pools in place of strides",
            source="Fang et al. 2025, Max-Former",
            states={"blocks": "max"},
        ),
        Method(
            name="identity",
            summary="a start at which blocks pass spikes and gradients on",
            source="after Zhang et al. 2019, Fixup; De & Smith 2020, SkipInit",
            states={"start": "identity"},
        ),
        Method(
            name="calibrated",
            summary="identity, and every layer scaled on the first batch",
            source="after Mishkin & Matas 2016, LSUV",
            states={"start": "calibrated"},
        ),
        Method(
            name="deep",
            summary="ms and calibrated: what the study favours",
            source="here: docs/results.md",
            states={"blocks": "ms", "start": "calibrated"},
        ),
    )
}

#: What is compared unless told otherwise: the paper's.
PAPERS = ("vanilla", "shortcut", "evolutionary")


def method_of(name: str, argument: str = "method") -> Method:
    """Return a method, or several at once.

    Args:
        name: of :data:`METHODS`, with ``+`` between several.
        argument: that a complaint names.

    Raises:
        ValueError: an unknown name, or two that state the same.

    Example:
        >>> method_of("losses+sew").states["blocks"]
        'sew'
        >>> method_of("losses+evolutionary")
        Traceback (most recent call last):
        ...
        ValueError: method must not state coefficient twice; 'losses' and 'evolutionary' both do
    """
    parts = [METHODS[known(argument, part, METHODS)] for part in name.split(AND)]
    if len(parts) == 1:
        return parts[0]
    states: dict[str, Any] = {}
    whose: dict[str, str] = {}
    for part in parts:
        for key, value in part.states.items():
            if key in states:
                raise ValueError(f"{argument} must not state {key} twice; {whose[key]!r} and {part.name!r} both do")
            states[key], whose[key] = value, part.name
    sources = "; ".join(part.source for part in parts if part.source)
    return Method(name=name, summary="; ".join(part.summary for part in parts), source=sources, states=states)


def read_method(path: Path) -> Method:
    """Return a method of one's own, a TOML file: fields of a recipe, and under ``method`` those that it builds on.

    Its name is the file's. ``summary`` and ``source`` say what and whose it is.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not TOML, or a field that a method does not state; the message names the file.

    Example:
        >>> path = Path(getfixture("tmp_path"), "mine.toml")
        >>> _ = path.write_text('''method = "sew"
        ... coefficient = {kind = "evolutionary", initial = 0.5}
        ... loss.combine = "losses"''')
        >>> sorted(read_method(path).states)
        ['blocks', 'coefficient', 'loss.combine']
    """
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
        texts = {name: given.pop(name, "") for name in ("summary", "source")}
        for name, text in texts.items():
            if not isinstance(text, str):
                raise ValueError(f"{name} must be text, got {text!r}")
        base = method_of(given.pop("method", "vanilla"))
        for name in given:
            known("a field of a method", name, STATED)
        return Method(
            name=path.stem,
            summary=texts["summary"] or base.summary,
            source=texts["source"],
            states={**base.states, **_flat(given)},
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


def _flat(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields and, of tables without a kind, fields of fields."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        if isinstance(value, Mapping) and "kind" not in value:
            found |= {f"{name}.{part}": _value(each) for part, each in value.items()}
        else:
            found[name] = _value(value)
    return found


def _value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Spec.from_dict(value)
    return tuple(value) if isinstance(value, list) else value
