"""Faults of what is a view, lies near the ends of a dtype's range, or is not finite; and of surrogates' numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbp_conformance.mutants.base import Change, Mutant
from sbp_conformance.mutants.contract import Arguments, before, neuron
from sbp_conformance.mutants.kinds.family import LOSS, NEURON, SPIKE, family
from sbp_conformance.precision import FULL
from sbp_core.specs.neurons import LIFState

Array = NDArray[Any]


def _as_it_lies(array: Array) -> Array:
    # the memory read in its own order
    return array if array.flags.c_contiguous else np.ravel(array, order="K").reshape(array.shape)


def _states() -> dict[str, Change]:
    def each(change: Callable[[Array], Array]) -> Change:
        return before(
            lambda a: {"state": a["state"] and LIFState(*(p if p is None else change(p) for p in a["state"]))}, NEURON
        )

    def single(array: Array) -> Array:
        return array.astype(np.float32).astype(array.dtype)

    return {
        "state read as it lies in memory": each(_as_it_lies),
        "state through float32": each(single),
        "input through float32": before(lambda a: {"x": single(a["x"])}, NEURON),
        "cotangent through float32": before(lambda a: {"output_cotangent": single(a["output_cotangent"])}, NEURON),
        "cotangent read as it lies in memory": before(
            lambda a: {"output_cotangent": _as_it_lies(a["output_cotangent"])}, NEURON
        ),
        "gradients clipped": neuron(lambda r, a: r._replace(grad_input=np.clip(r.grad_input, -1e6, 1e6))),
        "infinite gradients put at 0": neuron(
            lambda r, a: r._replace(grad_input=np.nan_to_num(r.grad_input, nan=0.0, posinf=0.0, neginf=0.0))
        ),
    }


def _in_memory(name: str) -> Change:
    return before(lambda a: {name: _as_it_lies(a[name])}, LOSS if name == "main" else SPIKE)


def _surrogate(a: Arguments, field: str, least: float, most: float) -> Arguments:
    value = getattr(a["surrogate"], field, None)
    return {} if value is None else {"surrogate": a["surrogate"].replace(**{field: min(max(value, least), most)})}


MUTANTS: tuple[Mutant, ...] = (
    *family("states and infinities", "edges", "neuron", _states(), cases=("edges-double-*", "edges-layout-*")),
    *family(
        "states and infinities", "edges", "loss", {"logits read as they lie in memory": _in_memory("main")}, dtypes=FULL
    ),
    *family(
        "states and infinities", "edges", "spike", {"input read as it lies in memory": _in_memory("x")}, dtypes=FULL
    ),
    *family(
        "surrogates",
        "surrogate",
        "spike",
        {
            "height at least 0.2": before(lambda a: _surrogate(a, "height", 0.2, 1e9), SPIKE),
            "height at most 3": before(lambda a: _surrogate(a, "height", 0.0, 3.0), SPIKE),
            "width at most 5": before(lambda a: _surrogate(a, "width", 0.0, 5.0), SPIKE),
        },
    ),
)
