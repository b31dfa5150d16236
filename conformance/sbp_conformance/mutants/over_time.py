"""Faults of the loop over time, at the adapter's ``lif(x, spec, state, decay=...)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sbp_conformance.mutants.base import Change, Operations, mutants
from sbp_conformance.mutants.step import each
from sbp_core.specs.neurons import LIFSpec, LIFState

Arguments = dict[str, Any]


def given(alter: Callable[[Arguments, Operations], Arguments]) -> Change:
    """Return the change of some arguments: x, spec, state, decay."""

    def change(right: Callable[..., Any], operations: Operations) -> Callable[..., Any]:
        def lif(x: Any, spec: LIFSpec, state: LIFState | None = None, *, decay: Any = None, **options: Any) -> Any:
            arguments = {"x": x, "spec": spec, "state": state, "decay": decay}
            return right(**(arguments | alter(arguments, operations)), **options)

        return lif

    return change


def result(alter: Callable[[Any, LIFState, Operations], tuple[Any, LIFState]]) -> Change:
    """Return the change of what it returns."""

    def change(right: Callable[..., Any], operations: Operations) -> Callable[..., Any]:
        def lif(*arguments: Any, **given: Any) -> Any:
            output, final = right(*arguments, **given)
            return alter(output, final, operations)

        return lif

    return change


def _without(x: Any, t: int, operations: Operations) -> Any:
    """Return ``x`` with one step outside the gradient."""
    steps = [x[i : i + 1] for i in range(x.shape[0])]
    steps[t] = operations.detach(steps[t])
    return operations.concatenate(steps)


def _scaled(x: Any, factor: float, operations: Operations) -> Any:
    """Return ``x`` with its gradient multiplied."""
    return factor * x - (factor - 1.0) * operations.detach(x)


def _stale(right: Callable[..., Any], operations: Operations) -> Callable[..., Any]:
    """Go on from where the last call of this kind ended."""
    last: dict[Any, LIFState] = {}

    def lif(x: Any, spec: LIFSpec, state: LIFState | None = None, *, decay: Any = None, **options: Any) -> Any:
        key = spec.state_parts, tuple(x.shape[1:]), str(x.dtype)
        output, final = right(x, spec, last.get(key) if state is None else state, decay=decay, **options)
        last[key] = each(operations.detach, final)
        return output, final

    return lif


def _one_step_short(right: Callable[..., Any], operations: Operations) -> Callable[..., Any]:
    def lif(x: Any, spec: LIFSpec, state: LIFState | None = None, *, decay: Any = None, **options: Any) -> Any:
        if x.shape[0] == 1:
            return right(x, spec, state, decay=decay, **options)
        output, final = right(x[:-1], spec, state, decay=decay, **options)
        return operations.concatenate([output, output[-1:]]), final

    return lif


def _late(output: Any, final: LIFState, operations: Operations) -> tuple[Any, LIFState]:
    return operations.concatenate([output[:1] * 0.0, output[:-1]]), final


def _halved(x: Any, operations: Operations) -> Any:
    """Return ``x`` with the batch's last sample outside the gradient."""
    kept = x[:, :-1]
    rest = operations.detach(x[:, -1:])
    # the batch is the second axis: joined step by step
    steps = [operations.concatenate([kept[t], rest[t]])[None] for t in range(x.shape[0])]
    return operations.concatenate(steps)


MUTANTS = mutants(
    "neuron",
    "lif",
    {
        "first step missing in the adjoint": given(lambda a, o: {"x": _without(a["x"], 0, o)}),
        "last step missing in the adjoint": given(lambda a, o: {"x": _without(a["x"], -1, o)}),
        "last sample missing in the adjoint": given(lambda a, o: {"x": _halved(a["x"], o)}),
        "gradient scaled by T": given(lambda a, o: {"x": _scaled(a["x"], float(a["x"].shape[0]), o)}),
        "gradient averaged over the batch": given(lambda a, o: {"x": _scaled(a["x"], 1.0 / a["x"].shape[1], o)}),
        "gradient a billionth off": given(lambda a, o: {"x": _scaled(a["x"], 1.0 + 1e-9, o)}),
        "time reversed": given(lambda a, o: {"x": o.reverse(a["x"])}),
        "output reversed in time": result(lambda output, final, o: (o.reverse(output), final)),
        "output a step late": result(_late),
        "a step too few": _one_step_short,
        "initial state ignored": given(lambda a, o: {"state": None}),
        "initial state outside the gradient": given(
            lambda a, o: {"state": None if a["state"] is None else each(o.detach, a["state"])}
        ),
        "final state outside the gradient": result(lambda output, final, o: (output, each(o.detach, final))),
        "final potential zeroed": result(
            lambda output, final, o: (output, final._replace(potential=final.potential * 0.0))
        ),
        "state left over from the last call": _stale,
        "learnt decay outside the gradient": given(
            lambda a, o: {"decay": None if a["decay"] is None else o.detach(a["decay"])}
        ),
        "learnt decay rounded to float32": given(
            lambda a, o: {"decay": None if a["decay"] is None else o.cast(o.cast(a["decay"], "float32"), "float64")}
        ),
        "input rounded to float32": given(lambda a, o: {"x": o.cast(o.cast(a["x"] / 3.0, "float32"), "float64") * 3.0}),
    },
    # short and all of one shape: a framework that compiles each operation does so once
    cases=("neuron-compiled-*",),
)
