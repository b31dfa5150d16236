"""Faults of the composition of main and branch logits, at the core's ``compose_loss`` as the adapter sees it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from sbp_conformance.mutants.base import Change, Operations, mutants
from sbp_core.composition import ShortcutOutput
from sbp_core.specs.losses import LossSpec

Arguments = dict[str, Any]


def given(alter: Callable[[LossSpec, ShortcutOutput, Any, Arguments], Arguments]) -> Change:
    """Return the change of some arguments: ``alter(spec, output, coefficient, others)``."""

    def change(right: Callable[..., Any], operations: Operations) -> Callable[..., Any]:
        def compose_loss(spec: LossSpec, output: ShortcutOutput, coefficient: Any, **others: Any) -> Any:
            arguments = {"spec": spec, "output": output, "coefficient": coefficient} | others
            return right(**(arguments | alter(spec, output, coefficient, others)))

        return compose_loss

    return change


def _branches(alter: Callable[[tuple[Any, ...], Arguments], tuple[Any, ...]]) -> Change:
    return given(lambda s, out, c, a: {"output": out._replace(branches=alter(out.branches, a))})


def _main(alter: Callable[[Any, Any, Arguments], Any]) -> Change:
    return given(lambda s, out, c, a: {"output": out._replace(main=alter(out.main, c, a))})


def _entropy(alter: Callable[[Callable[[Any], Any], Any], Any]) -> Change:
    return given(lambda s, out, c, a: {"cross_entropy": lambda logits: alter(a["cross_entropy"], logits)})


def _spec(alter: Callable[[LossSpec], Arguments]) -> Change:
    return given(lambda s, out, c, a: {"spec": s.replace(**alter(s))})


def _arrays(name: str, alter: Callable[..., Any]) -> Change:
    """Return the change of one function of the array namespace; ``alter`` gets the right one before its arguments."""

    def altered(xp: Any) -> Any:
        right = getattr(xp, name)
        return SimpleNamespace(**(vars(xp) | {name: lambda *args, **given: alter(right, *args, **given)}))

    return given(lambda s, out, c, a: {"xp": altered(a["xp"])})


_EXCHANGED: dict[str, Any] = {"strong": "weak", "weak": "strong", "right": "right"}


def _swapped(spec: LossSpec) -> Arguments:
    return {"combine": "logits" if spec.combine == "losses" else "losses", "distillation": 0.0}


MUTANTS = (
    mutants(
        "loss",
        "compose",
        {
            "mean of the branches for their sum": given(
                lambda s, out, c, a: {"coefficient": c / max(len(out.branches), 1)}
            ),
            "coefficient ignored": given(lambda s, out, c, a: {"coefficient": c * 0.0 + 1.0}),
            "coefficient squared": given(lambda s, out, c, a: {"coefficient": c * c}),
            "coefficient negative": given(lambda s, out, c, a: {"coefficient": -c}),
            "coefficient a billionth off": given(lambda s, out, c, a: {"coefficient": c * (1 + 1e-9)}),
            "main weighted by 1 - coefficient": _main(lambda main, c, a: (1.0 - c) * main),
            "main outside the gradient": _main(lambda main, c, a: a["detach"](main) + 0.0 * main),
            "branches outside the gradient": _branches(
                lambda branches, a: tuple(a["detach"](b) + 0.0 * b for b in branches)
            ),
            "last branch left out": _branches(lambda branches, a: (*branches[:-1], *(0.0 * b for b in branches[-1:]))),
            "first branch counted twice": _branches(lambda branches, a: branches[:1] + branches),
            "first branch in the place of all": _branches(
                lambda branches, a: tuple(branches[0] + 0.0 * b for b in branches)
            ),
            "compositions swapped": _spec(_swapped),
            "sum over the batch": _entropy(lambda right, logits: right(logits) * float(logits.shape[-2])),
            "mean over the classes too": _entropy(lambda right, logits: right(logits) / float(logits.shape[-1])),
            "logits scaled by a millionth": _entropy(lambda right, logits: right(logits * 1.000001)),
            "loss a billionth off": _entropy(lambda right, logits: right(logits) * (1 + 1e-9)),
        },
        cases=("loss-*-2-branches-0.25",),
    )
    + mutants(
        "loss",
        "compose",
        {
            "pull of the logits ignored": _spec(lambda s: {"level_weight": 0.0}),
            "level of the pull ignored": _spec(lambda s: {"level": 0.0}),
        },
        cases=("loss-per-step-logits", "loss-per-step-losses"),
    )
    + mutants(
        "loss",
        "compose",
        {
            "distillation ignored": _spec(lambda s: {"distillation": 0.0}),
            "temperature ignored": _spec(lambda s: {"temperature": 1.0}),
            "teacher always detached": _spec(lambda s: {"detach_teacher": True}),
            "teacher never detached": _spec(lambda s: {"detach_teacher": False}),
        },
        cases=("loss-distilled", "loss-distilled-attached"),
    )
    + mutants(
        "loss",
        "compose",
        {
            "main output the teacher, right or wrong": _spec(lambda s: {"teacher": "main"}),
            "next class the label to a teacher": given(lambda s, out, c, a: {"labels": a["labels"] + 1}),
            "first class said by every output": _arrays("argmax", lambda right, x, axis: right(x * 0.0, axis=axis)),
            "least likely class said": _arrays("argmax", lambda right, x, axis: right(-x, axis=axis)),
            "steps learn nothing from each other": _spec(lambda s: {"step_distillation": 0.0}),
            "steps learn half": _spec(lambda s: {"step_distillation": s.step_distillation / 2}),
            "strong and weak steps exchanged": _spec(lambda s: {"step_teacher": _EXCHANGED[s.step_teacher]}),
            "steps that are right taken for the strong": _spec(
                lambda s: {"step_teacher": "strong" if s.step_teacher == "right" else s.step_teacher}
            ),
        },
        cases=("loss-reliable*", "loss-*-to-*"),
    )
)
