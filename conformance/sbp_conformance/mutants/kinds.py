"""Faults by kind: each shows only for some sizes, values or histories of calls, as those of real backends do.

They are planted at the contract, in NumPy, and are the same in every backend: the reference stands for all. Each kind
is a family, a fault for each of several numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbp_conformance.mutants.base import Change, Mutant, Operations
from sbp_conformance.mutants.contract import Arguments, after, before, loss, neuron
from sbp_conformance.mutants.networks import given as of_network
from sbp_conformance.mutants.networks import result as from_network
from sbp_conformance.precision import FULL
from sbp_core import ArcTan, LIFSpec
from sbp_core.backend import NeuronResult
from sbp_core.specs.neurons import LIFState

Array = NDArray[Any]
_NEURON = ("spec", "x", "state", "output_cotangent", "state_cotangent")
_LOSS = ("main", "branches", "labels", "coefficient")
_SCHEDULE = ("schedule", "step")
_SPIKE = ("x", "surrogate", "cotangent")


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

        return before(wrong, _NEURON)

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
    return before(lambda a: {"spec": a["spec"].replace(**alter(a["spec"]))}, _NEURON)


def _spec_where(condition: Callable[[Arguments], bool], alter: Callable[[LIFSpec], Arguments]) -> Change:
    return before(
        lambda a: {"spec": a["spec"].replace(**alter(a["spec"]))} if condition(a) and _parts_stay(a, alter) else {},
        _NEURON,
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

        return before(wrong, _NEURON)

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


def _coefficients() -> dict[str, Change]:
    changes: dict[str, Callable[[float], float]] = {
        "coefficient within 0 and 1": lambda c: min(max(c, 0.0), 1.0),
        "coefficient at most 1": lambda c: min(c, 1.0),
        "coefficient at most 2": lambda c: min(c, 2.0),
        "coefficient at least 0": lambda c: max(c, 0.0),
        "coefficient's size": abs,
        "small coefficient taken for 0": lambda c: c if abs(c) > 2e-3 else 0.0,
        "coefficient in steps of 2^-8": lambda c: round(c * 256) / 256,
        "coefficient in float32": lambda c: float(np.float32(c)),
        "coefficient in float16": lambda c: float(np.float16(c)),
        "coefficient of two decimals": lambda c: round(c, 2),
    }

    def through(change: Callable[[float], float]) -> Change:
        return before(lambda a: {"coefficient": change(a["coefficient"])}, _LOSS)

    return {name: through(change) for name, change in changes.items()}


def _losses() -> dict[str, Change]:
    def where(condition: Callable[[Arguments], bool]) -> Change:
        return loss(lambda r, a: r._replace(grad_main=r.grad_main * 1.001 + 1e-3) if condition(a) else r)

    def many(most: int) -> Change:
        return where(lambda a: bool(a["main"].shape[-1] > most))

    return {
        "one sample in the loss": where(lambda a: a["main"].shape[-2] == 1),
        "one class": where(lambda a: a["main"].shape[-1] == 1),
        "two classes": where(lambda a: a["main"].shape[-1] == 2),
        **{f"more than {most} classes": many(most) for most in (32, 256, 1000, 1024)},
        "more than 512 samples": where(lambda a: a["main"].shape[-2] > 512),
        "more than 100 steps in the loss": where(lambda a: a["main"].ndim == 3 and len(a["main"]) > 100),
        "more than 4 branches": where(lambda a: len(a["branches"]) > 4),
        "label smoothing ignored": before(lambda a: {"spec": a["spec"].replace(label_smoothing=0.0)}, _LOSS),
    }


def _read(step: Callable[[Any, int], float]) -> Change:
    """Return the change of the step that a schedule is read at."""
    return before(lambda a: {"step": step(a["schedule"], a["step"])}, _SCHEDULE)


def _factor(schedule: Any) -> float:
    return getattr(schedule, "factor", 0.0)


def _schedules() -> dict[str, Change]:
    def through(dtype: type[np.floating[Any]]) -> Change:
        with np.errstate(over="ignore"):
            return _read(lambda s, k: int(dtype(k)) if abs(k) < 6e4 or dtype is not np.float16 else k)

    def epoch_end(s: Any, k: int) -> float:
        if s.per != "epoch":
            return k
        return float(np.ceil(np.float32(k) * np.float32(1.0 / s.steps_per_epoch))) * int(s.steps_per_epoch)

    def unclamped(right: Callable[..., Any], operations: Operations) -> Callable[..., Any]:
        def schedule(schedule: Any, step: int, **others: Any) -> Any:
            if step < 0:
                first, second = (right(schedule, at, **others) for at in (0, schedule.total_steps))
                return first + (second - first) * step / schedule.total_steps
            return right(schedule, step, **others)

        return schedule

    def floored(right: Callable[..., Any], operations: Operations) -> Callable[..., Any]:
        def schedule(schedule: Any, step: int, **others: Any) -> Any:
            if schedule.kind != "step" or schedule.per == "epoch":
                return right(schedule, step, **others)
            at = min(max(step, 0), schedule.total_steps)
            return schedule.initial * schedule.factor ** sum(at > m * schedule.total_steps for m in schedule.milestones)

        return schedule

    def kept(alter: Callable[[float], float]) -> Change:
        return after(lambda result, a: alter(result), _SCHEDULE)

    return {
        "steps in float16": through(np.float16),
        "steps in float32": through(np.float32),
        "epochs by a product in float32": _read(epoch_end),
        "steps before the first": unclamped,
        "negative steps taken for their size": _read(lambda s, k: abs(k)),
        "milestones as they round": floored,
        "one step in all": after(lambda r, a: r if a["schedule"].total_steps > 1 else r + 0.01, _SCHEDULE),
        "schedule within 0 and 1": kept(lambda c: min(max(c, 0.0), 1.0)),
        "schedule at most 1.5": kept(lambda c: min(c, 1.5)),
        "schedule at least 0": kept(lambda c: max(c, 0.0)),
        "schedule of 0 taken for unset": kept(lambda c: c or 1.0),
        "factor of 1 taken for unset": before(
            lambda a: {"schedule": a["schedule"].replace(factor=0.1)} if _factor(a["schedule"]) == 1.0 else {},
            _SCHEDULE,
        ),
        "small schedule taken for 0": kept(lambda c: c if abs(c) > 1e-4 else 0.0),
        "epochs no longer than the training": before(
            lambda a: {
                "schedule": a["schedule"].replace(
                    steps_per_epoch=min(a["schedule"].steps_per_epoch or 1, a["schedule"].total_steps // 3 or 1)
                )
            },
            _SCHEDULE,
        ),
    }


def _networks() -> dict[str, Change]:
    default, plain = LIFSpec(), {"batch_norm_epsilon": 1e-5, "batch_norm_momentum": 0.1}

    def neurons(name: str) -> Change:
        def alter(a: Arguments) -> Arguments:
            spec = a["network"].spec
            other = spec.neuron.replace(**{name: ArcTan() if name == "surrogate" else getattr(default, name)})
            return {"network": a["network"]._replace(spec=spec.replace(neuron=other))}

        return of_network(alter)

    def norm(name: str, value: float) -> Change:
        return of_network(lambda a: {"network": a["network"]._replace(spec=a["network"].spec.replace(**{name: value}))})

    def gradients(condition: Callable[[Arguments], bool], chosen: Callable[[str], bool]) -> Change:
        def alter(r: Any, a: Arguments) -> Any:
            wrong = {name: g * 0.99 if chosen(name) else g for name, g in r.gradients.items()}
            return r._replace(gradients=wrong) if condition(a) else r

        return from_network(alter)

    def teacher(a: Arguments) -> Arguments:
        return {"network": a["network"]._replace(loss=a["network"].loss.replace(detach_teacher=True))}

    # ties are the neuron level's; the decay may be learnt
    left_out = ("learn_decay", "output", "decay", "inclusive")
    names = [field.name for field in dataclasses.fields(LIFSpec) if field.name not in left_out]
    return {
        **{f"{name} of a network ignored": neurons(name) for name in names},
        **{f"{name} ignored": norm(name, value) for name, value in plain.items()},
        "images that are not square": gradients(
            lambda a: a["batch"].images.shape[2] != a["batch"].images.shape[3], lambda name: "conv" in name
        ),
        "images of odd size": gradients(
            lambda a: bool(a["batch"].images.shape[2] % 2), lambda name: "downsample" in name
        ),
        "third block of a stage": gradients(lambda a: True, lambda name: name.startswith("main.layer1.2.")),
        "third stage": gradients(lambda a: True, lambda name: name.startswith("main.layer3.")),
        "branches at coefficient 0": from_network(
            lambda r, a: (
                r._replace(gradients={n: g for n, g in r.gradients.items() if "branches." not in n})
                if a["coefficient"] == 0.0
                else r
            )
        ),
        "coefficient of a network within 0 and 1": of_network(
            lambda a: {"coefficient": min(max(a["coefficient"], 0.0), 1.0)}
        ),
        "coefficient of a network at most 1": of_network(lambda a: {"coefficient": min(a["coefficient"], 1.0)}),
        "attached teacher of a network": of_network(teacher),
        "label smoothing of a network": of_network(
            lambda a: {"network": a["network"]._replace(loss=a["network"].loss.replace(label_smoothing=0.0))}
        ),
        "batch of one": gradients(lambda a: len(a["batch"].images) == 1, lambda name: True),
    }


def _surrogate(a: Arguments, field: str, least: float, most: float) -> Arguments:
    value = getattr(a["surrogate"], field, None)
    return {} if value is None else {"surrogate": a["surrogate"].replace(**{field: min(max(value, least), most)})}


def _half() -> dict[str, Change]:
    def off(share: float) -> Change:
        return neuron(lambda r, a: r._replace(grad_input=r.grad_input * (1.0 + share)))

    return {f"gradient in half precision {share:.1%} off": off(share) for share in (0.03, 0.05, 0.08)}


def _as_it_lies(array: Array) -> Array:
    # the memory read in its own order
    return array if array.flags.c_contiguous else np.ravel(array, order="K").reshape(array.shape)


def _states() -> dict[str, Change]:
    def each(change: Callable[[Array], Array]) -> Change:
        return before(
            lambda a: {"state": a["state"] and LIFState(*(p if p is None else change(p) for p in a["state"]))}, _NEURON
        )

    def single(array: Array) -> Array:
        return array.astype(np.float32).astype(array.dtype)

    return {
        "state read as it lies in memory": each(_as_it_lies),
        "state through float32": each(single),
        "input through float32": before(lambda a: {"x": single(a["x"])}, _NEURON),
        "cotangent through float32": before(lambda a: {"output_cotangent": single(a["output_cotangent"])}, _NEURON),
        "cotangent read as it lies in memory": before(
            lambda a: {"output_cotangent": _as_it_lies(a["output_cotangent"])}, _NEURON
        ),
        "gradients clipped": neuron(lambda r, a: r._replace(grad_input=np.clip(r.grad_input, -1e6, 1e6))),
        "infinite gradients put at 0": neuron(
            lambda r, a: r._replace(grad_input=np.nan_to_num(r.grad_input, nan=0.0, posinf=0.0, neginf=0.0))
        ),
    }


def _in_memory(name: str) -> Change:
    return before(lambda a: {name: _as_it_lies(a[name])}, _LOSS if name == "main" else _SPIKE)


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
            _NEURON,
        ),
    }


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
        f"{name} kept from another call": _kept(_without(name), ("spec",), _NEURON)
        for name in ("decay", "synaptic_decay", "input_gain", "threshold", "rest", "reset_value", "surrogate")
    }
    return found | {
        "logit kept from another call": _kept(
            lambda a: (_without()(a), a["decay_logit"] is None), ("decay_logit",), _NEURON
        ),
        "input kept from another call": _kept(_without(), ("x",), _NEURON),
    }


def _calls_of_losses() -> dict[str, Change]:
    def key(a: Arguments) -> Any:
        return a["spec"], a["main"].shape, len(a["branches"])

    return {
        "coefficient kept from another call": _kept(
            lambda a: (a["main"].shape, len(a["branches"])), ("coefficient",), _LOSS
        ),
        "labels kept from another call": _kept(key, ("labels",), _LOSS),
        "loss kept from another call": _kept(lambda a: a["main"].shape, ("spec",), _LOSS),
    }


def _written() -> dict[str, Change]:
    def into(write: Callable[[Arguments], None]) -> Change:
        def change(right: Callable[..., Any], operations: Operations) -> Callable[..., Any]:
            def member(*arguments: Any, **given: Any) -> Any:
                given |= dict(zip(_NEURON, arguments, strict=False))
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


def _family(kind: str, level: str, seam: str, changes: dict[str, Change], **fields: Any) -> tuple[Mutant, ...]:
    return tuple(
        Mutant(name=f"{kind}: {name}", kind=kind, level=level, seam=seam, change=change, **fields)
        for name, change in changes.items()
    )


MUTANTS: tuple[Mutant, ...] = (
    *_family("wide inputs", "neuron", "neuron", _wide(), cases=("neuron-wide-*",), dtypes=FULL),
    *_family("block tails", "neuron", "neuron", _tails(), cases=("neuron-wide-*",), dtypes=FULL),
    *_family("values", "neuron", "neuron", _values(), cases=("neuron-range-*",), dtypes=FULL),
    *_family("sizes", "neuron", "neuron", _sizes(), cases=("neuron-range-*", "neuron-long-*"), dtypes=FULL),
    *_family("sizes", "loss", "loss", _losses(), cases=("loss-*-one-*", "loss-*-many-*", "loss-*smooth*"), dtypes=FULL),
    *_family("coefficients", "loss", "loss", _coefficients(), cases=("loss-*-coefficient-*",)),
    *_family("schedules", "schedule", "schedule", _schedules(), dtypes=("float32",)),
    *_family("networks", "network", "network", _networks(), cases=("network-full-neuron", "network-c*", "network-o*")),
    *_family("half precision", "neuron", "neuron", _half(), dtypes=("bfloat16", "float16"), cases=("neuron-tie-*",)),
    *_family("states and infinities", "edges", "neuron", _states(), cases=("edges-double-*", "edges-layout-*")),
    *_family(
        "wide inputs",
        "edges",
        "neuron",
        {f"inclusive {inclusive} from 8192 elements": _compares(inclusive) for inclusive in (False, True)},
        cases=("edges-layout-*",),
    ),
    *_family(
        "states and infinities", "edges", "loss", {"logits read as they lie in memory": _in_memory("main")}, dtypes=FULL
    ),
    *_family(
        "states and infinities", "edges", "spike", {"input read as it lies in memory": _in_memory("x")}, dtypes=FULL
    ),
    *_family(
        "surrogates",
        "surrogate",
        "spike",
        {
            "height at least 0.2": before(lambda a: _surrogate(a, "height", 0.2, 1e9), _SPIKE),
            "height at most 3": before(lambda a: _surrogate(a, "height", 0.0, 3.0), _SPIKE),
            "width at most 5": before(lambda a: _surrogate(a, "width", 0.0, 5.0), _SPIKE),
        },
    ),
    *_family(
        "read-outs", "neuron", "neuron", _readouts(), cases=("neuron-readout*", "neuron-range-readout*"), dtypes=FULL
    ),
    *_family("between calls", "calls", "neuron", _calls()),
    *_family("between calls", "calls", "loss", _calls_of_losses()),
    *_family("written to", "calls", "neuron", _written()),
)
