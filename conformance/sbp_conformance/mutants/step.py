"""Faults of one step of the neuron, at the core's ``dynamics.step`` as the adapter sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sbp_conformance.mutants.base import Change, Mutant, Operations, mutants
from sbp_core.specs.neurons import LIFSpec, LIFState


def spec(alter: Callable[[LIFSpec], dict[str, Any]]) -> Change:
    """Return the change of some fields of the spec."""

    def change(right: Callable[..., Any], operations: Operations) -> Callable[..., Any]:
        def step(spec: LIFSpec, state: LIFState, x: Any, **given: Any) -> Any:
            return right(spec.replace(**alter(spec)), state, x, **given)

        return step

    return change


def given(alter: Callable[[LIFSpec, dict[str, Any], Operations], dict[str, Any]]) -> Change:
    """Return the change of some arguments: state, x, spike, detach, decay."""

    def change(right: Callable[..., Any], operations: Operations) -> Callable[..., Any]:
        def step(spec: LIFSpec, state: LIFState, x: Any, **arguments: Any) -> Any:
            arguments |= {"state": state, "x": x}
            return right(spec, **(arguments | alter(spec, arguments, operations)))

        return step

    return change


def result(alter: Callable[[LIFSpec, LIFState, Any, LIFState, Operations], tuple[Any, LIFState]]) -> Change:
    """Return the change of what it returns: ``alter(spec, old, output, new, operations)``."""

    def change(right: Callable[..., Any], operations: Operations) -> Callable[..., Any]:
        def step(spec: LIFSpec, state: LIFState, x: Any, **arguments: Any) -> Any:
            output, new = right(spec, state, x, **arguments)
            return alter(spec, state, output, new, operations)

        return step

    return change


def each(function: Callable[[Any], Any], state: LIFState) -> LIFState:
    """Return the state with a function applied to every part it has."""
    return LIFState(*(None if part is None else function(part) for part in state))


def _rounded(dtype: str) -> Change:
    def alter(_: LIFSpec, old: LIFState, output: Any, new: LIFState, operations: Operations) -> tuple[Any, LIFState]:
        native = str(output.dtype).rpartition(".")[2].removeprefix("<dtype: '").removesuffix("'>")
        potential = operations.cast(operations.cast(new.potential, dtype), native)
        return output, new._replace(potential=potential)

    return result(alter)


def _complement_of_the_first_decay(spec: LIFSpec) -> dict[str, Any]:
    return {"input_gain": 1.0 - spec.decay} if spec.input_gain == "complement" else {}


def _of_complementary(alter: Callable[[Any, Operations], Any]) -> Change:
    def wrong(s: LIFSpec, a: dict[str, Any], o: Operations) -> dict[str, Any]:
        if not s.complementary_state:
            return {}
        return {"state": a["state"]._replace(complementary=alter(a["state"].complementary, o))}

    return given(wrong)


def _of_sigmoid(alter: Callable[[Callable[[Any], Any], Any, Operations], Any]) -> Change:
    return given(lambda s, a, o: {"sigmoid": lambda x: alter(a["sigmoid"], x, o)})


MUTANTS: tuple[Mutant, ...] = (
    mutants(
        "neuron",
        "step",
        {
            # values
            "reset a step late": spec(lambda s: {"reset_timing": "next"}),
            "reset a step early": spec(lambda s: {"reset_timing": "now"}),
            "no reset": spec(lambda s: {"reset": "none"}),
            "soft reset for hard": spec(lambda s: {"reset": "soft"} if s.reset == "hard" else {}),
            "hard reset for soft": spec(lambda s: {"reset": "hard"} if s.reset == "soft" else {}),
            "reset value ignored": spec(lambda s: {"reset_value": 0.0}),
            "reset to rest": spec(lambda s: {"reset_value": s.rest}),
            "rest ignored": spec(lambda s: {"rest": 0.0}),
            "threshold ignored": spec(lambda s: {"threshold": 1.0}),
            "output not delayed": spec(lambda s: {"output_delay": 0}),
            "gain not complemented": spec(lambda s: {"input_gain": 1.0} if s.input_gain == "complement" else {}),
            "gain ignored": spec(lambda s: {"input_gain": 1.0} if s.input_gain != "complement" else {}),
            "gain complements the decay it began with": spec(_complement_of_the_first_decay),
            "decay 0.01% off": spec(lambda s: {"decay": s.decay * 0.9999}),
            "synapse 0.01% off": spec(lambda s: {"synaptic_decay": s.synaptic_decay and s.synaptic_decay * 0.9999}),
            "no synapse": spec(lambda s: {"synaptic_decay": None if s.synaptic_decay is None else 0.0}),
            "learnt decay ignored": given(lambda s, a, o: {"decay": None}),
            "decay in the wrong direction": given(
                lambda s, a, o: {} if a.get("decay") is None else {"decay": 1.0 - a["decay"]}
            ),
            "input a billionth too large": given(lambda s, a, o: {"x": a["x"] * (1 + 1e-9)}),
            "potential forgotten at each step": given(
                lambda s, a, o: {"state": a["state"]._replace(potential=a["state"].potential * 0.0 + s.rest)}
            ),
            "current stale": result(lambda s, old, output, new, o: (output, new._replace(current=old.current))),
            "stored spikes stale": result(lambda s, old, output, new, o: (output, new._replace(spikes=old.spikes))),
            "potential rounded to float32": _rounded("float32"),
            "potential rounded to float16": _rounded("float16"),
            # gradients
            "reset never detached": given(lambda s, a, o: {"detach": lambda value: value}),
            "reset always detached": spec(lambda s: {"detach_reset": True}),
            "no gradient through time": given(lambda s, a, o: {"state": each(o.detach, a["state"])}),
            "no gradient through the potential": given(
                lambda s, a, o: {"state": a["state"]._replace(potential=o.detach(a["state"].potential))}
            ),
            "no gradient through the synapse": given(
                lambda s, a, o: {
                    "state": a["state"]._replace(current=s.synaptic_decay and o.detach(a["state"].current))
                }
            ),
            "no gradient through stored spikes": given(
                lambda s, a, o: {
                    "state": a["state"]._replace(spikes=o.detach(a["state"].spikes) if s.stores_spikes else None)
                }
            ),
            "no gradient of the decay": given(
                lambda s, a, o: {} if a.get("decay") is None else {"decay": o.detach(a["decay"])}
            ),
            "output detached": result(lambda s, old, output, new, o: (o.detach(output), new)),
            "input detached": given(lambda s, a, o: {"x": o.detach(a["x"])}),
            "gradient of the input halved": given(lambda s, a, o: {"x": 0.5 * a["x"] + 0.5 * o.detach(a["x"])}),
        },
        # short and all of one shape: a framework that compiles each operation does so once
        cases=("neuron-compiled-*",),
    )
    + mutants(
        "neuron",
        "step",
        {
            "complementary state stale": result(
                lambda s, old, output, new, o: (output, new._replace(complementary=old.complementary))
            ),
            "complementary state forgotten at each step": _of_complementary(lambda part, o: part * 0.0),
            "complementary state fades 0.01% too fast": _of_complementary(lambda part, o: part * 0.9999),
            "complementary state fades the wrong way": _of_sigmoid(lambda sigmoid, x, o: sigmoid(-x)),
            "no gradient through the complementary state": _of_complementary(lambda part, o: o.detach(part)),
            "no gradient through the complementary state's sigmoids": _of_sigmoid(
                lambda sigmoid, x, o: o.detach(sigmoid(x))
            ),
        },
        cases=("neuron-clif-*",),
    )
    + mutants(
        "neuron",
        "step",
        {
            "width does not follow the potentials": spec(lambda s: {"width_follows": False}),
            "gradient through the spread that a width follows": given(
                lambda s, a, o: {"detach": lambda value: value} if s.width_follows else {}
            ),
        },
        cases=("neuron-follows-*",),
    )
)
