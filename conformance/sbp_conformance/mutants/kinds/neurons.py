"""Faults of a neuron for some sizes and values: wide inputs, block tails, fields at their edges, read-outs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sbp_conformance.mutants.base import Change, Mutant
from sbp_conformance.mutants.contract import Arguments, before, neuron
from sbp_conformance.mutants.kinds.family import NEURON, family
from sbp_conformance.precision import FULL
from sbp_core import LIFSpec
from sbp_core.backend import NeuronResult
from sbp_core.specs.neurons import LIFState


def _wide() -> dict[str, Change]:
    """Faults of a path that is taken from some number of elements on."""
    specs: dict[str, Callable[[LIFSpec], Arguments]] = {
        "soft reset": lambda s: {"reset": "hard"} if s.reset == "soft" else {},
        "no reset": lambda s: {"reset": "soft"} if s.reset == "none" else {},
        "detached reset": lambda s: {"detach_reset": False},
        "late reset": lambda s: {"reset_timing": "now"} if not s.output_delay else {},
        "synapse": lambda s: {"synaptic_decay": s.synaptic_decay * 0.999} if s.synaptic_decay else {},
        "delay": lambda s: {"output_delay": 0} if s.reset_timing == "now" else {},
    }

    def of_spec(alter: Callable[[LIFSpec], Arguments], elements: int) -> Change:
        def wrong(a: Arguments) -> Arguments:
            taken = a["x"].size >= elements and _parts_stay(a, alter)
            return {"spec": a["spec"].replace(**alter(a["spec"]))} if taken else {}

        return before(wrong, NEURON)

    def of_logit(elements: int) -> Change:
        def wrong(r: NeuronResult, a: Arguments) -> NeuronResult:
            if r.grad_decay_logit is None or a["x"].size < elements:
                return r
            return r._replace(grad_decay_logit=r.grad_decay_logit * 1.0001)

        return neuron(wrong)

    def of_state(elements: int) -> Change:
        def wrong(r: NeuronResult, a: Arguments) -> NeuronResult:
            if a["state"] is None or a["x"].size < elements:
                return r
            return r._replace(grad_state=r.grad_state._replace(potential=r.grad_state.potential * 1.001))

        return neuron(wrong)

    sizes = (4096, 32768, 65536)
    found = {
        f"{name} from {sizes[index % 3]} elements": of_spec(alter, sizes[index % 3])
        for index, (name, alter) in enumerate(specs.items())
    }
    found |= {
        "threshold from 8192 elements": of_spec(lambda s: {"threshold": 1.0}, 8192),
        "gain from 8192 elements": of_spec(lambda s: {"input_gain": 1.0}, 8192),
        "complement of a learnt decay from 8192 elements": of_spec(
            lambda s: {"input_gain": 1.0} if s.learn_decay else {}, 8192
        ),
        "read-out from 8192 elements": neuron(
            lambda r, a: (
                r._replace(output=r.output * 1.001) if a["spec"].output == "potential" and a["x"].size >= 8192 else r
            )
        ),
    }
    found["complementary state from 4096 elements"] = neuron(
        lambda r, a: (
            r._replace(state=r.state._replace(complementary=r.state.complementary * 1.001))
            if a["spec"].complementary_state and a["x"].size >= 4096
            else r
        )
    )
    found |= {f"learnt decay from {elements} elements": of_logit(elements) for elements in sizes}
    return found | {f"state from {elements} elements": of_state(elements) for elements in sizes}


def _parts_stay(a: Arguments, alter: Callable[[LIFSpec], Arguments]) -> bool:
    spec = a["spec"]
    return bool(spec.replace(**alter(spec)).stores_spikes == spec.stores_spikes)


def _tails() -> dict[str, Change]:
    def after_blocks(block: int, part: str) -> Change:
        return neuron(lambda result, a: lost(result, a, block, part))

    def lost(result: NeuronResult, a: Arguments, block: int, part: str) -> NeuronResult:
        steps = a["x"].shape[0]
        size = a["x"].size // max(steps, 1)
        tail = size % block
        if size < block or not tail:
            return result
        if part == "gradient":
            gradient = np.array(result.grad_input).reshape(steps, -1)
            gradient[:, -tail:] = 0.0
            return result._replace(grad_input=gradient.reshape(a["x"].shape))
        potential = np.array(result.state.potential).reshape(-1)
        potential[-1] += 0.01
        state = result.state._replace(potential=potential.reshape(a["x"].shape[1:]))
        return result._replace(state=state)

    return {
        f"{part} after the last block of {block}": after_blocks(block, part)
        for block in (256, 384, 512, 1024)
        for part in ("gradient", "state")
    }


def _spec(alter: Callable[[LIFSpec], Arguments]) -> Change:
    return before(lambda a: {"spec": a["spec"].replace(**alter(a["spec"]))}, NEURON)


def _spec_where(condition: Callable[[Arguments], bool], alter: Callable[[LIFSpec], Arguments]) -> Change:
    return before(
        lambda a: {"spec": a["spec"].replace(**alter(a["spec"]))} if condition(a) and _parts_stay(a, alter) else {},
        NEURON,
    )


def _no_delay(spec: LIFSpec) -> Arguments:
    return {"output_delay": 0}


def _compares(inclusive: bool) -> Change:
    return _spec_where(lambda a: bool(a["x"].size >= 8192), lambda s: {"inclusive": inclusive})


def _values() -> dict[str, Change]:
    found = {
        "threshold below 0 taken for its size": _spec(lambda s: {"threshold": abs(s.threshold)}),
        "threshold 0 taken for unset": _spec(lambda s: {"threshold": s.threshold or 1.0}),
        "threshold at least 0": _spec(lambda s: {"threshold": max(s.threshold, 0.0)}),
        "gain 0 taken for unset": _spec(lambda s: {"input_gain": s.input_gain or 1.0}),
        "gain below 0 taken for its size": _spec(
            lambda s: {} if isinstance(s.input_gain, str) else {"input_gain": abs(s.input_gain)}
        ),
        "synaptic decay 1 taken for nearly 1": _spec(
            lambda s: {"synaptic_decay": 0.999} if s.synaptic_decay == 1.0 else {}
        ),
        "synaptic decay 0 taken for a little": _spec(
            lambda s: {"synaptic_decay": 0.01} if s.synaptic_decay == 0.0 else {}
        ),
        "reset at most the threshold": _spec(lambda s: {"reset_value": min(s.reset_value, s.threshold)}),
        "rest at most the threshold": _spec(lambda s: {"rest": min(s.rest, s.threshold)}),
        "initial potential taken for rest": _spec(lambda s: {"initial_potential": None}),
        "threshold at most 2": _spec(lambda s: {"threshold": min(s.threshold, 2.0)}),
        "decay above 0.95 taken for 1": _spec(
            lambda s: {"decay": 1.0} if s.decay > 0.95 and s.input_gain != "complement" and not s.learn_decay else {}
        ),
        "decay below 0.05 taken for 0": _spec(lambda s: {"decay": 0.0} if s.decay < 0.05 and not s.learn_decay else {}),
        "complement at decay 1 taken for unset": _spec(
            lambda s: {"input_gain": 1.0} if s.decay == 1.0 and s.input_gain == "complement" else {}
        ),
    }

    def within(far: float) -> Change:
        def wrong(a: Arguments) -> Arguments:
            logit = a["decay_logit"]
            return {} if logit is None else {"decay_logit": min(max(logit, -far), far)}

        return before(wrong, NEURON)

    return found | {f"logit of the decay within {far:g}": within(far) for far in (3.0, 5.0, 6.5)}


def _sizes() -> dict[str, Change]:
    def one(axis: int) -> Change:
        return neuron(lambda r, a: r._replace(grad_input=r.grad_input * 1.01) if a["x"].shape[axis] == 1 else r)

    def long(steps: int) -> Change:
        def wrong(r: NeuronResult, a: Arguments) -> NeuronResult:
            if len(a["x"]) <= steps:
                return r
            return r._replace(grad_input=np.concatenate([r.grad_input[:steps] * 1.001, r.grad_input[steps:]]))

        return neuron(wrong)

    return {
        "one sample": one(1),
        "one neuron": one(-1),
        "state of one sample": neuron(
            lambda r, a: (
                r._replace(grad_state=LIFState(*(p if p is None else p * 1.01 for p in r.grad_state)))
                if a["state"] is not None and a["x"].shape[1] == 1
                else r
            )
        ),
        "delay of a long run": _spec_where(lambda a: len(a["x"]) > 64 and a["state"] is None, _no_delay),
        "one step": one(0),
        "six axes": neuron(lambda r, a: r._replace(grad_input=r.grad_input[..., ::-1]) if a["x"].ndim == 6 else r),
        **{f"steps after {steps}": long(steps) for steps in (64, 100, 128, 200)},
    }


def _half() -> dict[str, Change]:
    def off(share: float) -> Change:
        return neuron(lambda r, a: r._replace(grad_input=r.grad_input * (1.0 + share)))

    return {f"gradient in half precision {share:.1%} off": off(share) for share in (0.03, 0.05, 0.08)}


def _readouts() -> dict[str, Change]:
    def field(name: str, value: Any) -> Change:
        def alter(spec: LIFSpec) -> Arguments:
            return {name: value} if spec.output == "potential" and getattr(spec, name) is not None else {}

        return _spec(alter)

    return {
        "synapse of a read-out": field("synaptic_decay", 0.5),
        "rest of a read-out": field("rest", 0.0),
        "gain of a read-out": field("input_gain", 1.0),
        "cotangent of a read-out's state": before(
            lambda a: (
                {"state_cotangent": LIFState(*(p if p is None else p * 0.0 for p in a["state_cotangent"]))}
                if a["spec"].output == "potential"
                else {}
            ),
            NEURON,
        ),
    }


MUTANTS: tuple[Mutant, ...] = (
    *family("wide inputs", "neuron", "neuron", _wide(), cases=("neuron-wide-*", "neuron-clif-wide*"), dtypes=FULL),
    *family("block tails", "neuron", "neuron", _tails(), cases=("neuron-wide-*",), dtypes=FULL),
    *family("values", "neuron", "neuron", _values(), cases=("neuron-range-*",), dtypes=FULL),
    *family("sizes", "neuron", "neuron", _sizes(), cases=("neuron-range-*", "neuron-long-*"), dtypes=FULL),
    *family("half precision", "neuron", "neuron", _half(), dtypes=("bfloat16", "float16"), cases=("neuron-tie-*",)),
    *family(
        "wide inputs",
        "edges",
        "neuron",
        {f"inclusive {inclusive} from 8192 elements": _compares(inclusive) for inclusive in (False, True)},
        cases=("edges-layout-*",),
    ),
    *family(
        "read-outs", "neuron", "neuron", _readouts(), cases=("neuron-readout*", "neuron-range-readout*"), dtypes=FULL
    ),
)
