"""Faults that live between calls, and arguments that are written to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbp_conformance.mutants.base import Change, Mutant, Operations
from sbp_conformance.mutants.contract import Arguments
from sbp_conformance.mutants.kinds.family import LOSS, NEURON, family

Array = NDArray[Any]


def _kept(key: Callable[[Arguments], Any], parts: tuple[str, ...], names: tuple[str, ...]) -> Change:
    """Return the change to arguments that are kept from the first call with the same key."""

    def change(right: Callable[..., Any], operations: Operations) -> Callable[..., Any]:
        seen: dict[Any, Arguments] = {}

        def member(*arguments: Any, **given: Any) -> Any:
            given |= dict(zip(names, arguments, strict=False))
            first = seen.setdefault(key(given), {part: given[part] for part in parts})
            return right(**(given | first))

        return member

    return change


def _without(*fields: str) -> Callable[[Arguments], Any]:
    def key(a: Arguments) -> Any:
        spec = a["spec"].to_dict()
        return repr({name: value for name, value in spec.items() if name not in fields}), a["x"].shape

    return key


def _calls() -> dict[str, Change]:
    found = {
        f"{name} kept from another call": _kept(_without(name), ("spec",), NEURON)
        for name in ("decay", "synaptic_decay", "input_gain", "threshold", "rest", "reset_value", "surrogate")
    }
    return found | {
        "logit kept from another call": _kept(
            lambda a: (_without()(a), a["decay_logit"] is None), ("decay_logit",), NEURON
        ),
        "input kept from another call": _kept(_without(), ("x",), NEURON),
    }


def _calls_of_losses() -> dict[str, Change]:
    def key(a: Arguments) -> Any:
        return a["spec"], a["main"].shape, len(a["branches"])

    return {
        "coefficient kept from another call": _kept(
            lambda a: (a["main"].shape, len(a["branches"])), ("coefficient",), LOSS
        ),
        "labels kept from another call": _kept(key, ("labels",), LOSS),
        "loss kept from another call": _kept(lambda a: a["main"].shape, ("spec",), LOSS),
    }


def _written() -> dict[str, Change]:
    def into(write: Callable[[Arguments], None]) -> Change:
        def change(right: Callable[..., Any], operations: Operations) -> Callable[..., Any]:
            def member(*arguments: Any, **given: Any) -> Any:
                given |= dict(zip(NEURON, arguments, strict=False))
                result = right(**given)
                write(given)
                return result

            return member

        return change

    def put(array: Array | None) -> None:
        if array is not None and array.size and array.flags.writeable:
            array.flat[-1] += 1.0

    def reused(right: Callable[..., Any], operations: Operations) -> Callable[..., Any]:
        buffers: dict[tuple[int, ...], Array] = {}

        def member(*arguments: Any, **given: Any) -> Any:
            result = right(*arguments, **given)
            buffer = buffers.setdefault(result.grad_input.shape, np.empty_like(result.grad_input))
            buffer[...] = result.grad_input
            return result._replace(grad_input=buffer)

        return member

    return {
        "input written to": into(lambda a: put(a["x"])),
        "state written to": into(lambda a: put(a["state"] and a["state"].potential)),
        "cotangent written to": into(lambda a: put(a["output_cotangent"])),
        "cotangent of the state written to": into(lambda a: put(a["state_cotangent"].potential)),
        "result written to by the next call": reused,
    }


MUTANTS: tuple[Mutant, ...] = (
    *family("between calls", "calls", "neuron", _calls()),
    *family("between calls", "calls", "loss", _calls_of_losses()),
    *family("written to", "calls", "neuron", _written()),
)
