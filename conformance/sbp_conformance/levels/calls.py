"""Calls level: what a call leaves behind must not reach the next one.

Each case is a sequence of cases of the other levels on one backend: a call, then another with other numbers, data,
state or sizes, then the first again. A kernel, graph or buffer that is kept under too small a key gives one the other's
numbers. All calls of a sequence are in one check, so that the command that repeats it repeats the fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from sbp_conformance.levels.base import Case, tolerances
from sbp_conformance.levels.loss import LossCase
from sbp_conformance.levels.network import NetworkCase
from sbp_conformance.levels.neuron import NeuronCase
from sbp_conformance.levels.schedule import ScheduleCase
from sbp_conformance.levels.schedule import tolerance as of_schedules
from sbp_conformance.levels.surrogate import SurrogateCase
from sbp_conformance.precision import FULL
from sbp_conformance.results import Finding
from sbp_core import ArcTan, Evolutionary, LIFSpec, LossSpec, ResNetSpec, Sigmoid, Step, Triangle
from sbp_core.backend import Backend, Mode, ShortcutNetwork

_STEPS = 6
_ALLOWED = tolerances(6 * _STEPS)


@dataclass(frozen=True, kw_only=True)
class SequenceCase(Case):
    """Cases that run one after the other.

    Attributes:
        calls: in order; a case that stands there twice is called twice.
        dtypes_of_calls: the dtype of each call, where it is not that of the check; one that the backend lacks is left
            out with its call.
    """

    level: ClassVar[str] = "calls"
    calls: tuple[Case, ...]
    dtypes_of_calls: tuple[str | None, ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """Members of the contract that its calls need."""
        return tuple(dict.fromkeys(member for case in self.calls for member in case.needs))

    def run(self, backend: Backend, *, dtype: str, mode: Mode) -> list[Finding]:
        """Run each call and compare it, whatever came of the one before."""
        dtypes = self.dtypes_of_calls or (None,) * len(self.calls)
        findings = []
        for index, (case, other) in enumerate(zip(self.calls, dtypes, strict=True), start=1):
            if other is not None and other not in backend.dtypes:
                continue
            found = case.run(backend, dtype=other or dtype, mode=mode)
            findings += [replace(finding, quantity=f"call {index}: {finding.quantity}") for finding in found]
        return findings


def cases() -> tuple[Case, ...]:
    """Return the sequences."""
    return (*_neurons(), *_others(), *_networks())


def _between(name: str, seed: int, first: Case, others: Sequence[Case], **fields: Any) -> SequenceCase:
    defaults: dict[str, Any] = {"dtypes": FULL, "tolerances": first.tolerances}
    return SequenceCase(name=f"calls-{name}", seed=seed, calls=(first, *others, first), **(defaults | fields))


def _neuron(spec: LIFSpec, seed: int = 7000, shape: tuple[int, ...] = (4, 2, 3), **fields: Any) -> NeuronCase:
    given = {"decay_logit": 0.4 if spec.learn_decay else None} | fields
    return NeuronCase(name=f"call-{seed}", seed=seed, spec=spec, shape=shape, tolerances=_ALLOWED, **given)


def _neurons() -> list[SequenceCase]:
    full = LIFSpec(
        decay=0.8,
        synaptic_decay=0.4,
        input_gain=0.7,
        threshold=0.65,
        rest=0.1,
        reset_value=-0.2,
        surrogate=ArcTan(height=0.8, width=1.2),
    )
    numbers = {
        "decay": 0.6,
        "synaptic_decay": 0.55,
        "input_gain": 1.1,
        "threshold": 0.9,
        "rest": -0.1,
        "reset_value": 0.2,
        "surrogate": ArcTan(height=1.1, width=0.7),
    }
    each = [_neuron(full.replace(**{name: value}), 7001 + index) for index, (name, value) in enumerate(numbers.items())]
    learnt = LIFSpec(learn_decay=True, reset="soft", surrogate=Sigmoid())
    plain = LIFSpec(surrogate=ArcTan())
    wide = LIFSpec(decay=0.7, reset="soft", surrogate=Triangle())
    return [
        _between("neuron-numbers", 7010, _neuron(full), each),
        _between(
            "neuron-all-numbers",
            7011,
            _neuron(full),
            [_neuron(full.replace(**numbers), 7012)],
            compiled=("float64",),
        ),
        _between("neuron-logits", 7013, _neuron(learnt), [_neuron(learnt, 7014, decay_logit=-1.1)]),
        _between("neuron-state", 7015, _neuron(full), [_neuron(full, 7016, with_state=True), _neuron(full, 7017)]),
        _between(
            "neuron-sizes",
            7018,
            _neuron(plain),
            [_neuron(plain, 7019, (6, 3, 2)), _neuron(plain, 7020, (2, 1, 7)), _neuron(plain, 7021, (4, 6))],
            dtypes=("float32",),
        ),
        _between(
            "neuron-structure",
            7022,
            _neuron(plain),
            [
                _neuron(plain.replace(**{name: value}), 7023 + index)
                for index, (name, value) in enumerate(
                    {
                        "reset": "soft",
                        "reset_timing": "next",
                        "output_delay": 1,
                        "detach_reset": True,
                        "inclusive": True,
                        "input_gain": "complement",
                        "surrogate": Triangle(),
                    }.items()
                )
            ],
        ),
        SequenceCase(
            name="calls-neuron-dtypes",
            seed=7030,
            calls=(_neuron(full),) * 3 + (_neuron(wide, 7031),) * 2,
            dtypes_of_calls=(None, "float32", None, "float32", None),
            dtypes=("float64",),
            tolerances=_ALLOWED,
        ),
    ]


def _others() -> list[SequenceCase]:
    def spike(seed: int, width: float, *, inclusive: bool = False) -> SurrogateCase:
        surrogate = Sigmoid(height=0.5 + width, width=width)
        return SurrogateCase(
            name=f"call-{seed}", seed=seed, surrogate=surrogate, inclusive=inclusive, tolerances=tolerances(10)
        )

    def loss(seed: int, spec: LossSpec, coefficient: float, **fields: Any) -> LossCase:
        return LossCase(
            name=f"call-{seed}",
            seed=seed,
            spec=spec,
            branches=2,
            coefficient=coefficient,
            tolerances=tolerances(20),
            **fields,
        )

    def schedule(schedule: Step | Evolutionary, *steps: int) -> ScheduleCase:
        return ScheduleCase(
            name="call", seed=0, schedule=schedule, steps=steps, compiled_steps=steps, tolerances=of_schedules()
        )

    distilled = LossSpec(distillation=0.5, temperature=2.0)
    steps = Step(initial=0.4, factor=0.5, milestones=(0.5,), total_steps=10)
    return [
        _between(
            "spike",
            7040,
            spike(7041, 0.5),
            [spike(7042, 1.25), spike(7043, 0.5, inclusive=True)],
        ),
        _between(
            "loss",
            7050,
            loss(7051, LossSpec(), 0.75),
            [loss(7052, LossSpec(), 0.25), loss(7053, LossSpec(combine="logits"), 0.75)],
            compiled=("float64",),
        ),
        _between(
            "loss-numbers",
            7054,
            loss(7055, distilled, 0.75),
            [
                loss(7056, distilled.replace(temperature=3.0), 0.75),
                loss(7057, distilled.replace(distillation=0.25), 0.75),
                loss(7058, distilled.replace(label_smoothing=0.125), 0.75),
                loss(7059, distilled, 0.75, shape=(5, 6)),
            ],
            dtypes=("float64",),
        ),
        _between(
            "schedule",
            7060,
            schedule(steps, 6),
            [schedule(steps.replace(total_steps=20, initial=0.3, factor=0.25), 6)],
            dtypes=("float32",),
            compiled=("float32",),
        ),
    ]


def _networks() -> list[SequenceCase]:
    spec = ResNetSpec(
        depths=(1,), widths=(4,), num_classes=3, in_channels=2, time_steps=2, neuron=LIFSpec(surrogate=ArcTan())
    )

    def network(seed: int, coefficient: float, spec: ResNetSpec) -> NetworkCase:
        return NetworkCase(
            name=f"call-{seed}",
            seed=seed,
            network=ShortcutNetwork(spec, ("stem",), LossSpec()),
            coefficient=coefficient,
            image=6,
            batch=2,
        )

    first = network(7071, 0.75, spec)
    other = network(7072, 0.25, spec.replace(neuron=LIFSpec(decay=0.6, surrogate=ArcTan(width=0.8))))
    # eager JAX takes seconds for each
    return [
        SequenceCase(
            name="calls-network",
            seed=7070,
            calls=(first, other),
            dtypes=("float64",),
            tolerances=first.tolerances,
        )
    ]
