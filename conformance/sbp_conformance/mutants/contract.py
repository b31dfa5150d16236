"""Faults of what an adapter hands over: types, shapes, dtypes, cotangents, parts mixed up. They fit every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbp_conformance.mutants.base import Change, Mutant, Operations, mutants
from sbp_conformance.mutants.step import each
from sbp_core.backend import LossResult, NeuronResult, SpikeResult
from sbp_core.specs.neurons import LIFState

Member = Callable[..., Any]
Arguments = dict[str, Any]


def after(alter: Callable[[Any, dict[str, Any]], Any], names: tuple[str, ...]) -> Change:
    """Return the change of a member's result; ``alter`` gets it with the arguments, by name."""

    def change(right: Member, operations: Operations) -> Member:
        def member(*arguments: Any, **given: Any) -> Any:
            given |= dict(zip(names, arguments, strict=False))
            return alter(right(**given), given)

        return member

    return change


def before(alter: Callable[[dict[str, Any]], dict[str, Any]], names: tuple[str, ...]) -> Change:
    """Return the change of some of a member's arguments."""

    def change(right: Member, operations: Operations) -> Member:
        def member(*arguments: Any, **given: Any) -> Any:
            given |= dict(zip(names, arguments, strict=False))
            return right(**(given | alter(given)))

        return member

    return change


_SPIKE = ("x", "surrogate", "cotangent")
_NEURON = ("spec", "x", "state", "output_cotangent", "state_cotangent")
_LOSS = ("main", "branches", "labels", "coefficient")


def spike(alter: Callable[[SpikeResult], Any]) -> Change:
    """Return the change of a spike's result."""
    return after(lambda result, given: alter(result), _SPIKE)


def neuron(alter: Callable[[NeuronResult, dict[str, Any]], Any]) -> Change:
    """Return the change of a neuron's result."""
    return after(alter, _NEURON)


def loss(alter: Callable[[LossResult, dict[str, Any]], Any]) -> Change:
    """Return the change of a loss's result."""
    return after(alter, _LOSS)


def _put(result: Any, **fields: Any) -> Any:
    """Return a result with fields that its type does not allow."""
    return result._replace(**fields)


def _with(array: NDArray[Any], index: Any, value: float) -> NDArray[Any]:
    changed = np.array(array)
    changed[index] = value
    return changed


def _flipped(output: NDArray[Any]) -> NDArray[Any]:
    return _with(output, np.unravel_index(np.argmax(output), output.shape), 0.0)


def _single(array: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(array, np.float32).astype(array.dtype)


def _swapped(state: LIFState) -> LIFState:
    return state if state.current is None else state._replace(potential=state.current, current=state.potential)


def _doubled_last(gradients: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*gradients[:-1], *(2.0 * gradient for gradient in gradients[-1:]))


MUTANTS: tuple[Mutant, ...] = (
    *mutants(
        "surrogate",
        "spike",
        {
            "cotangent ignored": before(lambda given: {"cotangent": np.ones_like(given["x"])}, _SPIKE),
            "spikes as integers": spike(lambda r: r._replace(spikes=r.spikes.astype(np.int64))),
            "spikes as booleans": spike(lambda r: r._replace(spikes=r.spikes > 0)),
            "gradient with an axis too many": spike(lambda r: r._replace(grad_input=r.grad_input[None])),
            "gradient missing": spike(lambda r: _put(r, grad_input=None)),
            "spikes a list": spike(lambda r: r._replace(spikes=r.spikes.tolist())),
            "spikes a plain tuple": spike(tuple),
        },
    ),
    *mutants(
        "neuron",
        "neuron",
        {
            "one spike missing": neuron(lambda r, given: r._replace(output=_flipped(r.output))),
            "output with the batch first": neuron(lambda r, given: r._replace(output=np.swapaxes(r.output, 0, 1))),
            "output in half precision": neuron(lambda r, given: r._replace(output=r.output.astype(np.float16))),
            "dtype of the output misreported": neuron(lambda r, given: r._replace(dtype="float16")),
            "no result": neuron(lambda r, given: None),
            "final state a plain tuple": neuron(lambda r, given: _put(r, state=tuple(r.state))),
            "final current missing": neuron(lambda r, given: r._replace(state=r.state._replace(current=None))),
            "final potential a billionth off": neuron(
                lambda r, given: r._replace(state=r.state._replace(potential=r.state.potential * (1 + 1e-9)))
            ),
            "final state in single precision": neuron(lambda r, given: r._replace(state=each(_single, r.state))),
            "gradient in single precision": neuron(lambda r, given: r._replace(grad_input=_single(r.grad_input))),
            "gradient of another sample": neuron(lambda r, given: r._replace(grad_input=r.grad_input[:, ::-1])),
            "NaN in the gradient": neuron(lambda r, given: r._replace(grad_input=_with(r.grad_input, (0, 0), np.nan))),
            "infinity in the gradient": neuron(
                lambda r, given: r._replace(grad_input=_with(r.grad_input, (0, 0), np.inf))
            ),
            "no gradient of the initial state": neuron(lambda r, given: r._replace(grad_state=LIFState(None))),
            "a gradient of a fresh state": neuron(
                lambda r, given: (
                    r if given["state"] else r._replace(grad_state=LIFState(np.zeros(given["x"].shape[1:])))
                )
            ),
            "gradients of the state swapped": neuron(lambda r, given: r._replace(grad_state=_swapped(r.grad_state))),
            "gradient of the decay missing": neuron(lambda r, given: r._replace(grad_decay_logit=None)),
            "gradient of the decay, not of its logit": neuron(
                lambda r, given: r._replace(grad_decay_logit=r.grad_decay_logit and r.grad_decay_logit / 0.24)
            ),
            "state's cotangent ignored": before(
                lambda given: {"state_cotangent": each(np.zeros_like, given["state_cotangent"])}, _NEURON
            ),
            "output's cotangent ignored": before(
                lambda given: {"output_cotangent": np.zeros_like(given["output_cotangent"])}, _NEURON
            ),
        },
        cases=("neuron-compiled-*",),
    ),
    *mutants(
        "loss",
        "loss",
        {
            "labels off by one": before(
                lambda given: {"labels": (given["labels"] + 1) % given["main"].shape[-1]}, _LOSS
            ),
            "gradients of the branches swapped": loss(lambda r, given: r._replace(grad_branches=r.grad_branches[::-1])),
            "last branch's gradient doubled": loss(
                lambda r, given: r._replace(grad_branches=_doubled_last(r.grad_branches))
            ),
            "coefficient missing in the branches' gradients": loss(
                lambda r, given: r._replace(
                    grad_branches=tuple(g / (given["coefficient"] or 1.0) for g in r.grad_branches)
                )
            ),
            "loss an array": loss(lambda r, given: _put(r, value=np.array([r.value]))),
            "loss missing": loss(lambda r, given: _put(r, value=None)),
            "gradients of the branches a list": loss(lambda r, given: _put(r, grad_branches=list(r.grad_branches))),
        },
        cases=("loss-*-2-branches-0.25",),
    ),
    *mutants(
        "schedule",
        "schedule",
        {
            "coefficient an array": after(lambda result, given: np.array([result]), ("schedule", "step")),
            "coefficient a text": after(lambda result, given: str(result), ("schedule", "step")),
        },
        dtypes=("float32",),
    ),
)
